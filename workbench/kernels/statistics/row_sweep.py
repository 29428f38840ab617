"""The row sweep in plain torch: one pass over tiles of keys with online rescaling.

A row keeps its largest logit m so far and sums of e = exp(s - m); whenever a tile has a larger one, the sums shrink by
exp(m - m'). Milakov and Gimelshein 2018 ("Online normalizer calculation for softmax") do that for sum e; the sum of
e (s - m) for the entropy, and the weighted means, go along in the same way. Tiles are float32. What a row keeps is
float64: a peaked row's entropy lies in the digits of sum e behind 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.kernels.statistics.problem import Problem, distances

Found = dict[str, Tensor]


@dataclass(frozen=True)
class Wanted:
    """What a sweep looks at beside the scores.

    Attributes:
        sinks: [batch or 1, key], True for sink keys.
        recent: keys nearer than this are recent.
        output: keep the head's output.
    """

    sinks: Bool[Tensor, "batch key"]
    recent: int
    output: bool


def row_sweep(problem: Problem, wanted: Wanted) -> Found:
    """Every statistic of every row [batch, head, query], in ``problem.sums``; ``output`` has d_value numbers each.

    Raises:
        NonFiniteScores: a visible score is infinite or not a number.
    """
    shape = problem.q.shape[:3]
    found: Found = {}
    for rows, heads, part in problem.chunks():
        sinks = wanted.sinks if len(wanted.sinks) == 1 else wanted.sinks[rows]
        starts = range(0, problem.sight.keys, problem.tile[1])
        marked = [bool(sinks[:, j0 : j0 + problem.tile[1]].any()) for j0 in starts]
        values = None if part.v is None else torch.cat([part.v, part.v.norm(dim=-1, keepdim=True)], dim=-1)
        for i0, i1 in part.query_tiles():
            state = _Rows(part, i0, i1, sinks, wanted.recent)
            for j0, j1, hidden in part.key_tiles(i0, i1):
                state.add(j0, j1, hidden, values, marked[j0 // problem.tile[1]])
            for name, x in state.finish(wanted.output).items():
                if name not in found:
                    found[name] = x.new_empty(*shape, *x.shape[3:])
                found[name][rows, heads, i0:i1] = x
    problem.require_finite(found["logit_min"], found["logit_max"])
    return found


class _Rows:
    """Sums of one tile of queries; each is [batch, kv head, query head of the group, query]."""

    def __init__(self, problem: Problem, i0: int, i1: int, sinks: Tensor, recent: int) -> None:
        self.problem, self.sinks, self.recent = problem, sinks, recent
        self.first, self.last = i0 + problem.sight.offset, i1 + problem.sight.offset
        self.queries = problem.queries(i0, i1)
        self.shape = (len(problem.q), *problem.groups, i1 - i0)
        self.max = self._full(-torch.inf)
        self.at = torch.full(self.shape, -1, device=problem.k.device)
        self.sum, self.tilt, self.squares, self.sink, self.near = (self._full(0) for _ in range(5))
        self.distance, self.spread = self._full(0), self._full(0)
        self.count, self.mean, self.scatter = (self._full(0) for _ in range(3))
        self.low = self._full(torch.inf)
        self.values: Tensor | None = None

    def _full(self, value: float) -> Tensor:
        return torch.full(self.shape, value, dtype=self.problem.sums, device=self.problem.k.device)

    def add(self, j0: int, j1: int, hidden: Tensor | None, values: Tensor | None, has_sinks: bool) -> None:
        """Take in the keys j0 .. j1 - 1."""
        s = self.problem.scores(self.queries, j0, j1)
        spare = self._logits(s, hidden)
        if hidden is not None:
            s.masked_fill_(hidden, -torch.inf)
        top, before = s.amax(-1).to(self.sum.dtype), self.max
        better = top > before
        if better.any():
            self.at = torch.where(better, _first(s, top) + j0, self.at)
        self.max = torch.maximum(before, top)
        base = self.max.masked_fill(self.max == -torch.inf, 0)  # rows that saw nothing yet: 0 - inf, not inf - inf
        shrink = (before - base).exp()
        down = (before - base).masked_fill(before == -torch.inf, 0)

        s.sub_(base.to(s.dtype)[..., None])
        e = torch.exp(s, out=spare)
        if hidden is not None:
            s.masked_fill_(hidden, 0)
        self.tilt = shrink * (self.tilt + down * self.sum) + s.mul_(e).sum(-1)
        self.squares = shrink * shrink * self.squares + torch.linalg.vector_norm(e, dim=-1).to(self.sum.dtype) ** 2
        wide = e.to(self.sum.dtype)
        self.sink = self.sink * shrink
        if has_sinks:
            self.sink += torch.einsum("bghqk,bk->bghq", wide, self.sinks[:, j0:j1].to(wide).expand(len(wide), -1))
        if values is not None:
            self._weigh(e, values[:, :, j0:j1], shrink)
        self._place(wide, j0, j1, shrink)

    def _logits(self, s: Tensor, hidden: Tensor | None) -> Tensor:
        """Count, mean, scatter and lowest of the visible scores; returns a buffer of the scores' shape."""
        if hidden is None:
            count: Tensor | float = float(s.shape[-1])
            mean = s.sum(-1) / count
            spare = s - mean[..., None]
            low = s.amin(-1)
        else:
            count = (~hidden).sum(-1).to(s.dtype)
            mean = s.masked_fill(hidden, 0).sum(-1) / count.clamp(min=1)
            spare = (s - mean[..., None]).masked_fill_(hidden, 0)
            low = s.masked_fill(hidden, torch.inf).amin(-1)
        scatter = torch.linalg.vector_norm(spare, dim=-1).to(self.sum.dtype) ** 2
        self.low = torch.minimum(self.low, low.to(self.sum.dtype))
        self.count, self.mean, self.scatter = _merge(self.count, self.mean, self.scatter, count, mean, scatter)
        return spare

    def _weigh(self, e: Tensor, values: Tensor, shrink: Tensor) -> None:
        """Weighted sums of the values and, in the last column, of their norms."""
        batch, heads, width = len(e), values.shape[1], values.shape[-1]
        given = (e.view(batch, heads, -1, e.shape[-1]) @ values).view(*self.shape, width)
        self.values = given if self.values is None else self.values * shrink.to(given.dtype)[..., None] + given

    def _place(self, e: Tensor, j0: int, j1: int, shrink: Tensor) -> None:
        """Total weight, how far away it is, and what of it is recent; ``e`` is used up."""
        kept = self.sum * shrink
        self.spread, self.near = self.spread * shrink, self.near * shrink
        causal = self.problem.sight.causal
        nearest, farthest = self.first - (j1 - 1), self.last - 1 - j0  # of signed distances
        if nearest < self.recent and farthest > -self.recent:
            far = distances(self.first, self.last, j0, j1, e.device).abs()
            self.near += (e * (far < self.recent)).sum(-1)
        if causal or nearest >= 0 or farthest <= 0:
            middle = (j0 + j1 - 1) / 2
            step = torch.arange(j0, j1, device=e.device, dtype=e.dtype) - middle
            weight = e.sum(-1)
            moment = e.mul_(step).sum(-1)
            second = e.mul_(step).sum(-1)
            position = torch.arange(self.first, self.last, device=e.device, dtype=e.dtype)
            total = weight.clamp(min=torch.finfo(e.dtype).tiny)
            mean = (position - middle) - moment / total
            mean = mean if causal or nearest >= 0 else -mean
            spread = (second - moment * moment / total).clamp(min=0)
        else:
            far = distances(self.first, self.last, j0, j1, e.device).abs().to(e.dtype)
            weight = e.sum(-1)
            total = weight.clamp(min=torch.finfo(e.dtype).tiny)
            mean = (e * far).sum(-1) / total
            spread = (e * (far - mean[..., None]) ** 2).sum(-1)
        self.sum, self.distance, self.spread = _merge(kept, self.distance, self.spread, weight, mean, spread)

    def finish(self, want_output: bool) -> Found:
        """The statistics, [batch, head, query]."""
        empty = self.count == 0
        total = self.sum.masked_fill(empty, 1)
        log = torch.log1p(total - 1)
        count = self.count.masked_fill(empty, 1)
        found = {
            "lse": self.max + log,
            "entropy": log - self.tilt / total,
            "largest": 1 / total,
            "largest_at": self.at,
            "effective_keys": total * total / self.squares.masked_fill(empty, 1),
            "distance": self.distance,
            "distance_spread": (self.spread / total).sqrt(),
            "sink_mass": self.sink / total,
            "recent_mass": self.near / total,
            "logit_mean": self.mean,
            "logit_variance": self.scatter / count,
            "logit_min": self.low,
            "logit_max": self.max,
            "visible": self.count.long(),
        }
        if self.problem.v is not None:
            width = self.problem.v.shape[-1] + 1
            values = self.problem.k.new_zeros(*self.shape, width) if self.values is None else self.values
            values = values / total[..., None]
            output = values[..., :-1]
            found |= {"norm_of_sum": output.norm(dim=-1), "sum_of_norms": values[..., -1]}
            if want_output:
                found["output"] = output
        for name, x in found.items():
            if name != "lse" and x.dtype != torch.long:
                x.masked_fill_(empty.view(*empty.shape, *[1] * (x.ndim - 4)), 0)
        return {name: x.flatten(1, 2) for name, x in found.items()}


def _first(s: Tensor, top: Tensor) -> Tensor:
    """Index of the first of the largest in each row; several times faster than argmax on a CPU."""
    size = s.shape[-1]
    left = torch.arange(size, 0, -1, device=s.device, dtype=s.dtype)
    return size - torch.where(s == top.to(s.dtype)[..., None], left, 0).amax(-1).long()


def _merge(
    n: Tensor, mean: Tensor, scatter: Tensor, m: Tensor | float, other: Tensor, more: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and weighted squared deviation of two sets together (Chan, Golub and LeVeque 1983)."""
    total = n + m
    share = m / total.clamp(min=torch.finfo(total.dtype).tiny)
    step = other.to(mean.dtype) - mean
    return total, mean + step * share, scatter + more + step * step * share * n
