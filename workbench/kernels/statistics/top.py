"""The keys with the largest weights of every row, by a streaming selection."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels import check
from workbench.kernels.problem import Problem
from workbench.kernels.statistics.record import TopKeys


@torch.no_grad()
def top_keys(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    *,
    n: int,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "batch key"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> TopKeys:
    """The ``n`` keys with the largest weights of every row and those weights, in O(n * queries + keys) memory.

    Equal weights come in any order. The weights of a row add up to less than 1 unless it sees at most ``n`` keys.

    Args:
        q, k, causal, scale, window, key_mask, lengths, softcap, tile: as for :func:`attention_statistics`.
        n: how many keys of each row.

    Raises:
        ValueError: shapes or settings do not fit.
        NonFiniteScores: a row's best score is infinite or not a number.
    """
    problem = check.problem(
        q,
        k,
        None,
        causal=causal,
        scale=scale,
        window=window,
        key_mask=key_mask,
        lengths=lengths,
        softcap=softcap,
        tile=tile,
    )
    if n < 1:
        raise ValueError(f"n is {n}; ask for one key or more of every row.")
    indices = q.new_full((*q.shape[:3], n), -1, dtype=torch.long)
    weights = q.new_zeros(*q.shape[:3], n, dtype=problem.work)
    for batch, heads, part in problem.chunks():
        for i0, i1 in part.query_tiles():
            best, at, lse = _select(part, i0, i1, n)
            given = (best - lse[..., None]).exp().masked_fill(at < 0, 0)
            indices[batch, heads, i0:i1] = at.flatten(1, 2)
            weights[batch, heads, i0:i1] = given.flatten(1, 2).to(problem.work)
    problem.refuse(weights.isnan().any(-1))
    return TopKeys(indices, weights)


def _select(problem: Problem, i0: int, i1: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best scores, their keys, and the log-sum-exp of the rows of one tile of queries."""
    shape = (len(problem.q), *problem.groups, i1 - i0)
    new = problem.k.new_full
    best, at = new((*shape, n), -torch.inf), new((*shape, n), -1, dtype=torch.long)
    lse = new(shape, -torch.inf, dtype=problem.sums)
    queries = problem.queries(i0, i1)
    for j0, j1, hidden in problem.key_tiles(i0, i1):
        s = problem.scores(queries, j0, j1)
        if hidden is not None:
            s.masked_fill_(hidden, -torch.inf)
        top = s.amax(-1)
        if not bool((top <= best[..., -1]).all()):  # a NaN goes in
            some, places = s.topk(min(n, j1 - j0), dim=-1)
            places = (places + j0).masked_fill_(some == -torch.inf, -1)
            best, order = torch.cat([best, some], -1).topk(n, dim=-1)
            at = torch.cat([at, places], -1).gather(-1, order)
        # The largest score is added in float64: of a score of 1e4, float32 keeps too little for a weight.
        base = top.masked_fill(top == -torch.inf, 0)
        added = base.to(lse.dtype) + s.sub_(base[..., None]).exp_().sum(-1).to(lse.dtype).log()
        lse = torch.logaddexp(lse, added)
    return best.to(lse.dtype), at, lse
