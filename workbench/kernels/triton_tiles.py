# Kernels are written in Triton's own language, which has no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Pieces of the Triton kernels: rows of a tensor, the scores of one tile, the tiles that a tile meets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem


def side_of(problem: Problem) -> int:
    """Queries, and keys, of a tile: as many as leave room in shared memory for two tensors of a backward tile."""
    q, v = problem.q, problem.v
    assert v is not None
    return 64 if q.element_size() == 2 and max(q.shape[-1], v.shape[-1]) <= 128 else 32


def ready(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Problem:
    """The problem with queries, keys and values as the kernels read them, in the caller's type."""
    return replace(problem, q=readable(q), k=readable(k), v=readable(v))


def readable(x: Tensor) -> Tensor:
    """Without gaps; on the CPU bfloat16 becomes float32, since Triton's interpreter would multiply its bits."""
    return (x.float() if x.dtype == torch.bfloat16 and not x.is_cuda else x).detach().contiguous()


def shape_of(problem: Problem) -> dict[str, Any]:
    """What every kernel is told of sizes and sight, by the names of its arguments."""
    sight, q, v = problem.sight, problem.q, problem.v
    assert v is not None
    groups, shared = problem.groups
    mask = sight.key_mask
    return {
        "mask": q if mask is None else mask.to(torch.uint8).contiguous(),
        "n_queries": sight.queries,
        "n_keys": sight.keys,
        "scale": problem.scale,
        "HEADS": groups * shared,
        "SHARED": shared,
        "WIDTH": q.shape[-1],
        "V_WIDTH": v.shape[-1],
        "BLOCK": max(16, triton.next_power_of_2(q.shape[-1])),
        "V_BLOCK": max(16, triton.next_power_of_2(v.shape[-1])),
        "CAUSAL": sight.causal,
        "WINDOW": 0 if sight.window is None else sight.window,
        "MASKED": mask is not None,
        "M": side_of(problem),
        "N": side_of(problem),
    }


@triton.jit
def load_rows(base, at, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows ``at`` of a matrix [count, WIDTH], 0 beyond its edges: [rows, BLOCK]."""
    column = tl.arange(0, BLOCK)
    inside = (at < count)[:, None] & (column < WIDTH)[None, :]
    return tl.load(base + at[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(base, at, count, x, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write rows ``at`` of a matrix [count, WIDTH]."""
    column = tl.arange(0, BLOCK)
    inside = (at < count)[:, None] & (column < WIDTH)[None, :]
    tl.store(base + at[:, None] * WIDTH + column[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def tile_scores(
    q, k, i, j, mask, n_queries, n_keys, scale, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr
):
    """Scores of queries i and keys j, -inf where one does not see the other; ``mask`` is the text's row."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    distance = (i + (n_keys - n_queries))[:, None] - j[None, :]
    seen = (i < n_queries)[:, None] & (j < n_keys)[None, :]
    if CAUSAL:
        seen = seen & (distance >= 0)
    if WINDOW > 0:
        seen = seen & (distance < WINDOW) & (distance > -WINDOW)
    if MASKED:
        seen = seen & (tl.load(mask + j, mask=j < n_keys, other=0) != 0)[None, :]
    return tl.where(seen, s, float("-inf"))


@triton.jit
def key_tiles(row, n_queries, n_keys, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """First tile of keys that queries ``row`` to ``row + M - 1`` see anything of, and one past the last."""
    first = row + n_keys - n_queries
    low, high = 0, n_keys
    if WINDOW > 0:
        low = tl.maximum(0, first - WINDOW + 1)
        high = tl.minimum(n_keys, first + M + WINDOW - 1)
    if CAUSAL:
        high = tl.minimum(high, first + M)
    return low // N, tl.cdiv(tl.maximum(high, 0), N)


@triton.jit
def query_tiles(
    column, n_queries, n_keys, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, M: tl.constexpr, N: tl.constexpr
):
    """First tile of queries that see anything of keys ``column`` to ``column + N - 1``, and one past the last."""
    first = column - (n_keys - n_queries)
    low, high = 0, n_queries
    if WINDOW > 0:
        low = tl.maximum(0, first - WINDOW + 1)
        high = tl.minimum(n_queries, first + N + WINDOW - 1)
    if CAUSAL:
        low = tl.maximum(low, first)
    return low // M, tl.cdiv(tl.maximum(high, 0), M)


@triton.jit
def expm1(x):
    """``e^x - 1`` without cancellation near 0, by the series to x^8."""
    near = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8)))))))
    return tl.where(tl.abs(x) < 0.5, near, tl.exp(x) - 1)


@triton.jit
def above_zero(s, m):
    """``e^-m relu(e^s - 1)`` for m >= s: no factor overflows, nothing cancels near s = 0."""
    up = tl.maximum(s, 0.0)
    return tl.exp(up - m) * -expm1(-up)


@triton.jit
def entmax_powers(b, e, KIND: tl.constexpr):
    """``b^c`` and ``b^(c - 1)`` with ``c = 1 / e``, 0 where b is 0. KIND is "2" or "1.5" where all alphas are."""
    if KIND == "2":
        return b, tl.where(b > 0, 1.0, 0.0)
    elif KIND == "1.5":
        return b * b, b
    else:
        log = tl.log2(tl.where(b > 0, b, 1.0))
        u = tl.where(b > 0, tl.exp2((1 / e - 1) * log), 0.0)
        return u * b, u
