"""The logit lens against Hugging Face: its hidden states through its own norm and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits
from workbench import lens
from workbench.circuits.progress import Progress, Stopped
from workbench.lens.logit_lens import LogitLens
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find, inputs_for

DECODERS = {
    "llama-grouped": lambda hf: hf.model.norm,
    "gpt2": lambda hf: hf.transformer.ln_f,
    "gpt-neox": lambda hf: hf.gpt_neox.final_layer_norm,
    "opt": lambda hf: hf.model.decoder.final_layer_norm,
}


def check(found: LogitLens, logits: list[Tensor], targets: Tensor) -> None:
    """Every number, worked out again from Hugging Face's logits at every place [batch, pos, n]."""
    final = logits[-1].double().softmax(-1)
    for place, at in enumerate(logits):
        p = at.double().softmax(-1)
        own = at.gather(-1, targets)
        torch.testing.assert_close(found.logits[place], own, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.probs[place], p.gather(-1, targets).float(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.entropy[place], -(p * p.log()).sum(-1).float(), rtol=1e-3, atol=1e-4)
        kl = (final * (final.log() - p.log())).sum(-1)
        torch.testing.assert_close(found.kl[place], kl.float(), rtol=1e-3, atol=1e-4)
        order = at.argsort(-1, descending=True)
        assert (found.top[place] == order[..., :3]).float().mean() > 0.99  # but for ties within rounding
        rank = 1 + (order == targets).long().argmax(-1)
        assert (found.ranks[place, ..., 0] == rank).float().mean() > 0.99


@pytest.mark.parametrize("key", DECODERS)
def test_every_layer_reads_as_the_original_norm_and_head_read_its_hidden_state(key: str) -> None:
    hf = find(key).model(weights="usual")
    model = from_hf(hf)
    tokens = inputs_for(hf)[0]["inputs"]
    targets = torch.randint(0, 64, (*tokens.shape, 1), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = hf(tokens, output_hidden_states=True)
        head = hf.get_output_embeddings()
        logits = [head(DECODERS[key](hf)(h)) for h in out.hidden_states[:-1]] + [out.logits]
    check(lens.logit_lens(model, tokens, targets=targets, k=3), logits, targets)


def test_a_masked_language_model_is_read_through_its_dense_head() -> None:
    hf = find("bert-masked").model(weights="usual")
    model = from_hf(hf)
    given = inputs_for(hf)[0]
    targets = torch.full((*given["inputs"].shape, 1), 7)
    with torch.no_grad():
        out = hf(given["inputs"], token_type_ids=given["token_types"], output_hidden_states=True)
        logits = [hf.cls(h) for h in out.hidden_states]
    found = lens.logit_lens(model, given["inputs"], targets=[7], k=3, token_types=given["token_types"])
    check(found, logits, targets)


def test_a_vision_classifier_is_read_at_its_class_token() -> None:
    hf = find("vit-classes").model(weights="usual")
    model = from_hf(hf)
    pixels = inputs_for(hf)[0]["inputs"]
    with torch.no_grad():
        out = hf(pixels, output_hidden_states=True)
        logits = [hf.classifier(hf.vit.layernorm(h)[:, :1]) for h in out.hidden_states]
    assert torch.allclose(logits[-1][:, 0], out.logits, atol=1e-5)
    check(lens.logit_lens(model, pixels, targets=[2], k=3), logits, torch.full((len(pixels), 1, 1), 2))


def test_between_attention_and_mlp_the_stream_is_what_hugging_face_has_there() -> None:
    hf = find("llama-grouped").model(weights="usual")
    model = from_hf(hf)
    tokens = inputs_for(hf)[0]["inputs"]
    seen: list[Tensor] = []
    handles = [
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for layer in hf.model.layers
    ]
    with torch.no_grad():
        hf(tokens)
        wanted = [hf.lm_head(hf.model.norm(h)) for h in seen]
    for handle in handles:
        handle.remove()
    found = lens.logit_lens(model, tokens, sublayers=True, targets=[5])
    assert found.places == ("embed", "a0", "m0", "a1", "m1")
    for layer, logits in enumerate(wanted):
        torch.testing.assert_close(found.logits[1 + 2 * layer, ..., 0], logits[..., 5], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def small() -> Transformer:
    return from_hf(find("llama-grouped").model(weights="usual"))


@settings(max_examples=10)
@given(rows=st.integers(1, 40), seed=st.integers(0, 100))
def test_the_budget_and_the_batch_change_nothing(small: Transformer, rows: int, seed: int) -> None:
    tokens = torch.randint(0, 64, (3, 11), generator=torch.Generator().manual_seed(seed))
    whole = lens.logit_lens(small, tokens)
    parts = lens.logit_lens(small, tokens, budget=rows * 6 * 4 * 64)
    one = lens.logit_lens(small, tokens[1:2], positions=[-1, 0])
    for name in ("logits", "entropy", "kl", "top_probs"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
        picked = getattr(whole, name)[:, 1:2, [10, 0]]
        torch.testing.assert_close(getattr(one, name), picked, rtol=1e-4, atol=1e-5)
    assert one.positions == (10, 0)


def test_padding_has_no_answer_and_changes_none(small: Transformer) -> None:
    tokens = torch.randint(0, 64, (1, 6), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), tokens], 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    alone, beside = lens.logit_lens(small, tokens), lens.logit_lens(small, padded, attention_mask=mask)
    torch.testing.assert_close(beside.kl[:, :, 2:], alone.kl, rtol=1e-3, atol=1e-5)
    assert bool(beside.kl[:, :, :2].isnan().all())
    assert bool((beside.top[:, :, :2] == -1).all())
    assert bool((beside.ranks[:, :, :2] == 0).all())


def test_a_reading_is_plain_data(model: Transformer) -> None:
    import json

    found = lens.logit_lens(model, "When Mary and John went to the store", targets=["Mary", " John"])
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert said["names"][0][0] == "When"
    assert said["top_words"][str(int(found.targets[0, 0, 1]))] == " John"
    assert len(said["kl"]) == model.cfg.n_layers + 1


def test_a_stop_keeps_the_positions_that_were_read(small: Transformer) -> None:
    tokens = torch.arange(12).view(2, 6)
    seen: list[Progress] = []

    def stop(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 2

    found = lens.logit_lens(small, tokens, budget=3 * 6 * 4 * 64, progress=stop)
    assert not found.complete
    assert int(found.kl[0].isfinite().sum()) == 6
    assert seen[-1].total == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is how many answers to keep, from 1 to 64; got 0."),
        ({"targets": [64]}, "There is no answer 64"),
        ({"targets": []}, "Targets are ids"),
        ({"targets": "word"}, "Targets are a list"),
        ({"targets": torch.zeros(5, 1, dtype=torch.long)}, "Targets are ids"),
        ({"positions": [9]}, "There is no position 9: the input has the positions 0 to 5."),
        ({"positions": []}, "No position is chosen"),
    ],
)
def test_bad_input_is_one_sentence(small: Transformer, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lens.logit_lens(small, torch.arange(12).view(2, 6), **options)


def test_a_bare_encoder_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="encoder gives vectors, no words or classes"):
        lens.logit_lens(digits.encoder(), torch.arange(4)[None])


def test_activations_that_are_no_numbers_are_refused() -> None:
    model = from_hf(find("llama-grouped").model())
    model.blocks[1].attn.o.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite at 'm1'"):
        lens.logit_lens(model, torch.arange(4)[None])


def test_depths_are_those_that_one_reads_off() -> None:
    """Four places, three positions: settled from the second on, never before the last, and at once; one padded."""
    top = torch.tensor([[1, 2, 5, -1], [3, 2, 5, -1], [3, 4, 5, -1], [3, 2, 5, -1]])[:, None, :, None]
    probs = torch.tensor([[0.95, 0.2, 0.1], [0.5, 0.92, 0.2], [0.6, 0.5, 0.3], [0.7, 0.6, 0.4]])
    top_probs = torch.cat([probs, torch.full((4, 1), torch.nan)], 1)[:, None, :, None]
    empty = torch.zeros(4, 1, 4)
    read = LogitLens(
        "m", "logit lens", ("embed", "m0", "m1", "m2"), (("a", "b", "c", "d"),), (0, 1, 2, 3), top, {}, top_probs,
        torch.zeros(1, 4, 1), empty, empty, empty, empty, empty, True,
    )  # fmt: skip
    found = lens.exit_depth(read, confidence=0.9)
    assert found.settled.tolist() == [[1, 3, 0, -1]]
    assert found.sure.tolist() == [[0, 1, 3, -1]]
    assert found.agrees.tolist() == [[False, True, True, False]]
    with pytest.raises(ValueError, match="confidence"):
        lens.exit_depth(read, confidence=0.0)


def test_a_curve_of_depths_is_the_mean_over_texts_of_their_own_means(model: Transformer) -> None:
    texts = ["When Mary and John went to the store", "John gave a drink to Mary and then"]
    found = lens.exit_curve(model, texts, confidence=0.01, batch_size=1)
    one = [lens.exit_depth(lens.logit_lens(model, text), confidence=0.01) for text in texts]
    for i, kept in enumerate(("settled", "sure")):
        means = [getattr(x, kept).double().mean() for x in one]
        assert float(found.depth.mean[i]) == pytest.approx(float(sum(means)) / 2)
    share = sum((x.settled <= 1).double().mean() for x in one) / 2
    assert float(found.settled.mean[1]) == pytest.approx(float(share))
    assert found.settled.mean[-1] == 1
    assert found.n_texts == 2


def test_a_curve_that_is_stopped_keeps_the_texts_that_were_read(small: Transformer) -> None:
    tokens = torch.randint(0, 64, (4, 6), generator=torch.Generator().manual_seed(0))
    found = lens.exit_curve(small, tokens, batch_size=2, progress=lambda _: False)
    assert (found.n_texts, found.complete) == (2, False)
    with pytest.raises(Stopped):
        lens.layer_curve(small, tokens, progress=lambda _: False)
