"""The row sweep in plain torch: tiles of keys, each with sums of its own, and the sums put together.

The rescaling is that of the online normalizer (Milakov and Gimelshein 2018, "Online normalizer calculation for
softmax"), many tiles at a time. Tiles of queries and heads are independent and spread over torch's threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.kernels import threads
from workbench.kernels.problem import Problem
from workbench.kernels.statistics.row_sums import COLUMNS, Found, RowSums, merged, nothing, statistics
from workbench.kernels.statistics.row_tile import Scratch, tile_sums

Part = tuple[slice, slice, Problem, tuple[int, int]]

MOST = 32
"""Tiles whose sums are kept beside each other."""


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
    shape, v, device = problem.q.shape[:3], problem.v, problem.k.device
    numbers = torch.empty(COLUMNS, *shape, dtype=problem.sums, device=device)
    # Of the head's output only the length is kept where no more is wanted: it is larger than all numbers together.
    width = 1 if v is None or not wanted.output else v.shape[-1]
    values = None if v is None else torch.empty(*shape, width, dtype=problem.work, device=device)
    parts = problem.parts()
    marked = wanted.sinks.any(0).nonzero().flatten().tolist()
    sinks = (wanted.sinks, marked[0], marked[-1]) if marked else None
    scratch = Scratch()
    sums = threads.each(lambda part: _swept(part, wanted, sinks, scratch), parts, device)
    for (rows, heads, its, (i0, i1)), found in zip(parts, sums, strict=True):
        here = its.q.shape[0], its.q.shape[1], i1 - i0
        numbers[:, rows, heads, i0:i1] = found.numbers.view(-1, *here)
        if values is not None and found.values is not None:
            values[rows, heads, i0:i1] = found.values.view(*here, -1)
    results = statistics(numbers, values, wanted.output)
    problem.require_finite(results["logit_min"], results["logit_max"])
    return results


def _swept(part: Part, wanted: Wanted, sinks: tuple[Tensor, int, int] | None, scratch: Scratch) -> RowSums:
    """The sums of one tile of queries, values as lengths unless wanted; ``sinks``: marks, the first and the last."""
    rows, _, problem, (i0, i1) = part
    queries = problem.queries(i0, i1)
    kept: list[RowSums] = []
    for j0, j1, hidden in problem.key_tiles(i0, i1):
        marked = None
        if sinks is not None and sinks[1] < j1 and sinks[2] >= j0:
            marked = sinks[0][rows if len(sinks[0]) > 1 else slice(None), j0:j1]
        found = tile_sums(problem, queries, (i0, i1, j0, j1), hidden, marked, wanted.recent, scratch)
        kept = [merged(kept), found] if len(kept) == MOST else [*kept, found]
    if not kept:
        d_value = None if problem.v is None else problem.v.shape[-1]
        kept = [nothing(queries.shape[:3].numel(), d_value, problem.work, problem.sums, problem.k.device)]
    whole = merged(kept)
    if whole.values is None or wanted.output:
        return whole
    return RowSums(whole.numbers, whole.values.norm(dim=-1, keepdim=True))
