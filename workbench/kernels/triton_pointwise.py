# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Softpick and sigmoid attention in Triton, in one sweep over tiles of keys."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.triton_backward import gradients
from workbench.kernels.triton_tiles import (
    above_zero,
    expm1,
    key_tiles,
    load_rows,
    ready,
    shape_of,
    side_of,
    store_rows,
    tile_scores,
)


class TritonSoftpick(torch.autograd.Function):
    """Softpick attention of q, k and v."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, eps: float, problem: Problem) -> Tensor:
        """Head outputs."""
        problem = ready(problem, q, k, v)
        rows = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
        output, m, total = _forward(problem, rows, eps, "softpick")
        ctx.save_for_backward(output, m, total)
        ctx.problem = problem
        return output.to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients."""
        output, m, total = ctx.saved_tensors
        mean = (output.float() * dz.float()).sum(-1)
        found = gradients(dz, ctx.problem, (m, total, mean), "softpick")
        return *(x.to(dz.dtype) for x in found), None, None


class TritonSigmoid(torch.autograd.Function):
    """Sigmoid attention of q, k and v with a bias [batch, query]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, biases: Tensor, problem: Problem) -> Tensor:
        """Head outputs."""
        problem = ready(problem, q, k, v)
        rows = biases[:, None].expand(q.shape[:3]).contiguous()
        output, _, _ = _forward(problem, rows, 0.0, "sigmoid")
        ctx.save_for_backward(rows)
        ctx.problem = problem
        return output.to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients."""
        (rows,) = ctx.saved_tensors
        found = gradients(dz, ctx.problem, (rows, rows, torch.zeros_like(rows)), "sigmoid")
        return *(x.to(dz.dtype) for x in found), None, None


def _forward(problem: Problem, biases: Tensor, eps: float, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and softpick's m and denominator of every row."""
    q, k, v = problem.q, problem.k, problem.v
    assert v is not None
    batch, heads, n, _ = q.shape
    output = q.new_zeros(batch, heads, n, v.shape[-1])
    m, total = torch.zeros_like(biases), torch.ones_like(biases)
    if q.numel() and k.numel():
        pointwise_forward[(triton.cdiv(n, side_of(problem)), batch * heads)](
            q, k, v, output, biases, m, total, eps, **shape_of(problem), RULE=rule, num_warps=4
        )
    return output, m, total


@triton.jit
def pointwise_forward(
    q_base, k_base, v_base, out_base, bias_base, m_base, total_base, eps,
    mask, n_queries, n_keys, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head. Softpick's sums shrink by e^(m - m') when a higher score m' turns up."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key_head, batch = head // SHARED, head // HEADS
    i = tile * M + tl.arange(0, M)
    q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
    bias = tl.load(bias_base + head * n_queries + i, mask=i < n_queries, other=0.0)
    m = tl.zeros([M], tl.float32)
    total = tl.zeros([M], tl.float32)
    z = tl.zeros([M, V_BLOCK], tl.float32)
    start, stop = key_tiles(tile * M, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for t in range(start, stop):
        j = t * N + tl.arange(0, N)
        k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
        v = load_rows(v_base + key_head * n_keys * V_WIDTH, j, n_keys, V_WIDTH, V_BLOCK)
        s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
        if RULE == "softpick":
            higher = tl.maximum(m, tl.max(s, 1))
            shrink = tl.exp(m - higher)
            m = higher
            p = above_zero(s, m[:, None])
            below = tl.exp(-m)[:, None] * -expm1(tl.minimum(s, 0.0))
            below = tl.where(s == float("-inf"), 0.0, below)
            total = total * shrink + tl.sum(p, 1) + tl.sum(below, 1)
            z = z * shrink[:, None]
        else:
            p = 1 / (1 + tl.exp(-(s + bias[:, None])))
        z += tl.dot(p.to(v.dtype), v, input_precision="ieee")
    if RULE == "softpick":
        total += eps * tl.exp(-m)
        z = z / total[:, None]
        tl.store(m_base + head * n_queries + i, m, mask=i < n_queries)
        tl.store(total_base + head * n_queries + i, total, mask=i < n_queries)
    store_rows(out_base + head * n_queries * V_WIDTH, i, n_queries, z, V_WIDTH, V_BLOCK)
