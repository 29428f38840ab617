"""Column statistics: what every key receives from all queries. A second sweep, with the first one's log-sum-exp."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels import check
from workbench.kernels.backends import Backend, runs_triton
from workbench.kernels.problem import Problem
from workbench.kernels.statistics.record import ColumnStatistics


@torch.no_grad()
def column_statistics(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    lse: Float[Tensor, "batch head query"],
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Bool[Tensor, "batch key"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    softcap: float | None = None,
    eps: float = 0.3,
    backend: Backend = "auto",
    tile: tuple[int, int] | None = None,
) -> ColumnStatistics:
    """Attention received by every key, and how often it is a sink, in O(queries + keys) memory.

    The sink rate counts the queries that give a key more than ``eps`` (0.3 in Gu et al. 2024, "When attention sink
    emerges in language models", section 3, who compare the mean over queries with it).

    Args:
        q, k, causal, scale, window, key_mask, lengths, softcap, backend, tile: as for :func:`attention_statistics`.
        lse: its ``lse``, from the same arguments.
        eps: the weight beyond which a query's attention to a key counts as a sink's.

    Raises:
        ValueError: shapes or settings do not fit.
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
    if lse.shape != q.shape[:3]:
        raise ValueError(
            f"lse is {list(lse.shape)}; it must be [batch, head, query], here {list(q.shape[:3])}: "
            "attention_statistics(q, k, ...).lse."
        )
    if runs_triton(backend, problem):
        from workbench.kernels.statistics.triton_columns import triton_columns as run
    else:
        run = _columns
    sums, over, seen = run(problem, lse, eps)
    visible = seen.clamp(min=1)
    return ColumnStatistics(
        received_sum=sums.to(problem.work),
        received_mean=(sums / visible).to(problem.work),
        sink_rate=(over / visible).to(problem.work),
        visible=seen.long(),
    )


def _columns(problem: Problem, lse: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the weights, queries that give more than ``eps`` and queries that see the key, [batch, head, key] each."""
    shape = (*problem.q.shape[:2], problem.sight.keys)
    sums, over, seen = (problem.q.new_zeros(shape, dtype=problem.sums) for _ in range(3))
    for batch, heads, part in problem.chunks():
        views = [_grouped(part, x[batch, heads]) for x in (sums, over, seen)]
        for i0, i1 in part.query_tiles():
            _add(part, _grouped(part, lse[batch, heads, i0:i1]), eps, views, i0, i1)
    return sums, over, seen


def _grouped(problem: Problem, x: Tensor) -> Tensor:
    """A view of [batch, head, n] as [batch, kv head, query head of the group, n]."""
    return x.view(len(x), *problem.groups, -1)


def _add(problem: Problem, lse: Tensor, eps: float, into: list[Tensor], i0: int, i1: int) -> None:
    """What the queries i0 .. i1 - 1 give to the keys that they see."""
    sums, over, seen = into
    queries = problem.queries(i0, i1)
    for j0, j1, hidden in problem.key_tiles(i0, i1):
        p = problem.scores(queries, j0, j1).sub_(lse.to(problem.work)[..., None]).exp_()
        if hidden is not None:
            p.masked_fill_(hidden, 0)
        sums[..., j0:j1] += p.sum(-2)
        over[..., j0:j1] += (p > eps).sum(-2)
        seen[..., j0:j1] += float(i1 - i0) if hidden is None else (~hidden).sum(-2)
