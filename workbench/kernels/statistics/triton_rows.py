"""The row sweep as a Triton program: one program for each tile of queries of each head.

The kernel keeps raw sums in float32 and torch turns them into statistics. What the torch sweep leaves to float64 is
here a matter of arrangement: the largest weight, exp(0) = 1, stays out of the sums, and distances are taken from the
key that has it. So nothing small is added to 1, and a peaked row's entropy and spread keep their digits.
"""

# Triton compiles the functions below; types would say nothing about them.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.problem import Problem
from workbench.kernels.statistics.row_sums import Found
from workbench.kernels.statistics.row_sweep import Wanted
from workbench.kernels.triton_tiles import readable

SUMS = 13
LEAST, MOST = 16, 64  # queries and keys of a tile
WIDE = 256  # bytes of a head beyond which tiles are half as large: two of them must fit into shared memory


@triton.jit
def softcapped(s, cap):
    """cap * tanh(s / cap), by its series near 0, where the quotient of exponentials would lose digits."""
    x = s / cap
    small = tl.exp(-2 * tl.abs(x))
    far = tl.where(x < 0, -1.0, 1.0) * (1 - small) / (1 + small)
    y = x * x
    near = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835)))))
    return cap * tl.where(y < 0.0625, near, far)


@triton.jit
def _sums(
    q, pointers, j0, keys, position, window, scale, cap, state, values,
    BN: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, D2: tl.constexpr, DV2: tl.constexpr, RECENT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, MASK: tl.constexpr, VALUES: tl.constexpr,
    EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state after the keys j0 .. j0 + BN - 1; EDGE where some of them may be hidden."""
    k_at, v_at, norm_at, mask_at, sink_at = pointers
    top, at, rest, tilt, squares, moment, second, sink, near, norms, count, mean, scatter, low = state
    cols = j0 + tl.arange(0, BN)
    inside = cols < keys
    d = tl.arange(0, D2)
    k = tl.load(k_at + cols[:, None] * D + d[None], mask=inside[:, None] & (d < D)[None], other=0.0)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if CAP:
        s = softcapped(s, cap)
    away = position[:, None] - cols[None]
    if EDGE:
        seen = inside[None] & (away == away)
        if CAUSAL:
            seen = seen & (away >= 0)
        if WINDOW:
            seen = seen & (tl.abs(away) < window)
        if MASK:
            seen = seen & (tl.load(mask_at + cols, mask=inside, other=0) != 0)[None]
        number = tl.sum(seen.to(tl.float32), 1)
        shown = tl.where(seen, s, 0.0)
        some = tl.maximum(number, 1.0)
        tile_mean = tl.sum(shown, 1) / some
        deviation = tl.where(seen, s - tile_mean[:, None], 0.0)
        low = tl.minimum(low, tl.min(tl.where(seen, s, float("inf")), 1))
        s = tl.where(seen, s, float("-inf"))
    else:
        number = tl.zeros_like(count) + BN
        tile_mean = tl.sum(s, 1) / BN
        deviation = s - tile_mean[:, None]
        low = tl.minimum(low, tl.min(s, 1))
    # Logits: two sets together (Chan, Golub and LeVeque 1983).
    total = count + number
    share = number / tl.maximum(total, 1.0)
    step = tile_mean - mean
    scatter += tl.sum(deviation * deviation, 1) + step * step * share * count
    mean += step * share
    count = total

    # A new largest weight: the old one, exp(0) = 1, joins the rest, and distances are taken from the new one's key.
    tile_top, tile_at = tl.max(s, 1, return_indices=True)
    better = tile_top > top
    new = tl.where(better, tile_top, top)
    base = tl.where(new == float("-inf"), 0.0, new)
    had = tl.where(better & (top != float("-inf")), 1.0, 0.0)
    down = tl.where(top == float("-inf"), 0.0, top - base)
    shrink = tl.exp(down)
    new_at = tl.where(better, tile_at + j0, at)
    shift = (tl.abs(position - at) - tl.abs(position - new_at)).to(tl.float32) * had
    second = shrink * (second + shift * (2 * moment + shift * (rest + had)))
    moment = shrink * (moment + shift * (rest + had))
    tilt = shrink * (tilt + down * (rest + had))
    squares = shrink * shrink * (squares + had)
    rest = shrink * (rest + had)
    top, at = new, new_at

    s -= base[:, None]
    e = tl.exp(s)
    if EDGE:
        s = tl.where(seen, s, 0.0)
    others = tl.where(cols[None] == at[:, None], 0.0, e)
    rest += tl.sum(others, 1)
    tilt += tl.sum(others * s, 1)
    squares += tl.sum(others * others, 1)
    far = (tl.abs(away) - tl.abs(position - at)[:, None]).to(tl.float32)
    weighted = others * far
    moment += tl.sum(weighted, 1)
    second += tl.sum(weighted * far, 1)
    sink = sink * shrink + tl.sum(e * tl.load(sink_at + cols, mask=inside, other=0).to(tl.float32)[None], 1)
    near = near * shrink + tl.sum(tl.where(tl.abs(away) < RECENT, e, 0.0), 1)
    if VALUES:
        dv = tl.arange(0, DV2)
        v = tl.load(v_at + cols[:, None] * DV + dv[None], mask=inside[:, None] & (dv < DV)[None], other=0.0)
        values = values * shrink[:, None] + tl.dot(e, v.to(tl.float32), input_precision=PRECISION)
        norms = norms * shrink + tl.sum(e * tl.load(norm_at + cols, mask=inside, other=0.0)[None], 1)
    state = (top, at, rest, tilt, squares, moment, second, sink, near, norms, count, mean, scatter, low)
    return state, values


@triton.jit
def _kernel(
    q_at, k_at, v_at, norm_at, mask_at, sink_at, sums_at, at_at, values_at,
    queries, keys, window, scale, cap, heads, kv_heads, v_heads, sink_stride,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, D2: tl.constexpr, DV2: tl.constexpr,
    RECENT: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, MASK: tl.constexpr,
    VALUES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums of one tile of queries of one head, all in contiguous tensors."""
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // heads, row % heads
    i0 = tl.program_id(0) * BM
    lines = i0 + tl.arange(0, BM)
    d = tl.arange(0, D2)
    there = lines < queries
    q = tl.load(q_at + (row * queries + lines[:, None]) * D + d[None], mask=there[:, None] & (d < D)[None], other=0.0)
    position = lines + (keys - queries)
    first, last = i0 + keys - queries, tl.minimum(i0 + BM, queries) - 1 + keys - queries
    kv_row = batch * kv_heads + head // (heads // kv_heads)
    v_row = batch * v_heads + head // (heads // v_heads)
    pointers = (
        k_at + kv_row * keys * D,
        v_at + v_row * keys * DV,
        norm_at + v_row * keys,
        mask_at + batch * keys,
        sink_at + batch * sink_stride,
    )
    zero = tl.zeros([BM], tl.float32)
    nowhere = zero + float("-inf")
    state = (
        nowhere,
        tl.full([BM], -1, tl.int32),
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        zero,
        -nowhere,
    )
    values = tl.zeros([BM, DV2], tl.float32)

    # Keys low .. high - 1 are seen by some query; those from full_low to full_high - 1 by all of them.
    low, high, full_low, full_high = 0, keys, 0, keys
    if CAUSAL:
        high, full_high = tl.minimum(high, last + 1), tl.minimum(full_high, first + 1)
    if WINDOW:
        low, full_low = tl.maximum(first - window + 1, 0), tl.maximum(last - window + 1, 0)
        high, full_high = tl.minimum(high, last + window), tl.minimum(full_high, first + window)
    low = low // BN * BN
    full_low = tl.cdiv(full_low, BN) * BN
    full_high = tl.maximum(full_high, 0) // BN * BN
    if MASK or full_low >= full_high:
        full_low = low
        full_high = low
    for j0 in range(low, full_low, BN):
        state, values = _sums(
            q, pointers, j0, keys, position, window, scale, cap, state, values, BN, D, DV, D2, DV2, RECENT,
            CAUSAL, WINDOW, CAP, MASK, VALUES, True, PRECISION,
        )  # fmt: skip
    for j0 in range(full_low, full_high, BN):
        state, values = _sums(
            q, pointers, j0, keys, position, window, scale, cap, state, values, BN, D, DV, D2, DV2, RECENT,
            CAUSAL, WINDOW, CAP, MASK, VALUES, False, PRECISION,
        )  # fmt: skip
    for j0 in range(full_high, high, BN):
        state, values = _sums(
            q, pointers, j0, keys, position, window, scale, cap, state, values, BN, D, DV, D2, DV2, RECENT,
            CAUSAL, WINDOW, CAP, MASK, VALUES, True, PRECISION,
        )  # fmt: skip

    top, at, rest, tilt, squares, moment, second, sink, near, norms, count, mean, scatter, lowest = state
    line = row * queries + lines
    size = tl.num_programs(1).to(tl.int64) * queries
    tl.store(sums_at + 0 * size + line, top, mask=there)
    tl.store(sums_at + 1 * size + line, rest, mask=there)
    tl.store(sums_at + 2 * size + line, tilt, mask=there)
    tl.store(sums_at + 3 * size + line, squares, mask=there)
    tl.store(sums_at + 4 * size + line, moment, mask=there)
    tl.store(sums_at + 5 * size + line, second, mask=there)
    tl.store(sums_at + 6 * size + line, sink, mask=there)
    tl.store(sums_at + 7 * size + line, near, mask=there)
    tl.store(sums_at + 8 * size + line, norms, mask=there)
    tl.store(sums_at + 9 * size + line, count, mask=there)
    tl.store(sums_at + 10 * size + line, mean, mask=there)
    tl.store(sums_at + 11 * size + line, scatter, mask=there)
    tl.store(sums_at + 12 * size + line, lowest, mask=there)
    tl.store(at_at + line, at, mask=there)
    if VALUES:
        dv = tl.arange(0, DV2)
        tl.store(values_at + line[:, None] * DV + dv[None], values, mask=there[:, None] & (dv < DV)[None])


def triton_row_sweep(problem: Problem, wanted: Wanted) -> Found:
    """Every statistic of every row, as :func:`row_sweep` gives them.

    Raises:
        NonFiniteScores: a visible score is infinite or not a number.
    """
    sight = problem.sight
    batch, heads, queries, d_head = problem.q.shape
    q = readable(problem.q)
    half = q.dtype != torch.float32
    k = problem.k.to(q.dtype).contiguous()
    v = k if problem.v is None else problem.v.to(q.dtype).contiguous()
    norms = v.new_zeros(1) if problem.v is None else problem.v.norm(dim=-1).float().contiguous()
    mask = (wanted.sinks if sight.key_mask is None else sight.key_mask).to(torch.int8).contiguous()
    sinks = wanted.sinks.to(torch.int8).contiguous()
    sums = torch.empty(SUMS, batch, heads, queries, dtype=torch.float32, device=q.device)
    at = torch.empty(batch, heads, queries, dtype=torch.int32, device=q.device)
    width = 0 if problem.v is None else v.shape[-1]
    values = sums.new_empty(batch, heads, queries, width)
    most = MOST if max(d_head, v.shape[-1]) * q.element_size() <= WIDE else MOST // 2
    rows, columns = (min(max(triton.next_power_of_2(side), LEAST), most) for side in problem.tile)
    if sums.numel():
        _kernel[(triton.cdiv(queries, rows), batch * heads)](
            q, k, v, norms, mask, sinks, sums, at, values,
            queries, sight.keys, sight.window or 0, problem.scale, problem.softcap or 0.0,
            heads, k.shape[1], v.shape[1], 0 if len(sinks) == 1 else sight.keys,
            BM=rows, BN=columns, D=d_head, DV=v.shape[-1],
            D2=max(16, triton.next_power_of_2(d_head)), DV2=max(16, triton.next_power_of_2(v.shape[-1])),
            RECENT=wanted.recent, CAUSAL=sight.causal, WINDOW=sight.window is not None, CAP=problem.softcap is not None,
            MASK=sight.key_mask is not None, VALUES=problem.v is not None, PRECISION="tf32" if half else "ieee",
            num_warps=8 if rows * columns == MOST * MOST else 4,
        )  # fmt: skip
    return _finish(problem, wanted, sums, at, values)


def _finish(problem: Problem, wanted: Wanted, sums: Tensor, at: Tensor, values: Tensor) -> Found:
    """From sums to statistics."""
    top, rest, tilt, squares, moment, second, sink, near, norms, count, mean, scatter, low = sums.to(problem.sums)
    empty = count == 0
    problem.refuse(~(mean.isfinite() & low.isfinite() & top.isfinite()) & ~empty)
    total, log, some = 1 + rest, rest.log1p(), count.clamp(min=1)
    places = torch.arange(problem.sight.offset, problem.sight.keys, device=at.device)
    found = {
        "entropy": log - tilt / total,
        "largest": 1 / total,
        "effective_keys": total * total / (1 + squares),
        "distance": (places - at).abs() + moment / total,
        "distance_spread": (second / total - (moment / total) ** 2).clamp(min=0).sqrt(),
        "sink_mass": sink / total,
        "recent_mass": near / total,
        "logit_mean": mean,
        "logit_variance": scatter / some,
        "logit_min": low,
        "logit_max": top,
    }
    if problem.v is not None:
        output = values / total[..., None].to(values.dtype)
        found |= {"norm_of_sum": output.norm(dim=-1), "sum_of_norms": norms / total}
        if wanted.output:
            found["output"] = output
    found = {name: x.masked_fill(empty.view(*empty.shape, *[1] * (x.ndim - 3)), 0) for name, x in found.items()}
    return found | {"lse": top + log, "largest_at": at.long(), "visible": count.long()}
