"""The same model written differently: folded weights, other attention mechanisms, saved and loaded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import micro
from workbench.models import ImageConfig, ModelConfig, Transformer, folded, fresh, from_hf, load, save
from workbench.models.mechanisms import MECHANISMS

DECODER = ModelConfig(
    family="workbench",
    n_layers=2,
    n_heads=4,
    n_key_value_heads=4,
    d_model=32,
    d_head=8,
    d_mlp=48,
    d_vocab=50,
    n_ctx=20,
    norm="layer",
    norm_eps=1e-5,
    act_fn="gelu",
    gated_mlp=False,
    positions="learned",
    attn_scale=8**-0.5,
    attn_bias=True,
    out_bias=True,
    mlp_bias=True,
)
VISION = replace(
    DECODER,
    d_vocab=0,
    d_vocab_out=10,
    n_ctx=17,
    causal=False,
    tied=False,
    unembed_bias=True,
    pooling="first",
    image=ImageConfig(8, 8, 1, 2, 2),
    labels=tuple("0123456789"),
)
TOKENS = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(0))


def shaken(cfg: ModelConfig) -> Transformer:
    """A model whose norms and biases are not what they start from, so that folding them does something."""
    model = fresh(cfg, seed=1)
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: tensor if name == "inverse_frequencies" else tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.weights().items()
    }
    if cfg.tied:
        weights["unembedding.weight"] = weights["embed.weight"]
    return Transformer(cfg, weights)


@pytest.mark.parametrize("kind", [*micro.KINDS, "gpt-neox", "phi", "opt", "qwen3", "gemma2"])
def test_folding_the_norms_does_not_change_the_output(kind: str) -> None:
    model = from_hf(micro.hugging_face(kind))
    plain = folded(model)
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(3))
    before = model(tokens)
    assert (plain(tokens) - before).abs().max() / before.std() < 1e-5
    norms = [block.ln1 for block in plain.blocks] + [plain.ln_final]
    assert all(norm.weight is None or bool((norm.weight == 1).all()) for norm in norms)
    assert all(norm.bias is None or not bool(norm.bias.any()) for norm in norms)
    assert not torch.equal(model.blocks[0].ln1.weight, plain.blocks[0].ln1.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("cfg", [DECODER, VISION, replace(DECODER, attn_only=True), replace(DECODER, mlp_bias=False)])
def test_centring_and_folding_everything_changes_no_probability(cfg: ModelConfig) -> None:
    model = shaken(cfg)
    given = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4)) if cfg.image else TOKENS
    plain = folded(model, centre=True, values=True)
    torch.testing.assert_close(plain(given).log_softmax(-1), model(given).log_softmax(-1), atol=2e-5, rtol=1e-4)
    resid = plain(given, stop_at_layer=2)
    assert resid.mean(-1).abs().max() < 1e-5  # nothing writes along the direction that LayerNorm takes out
    assert model(given, stop_at_layer=2).mean(-1).abs().max() > 1e-2
    assert not plain.b_V.any()


def test_folding_is_refused_where_it_would_change_the_model() -> None:
    with pytest.raises(ValueError, match="post-norm"):
        folded(fresh(replace(DECODER, norm_place="post")))
    with pytest.raises(ValueError, match="Centring is sound only where LayerNorm"):
        folded(from_hf(micro.hugging_face("llama-grouped")), centre=True)
    with pytest.raises(ValueError, match="value biases cannot be moved"):
        folded(fresh(replace(DECODER, attention="sigmoid")), values=True)
    with pytest.raises(ValueError, match="value biases cannot be moved"):
        folded(fresh(replace(DECODER, attention="gated")), norms=False, values=True)


@pytest.mark.parametrize("key", [m.key for m in MECHANISMS])
def test_a_mechanism_can_be_swapped_in_for_all_heads_or_for_one(key: str) -> None:
    model = shaken(DECODER)
    swapped, one = model.with_attention(key), model.with_attention(key, heads=[(1, 2)])
    _, was = model.run_with_cache(TOKENS)
    _, now = swapped.run_with_cache(TOKENS, lambda name: True)
    torch.testing.assert_close(swapped(TOKENS), now["hook_unembed"], atol=1e-5, rtol=1e-5)
    _, single = one.run_with_cache(TOKENS)
    assert torch.equal(single["pattern", 0], was["pattern", 0])
    others = [0, 1, 3]
    torch.testing.assert_close(single["z", 1][:, :, others], was["z", 1][:, :, others])
    # The chosen head reads what it read before, and does with it what the mechanism does.
    alone = model.with_attention(key, layers=[1])
    _, layer = alone.run_with_cache(TOKENS)
    torch.testing.assert_close(single["pattern", 1][:, 2], layer["pattern", 1][:, 2])
    torch.testing.assert_close(single["z", 1][:, :, 2], layer["z", 1][:, :, 2])
    assert swapped.embed.weight.data_ptr() == model.embed.weight.data_ptr()
    assert model.cfg.attention == "softmax"
    if key not in ("softmax", "temperature"):
        assert not torch.allclose(swapped(TOKENS), model(TOKENS), atol=1e-4)
        assert swapped.fingerprint != model.fingerprint


# The columns of Sinkhorn's pattern sum over all queries, later ones too; docs/attention.md says so.
@pytest.mark.parametrize("key", [m.key for m in MECHANISMS if m.key != "sinkhorn"])
def test_no_mechanism_looks_ahead_or_at_padding(key: str) -> None:
    model = shaken(replace(DECODER, attention=key))
    later = TOKENS.clone()
    later[:, 7:] = (later[:, 7:] + 1) % 50
    torch.testing.assert_close(model(TOKENS)[:, :7], model(later)[:, :7], atol=1e-5, rtol=1e-5)
    padded = torch.cat((torch.zeros(3, 4, dtype=torch.long), TOKENS), 1)
    mask = torch.ones_like(padded)
    mask[:, :4] = 0
    _, cache = model.run_with_cache(padded, ["blocks.1.attn.hook_pattern"], attention_mask=mask)
    assert not cache["pattern", 1][:, :, 4:, :4].any()


@pytest.mark.parametrize("key", [m.key for m in MECHANISMS if not m.whole])
def test_keys_and_values_can_be_kept_with_every_mechanism_that_needs_no_more(key: str) -> None:
    from workbench.models import Past

    model, past = shaken(replace(DECODER, attention=key)), Past()
    parts = [model(TOKENS[:, :4], past=past), *(model(TOKENS[:, i : i + 1], past=past) for i in range(4, 11))]
    torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS), atol=1e-5, rtol=1e-4)


def test_swaps_that_make_no_sense_are_refused_in_one_sentence() -> None:
    model = fresh(DECODER)
    with pytest.raises(ValueError, match="no attention mechanism 'sparsmax'; did you mean 'sparsemax'"):
        model.with_attention("sparsmax")
    with pytest.raises(ValueError, match=r"no head 2\.0: .* layers 0 to 1 and heads 0 to 3"):
        model.with_attention("sparsemax", heads=[(2, 0)])
    with pytest.raises(ValueError, match="has no option 'heat'"):
        model.with_attention("temperature", heat=2.0)
    with pytest.raises(ValueError, match="heads or layers, not both"):
        model.with_attention("sparsemax", heads=[(0, 0)], layers=[1])


def test_a_mechanism_trains_through_the_whole_model() -> None:
    model = fresh(replace(DECODER, attention="entmax", linear="sigma"), seed=3).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(model(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    loss.backward()
    alpha = model.get_parameter("blocks.1.attn.learned.alpha")
    assert alpha.grad is not None
    assert alpha.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cfg", [DECODER, VISION, replace(DECODER, attention="entmax", tied=False, positions="rotary")])
def test_a_saved_model_comes_back_the_same(cfg: ModelConfig, tmp_path: Path) -> None:
    model = shaken(cfg)
    back = load(save(model, tmp_path / "m"))
    assert back.cfg == model.cfg
    assert back.fingerprint == model.fingerprint
    given = torch.randn(2, 1, 8, 8) if cfg.image else TOKENS
    assert torch.equal(back(given), model(given))
    half = load(tmp_path / "m", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert (half(given).float() - model(given)).abs().max() < 0.3 * model(given).std()


def test_a_configuration_that_contradicts_the_weights_is_refused_with_every_tensor_named(tmp_path: Path) -> None:
    folder = save(fresh(replace(DECODER, tied=False)), tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["blocks.0.mlp.up.weight"] = torch.zeros(47, 32)
    tensors["extra"] = torch.zeros(1)
    del tensors["blocks.1.attn.o.bias"], tensors["ln_final.weight"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load(folder)
    said = str(caught.value)
    assert "'blocks.0.mlp.up.weight' has the shape [47, 32] where [48, 32] is expected" in said
    assert "missing: blocks.1.attn.o.bias, ln_final.weight" in said
    assert "surplus: extra" in said


def test_damaged_files_of_our_own_are_said_in_one_sentence(tmp_path: Path) -> None:
    folder = save(fresh(DECODER), tmp_path / "m")
    file, config = folder / "model.safetensors", folder / "config.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="could not be read") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ValueError, match=r"holds no 'model\.safetensors'"):
        load(folder)
    file.write_bytes(whole)
    config.write_text('{"model_type": "workbench", "config": {"n_layers": 2, "colour": 1}}')
    with pytest.raises(ValueError, match="fields that this version does not know: colour"):
        load(folder)
