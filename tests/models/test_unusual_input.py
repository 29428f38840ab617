"""Input that is legal but unusual gives right numbers, and the rest one sentence."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.models.test_variants import DECODER, VISION, shaken
from workbench.models import Past, Transformer, folded, fresh, from_hf, load, save
from workbench.models.families.samples import find
from workbench.models.pieces import pieces_of
from workbench.models.tokens import Tokens

TOKENS = torch.randint(3, 64, (2, 12), generator=torch.Generator().manual_seed(0))
ONES = torch.ones_like(TOKENS)


@pytest.fixture(scope="module")
def llama() -> Transformer:
    return from_hf(find("llama-grouped").model())


# -- keys and values of earlier tokens ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["llama-grouped", "gpt2", "gemma2", "mistral", "phi"])
def test_a_mask_of_ones_changes_nothing_with_kept_keys_and_values(key: str) -> None:
    model, past = from_hf(find(key).model()), Past()
    parts = [model(TOKENS[:, :5], past=past), model(TOKENS[:, 5:], past=past, attention_mask=ONES)]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS), atol=1e-4, rtol=1e-4)


def test_keys_and_values_of_one_range_of_layers_serve_no_other(llama: Transformer) -> None:
    past = Past()
    llama(TOKENS[:, :5], past=past, stop_at_layer=1)
    with pytest.raises(ValueError, match="filled by the layers 0 to 0, this call runs 0 to 1; use one cache"):
        llama(TOKENS[:, 5:], past=past)
    lower, upper = Past(), Past()
    for part in (slice(0, 5), slice(5, 12)):
        resid = llama(TOKENS[:, part], past=lower, stop_at_layer=1)
        out = llama(resid, past=upper, start_at_layer=1)
    torch.testing.assert_close(out, llama(TOKENS)[:, 5:], atol=1e-5, rtol=1e-4)


def test_keys_and_values_of_another_model_are_refused(llama: Transformer) -> None:
    past = Past()
    from_hf(find("gpt2").model())(TOKENS[:, :5], past=past)
    with pytest.raises(ValueError, match="one cache for one batch of one model"):
        llama(TOKENS[:, 5:], past=past)


def test_a_failure_behind_the_last_block_leaves_the_past_as_it_was(llama: Transformer) -> None:
    past = Past()
    llama(TOKENS[:, :5], past=past)

    def fail(x: torch.Tensor) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        llama(TOKENS[:, 5:], {"hook_unembed": fail}, past=past)
    assert len(past) == 5


def test_roberta_as_a_decoder_reads_the_whole_text_for_every_token() -> None:
    config = transformers.RobertaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, is_decoder=True
    )
    model = from_hf(transformers.RobertaForMaskedLM(config).eval())
    assert torch.equal(model.generate(TOKENS, 4, stop_at=-1), model.generate(TOKENS, 4, stop_at=-1, use_past=False))
    with pytest.raises(ValueError, match="needs the whole text at once"):
        model(TOKENS, past=Past())


# -- padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sinkhorn", "selective"])
def test_padding_on_the_right_counts_in_no_sum_over_queries(key: str) -> None:
    model = shaken(replace(DECODER, attention=key))
    tokens = TOKENS % 50
    padded, mask = torch.cat((tokens, tokens[:, :3]), 1), torch.cat((ONES, 0 * ONES[:, :3]), 1)
    torch.testing.assert_close(model(padded, attention_mask=mask)[:, :12], model(tokens), atol=1e-5, rtol=1e-4)


class _Fake:
    """As much of a tokenizer as padding needs."""

    pad_token_id = 0

    def __init__(self, **others: int) -> None:
        self.__dict__ |= others


def test_padding_is_told_from_text_only_where_it_can_be() -> None:
    tokens = torch.tensor([[0, 5, 0, 6, 0], [1, 2, 3, 4, 5]])
    assert Tokens(_Fake(), 9).mask_of(tokens) is not None
    found = Tokens(_Fake(), 9).mask_of(tokens)
    assert found is not None
    assert found[0].tolist() == [0, 1, 1, 1, 0]  # one inside a text is text
    assert Tokens(_Fake(unk_token_id=0), 9).mask_of(tokens) is None
    assert Tokens(_Fake(eos_token_id=0), 9).mask_of(tokens) is None
    assert Tokens(None, 9).mask_of(tokens) is None


def test_texts_that_could_not_be_told_from_their_padding_are_refused_for_encoders() -> None:
    tokenizer = load("induction-2l").tokenizer
    pad = tokenizer.pad_token
    encoder = fresh(replace(DECODER, causal=False, d_vocab=len(tokenizer)), tokenizer=tokenizer)
    tokenizer.pad_token = None
    try:
        with pytest.raises(ValueError, match=r"use model\(\*\*model\.to_inputs\(texts\)\)"):
            encoder.to_tokens(["a b c", "a"])
        given = encoder.to_inputs(["a b c", "a"])
        alone = encoder(encoder.to_tokens("a"))
        torch.testing.assert_close(encoder(**given)[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)
    finally:
        tokenizer.pad_token = pad


# -- weights -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_frequencies_and_changes_in_place() -> None:
    one = from_hf(find("llama-grouped").model())
    assert one.inverse_frequencies is not None
    weights = one.weights()
    other = Transformer(one.cfg, weights | {"inverse_frequencies": weights["inverse_frequencies"] * 2})
    assert one.fingerprint != other.fingerprint
    before = one.fingerprint
    assert one.fingerprint == before
    one.blocks[0].attn.q.weight.data.mul_(1)  # data hides the change from the counter, so write through the parameter
    with torch.no_grad():
        one.blocks[0].attn.q.weight.mul_(2)
    assert one.fingerprint != before
    assert fresh(replace(DECODER, linear="sigma")).fingerprint


def test_rotary_frequencies_are_weights_like_others() -> None:
    rotary = fresh(replace(DECODER, positions="rotary"))
    weights = rotary.weights()
    table = weights.pop("inverse_frequencies")
    with pytest.raises(ValueError, match="missing: inverse_frequencies"):
        Transformer(rotary.cfg, weights)
    with pytest.raises(ValueError, match=r"'inverse_frequencies' has the shape \[1, 3\] where \[1, 4\] is expected"):
        Transformer(rotary.cfg, weights | {"inverse_frequencies": table[:3]})
    with pytest.raises(ValueError, match="surplus: inverse_frequencies"):
        Transformer(DECODER, fresh(DECODER).weights() | {"inverse_frequencies": table})


@pytest.mark.parametrize("key", ["gemma3", "gpt-neox", "phi", "llama-grouped"])
def test_a_fresh_model_of_any_configuration_runs(key: str) -> None:
    cfg = from_hf(find(key).model()).cfg
    made = fresh(cfg)
    assert made(TOKENS).isfinite().all()
    assert made.cfg == cfg


def test_gemma_keeps_its_norms_exact_through_a_file(tmp_path: Path) -> None:
    half = find("gemma2").model(weights="usual", dtype=torch.bfloat16)
    model = from_hf(copy.deepcopy(half).float())
    back = load(save(model, tmp_path), dtype="bfloat16")
    assert back.blocks[0].ln1.weight is not None
    assert back.blocks[0].ln1.weight.dtype == torch.float32
    assert back.blocks[0].attn.q.weight.dtype == torch.bfloat16
    assert torch.equal(back(TOKENS), from_hf(half)(TOKENS))


@pytest.mark.parametrize("key", ["gpt-neo", "gpt-neox-unbiased", "opt-unbiased", "vit-classes"])
def test_value_biases_that_folding_makes_are_moved_too(key: str) -> None:
    hf = find(key).model()
    model = from_hf(hf)
    image = model.cfg.image
    given = torch.randn(2, image.channels, image.height, image.width) if image else TOKENS
    plain = folded(model, values=True)
    assert not plain.b_V.any()
    torch.testing.assert_close(plain(given), model(given), atol=1e-4, rtol=1e-4)


def test_logits_that_do_not_bear_a_shift_are_not_centred() -> None:
    capped = shaken(replace(DECODER, logit_softcap=2.0))
    tokens = TOKENS % 50
    torch.testing.assert_close(
        folded(capped, centre=True)(tokens).softmax(-1), capped(tokens).softmax(-1), atol=1e-5, rtol=1e-4
    )
    single = shaken(replace(VISION, d_vocab_out=1, labels=None))
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(folded(single, centre=True)(images), single(images), atol=1e-5, rtol=1e-4)


def test_a_folder_is_not_left_with_another_model_s_tokenizer(tmp_path: Path) -> None:
    save(load("induction-2l"), tmp_path)
    save(fresh(DECODER), tmp_path)
    assert load(tmp_path).tokenizer is None


def test_embeddinggemma_is_refused_not_run_causally() -> None:
    hf = find("gemma3").model()
    hf.config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="use_bidirectional_attention=True"):
        from_hf(hf)


@pytest.mark.parametrize("field", ["scale_attn_by_inverse_layer_idx", "use_NTK_by_parts_rope", "use_qk_norm"])
def test_transformer_lens_fields_that_change_the_maths_are_refused(field: str) -> None:
    from workbench.models import from_transformer_lens

    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "n_ctx": 5, "d_vocab": 7}
    with pytest.raises(ValueError, match=f"{field}=True are not supported"):
        from_transformer_lens(({}, sizes | {field: True}))


def test_a_mechanism_on_lower_heads_only_does_not_stop_a_run_from_above() -> None:
    model = shaken(DECODER).with_attention("value-residual", heads=[(0, 1)])
    tokens = TOKENS % 50
    torch.testing.assert_close(model(model(tokens, stop_at_layer=1), start_at_layer=1), model(tokens))


def test_sentence_vectors_follow_taps_up_to_the_last_norm() -> None:
    from workbench.models import sentence_embeddings

    tokenizer = load("induction-2l").tokenizer
    encoder = shaken(replace(DECODER, causal=False, d_vocab=len(tokenizer)))
    encoder = Transformer(encoder.cfg, encoder.weights(), tokenizer)
    plain = sentence_embeddings(encoder, "a b c")
    tapped = sentence_embeddings(encoder, "a b c", taps={"ln_final.hook_out": lambda x: -x})
    torch.testing.assert_close(tapped, -plain)


# -- taps -----------------------------------------------------------------------------------------------------------


def test_a_tap_that_changes_its_tensor_in_place_changes_nothing_else(llama: Transformer) -> None:
    resid = llama(TOKENS, stop_at_layer=1)
    before = resid.clone()
    expected = llama(resid, {"blocks.1.hook_resid_pre": torch.zeros_like}, start_at_layer=1)
    found = llama(resid, {"blocks.1.hook_resid_pre": lambda x: x.zero_()}, start_at_layer=1)

    def empty(x: torch.Tensor) -> None:
        x.zero_()

    quiet = llama(resid, {"blocks.1.hook_resid_pre": empty}, start_at_layer=1)
    assert torch.equal(found, expected)
    assert torch.equal(quiet, expected)
    assert torch.equal(resid, before)
    _, cache = llama.run_with_cache(
        TOKENS, ["blocks.0.hook_resid_post"], taps={"blocks.1.hook_resid_pre": lambda x: x.zero_()}
    )
    assert torch.equal(cache["resid_post", 0], before)


def test_a_tap_may_keep_the_gradient_of_what_it_sees(llama: Transformer) -> None:
    seen: list[torch.Tensor] = []

    def watch(z: torch.Tensor) -> None:
        z.retain_grad()
        seen.append(z)

    start = llama(TOKENS, stop_at_layer=0).requires_grad_(True)
    llama(start, {"blocks.1.attn.hook_z": watch})[:, -1, 3].sum().backward()
    logits, kept = llama.run_with_cache(start, ["blocks.1.attn.hook_z"])
    (expected,) = torch.autograd.grad(logits[:, -1, 3].sum(), [kept["z", 1]])
    torch.testing.assert_close(seen[0].grad, expected)


def test_what_a_tap_does_wrong_names_the_tap(llama: Transformer) -> None:
    name = "blocks.0.attn.hook_z"
    with pytest.raises(
        ValueError, match=rf"tap on '{name}' must return a tensor \[2, 12, 4, 8\] or None; it returned int"
    ):
        llama(TOKENS, {name: lambda z: 5})  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"it returned \[2, 12, 8\]"):
        llama(TOKENS, {name: lambda z: z[:, :, 0]})
    with pytest.raises(ZeroDivisionError) as caught:
        llama(TOKENS, {name: lambda z: z * (1 / 0)})
    assert caught.value.__notes__ == [f"(in the tap on '{name}')"]
    with pytest.raises(ValueError, match="predicate matches no activation"):
        llama.run_with_hooks(TOKENS, [(lambda n: False, lambda x, hook: x)])
    with pytest.raises(ValueError, match="a list of names or a predicate, not int"):
        llama.run_with_cache(TOKENS, 3)  # type: ignore[arg-type]


# -- texts of unlike length -----------------------------------------------------------------------------------------


def test_texts_go_on_as_each_would_alone(model: Transformer) -> None:
    texts = ["When Mary", "When Mary and John went to"]
    both = model.generate(texts, 6, stop_at=-1)
    for row, text in zip(both, texts, strict=True):
        alone = model.generate(text, 6, stop_at=-1)[0]
        assert torch.equal(row[-len(alone) :], alone)
    with pytest.raises(ValueError, match="ends in padding, behind which nothing can be written"):
        model.generate(model.to_tokens(texts), 6)
    given = model.to_inputs(texts, side="left")
    assert torch.equal(given["tokens"], model.to_tokens(texts, side="left"))
    assert torch.equal(model.generate(**given, n=6, stop_at=-1), both)


def test_a_word_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match="'x' is not in the vocabulary of this model; it knows 12 tokens"):
        load("five-digit-addition").to_tokens("1x+2=")


def test_a_folder_without_a_tokenizer_s_files_has_none(tmp_path: Path) -> None:
    from workbench.models import parity

    for made in ("gpt2", "bert-masked", "roberta"):
        find(made).model().save_pretrained(tmp_path / made)
        assert load(tmp_path / made).tokenizer is None
        assert parity.check(tmp_path / made).worst < 1e-4


# -- what is given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        (TOKENS[0], {}, r"Tokens are \[batch, pos\]; got \[12\]\. Put one text into a batch"),
        (TOKENS.tolist(), {}, "runs on a tensor, not list"),
        (torch.zeros(2, 5, 31), {}, r"residual stream is \[batch, pos, 32\]; got \[2, 5, 31\]"),
        (torch.zeros(2, 5), {}, r"reads tokens \[batch, pos\] of whole numbers; got numbers of the shape \[2, 5\]"),
        (TOKENS, {"logits_at": 3}, "one position from 0 to 11 for each of the 2 examples"),
        (TOKENS, {"logits_at": torch.tensor([3, 12])}, "one position from 0 to 11 for each of the 2 examples"),
        (TOKENS, {"logits_at": torch.tensor([3, 4]), "stop_at_layer": 1}, "give one of them"),
        (torch.zeros(2, 5, 32), {"start_at_layer": 2, "stop_at_layer": 1}, "lies behind stop_at_layer=1"),
    ],
)
def test_input_that_no_call_can_run_on_is_said_in_one_sentence(
    llama: Transformer, given: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        llama(given, **options)


def test_small_whole_numbers_are_tokens_too(llama: Transformer) -> None:
    assert torch.equal(llama(TOKENS.to(torch.uint8)), llama(TOKENS))


def test_more_that_is_said_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="This model has no MLPs"):
        _ = load("induction-2l").W_in
    with pytest.raises(ValueError, match=r"Heads are \(layer, head\) pairs, such as \[\(5, 1\)\]; got \(0, 1\)"):
        fresh(DECODER).with_attention("sparsemax", heads=(0, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes a Hugging Face model, not dict"):
        from_hf({})
    with pytest.raises(ValueError, match=r"residual stream is torch\.bfloat16, .* is torch\.float32"):
        fresh(DECODER)(torch.zeros(1, 3, 32, dtype=torch.bfloat16))
    vision = fresh(VISION)
    with pytest.raises(ValueError, match=r"One image goes into a batch: image\[None\]"):
        vision(torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="reads images, not text; use to_pixels"):
        vision.to_tokens("text")
    with pytest.raises(ValueError, match="no token embedding"):
        _ = vision.W_E
    with pytest.raises(ValueError, match="no unembedding"):
        _ = fresh(replace(DECODER, head="none", tied=False)).W_U
    with pytest.raises(ValueError, match="Settings of 'temperature' are numbers"):
        fresh(DECODER).with_attention("temperature", temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="windows has 1 entries for 2 layers"):
        replace(DECODER, windows=(3,))
    with pytest.raises(ValueError, match="activation 'nope' is not supported"):
        fresh(replace(DECODER, act_fn="nope"))
    with pytest.raises(ValueError, match=r"Weights cannot be torch\.int8"):
        load("induction-2l", dtype=torch.int8)


@pytest.mark.parametrize("values", [np.random.rand(8, 8), np.full((8, 8), 300), np.full((8, 8), -1)])
def test_arrays_that_are_no_pictures_are_refused(values: Any) -> None:
    processor = load("digits-vit").images.processor  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
        fresh(VISION, tokenizer=processor).to_pixels(values)


def test_added_tokens_are_shown_as_they_were_added(model: Transformer) -> None:
    from tests import micro

    tokenizer = micro.tokenizer()
    tokenizer.add_tokens(["café"])
    ids = tokenizer.encode("When café")
    assert pieces_of(tokenizer, ids)[-1] == "café"


def test_a_model_on_disk_says_that_its_weights_are_not_in_memory(micro_folder: Path, tmp_path: Path) -> None:
    laid = load(micro_folder, max_memory={"cpu": "150KB"}, offload_folder=tmp_path)
    for use in (lambda: laid.fingerprint, lambda: folded(laid), lambda: laid.with_attention("sparsemax")):
        with pytest.raises(ValueError, match="are not in memory; load it without a device map"):
            use()
    with pytest.raises(ValueError, match="no part called 'block'"):
        load(micro_folder, device_map={"block": "cpu", "": "cpu"})
