# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Gradients of entropy and log-sum-exp in Triton: the mathematics of :mod:`workbench.kernels.statistics.gradient`.

One kernel for the queries and one for the keys, so that each number is written by one program alone and no order of
additions is left to chance. Scores are made again from queries and keys, weights from the rows' log-sum-exp.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.statistics.triton_rows import softcapped
from workbench.kernels.triton_tiles import key_tiles, load_rows, query_tiles, readable, store_rows, tile_scores


@triton.jit
def load_row_numbers(rows_base, row, i, n_queries):
    """Log-sum-exp, entropy and the gradients at both, of queries ``i`` of a head, from a tensor [head, 4, query]."""
    base = rows_base + row * 4 * n_queries + i
    there = i < n_queries
    lse = tl.load(base, mask=there, other=0.0)
    entropy = tl.load(base + n_queries, mask=there, other=0.0)
    to_lse = tl.load(base + 2 * n_queries, mask=there, other=0.0)
    to_entropy = tl.load(base + 3 * n_queries, mask=there, other=0.0)
    return lse, entropy, to_lse, to_entropy


@triton.jit
def scores_gradient(s, numbers, cap, CAP: tl.constexpr):
    """Gradient by the products of a tile, before the cap; ``s`` is -inf where a query does not see a key."""
    lse, entropy, to_lse, to_entropy = numbers
    seen = s > float("-inf")
    s = tl.where(seen, s, 0.0)
    slope = 1.0
    if CAP:
        s = softcapped(s, cap)
        slope = 1 - (s / cap) * (s / cap)
    s = s - lse[:, None]
    change = tl.exp(s) * (to_lse[:, None] - to_entropy[:, None] * (s + entropy[:, None])) * slope
    return tl.where(seen, change, 0.0)


@triton.jit
def by_queries(
    q_base, k_base, rows_base, mask, dq_base, n_queries, n_keys, scale, cap,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr, CAP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient at one tile of queries of one head."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key_head, batch = head // SHARED, head // HEADS
    i = tile * M + tl.arange(0, M)
    q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
    numbers = load_row_numbers(rows_base, head, i, n_queries)
    dq = tl.zeros([M, BLOCK], tl.float32)
    start, stop = key_tiles(tile * M, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for t in range(start, stop):
        j = t * N + tl.arange(0, N)
        k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
        s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
        dq += tl.dot(scores_gradient(s, numbers, cap, CAP), k.to(tl.float32), input_precision=PRECISION)
    store_rows(dq_base + head * n_queries * WIDTH, i, n_queries, dq * scale, WIDTH, BLOCK)


@triton.jit
def by_keys(
    q_base, k_base, rows_base, mask, dk_base, n_queries, n_keys, scale, cap,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr, CAP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient at one tile of keys of one key head, from all heads that share it."""
    tile, key_head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch = key_head // (HEADS // SHARED)
    j = tile * N + tl.arange(0, N)
    k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
    dk = tl.zeros([N, BLOCK], tl.float32)
    start, stop = query_tiles(tile * N, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for member in range(SHARED):
        head = key_head * SHARED + member
        for t in range(start, stop):
            i = t * M + tl.arange(0, M)
            q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
            numbers = load_row_numbers(rows_base, head, i, n_queries)
            s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
            change = tl.trans(scores_gradient(s, numbers, cap, CAP))
            dk += tl.dot(change, q.to(tl.float32), input_precision=PRECISION)
    store_rows(dk_base + key_head * n_keys * WIDTH, j, n_keys, dk * scale, WIDTH, BLOCK)


def triton_backward(
    problem: Problem, lse: Tensor, entropy: Tensor, to_lse: Tensor, to_entropy: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by queries and keys, as :func:`workbench.kernels.statistics.gradient.backward`, in float32."""
    sight = problem.sight
    q, mask = readable(problem.q), sight.key_mask
    k = problem.k.to(q.dtype).contiguous()
    batch, heads, queries, width = q.shape
    rows = torch.stack([x.float() for x in (lse, entropy, to_lse, to_entropy)], dim=2).contiguous()
    dq, dk = (torch.zeros(x.shape, dtype=torch.float32, device=q.device) for x in (q, k))
    half = q.dtype != torch.float32
    side = 64 if half and width <= 128 else 32
    settings = {
        "HEADS": heads,
        "SHARED": heads // k.shape[1],
        "WIDTH": width,
        "BLOCK": max(16, triton.next_power_of_2(width)),
        "CAUSAL": sight.causal,
        "WINDOW": sight.window or 0,
        "MASKED": mask is not None,
        "CAP": problem.softcap is not None,
        "M": side,
        "N": side,
        "PRECISION": "tf32" if half else "ieee",
        "num_warps": 4,
    }
    if q.numel() and k.numel():
        given = (q, k, rows, q if mask is None else mask.to(torch.uint8).contiguous())
        numbers = (queries, sight.keys, problem.scale, problem.softcap or 0.0)
        by_queries[(triton.cdiv(queries, side), batch * heads)](*given, dq, *numbers, **settings)
        by_keys[(triton.cdiv(sight.keys, side), batch * k.shape[1])](*given, dk, *numbers, **settings)
    return dq, dk
