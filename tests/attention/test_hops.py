"""Hop profiles from whole patterns, entry by entry, and on models whose profile is known by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import census_rows, hops
from workbench.attention.hops import hop_profile
from workbench.circuits.known.registry import known_models
from workbench.circuits.progress import Stopped
from workbench.models import Transformer


def profile(p: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(strength, weight on one key, strength of a uniform head) of patterns [layer, head, batch, query, key]."""
    layers, heads, batch, n, _ = p.shape
    strength, uniform = torch.zeros(layers, heads, n).double(), torch.zeros(layers, n).double()
    pairs = torch.zeros(layers, 1, n).double()
    for layer in range(layers):
        for i in range(n):
            for j in range(n):
                strength[layer, :, abs(i - j)] += p[layer, :, :, i, j].sum(-1)
                if seen[layer, i, j]:
                    uniform[layer, abs(i - j)] += batch / int(seen[layer, i].sum())
                    pairs[layer, 0, abs(i - j)] += batch
    return strength / (batch * n), strength / pairs, uniform / (batch * n)


# Grouped keys, windows, capped scores, both ways; whole patterns at once and three queries at a time.
@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "qwen2-window", "gemma2", "bert"])
@pytest.mark.parametrize("numbers", [2**22, 2 * 4 * 20 * 3])
def test_a_profile_is_that_of_the_whole_pattern(kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_rows.strips, "__defaults__", (numbers,))
    hf, model = brute.pair(kind)
    tokens = brute.given(model, batch=3, n=20)
    found = hop_profile(model, tokens, batch=2)
    seen = torch.stack([brute.sight(model, layer, 20) for layer in range(model.cfg.n_layers)])
    strength, per_key, uniform = profile(brute.patterns(hf, tokens), seen)
    torch.testing.assert_close(found.strength, strength, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.uniform, uniform)
    there = ~found.per_key.isnan()
    assert bool((there == per_key.isfinite()).all())
    torch.testing.assert_close(found.per_key[there], per_key[there], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.strength.sum(-1), torch.ones_like(found.apart))
    assert found.rows == 60
    bins, binned = found.binned()
    assert bins == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 19)]
    torch.testing.assert_close(binned[..., 3], strength[..., 4:8].sum(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("numbers", [2**22, 1])
def test_hops_on_the_grid_are_a_kings(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_rows.strips, "__defaults__", (numbers,))
    model = digits.vision(height=6, width=8, prefix=("cls", "reg0"))
    images = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    found = hop_profile(model, images, batch=2)
    _, cache = model.run_with_cache(images)
    assert found.grid == (3, 4)
    for layer in range(model.cfg.n_layers):
        pattern = cache["pattern", layer]
        expected, apart = torch.zeros(4, 4), torch.zeros(4)
        for i in range(12):
            apart += pattern[:, :, 2 + i, :2].sum((0, 2)) / 36
            for j in range(12):
                hop = max(abs(i // 4 - j // 4), abs(i % 4 - j % 4))
                expected[:, hop] += pattern[:, :, 2 + i, 2 + j].sum(0) / 36
        torch.testing.assert_close(found.strength[layer].float(), expected)
        torch.testing.assert_close(found.apart[layer].float(), apart)
    torch.testing.assert_close(found.strength.sum(-1) + found.apart, torch.ones_like(found.apart))
    torch.testing.assert_close(found.reach * (1 - found.apart), found.non_locality)
    # A corner sees 3 neighbours, a side 5, the inside 8: 4, 6 and 2 patches of a grid of 3 by 4.
    assert float(found.uniform[0, 1] * 12 * 12) == pytest.approx(4 * 3 + 6 * 5 + 2 * 8)


def test_a_head_that_looks_at_the_token_before_has_all_its_strength_at_hop_1() -> None:
    # Of the compiled program for induction, layer 0 fetches the token before; the first of nine has none but itself.
    compiled = next(known for known in known_models() if known.key == "induction").load()
    found = hop_profile(compiled.model, compiled.encode([list("abcdabcd"), list("fbeafbea")]))
    expected = torch.tensor([1 / 9, 8 / 9, *[0.0] * 7], dtype=torch.float64)
    torch.testing.assert_close(found.strength[0, 0], expected, rtol=1e-6, atol=1e-6)
    assert float(found.non_locality[0, 0]) == pytest.approx(8 / 9)
    assert float(found.per_key[0, 0, 1]) == pytest.approx(1)
    # In layer 1 the second round's four queries look at what came after, three back.
    assert float(found.per_key[1, 0, 3]) >= 4 / 6


def uniform_model(causal: bool) -> Transformer:
    """A model whose queries are zero, so that every visible key gets the same."""
    _, model = brute.pair("gpt2" if causal else "bert")
    for block in model.blocks:
        block.attn.q.weight.zero_()
        block.attn.q.bias.zero_()
    return model


@settings(max_examples=10)
@given(n=st.integers(1, 12), causal=st.booleans())
def test_a_uniform_heads_non_locality_is_the_mean_distance(n: int, causal: bool) -> None:
    model = uniform_model(causal)
    found = hop_profile(model, brute.given(model, batch=1, n=n))
    # Causal: query i is i / 2 away on average, the mean of which is (n - 1) / 4; else (n^2 - 1) / 3n, as for two
    # numbers drawn from 0 to n - 1.
    expected = (n - 1) / 4 if causal else (n * n - 1) / (3 * n)
    torch.testing.assert_close(found.non_locality, torch.full_like(found.non_locality, expected), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.uniform_non_locality, found.non_locality[:, 0], rtol=1e-6, atol=1e-6)


def test_padding_counts_nowhere() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=1, n=12)
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 12)], 1).long()
    padded = torch.cat([torch.full((1, 5), 1), tokens], 1)
    for given_mask, row in ((mask, padded), (mask.flip(1), torch.cat([tokens, torch.full((1, 5), 1)], 1))):
        found = hop_profile(model, row, attention_mask=given_mask)
        alone = hop_profile(model, tokens)
        torch.testing.assert_close(found.strength[..., :12], alone.strength, rtol=1e-5, atol=1e-7)
        assert float(found.strength[..., 12:].abs().max()) == 0
        assert found.rows == 12


def test_other_mechanisms_are_read_from_their_own_pattern(model: Transformer) -> None:
    sparse = model.with_attention("sparsemax")
    tokens = sparse.to_tokens("When Mary and John went to the store")
    found = hop_profile(sparse, tokens)
    _, cache = sparse.run_with_cache(tokens)
    n = tokens.shape[1]
    for layer in range(sparse.cfg.n_layers):
        pattern = cache["pattern", layer][0].double()
        expected = torch.stack([pattern.diagonal(-hop, 1, 2).sum(-1) / n for hop in range(n)], -1)
        torch.testing.assert_close(found.strength[layer], expected, rtol=1e-5, atol=1e-7)


def test_the_trend_is_a_line_through_the_layers_means() -> None:
    strength = torch.zeros(3, 2, 8, dtype=torch.float64)
    for layer, (a, b) in enumerate(((0, 2), (3, 3), (4, 6))):  # means 1, 3, 5
        strength[layer, 0, a] = strength[layer, 1, b] = 1
    found = hops.HopProfile("m", "tokens", strength, strength, strength[:, 0], torch.zeros(3, 2).double(), 1)
    assert found.by_layer().tolist() == [1, 3, 5]
    assert found.slope() == pytest.approx(2)
    assert found.to_dict()["non_locality"] == [[0, 2], [3, 3], [4, 6]]


def test_it_can_be_stopped_and_refuses_what_it_cannot_read() -> None:
    _, model = brute.pair("gpt2")
    tokens = brute.given(model, n=6)
    seen: list[int] = []
    with pytest.raises(Stopped):
        hop_profile(model, tokens, progress=lambda p: bool(seen.append(p.done)))
    assert seen == [1]
    with pytest.raises(ValueError, match="batch is at least 1"):
        hop_profile(model, tokens, batch=0)
    with pytest.raises(ValueError, match="rows need not sum to 1"):
        hop_profile(model.with_attention("sigmoid"), tokens)
