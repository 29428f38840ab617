"""Numbers that say what an attention pattern and a residual stream look like.

Weights may be negative (differential attention) and need not sum to 1: what counts is their absolute value, and for
shares that divided by the row's sum. A row whose weights are all zero has no shares; it is left out, and counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Earlier queries see so few keys that even equal weights give the first token a large share.
FIRST_QUERY = 8


def shares(pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute weights divided by their row's sum [..., query, key], and True where the row is not all zero."""
    size = pattern.abs().double()
    total = size.sum(-1, keepdim=True)
    return size / total.masked_fill(total == 0, 1), total[..., 0] > 0


def row_entropy(pattern: Tensor) -> Tensor:
    """Entropy of each row's shares in nats [..., query]; 0 for a row of zeros."""
    return torch.special.entr(shares(pattern)[0]).sum(-1)


def mean_over(values: Tensor, chosen: Tensor) -> float:
    """Mean of the chosen values; NaN where none is chosen."""
    return float(values.double()[chosen].mean())


def pattern_numbers(patterns: Tensor, first_query: int = FIRST_QUERY) -> dict[str, float]:
    """What causal patterns [layer, batch, head, query, key] look like, over queries from ``first_query`` on.

    ``entropy`` (nats), ``zeros`` (share of exact zeros among visible keys), ``sink`` (mean share of the first token),
    ``sink strongest`` (the same in the layer and head where it is highest), ``sink mass`` (mean absolute weight of
    the first token, rows of zeros included), ``row sum`` (mean absolute weight of a whole row), ``empty`` (share of
    rows that are all zero).
    """
    queries, keys = patterns.shape[-2:]
    visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[first_query:]
    late = patterns[..., first_query:, :]
    share, alive = shares(late)
    first = share[..., 0]
    by_head = first.sum((1, 3)) / alive.sum((1, 3)).clamp(min=1)  # layer head
    return {
        "entropy": mean_over(row_entropy(late), alive),
        "zeros": float((late == 0)[..., visible].double().mean()),
        "sink": mean_over(first, alive),
        "sink strongest": float(by_head.max()),
        "sink mass": float(late[..., 0].abs().double().mean()),
        "row sum": float(late.abs().double().sum(-1).mean()),
        "empty": float((~alive).double().mean()),
    }


def kurtosis(x: Tensor) -> Tensor:
    """Fourth central moment over the squared variance along the last axis [...]; 3 for normal numbers."""
    centred = x.double() - x.double().mean(-1, keepdim=True)
    return centred.pow(4).mean(-1) / centred.pow(2).mean(-1).pow(2)


def residual_numbers(streams: Tensor) -> dict[str, float]:
    """What the residual stream after each block [layer, batch, pos, d_model] looks like.

    ``kurtosis`` (after the last block, over d_model at each position, mean over all positions), ``kurtosis first``
    (at the first position), ``largest`` (absolute entry after any block).
    """
    last = kurtosis(streams[-1])
    return {
        "kurtosis": float(last.mean()),
        "kurtosis first": float(last[:, 0].mean()),
        "largest": float(streams.abs().max()),
    }
