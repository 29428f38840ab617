"""Similarity of heads against scipy's divergence of Hugging Face's patterns, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention.similarity import Likeness, similarity
from workbench.circuits.progress import Stopped


def compared(p: Tensor, measure: str, first: int) -> Tensor:
    """[head, head] of patterns [layer, head, batch, query, key], by definition."""
    rows = p[:, :, :, first:].flatten(0, 1).flatten(1, 2)
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if measure == "cosine":
                found[i, j] = torch.cosine_similarity(one, other, dim=-1).mean()
            else:
                found[i, j] = 1 - (jensenshannon(one.T, other.T) ** 2).mean() / math.log(2)
    return found


@pytest.mark.parametrize("measure", ["js", "cosine"])
@pytest.mark.parametrize("kind", ["llama-grouped", "mistral", "vit"])
def test_every_pair_as_by_definition(kind: str, measure: Likeness) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model)
    p = brute.patterns(hf, tokens)
    found = similarity(model, tokens, measure)
    expected = compared(p, measure, 1 if model.cfg.causal else 0)
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=2e-6)
    assert found.queries == found.of_queries == p.shape[2] * (p.shape[3] - model.cfg.causal)
    assert not found.notes
    blocks = expected.view(model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_layers, model.cfg.n_heads)
    between = found.between_layers()
    assert float(between[0, 1]) == pytest.approx(float(blocks[0, :, 1].mean()), abs=1e-5)
    unlike = ~torch.eye(model.cfg.n_heads, dtype=torch.bool)
    assert float(between[1, 1]) == pytest.approx(float(blocks[1, :, 1][unlike].mean()), abs=1e-5)


@settings(deadline=None, max_examples=8)
@over(st.integers(0, 10**6), st.integers(3, 20), st.integers(1, 30))
def test_a_similarity_is_symmetric_and_one_with_itself(seed: int, n: int, queries: int) -> None:
    _, model = brute.pair("llama-ungrouped")
    tokens = torch.randint(3, 60, (2, n), generator=torch.Generator().manual_seed(seed))
    for measure in ("js", "cosine"):
        found = similarity(model, tokens, measure, queries=queries)  # type: ignore[arg-type]
        torch.testing.assert_close(found.values, found.values.T, rtol=0, atol=1e-6)
        assert bool((found.values.diagonal() == 1).all())
        assert 0 <= float(found.values.min()) <= float(found.values.max()) <= 1
        assert found.queries == min(queries, 2 * (n - 1))
        assert bool(found.notes) == (found.queries < 2 * (n - 1))


def test_heads_with_the_same_weights_are_one_cluster() -> None:
    _, model = brute.pair("gpt2")
    size = model.cfg.d_head
    with torch.no_grad():
        for part in (model.blocks[0].attn.q, model.blocks[0].attn.k):
            part.weight[:size] = part.weight[size : 2 * size]
            part.bias[:size] = part.bias[size : 2 * size]
    found = similarity(model, brute.given(model))
    assert float(found.values[0, 1]) == pytest.approx(1, abs=1e-6)
    others = torch.cat([found.values[0, 2:], found.values[2, 3:]])
    assert float(others.max()) < 0.999
    assert found.nearest(0, 0, 1)[0].name == "a0.h1"
    assert found.names[1] == "a0.h1"
    groups = found.clusters(len(found.values) - 1)
    assert groups[0, 0] == groups[0, 1]
    assert len(set(groups.flatten().tolist())) == len(found.values) - 1
    assert groups.flatten().tolist()[:3] == [0, 0, 1]


def test_a_small_budget_compares_fewer_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    hf, model = brute.pair("llama-grouped")
    tokens = brute.given(model)
    heads = model.cfg.n_layers * model.cfg.n_heads
    found = similarity(model, tokens, budget=2 * 4 * heads * 24 * 5)
    assert (found.queries, found.of_queries) == (5, 46)
    assert found.notes == ("5 of 46 rows were compared, drawn by chance, for the budget.",)
    rows = torch.randperm(46, generator=torch.Generator().manual_seed(0))[:5]
    p = brute.patterns(hf, tokens)[..., 1:, :].flatten(2, 3)[:, :, rows]
    torch.testing.assert_close(found.values, compared(p[:, :, None], "js", 0), rtol=1e-5, atol=2e-6)
    with pytest.raises(ValueError, match="budget"):
        similarity(model, tokens, budget=100)


def test_padding_is_not_compared() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, 1, 9)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens], 1)
    mask = torch.tensor([[0] * 3 + [1] * 9])
    torch.testing.assert_close(
        similarity(model, padded, attention_mask=mask).values, similarity(model, tokens).values, rtol=1e-5, atol=1e-6
    )


def test_unusable_input_is_one_sentence_and_stopping_stops() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model)
    with pytest.raises(ValueError, match="there is no 'kl'"):
        similarity(model, tokens, "kl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="At least one row"):
        similarity(model, tokens, queries=0)
    with pytest.raises(ValueError, match="longer text"):
        similarity(model, tokens[:, :1])
    with pytest.raises(ValueError, match="There is no head a9"):
        similarity(model, tokens).nearest(9, 0)
    with pytest.raises(ValueError, match="groups"):
        similarity(model, tokens).clusters(0)
    with pytest.raises(Stopped):
        similarity(model, tokens, progress=lambda at: False)
    assert similarity(digits.encoder(), tokens).to_dict()["measure"] == "js"
