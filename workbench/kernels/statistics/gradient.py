"""Gradients of entropy and log-sum-exp in tiles, so that an entropy penalty can be trained at any length.

With p_j = exp(s_j - lse) and entropy H: d lse / d s_j = p_j and dH / d s_j = -p_j (log p_j + H). Scores are made again
tile by tile from what the sweep kept, two numbers for each row.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.kernels.problem import Problem

Rows = Float[Tensor, "batch head query"]


def with_gradients(
    q: Tensor, k: Tensor, problem: Problem, lse: Rows, entropy: Rows, in_triton: bool
) -> tuple[Rows, Rows]:
    """The same numbers in the type that is calculated in, differentiable by ``q`` and ``k`` (once)."""
    pair = _LseAndEntropy.apply(q, k, problem, lse, entropy, in_triton)  # type: ignore[no-untyped-call]
    return cast(tuple[Tensor, Tensor], pair)


class _LseAndEntropy(torch.autograd.Function):
    """Passes both on, and knows their gradients."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, problem: Problem, lse: Tensor, entropy: Tensor, in_triton: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.problem, ctx.in_triton = problem, in_triton
        ctx.save_for_backward(q, k, lse, entropy)
        return lse.to(problem.work, copy=True), entropy.to(problem.work, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_lse: Tensor, to_entropy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, lse, entropy = ctx.saved_tensors
        if ctx.in_triton:
            from workbench.kernels.statistics.triton_gradient import triton_backward as run
        else:
            run = backward
        by_q, by_k = run(ctx.problem, lse, entropy, to_lse, to_entropy)
        return by_q.to(q.dtype), by_k.to(k.dtype), None, None, None, None


def backward(
    problem: Problem, lse: Rows, entropy: Rows, to_lse: Rows, to_entropy: Rows
) -> tuple[Float[Tensor, "batch head query d_head"], Float[Tensor, "batch kv_head key d_head"]]:
    """Gradients by queries and keys, given those by ``lse`` and ``entropy``."""
    by_q = torch.zeros_like(problem.q, dtype=problem.work)
    by_k = torch.zeros_like(problem.k)
    for batch, heads, part in problem.chunks():
        kv_heads, shared = part.groups
        keys = slice(heads.start // shared, heads.start // shared + kv_heads)
        for i0, i1 in part.query_tiles():
            rows = [
                x[batch, heads, i0:i1].reshape(-1, *part.groups, i1 - i0) for x in (lse, entropy, to_lse, to_entropy)
            ]
            queries = part.queries(i0, i1)
            total = torch.zeros_like(queries)
            for j0, j1, hidden in part.key_tiles(i0, i1):
                change = _scores_gradient(part, queries, j0, j1, hidden, *rows).flatten(2, 3)
                total += change @ part.k[:, :, j0:j1]
                by_k[batch, keys, j0:j1] += change.mT @ queries
            by_q[batch, heads, i0:i1] = total.view(len(total), -1, i1 - i0, total.shape[-1]) * part.scale
    return by_q, by_k


def _scores_gradient(
    problem: Problem,
    queries: Tensor,
    j0: int,
    j1: int,
    hidden: Tensor | None,
    lse: Tensor,
    entropy: Tensor,
    to_lse: Tensor,
    to_entropy: Tensor,
) -> Tensor:
    """Gradient by the products of a tile, before the cap."""
    s = problem.scores(queries, j0, j1)
    slope = None if problem.softcap is None else 1 - (s / problem.softcap) ** 2
    s.sub_(lse.to(s.dtype)[..., None])
    p = s.exp()
    s.add_(entropy.to(s.dtype)[..., None]).mul_(-to_entropy.to(s.dtype)[..., None]).add_(to_lse.to(s.dtype)[..., None])
    change = p.mul_(s)
    if slope is not None:
        change.mul_(slope)
    return change if hidden is None else change.masked_fill_(hidden, 0)
