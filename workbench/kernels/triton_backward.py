# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Gradients of tiled attention in Triton, for every rule of :mod:`workbench.kernels.entmax` and ``pointwise``.

Scores are made again tile by tile. What a rule needs of a row comes in three columns [batch head query]: ``a`` and
``b`` are its state (entmax: highest score and beta; softpick: m and the denominator; sigmoid: the bias, twice) and
``mean`` what is taken off the gradient at the weights.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.triton_tiles import (
    above_zero,
    entmax_powers,
    key_tiles,
    load_rows,
    query_tiles,
    readable,
    shape_of,
    side_of,
    store_rows,
    tile_scores,
)


def gradients(
    dz: Tensor,
    problem: Problem,
    rows: tuple[Tensor, Tensor, Tensor],
    rule: str,
    live: Tensor | None = None,
    alphas: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at q, k and v in float32, from that at the output; ``rows`` are the columns a, b and mean.

    Args:
        dz: [batch, head, query, d_value].
        problem: what was asked, made ready.
        rows: three of [batch, head, query], float32.
        rule: "entmax" (followed by "-2" or "-1.5" where every alpha is that), "softpick" or "sigmoid".
        live: [batch * head, query tile, key tile], 0 for tiles that may be left out.
        alphas: [head], for entmax.
    """
    q, k, v, dz = problem.q, problem.k, problem.v, readable(dz)
    assert v is not None
    dq, dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=q.device) for x in (q, k, v))
    a, b, mean = (x.contiguous() for x in rows)
    shared: dict[str, Any] = {
        **shape_of(problem),
        "live": a if live is None else live,
        "alphas": a if alphas is None else alphas.detach().contiguous(),
        "SPARSE": live is not None,
        "RULE": rule,
        "num_warps": 4,
    }
    batch, heads, n, _ = q.shape
    side = side_of(problem)
    if not q.numel() or not k.numel():
        return dq, dk, dv
    at_queries[(triton.cdiv(n, side), batch * heads)](q, k, v, dz, a, b, mean, dq, **shared)
    at_keys[(triton.cdiv(k.shape[2], side), batch * k.shape[1])](q, k, v, dz, a, b, mean, dk, dv, **shared)
    return dq, dk, dv


@triton.jit
def slopes(s, dp, a, b, mean, e, RULE: tl.constexpr):
    """Weights of one tile, and the gradient at its scores from ``dp``, that at the weights."""
    if RULE == "sigmoid":
        p = 1 / (1 + tl.exp(-(s + a[:, None])))
        return p, p * (1 - p) * dp
    elif RULE == "softpick":
        p = above_zero(s, a[:, None]) / b[:, None]
        taken = tl.where(s > 0, dp - mean[:, None], tl.where(s < 0, mean[:, None], 0.0))
        return p, tl.exp(s - a[:, None]) / b[:, None] * taken
    else:
        base = tl.maximum((s - a[:, None]) * e + b[:, None], 0.0)
        if RULE == "entmax-2":
            p, u = entmax_powers(base, e, "2")
        elif RULE == "entmax-1.5":
            p, u = entmax_powers(base, e, "1.5")
        else:
            p, u = entmax_powers(base, e, "any")
        return p, u * (dp - mean[:, None])


@triton.jit
def at_queries(
    q_base, k_base, v_base, dz_base, a_base, b_base, mean_base, dq_base,
    mask, live, alphas, n_queries, n_keys, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, SPARSE: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """Gradient at one tile of queries of one head."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key_head, batch = head // SHARED, head // HEADS
    i = tile * M + tl.arange(0, M)
    q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
    dz = load_rows(dz_base + head * n_queries * V_WIDTH, i, n_queries, V_WIDTH, V_BLOCK)
    a = tl.load(a_base + head * n_queries + i, mask=i < n_queries, other=0.0)
    b = tl.load(b_base + head * n_queries + i, mask=i < n_queries, other=1.0)
    mean = tl.load(mean_base + head * n_queries + i, mask=i < n_queries, other=0.0)
    e = tl.load(alphas + head % HEADS) - 1
    flags = live + (head * tl.num_programs(0) + tile) * tl.cdiv(n_keys, N)
    dq = tl.zeros([M, BLOCK], tl.float32)
    start, stop = key_tiles(tile * M, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for t in range(start, stop):
        go = 1
        if SPARSE:
            go = tl.load(flags + t).to(tl.int32)
        if go != 0:
            j = t * N + tl.arange(0, N)
            k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
            v = load_rows(v_base + key_head * n_keys * V_WIDTH, j, n_keys, V_WIDTH, V_BLOCK)
            s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
            dp = tl.dot(dz, tl.trans(v), input_precision="ieee")
            _, ds = slopes(s, dp, a, b, mean, e, RULE)
            dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    store_rows(dq_base + head * n_queries * WIDTH, i, n_queries, dq * scale, WIDTH, BLOCK)


@triton.jit
def at_keys(
    q_base, k_base, v_base, dz_base, a_base, b_base, mean_base, dk_base, dv_base,
    mask, live, alphas, n_queries, n_keys, scale,
    HEADS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, V_BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, SPARSE: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    """Gradients at one tile of keys and values of one key head, from all heads that share it."""
    tile, key_head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch = key_head // (HEADS // SHARED)
    j = tile * N + tl.arange(0, N)
    k = load_rows(k_base + key_head * n_keys * WIDTH, j, n_keys, WIDTH, BLOCK)
    v = load_rows(v_base + key_head * n_keys * V_WIDTH, j, n_keys, V_WIDTH, V_BLOCK)
    dk = tl.zeros([N, BLOCK], tl.float32)
    dv = tl.zeros([N, V_BLOCK], tl.float32)
    start, stop = query_tiles(tile * N, n_queries, n_keys, CAUSAL, WINDOW, M, N)
    for member in range(SHARED):
        head = key_head * SHARED + member
        e = tl.load(alphas + head % HEADS) - 1
        flags = live + head * tl.cdiv(n_queries, M) * tl.num_programs(0) + tile
        for t in range(start, stop):
            go = 1
            if SPARSE:
                go = tl.load(flags + t * tl.num_programs(0)).to(tl.int32)
            if go != 0:
                i = t * M + tl.arange(0, M)
                q = load_rows(q_base + head * n_queries * WIDTH, i, n_queries, WIDTH, BLOCK)
                dz = load_rows(dz_base + head * n_queries * V_WIDTH, i, n_queries, V_WIDTH, V_BLOCK)
                a = tl.load(a_base + head * n_queries + i, mask=i < n_queries, other=0.0)
                b = tl.load(b_base + head * n_queries + i, mask=i < n_queries, other=1.0)
                mean = tl.load(mean_base + head * n_queries + i, mask=i < n_queries, other=0.0)
                s = tile_scores(q, k, i, j, mask + batch * n_keys, n_queries, n_keys, scale, CAUSAL, WINDOW, MASKED)
                dp = tl.dot(dz, tl.trans(v), input_precision="ieee")
                p, ds = slopes(s, dp, a, b, mean, e, RULE)
                dv += tl.dot(tl.trans(p.to(dz.dtype)), dz, input_precision="ieee")
                dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision="ieee")
    store_rows(dk_base + key_head * n_keys * WIDTH, j, n_keys, dk * scale, WIDTH, BLOCK)
    store_rows(dv_base + key_head * n_keys * V_WIDTH, j, n_keys, dv, V_WIDTH, V_BLOCK)
