from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import digits
from tests.attention import brute
from workbench.attention import dispersion, entropy_floor, largest_ceiling, statistics
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["gpt2", "qwen2-window", "gemma2"]), st.integers(0, 99), st.sampled_from(["wild", "usual"]))
def test_the_range_of_logits_bounds_entropy_and_largest_weight(kind: str, seed: int, weights: str) -> None:
    model = from_hf(find(kind).model(seed=seed, weights=weights, dtype=torch.float64))  # type: ignore[arg-type]
    found = statistics(model, torch.randint(3, 60, (1, 20), generator=torch.Generator().manual_seed(seed)))
    assert (entropy_floor(found) <= found.row("entropy") + 1e-9).all()
    assert (largest_ceiling(found) >= found.row("largest") - 1e-9).all()
    if weights == "usual":
        assert entropy_floor(found).mean() > 0.2 * found.row("entropy").mean()  # it says something


def test_a_causal_model_shows_every_length_in_one_run() -> None:
    model = from_hf(find("llama-grouped").model(dtype=torch.float64))
    tokens = brute.given(model, batch=2, n=24)
    found = dispersion(model, tokens, lengths=(1, 4, 12, 24))
    assert found.lengths == (1, 4, 12, 24)
    assert found.rows == (2, 2, 6, 12)
    for at, n in enumerate(found.lengths):
        # The last quarter of the queries, each as the last of a prompt of its own.
        last = [statistics(model, tokens[:, : i + 1]).row("entropy")[..., i] for i in range(3 * n // 4, n)]
        torch.testing.assert_close(found.entropy[at], torch.stack(last, -1).flatten(2).mean(-1))
        assert (found.entropy_floor[at] <= found.entropy[at] + 1e-9).all()
        assert (found.largest_ceiling[at] >= found.largest[at] - 1e-9).all()


def test_an_encoder_runs_once_for_every_length() -> None:
    model = from_hf(find("bert").model(dtype=torch.float64))
    tokens = brute.given(model, batch=2, n=24)
    found = dispersion(model, tokens)
    assert found.lengths == (8, 16, 24)
    for at, n in enumerate(found.lengths):
        torch.testing.assert_close(found.largest[at], statistics(model, tokens[:, :n]).largest)


def test_the_slope_is_one_where_attention_stays_uniform() -> None:
    hf = find("gpt2").model(weights="usual")
    width = hf.config.n_embd
    with torch.no_grad():
        for block in hf.transformer.h:
            block.attn.c_attn.weight[:, :width] = 0
            block.attn.c_attn.bias[:width] = 0
    found = dispersion(from_hf(hf), torch.randint(3, 60, (1, 40)))
    torch.testing.assert_close(found.slope(), torch.ones_like(found.slope()), rtol=0.06, atol=0)
    torch.testing.assert_close(found.entropy, found.entropy_floor.float(), rtol=1e-4, atol=1e-4)


def test_adaptive_temperature_sharpens_flat_rows_and_leaves_sharp_ones() -> None:
    model = from_hf(find("gpt2").model(weights="wild", dtype=torch.float64, layers=1))
    tokens = brute.given(model, batch=1, n=32)
    plain, adaptive = (dispersion(model, tokens, lengths=(32,), adaptive=on) for on in (False, True))
    assert adaptive.adaptive
    assert adaptive.entropy_floor.isnan().all()
    _, cache = model.run_with_cache(tokens, ["blocks.0.attn.hook_attn_scores"])
    expected = torch.zeros(model.cfg.n_heads, dtype=torch.float64)
    for query in range(24, 32):
        scores = cache["attn_scores", 0][0, :, query, : query + 1]
        for head in range(model.cfg.n_heads):
            entropy = float(torch.distributions.Categorical(logits=scores[head]).entropy())
            # Their algorithm 1: a polynomial of the entropy, highest power first.
            fitted = sum(c * entropy ** (4 - i) for i, c in enumerate((-0.037, 0.481, -2.3, 4.917, -1.791)))
            beta = max(fitted, 1.0) if entropy > 0.5 else 1.0
            expected[head] += float(torch.distributions.Categorical(logits=beta * scores[head]).entropy()) / 8
    torch.testing.assert_close(adaptive.entropy[0, 0], expected)
    assert (adaptive.entropy <= plain.entropy + 1e-12).all()
    again = dispersion(model.with_attention("adaptive-temperature"), tokens, lengths=(32,))
    torch.testing.assert_close(again.entropy, adaptive.entropy)


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    text = "When Mary and John went to the store"
    with pytest.raises(ValueError, match="Lengths lie between 1 and"):
        dispersion(model, text, lengths=(4, 4000))
    with pytest.raises(ValueError, match="unlike length"):
        dispersion(model, [text, "When"])
    with pytest.raises(ValueError, match="whose context does not grow"):
        dispersion(digits.vision(), torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="has 'sparsemax' attention"):
        dispersion(model.with_attention("sparsemax"), text)
    with pytest.raises(ValueError, match="two lengths"):
        dispersion(model, text, lengths=(4,)).slope()
    with pytest.raises(Stopped):
        dispersion(model, text, progress=lambda at: False)


def test_floors_of_one_key_are_zero_and_one(model: Transformer) -> None:
    found = statistics(model, "When")
    assert entropy_floor(found).tolist() == [[[[0.0]]] * model.cfg.n_heads] * model.cfg.n_layers
    assert largest_ceiling(found).flatten().tolist() == pytest.approx([1.0] * model.cfg.n_layers * model.cfg.n_heads)
    assert math.isclose(float(found.largest[0, 0]), 1)
