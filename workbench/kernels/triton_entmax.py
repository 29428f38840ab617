# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Alpha-entmax attention in Triton: what :mod:`workbench.kernels.entmax` does, one program for each tile of queries.

Every sweep of the root finding makes the scores again, tile by tile; a byte for each tile says whether it can still
have weight, and sweeps, output and backward pass over those that cannot (AdaSplash, Goncalves et al. 2025, arXiv
2502.12082, keeps the same table).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.triton_backward import gradients
from workbench.kernels.triton_tiles import (
    entmax_powers,
    expm1,
    key_tiles,
    load_rows,
    readable,
    ready,
    shape_of,
    side_of,
    store_rows,
    tile_scores,
)

STEPS = 30


class TritonEntmax(torch.autograd.Function):
    """Entmax attention of q, k, v and alpha [head], forward and backward in Triton."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, alphas: Tensor, problem: Problem) -> Tensor:
        """Head outputs."""
        problem = ready(problem, q, k, v)
        output, top, beta, live = forward(problem, alphas)
        ctx.save_for_backward(alphas, top, beta, live)
        ctx.problem = problem
        return output.to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients."""
        (alphas, top, beta, live), problem = ctx.saved_tensors, ctx.problem
        mean, at_alpha = row_means(dz, problem, alphas, top, beta, live, ctx.needs_input_grad[3])
        kind = _kind(alphas)
        rule = "entmax" if kind == "any" else f"entmax-{kind}"
        found = gradients(dz, problem, (top, beta, mean), rule, live, alphas)
        dq, dk, dv = (x.to(dz.dtype) for x in found)
        return dq, dk, dv, at_alpha.sum((0, 2)).to(alphas.dtype) if ctx.needs_input_grad[3] else None, None


def forward(problem: Problem, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, each row's highest score and beta [batch, head, query], and which tiles have weight.

    The last is [batch * head, query tile, key tile], 0 where no query of the tile gives weight to any key of it.
    """
    q, k, v = problem.q, problem.k, problem.v
    assert v is not None
    batch, heads, n, _ = q.shape
    output = q.new_zeros(batch, heads, n, v.shape[-1])
    top, beta = (torch.zeros(batch, heads, n, dtype=torch.float32, device=q.device) for _ in range(2))
    side = side_of(problem)
    tiles = triton.cdiv(n, side)
    live = torch.zeros(batch * heads, tiles, triton.cdiv(k.shape[2], side), dtype=torch.int8, device=q.device)
    if q.numel() and k.numel():
        entmax_forward[(tiles, batch * heads)](
            q, k, v, output, top, beta, live, alphas.detach().contiguous(),
            **shape_of(problem), KIND=_kind(alphas), STEPS=STEPS, num_warps=4,
        )  # fmt: skip
    return output, top, beta, live


def row_means(
    dz: Tensor, problem: Problem, alphas: Tensor, top: Tensor, beta: Tensor, live: Tensor, learns: bool
) -> tuple[Tensor, Tensor]:
    """``<u, dp> / sum u`` of every row, and its gradient at alpha (0 unless alpha learns)."""
    q, k, v = problem.q, problem.k, problem.v
    assert v is not None
    mean, at_alpha = torch.zeros_like(top), torch.zeros_like(top)
    if q.numel() and k.numel():
        entmax_means[live.shape[1], live.shape[0]](
            q, k, v, readable(dz), top, beta, live, alphas.detach().contiguous(), mean, at_alpha,
            **shape_of(problem), KIND=_kind(alphas), LEARNS=learns, num_warps=4,
        )  # fmt: skip
    return mean, at_alpha


def _kind(alphas: Tensor) -> str:
    """Which powers the kernels need: "2", "1.5" or "any"."""
    first = alphas.detach()[0].item()
    same = bool((alphas == first).all())
    return {2.0: "2", 1.5: "1.5"}.get(first, "any") if same else "any"


@triton.jit
def next_beta(beta, total, slope, second, low, high, e):
    """One step of Halley (alpha <= 1.5) or Newton on the norm of the bases, or half of the bracket."""
    newton = total * expm1(-e * tl.log(total)) / slope
    bend = 0.5 * newton / e * (1 - e) * (second / slope - slope / total)
    new = tl.where(e <= 0.5, beta + newton / (1 + bend), beta + newton)
    return tl.where((new >= low) & (new <= high), new, 0.5 * (low + high))


@triton.jit
def entmax_forward(
    q_base, k_base, v_base, out_base, top_base, beta_base, live, alphas,
    mask, n_queries, n_keys, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Output, top and beta of one tile of queries of one head."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key_head, batch = head // SHARED, head // HEADS
    e = tl.load(alphas + head % HEADS) - 1
    i = tile * M + tl.arange(0, M)
    q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
    keys, values = k_base + key_head * n_keys * WIDTH, v_base + key_head * n_keys * V_WIDTH
    real = mask + batch * n_keys
    flags = live + (head * tl.num_programs(0) + tile) * tl.cdiv(n_keys, N)
    start, stop = key_tiles(tile * M, n_queries, n_keys, CAUSAL, WINDOW, M, N)

    top = tl.full([M], float("-inf"), tl.float32)
    for t in range(start, stop):
        j = t * N + tl.arange(0, N)
        k = load_rows(keys, j, n_keys, WIDTH, BLOCK)
        s = tile_scores(q, k, i, j, real, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
        top = tl.maximum(top, tl.max(s, 1))
        tl.store(flags + t, 1)
    empty = top == float("-inf")
    top = tl.where(empty, 0.0, top)

    high = tl.full([M], 1.0, tl.float32)
    low = tl.exp2(-e * tl.log2(n_keys.to(tl.float32))) * high
    beta = high
    step, busy = 0, 1
    while (step < STEPS) & (busy != 0):
        total = tl.zeros([M], tl.float32)
        slope = tl.zeros([M], tl.float32)
        second = tl.zeros([M], tl.float32)
        # the flags of the sweep before were written by other threads of this program
        tl.debug_barrier()
        for t in range(start, stop):
            if tl.load(flags + t) != 0:
                j = t * N + tl.arange(0, N)
                k = load_rows(keys, j, n_keys, WIDTH, BLOCK)
                s = tile_scores(q, k, i, j, real, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
                y = (s - top[:, None]) * e
                b = tl.maximum(y + beta[:, None], 0.0)
                p, u = entmax_powers(b, e, KIND)
                total += tl.sum(p, 1)
                slope += tl.sum(u, 1)
                second += tl.sum(tl.where(b > 0, u / tl.where(b > 0, b, 1.0), 0.0), 1)
                inside = tl.max(tl.max(y + high[:, None], 1), 0) > 0
                tl.store(flags + t, inside.to(tl.int8))
        total = tl.where(empty, 1.0, total)
        slope = tl.where(empty, 1.0, slope)
        high = tl.where(total >= 1, beta, high)
        low = tl.where(total <= 1, beta, low)
        new = next_beta(beta, total, slope, second, low, high, e)
        moved = (tl.abs(new - beta) > 5e-7 * beta) & (empty == 0)
        busy = tl.max(moved.to(tl.int32), 0)
        beta = new
        step += 1
    beta = tl.where(empty, 0.0, beta)

    z = tl.zeros([M, V_BLOCK], tl.float32)
    tl.debug_barrier()
    for t in range(start, stop):
        if tl.load(flags + t) != 0:
            j = t * N + tl.arange(0, N)
            k = load_rows(keys, j, n_keys, WIDTH, BLOCK)
            v = load_rows(values, j, n_keys, V_WIDTH, V_BLOCK)
            s = tile_scores(q, k, i, j, real, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
            p, _ = entmax_powers(tl.maximum((s - top[:, None]) * e + beta[:, None], 0.0), e, KIND)
            z += tl.dot(p.to(v.dtype), v, input_precision="ieee")
            tl.store(flags + t, (tl.max(tl.max(p, 1), 0) > 0).to(tl.int8))
    store_rows(out_base + head * n_queries * V_WIDTH, i, n_queries, z, V_WIDTH, V_BLOCK)
    tl.store(top_base + head * n_queries + i, top, mask=i < n_queries)
    tl.store(beta_base + head * n_queries + i, beta, mask=i < n_queries)


@triton.jit
def entmax_means(
    q_base, k_base, v_base, dz_base, top_base, beta_base, live, alphas, mean_base, alpha_base,
    mask, n_queries, n_keys, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr, LEARNS: tl.constexpr,
):  # fmt: skip
    """``<u, dp> / sum u`` and the gradient at alpha of one tile of queries of one head."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key_head, batch = head // SHARED, head // HEADS
    e = tl.load(alphas + head % HEADS) - 1
    i = tile * M + tl.arange(0, M)
    q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
    dz = load_rows(dz_base + head * n_queries * V_WIDTH, i, n_queries, V_WIDTH, V_BLOCK)
    top = tl.load(top_base + head * n_queries + i, mask=i < n_queries, other=0.0)
    beta = tl.load(beta_base + head * n_queries + i, mask=i < n_queries, other=0.0)
    flags = live + (head * tl.num_programs(0) + tile) * tl.cdiv(n_keys, N)
    slope, taken, given, surprise, paid = (
        tl.zeros([M], tl.float32),
        tl.zeros([M], tl.float32),
        tl.zeros([M], tl.float32),
        tl.zeros([M], tl.float32),
        tl.zeros([M], tl.float32),
    )
    start, stop = key_tiles(tile * M, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for t in range(start, stop):
        if tl.load(flags + t) != 0:
            j = t * N + tl.arange(0, N)
            k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
            v = load_rows(v_base + key_head * n_keys * V_WIDTH, j, n_keys, V_WIDTH, V_BLOCK)
            s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
            dp = tl.dot(dz, tl.trans(v), input_precision="ieee")
            p, u = entmax_powers(tl.maximum((s - top[:, None]) * e + beta[:, None], 0.0), e, KIND)
            slope += tl.sum(u, 1)
            taken += tl.sum(u * dp, 1)
            if LEARNS:
                h = -p * tl.log(tl.where(p > 0, p, 1.0))
                given += tl.sum(p * dp, 1)
                surprise += tl.sum(h, 1)
                paid += tl.sum(h * dp, 1)
    mean = taken / tl.where(slope == 0, 1.0, slope)
    tl.store(mean_base + head * n_queries + i, mean, mask=i < n_queries)
    if LEARNS:
        at_alpha = (given - mean) / (e * e) + (paid - mean * surprise) / e
        tl.store(alpha_base + head * n_queries + i, at_alpha, mask=i < n_queries)
