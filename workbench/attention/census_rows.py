"""What detectors read of a pattern, strip by strip: a few queries at a time with all of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.layers import LayerAttention
from workbench.attention.prompt import not_finite
from workbench.models.attention import softcap

STRIP = 2**22
"""Weights of one strip, over all examples and heads."""


@dataclass(frozen=True)
class Strip:
    """Some queries of a layer, with all keys.

    Attributes:
        p: weights; 0 where a query does not look, and at padded queries.
        seen: True where a real query may look, of any head.
        query: places of the queries in real tokens from 0; -1 at padding.
        key: likewise those of the keys.
    """

    p: Float[Tensor, "batch head query key"]
    seen: Bool[Tensor, "batch query key"]
    query: Int[Tensor, "batch query"]
    key: Int[Tensor, "batch key"]

    @property
    def back(self) -> Int[Tensor, "batch query key"]:
        """How many real tokens each key stands before the query."""
        return self.query[..., None] - self.key[:, None]


def strips(layer: LayerAttention, numbers: int = STRIP) -> Iterator[Strip]:
    """The pattern of a layer, at most ``numbers`` weights (and one query) at a time: memory grows with the length only.

    Raises:
        ValueError: scores that are not finite; the sentence names layer and head.
    """
    batch, heads, n, _ = layer.q.shape
    real = torch.ones(batch, n, dtype=torch.bool, device=layer.q.device) if layer.real is None else layer.real
    place = (real.long().cumsum(-1) - 1).masked_fill(~real, -1)
    size = max(1, numbers // (batch * heads * n))
    at = torch.arange(n, device=layer.q.device)
    for start in range(0, n, size):
        here = slice(start, start + size)
        back = at[here, None] - at
        seen = real[:, None] & real[:, here, None]
        if layer.causal:
            seen = seen & (back >= 0)
        if layer.window is not None:
            seen = seen & (back < layer.window)
        p = _softmax(layer, here, seen) if layer.pattern is None else layer.pattern[:, :, here].float()
        p = p.masked_fill(~seen[:, None], 0)
        if not bool(p.isfinite().all()):
            row, head, query = (~p.isfinite()).any(-1).nonzero()[0].tolist()
            raise not_finite(layer.layer, head, row, start + query)
        yield Strip(p, seen, place[:, here], place)


def _softmax(layer: LayerAttention, here: slice, seen: Tensor) -> Tensor:
    work = torch.promote_types(layer.q.dtype, torch.float32)
    q, k = layer.q[:, :, here].to(work), layer.k.to(work)
    # Keys that several query heads share are not repeated.
    grouped = q.reshape(len(q), k.shape[1], -1, *q.shape[2:])
    scores = torch.einsum("bgrqe,bgke->bgrqk", grouped, k).flatten(1, 2) * layer.scale
    capped = softcap(scores, layer.softcap)
    return capped.masked_fill(~seen[:, None], torch.finfo(work).min).softmax(-1)


class Explained:
    """Share of the variance of weights that lies between distances from query to key, for every head.

    Sums of weights and of their squares for each distance, in float64: ``1 - within / total``.
    """

    def __init__(self, heads: int, n: int) -> None:
        self.n = n
        self.count = torch.zeros(2 * n, dtype=torch.float64)
        self.sums = torch.zeros(heads, 2 * n, dtype=torch.float64)
        self.squares = torch.zeros(heads, dtype=torch.float64)

    def add(self, strip: Strip, chosen: Bool[Tensor, "batch query"]) -> None:
        """Take in the weights of some queries on the keys that they see."""
        counts = strip.seen & chosen[..., None]
        distance = (strip.back + self.n)[counts].cpu()
        p = strip.p.transpose(0, 1)[:, counts].double().cpu()
        self.count.index_add_(0, distance, torch.ones(len(distance), dtype=torch.float64))
        self.sums.index_add_(1, distance, p)
        self.squares += p.square().sum(-1)

    def share(self) -> Float[Tensor, " head"]:
        """Between 0 and 1; NaN where all weights are the same."""
        all_of_it = self.sums.sum(-1).square() / self.count.sum().clamp(min=1)
        between = (self.sums.square() / self.count.clamp(min=1)).sum(-1) - all_of_it
        total = self.squares - all_of_it
        same = total <= 1e-9 * self.squares
        return (between / total.masked_fill(same, 1)).clamp(0, 1).masked_fill(same, torch.nan)
