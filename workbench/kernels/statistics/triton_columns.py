# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Column statistics in Triton: one program for each tile of keys of each query head, over the queries that see them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.statistics.triton_rows import softcapped
from workbench.kernels.triton_tiles import load_rows, query_tiles, readable, tile_scores


@triton.jit
def columns(
    q_base, k_base, lse_base, mask, sums_base, n_queries, n_keys, scale, cap, threshold,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr, CAP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Sum of the weights, queries above the threshold, queries that see the key: [head, 3, key]."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    j = tile * N + tl.arange(0, N)
    k = load_rows(k_base + head // SHARED * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
    received = tl.zeros([N], tl.float32)
    over = tl.zeros([N], tl.int32)
    visible = tl.zeros([N], tl.int32)
    start, stop = query_tiles(tile * N, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for t in range(start, stop):
        i = t * M + tl.arange(0, M)
        q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
        lse = tl.load(lse_base + head * n_queries + i, mask=i < n_queries, other=0.0)
        s = tile_scores(q, k, i, j, mask + head // HEADS * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
        seen = s > float("-inf")
        s = tl.where(seen, s, 0.0)
        if CAP:
            s = softcapped(s, cap)
        p = tl.where(seen, tl.exp(s - lse[:, None]), 0.0)
        received += tl.sum(p, 0)
        over += tl.sum((p > threshold).to(tl.int32), 0)
        visible += tl.sum(seen.to(tl.int32), 0)
    base, there = sums_base + head * 3 * n_keys + j, j < n_keys
    tl.store(base, received, mask=there)
    tl.store(base + n_keys, over.to(tl.float32), mask=there)
    tl.store(base + 2 * n_keys, visible.to(tl.float32), mask=there)


def triton_columns(problem: Problem, lse: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the weights, queries that give more than ``eps`` and queries that see the key, [batch, head, key] each."""
    sight = problem.sight
    q, mask = readable(problem.q), sight.key_mask
    k = problem.k.to(q.dtype).contiguous()
    batch, heads, queries, width = q.shape
    sums = torch.zeros(batch, heads, 3, sight.keys, dtype=torch.float32, device=q.device)
    side = 64 if width * q.element_size() <= 256 else 32
    if q.numel() and k.numel():
        columns[(triton.cdiv(sight.keys, side), batch * heads)](
            q, k, lse.float().contiguous(), q if mask is None else mask.to(torch.uint8).contiguous(), sums,
            queries, sight.keys, problem.scale, problem.softcap or 0.0, eps,
            HEADS=heads, SHARED=heads // k.shape[1], WIDTH=width, BLOCK=max(16, triton.next_power_of_2(width)),
            CAUSAL=sight.causal, WINDOW=sight.window or 0, MASKED=mask is not None, CAP=problem.softcap is not None,
            M=side, N=side, num_warps=4,
        )  # fmt: skip
    received, over, visible = sums.to(problem.sums).unbind(2)
    return received, over, visible
