"""What keys receive and which keys rows prefer, against the whole pattern in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.brute import log_weights
from tests.kernels.cases import Case, cases, grid
from workbench.kernels import NonFiniteScores, attention_statistics, column_statistics, top_keys


def only(options: dict[str, Any]) -> dict[str, Any]:
    """Options that all sweeps know."""
    return {name: x for name, x in options.items() if name not in ("sinks", "recent", "want_output")}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_columns_are_sums_over_the_pattern(case: Case) -> None:
    q, k, _, options = case
    options = only(options)
    _, log_p, see = log_weights(q, k, **options)
    p = log_p.exp()
    count = see.sum(-2)
    # The scores are exact in float32; a log-sum-exp of 1e4 is not, and its last digit is what p can be wrong by.
    lse = attention_statistics(q, k, **options).lse
    slack = 1e-5 + lse.masked_fill(lse == -torch.inf, 0).abs().max().item() * 2**-23
    found = column_statistics(q, k, lse, eps=0.3, **options)
    torch.testing.assert_close(found.received_sum.double(), p.sum(-2), rtol=slack, atol=1e-12)
    torch.testing.assert_close(found.received_mean.double(), p.sum(-2) / count.clamp(min=1), rtol=slack, atol=1e-12)
    assert torch.equal(found.visible, count)
    over, near = (p > 0.3).sum(-2), ((p - 0.3).abs() <= slack).sum(-2)  # equal logits give exactly 1/3 at most
    assert ((found.sink_rate * count - over).abs() <= near + 1e-3).all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_top_keys_have_the_largest_weights(case: Case) -> None:
    q, k, _, options = case
    options = only(options)
    _, log_p, see = log_weights(q, k, **options)
    p = log_p.exp()
    for n in (1, 3, 45):
        found = top_keys(q, k, n=n, **options)
        some = min(n, k.shape[2])
        best = p.topk(some, dim=-1).values
        torch.testing.assert_close(found.weights[..., :some].double(), best, rtol=1e-5, atol=1e-30)
        assert found.weights[..., some:].eq(0).all()
        there = found.indices >= 0
        assert torch.equal(there.sum(-1), see.sum(-1).clamp(max=n))
        # Each is the weight of the key that it names, and no key is named twice.
        named = p.gather(-1, found.indices.clamp(min=0)).where(there, 0)
        torch.testing.assert_close(found.weights.double(), named, rtol=1e-5, atol=1e-30)
        times = torch.zeros(*p.shape[:-1], p.shape[-1] + 1).scatter_add_(
            -1, found.indices.where(there, p.shape[-1]), torch.ones_like(found.weights)
        )
        assert times[..., :-1].max() <= 1


def test_every_row_gives_one_and_a_sink_takes_it() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = grid(generator, 2, 4, 30, 8), grid(generator, 2, 2, 30, 8)
    q[..., 0] = 1.0
    k[:, :, 0] = torch.tensor([80.0, 0, 0, 0, 0, 0, 0, 0])
    found = column_statistics(q, k, attention_statistics(q, k).lse)
    torch.testing.assert_close(found.received_sum.sum(-1), torch.full((2, 4), 30.0))
    assert found.sink_rate[:, :, 0].eq(1).all()
    assert found.sink_rate[:, :, 1:].eq(0).all()
    assert found.visible[0, 0].tolist() == list(range(30, 0, -1))


def test_what_does_not_fit_is_one_sentence() -> None:
    q, k = torch.zeros(1, 4, 5, 8), torch.zeros(1, 2, 5, 8)
    with pytest.raises(ValueError, match=r"lse is \[1, 4, 4\]; .* here \[1, 4, 5\]"):
        column_statistics(q, k, torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="n is 0"):
        top_keys(q, k, n=0)
    q[0, 3, 2, 0] = torch.nan
    with pytest.raises(NonFiniteScores, match="batch 0, head 3, query 2"):
        top_keys(q, k, n=2)
