"""Sparse attention in tiles beside bisection on materialised scores: time, memory, share of tiles left out."""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable
from typing import Any

from common import alternate, peak_growth, report, rows_of

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.kernels import entmax_attention, sigmoid_attention, softpick_attention, strips
from workbench.kernels.entmax import Entmax, solve

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
BASE = "tiles"


def main() -> None:
    """Time alpha-entmax forward, and forward with backward, on 9 heads of 64 numbers that share 3 key heads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens; each is a table")
    parser.add_argument("--gpu", action="store_true", help="Triton on a GPU in bfloat16, instead of torch on the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, kind = ("cuda", torch.bfloat16) if args.gpu else ("cpu", torch.float32)
    lengths = args.lengths or ([2048, 8192, 16384] if args.gpu else [1024, 2048])
    rows = []
    memory = memories(lengths, device, kind)
    for n in lengths:
        for name in ("random", "local"):
            rows += compared(n, name, args.rounds, device, kind)
    title = f"Sparse attention, {'GPU' if args.gpu else 'CPU'}: ratios to our tiles for the same alpha and inputs"
    report("sparse_attention_gpu" if args.gpu else "sparse_attention", title, rows, memory_MiB=memory)


def inputs(n: int, name: str, device: str, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: independent normal numbers, or heads that look around their own position."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, n, WIDTH) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    if name == "local":
        # random Fourier features: scores fall with the distance, over about 100 tokens
        angle = torch.arange(n)[:, None] * torch.randn(WIDTH // 2) / 100
        place = torch.cat([angle.cos(), angle.sin()], -1)
        q, k = q / 4 + 4 * place, k / 4 + place
    return q.to(device, kind), k.to(device, kind), v.to(device, kind)


def compared(n: int, name: str, rounds: int, device: str, kind: torch.dtype) -> list[dict[str, Any]]:
    """A row for each contestant, forward and with the backward."""
    q, k, v = inputs(n, name, device, kind)
    rows = []
    for alpha in (1.25, 1.5, 2.0):
        share, mean = skipped(q, k, v, alpha), weighty(q, k, alpha)
        facts = {"tiles left out": f"{100 * share:.0f} %", "keys with weight": f"{mean:.0f}"}
        rows += timed(f"{n} {name} alpha {alpha:g}, forward", contestants(alpha), (q, k, v), rounds, False, facts)
        if alpha == 1.5:
            rows += timed(f"{n} {name} alpha 1.5, + backward", contestants(alpha), (q, k, v), rounds, True, facts)
    others = {BASE: tiled(1.5), "softpick tiles": softpick_attention, "sigmoid tiles": sigmoid_attention}
    others["fused softmax of torch"] = softmax
    return rows + timed(f"{n} {name}, others, forward", others, (q, k, v), rounds, False, {})


def contestants(alpha: float) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Ways to the same output, by name; the package's only where it is installed."""
    found = {BASE: tiled(alpha), "bisection, 50 steps, materialised": materialised(lambda s: bisection(s, alpha))}
    try:
        import entmax
    except ImportError:
        return found
    found["entmax package, bisection"] = materialised(lambda s: entmax.entmax_bisect(s, alpha, dim=-1, n_iter=50))
    if alpha in (1.5, 2.0):
        exact = entmax.entmax15 if alpha == 1.5 else entmax.sparsemax
        found["entmax package, sorted"] = materialised(lambda s: exact(s, dim=-1))
    return found


def tiled(alpha: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Our own, in tiles."""
    return lambda q, k, v: entmax_attention(q, k, v, alpha=alpha)


def materialised(pattern: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention with a pattern of all scores at once."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shared, n = q.shape[1] // k.shape[1], q.shape[2]
        s = (q @ k.repeat_interleave(shared, 1).mT).float() * q.shape[-1] ** -0.5
        s = s.masked_fill(torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1), -1e9)
        return pattern(s).to(v.dtype) @ v.repeat_interleave(shared, 1)

    return attend


def bisection(s: Tensor, alpha: float) -> Tensor:
    """Alpha-entmax by 50 halvings; the last step is Newton's, so that autograd finds the derivatives."""
    x, c = (alpha - 1) * s, 1 / (alpha - 1)
    with torch.no_grad():
        high = x.amax(-1, keepdim=True)
        low = high - 1
        for _ in range(50):
            tau = (low + high) / 2
            enough = (x - tau).clamp(min=0).pow(c).sum(-1, keepdim=True) >= 1
            low, high = torch.where(enough, tau, low), torch.where(enough, high, tau)
        b = (x - low).clamp(min=0)
        slope = c * b.pow(c - 1).masked_fill(b == 0, 0).sum(-1, keepdim=True)
    over = (x - low).clamp(min=0).pow(c).sum(-1, keepdim=True) - 1
    return (x - low - over / slope).clamp(min=0).pow(c)


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What dense attention costs."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def timed(
    what: str,
    ways: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]],
    given: tuple[Tensor, Tensor, Tensor],
    rounds: int,
    learns: bool,
    facts: dict[str, str],
) -> list[dict[str, Any]]:
    """Seconds of each way and ratios to ours; on a GPU what does not fit is left out."""
    runs = {name: once(way, given, learns) for name, way in ways.items()}
    if given[0].is_cuda:
        runs = {name: run for name, run in runs.items() if fits(run)}
    rows = rows_of(alternate(runs, rounds), BASE)
    blank = {"tiles left out": "", "keys with weight": ""}
    return [
        {"what": f"{what}: {row['what']}", "seconds": row["seconds"], "ratio": row["ratio"]}
        | (blank | facts if row["what"] == BASE else blank)
        for row in rows
    ]


def once(
    way: Callable[[Tensor, Tensor, Tensor], Tensor], given: tuple[Tensor, Tensor, Tensor], learns: bool
) -> Callable[[], object]:
    """One run, waited for."""

    def run() -> object:
        with torch.set_grad_enabled(learns):
            mine = [x.detach().clone().requires_grad_(learns) for x in given]
            out = way(*mine)
            if learns:
                out.float().sum().backward()
        if out.is_cuda:
            torch.cuda.synchronize()
        return out

    return run


def fits(run: Callable[[], object]) -> bool:
    """Whether there is memory enough."""
    try:
        run()
    except torch.OutOfMemoryError:
        gc.collect()
        torch.cuda.empty_cache()
        return False
    return True


def skipped(q: Tensor, k: Tensor, v: Tensor, alpha: float) -> float:
    """Share of the tiles within sight that have no weight in any row."""
    problem = strips.problem_of(q, k, v, True, None, None, None, None)
    if q.is_cuda:
        from workbench.kernels import triton_entmax, triton_tiles

        ready = triton_tiles.ready(problem, q, k, v)
        live = triton_entmax.forward(ready, torch.full((q.shape[1],), alpha, device=q.device))[3] > 0
        side = triton_tiles.side_of(ready)
        seen = sum(math.ceil(min(q.shape[2], start + side) / side) for start in range(0, q.shape[2], side))
        return 1 - live.sum().item() / (seen * live.shape[0])
    found = strips.forward(problem, Entmax((alpha,) * q.shape[1]))
    assert found.live is not None
    shared = q.shape[1] // k.shape[1]
    seen = sum(math.ceil(keys.stop / strips.TILE) for _, keys in strips.strips(problem.sight, shared))
    return 1 - found.live.sum().item() / (seen * k.shape[1])


def weighty(q: Tensor, k: Tensor, alpha: float) -> float:
    """Mean number of keys with weight, over the last 32 queries."""
    s = (q[:, :, -32:] @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT).float() * q.shape[-1] ** -0.5
    return (solve(s.flatten(0, 2), alpha).p > 0).sum(-1).float().mean().item()


def memories(lengths: list[int], device: str, kind: torch.dtype) -> dict[str, float]:
    """Most memory beyond the inputs, forward with backward at alpha 1.5, ours first; what does not fit is left out."""
    found = {}
    longer = [*lengths, 2 * lengths[-1], 4 * lengths[-1]]
    ways = {"tiles": (tiled(1.5), longer), "bisection": (materialised(lambda s: bisection(s, 1.5)), lengths)}
    for name, (way, these) in ways.items():
        for n in these:
            given = inputs(n, "random", device, kind)
            try:
                found[f"{name} {n}"] = round(grown(once(way, given, True), device), 1)
            except torch.OutOfMemoryError:
                found[f"{name} {n}"] = math.inf
    return found


def grown(run: Callable[[], object], device: str) -> float:
    """MiB beyond what was there."""
    if device == "cpu":
        return peak_growth(run)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


if __name__ == "__main__":
    main()
