"""Intervals by resampling, and p-values of many tests at once: what the examination of a circuit is said with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Correction = Literal["holm", "bh", "none"]
RESAMPLES = 1000
LEVEL = 0.95


def resamples(n: int, count: int = RESAMPLES, seed: int = 0) -> Float[Tensor, "resamples n"]:
    """Weights of the bootstrap (Efron 1979): each row is how often each of ``n`` items was drawn, divided by ``n``.

    A mean over a resample is then one product of the weights with the values.

    Raises:
        ValueError: no item, or no resample.
    """
    if n < 1 or count < 1:
        raise ValueError(f"A bootstrap needs at least one item and one resample; got {n} and {count}.")
    drawn = torch.randint(n, (count, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(count, n, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)) / n


def bounds(samples: Float[Tensor, " samples"], level: float = LEVEL) -> tuple[float, float]:
    """The middle ``level`` of the samples (percentiles); NaN for both where there is no finite sample.

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, such as 0.95; got {level}.")
    finite = samples[samples.isfinite()].double()
    if not len(finite):
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def adjust(p: Sequence[float], correction: Correction = "holm") -> list[float]:
    """P-values corrected for being many; compare them with the level itself.

    ``holm`` (Holm 1979) bounds the chance of any false rejection: the i-th smallest of m is multiplied by m - i + 1.
    ``bh`` (Benjamini and Hochberg 1995) bounds the expected share of false ones among the rejected: by m / i. Both are
    then made monotone and cut at 1.

    Raises:
        ValueError: an unknown correction.
    """
    if correction not in get_args(Correction):
        raise ValueError(f"Unknown correction '{correction}'; choose one of {', '.join(get_args(Correction))}.")
    m = len(p)
    order = sorted(range(m), key=lambda i: p[i])
    adjusted = list(p)
    if correction == "holm":
        reached = 0.0
        for rank, i in enumerate(order):
            reached = max(reached, min(1.0, (m - rank) * p[i]))
            adjusted[i] = reached
    elif correction == "bh":
        reached = 1.0
        for rank, i in reversed(list(enumerate(order))):
            reached = min(reached, m / (rank + 1) * p[i])
            adjusted[i] = reached
    return adjusted
