"""Attention statistics in tiles against the whole pattern: time, memory, and how both grow; on a GPU with --gpu."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from common import RESULTS, alternate, peak_growth, rows_of, save, show

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.kernels import AttentionStatistics, attention_statistics, column_statistics
from workbench.kernels.backends import Backend

HEADS, KV_HEADS, D_HEAD = 9, 3, 64  # SmolLM2-135M
WHOLE, TILED = "whole pattern, every statistic", "tiles, every statistic"
ENTROPY = "whole pattern, entropy alone"
SDPA = "scaled_dot_product_attention"
BACKENDS: tuple[Backend, ...] = ("torch", "triton")


def main() -> None:
    """Time and memory on the CPU, and with ``--gpu`` on a GPU; ``--small`` takes a quarter of the lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each contestant runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--small", action="store_true", help="a quarter of every length, for a look")
    parser.add_argument("--gpu", action="store_true", help="the GPU part, where there is one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.gpu and not torch.cuda.is_available():
        sys.exit("There is no GPU here, so the GPU part was not measured.")
    with torch.no_grad():
        if args.gpu:
            on_gpu(args.rounds)
        else:
            on_cpu(args.rounds, 4 if args.small else 1)


def heads(n: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one layer of SmolLM2's shape, at random."""
    generator = torch.Generator().manual_seed(n)
    shapes = ((HEADS, n), (KV_HEADS, n), (KV_HEADS, n))
    q, k, v = (torch.randn(1, *shape, D_HEAD, generator=generator).to(device, dtype) for shape in shapes)
    return q, k, v


# -- the whole pattern ----------------------------------------------------------------------------------------


def pattern(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Causal logits, and hidden keys."""
    n = q.shape[2]
    hidden = torch.ones(n, n, dtype=torch.bool, device=q.device).triu_(1)
    return (q @ k.repeat_interleave(HEADS // KV_HEADS, 1).mT).mul_(D_HEAD**-0.5), hidden


def entropy_alone(q: Tensor, k: Tensor) -> Tensor:
    """What one would write for the entropy: softmax, and the sum of p log p."""
    s, hidden = pattern(q, k)
    p = s.masked_fill_(hidden, -torch.inf).softmax(-1)
    return -torch.special.xlogy(p, p).sum(-1)


def every_statistic(q: Tensor, k: Tensor, v: Tensor, recent: int = 16) -> dict[str, Tensor]:
    """The same numbers as the sweep's, each by its formula from the whole pattern, sparing memory where it is easy."""
    s, hidden = pattern(q, k)
    n = q.shape[2]
    visible = torch.arange(1, n + 1, device=q.device)
    shown = s.masked_fill(hidden, 0)
    mean = shown.sum(-1) / visible
    variance = (shown * shown).sum(-1) / visible - mean**2
    low = s.masked_fill(hidden, torch.inf).amin(-1)
    del shown
    s.masked_fill_(hidden, -torch.inf)
    lse = s.logsumexp(-1)
    log_p = s - lse[..., None]
    p = log_p.exp()
    largest, at = p.max(-1)
    position = torch.arange(n, device=q.device)
    away = (position[:, None] - position).abs().float()
    distance = (p * away).sum(-1)
    values = v.repeat_interleave(HEADS // KV_HEADS, 1)
    output = p @ values
    return {
        "lse": lse,
        "entropy": -(p * log_p.masked_fill_(hidden, 0)).sum(-1),
        "largest": largest,
        "largest_at": at,
        "effective_keys": 1 / (p * p).sum(-1),
        "distance": distance,
        "distance_spread": ((p * away * away).sum(-1) - distance**2).clamp(min=0).sqrt(),
        "sink_mass": p[..., 0],
        "recent_mass": (p * (away < recent)).sum(-1),
        "logit_mean": mean,
        "logit_variance": variance,
        "logit_min": low,
        "logit_max": s.amax(-1),
        "norm_of_sum": output.norm(dim=-1),
        "sum_of_norms": torch.einsum("bhqk,bhk->bhq", p, values.norm(dim=-1)),
    }


def agreement(found: AttentionStatistics, expected: dict[str, Tensor]) -> float:
    """Largest difference of a statistic, relative to the largest of its kind: that both compute the same."""
    differences = ((getattr(found, name) - x).abs().max() / x.abs().max() for name, x in expected.items())
    return max(float(x) for x in differences)


# -- on the CPU -----------------------------------------------------------------------------------------------


def on_cpu(rounds: int, part: int) -> None:
    """Memory first, for freed memory is used again unseen; then time; then how both grow."""
    lengths = [n // part for n in (2048, 4096, 8192, 16384)]
    long, middle = 32768 // part, 4096 // part
    lengths.append(long)
    attention_statistics(*heads(64))  # what the first call of all allocates for good is no part of it
    memory, seconds = {}, {}
    for n in lengths:
        begin = time.process_time()  # not of the clock: other processes would decide how it grows
        memory[n] = peak_growth(lambda n=n: attention_statistics(*heads(n)))
        seconds[n] = time.process_time() - begin
    rows = [
        {"what": f"tiles, {n} tokens, inputs included", "MiB": memory[n], "CPU seconds": seconds[n], "at most": ""}
        for n in lengths
    ]
    rows[-1]["at most"] = 1024
    q, k, v = heads(middle)
    of_pattern = peak_growth(lambda: every_statistic(q, k, v))
    rows.append({"what": f"whole pattern, {middle} tokens", "MiB": of_pattern, "CPU seconds": "", "at most": ""})
    show(f"Peak memory, {HEADS} heads", rows)

    times = alternate(
        {
            WHOLE: lambda: every_statistic(q, k, v),
            ENTROPY: lambda: entropy_alone(q, k),
            TILED: lambda: attention_statistics(q, k, v),
            SDPA: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        },
        rounds,
    )
    timed = rows_of(times, WHOLE, {TILED: 1.0})
    show(f"Time of one layer of {middle} tokens", timed)
    facts: dict[str, Any] = {
        "largest relative difference of any statistic": agreement(
            attention_statistics(q, k, v), every_statistic(q, k, v)
        ),
        "time grows with the power": exponent({n: seconds[n] for n in lengths[-3:]}),
        "memory grows with the power": exponent({n: memory[n] for n in lengths[-3:]}),
    }
    for name, value in facts.items():
        print(f"{name}: {value:.3g}")
    print("The GPU part was not measured here: run with --gpu where there is one.")
    if part == 1:
        save(RESULTS / "attention_statistics.json", "Attention statistics", timed, memory=rows, **facts)


def exponent(of: dict[int, float]) -> float:
    """Slope of log(value) against log(length), by least squares."""
    x, y = ([math.log(number) for number in numbers] for numbers in (of.keys(), of.values()))
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return across / sum((a - middle_x) ** 2 for a in x)


# -- on a GPU -------------------------------------------------------------------------------------------------


def on_gpu(rounds: int) -> None:
    """The Triton sweep beside the fused attention at 16,384 tokens, and beside the pattern at 8,192."""
    long, middle = heads(16384, "cuda", torch.bfloat16), heads(8192, "cuda", torch.bfloat16)
    rows = rows_of(
        alternate(
            {
                SDPA: synchronised(
                    lambda: F.scaled_dot_product_attention(*long, is_causal=True, enable_gqa=True), repeats=10
                ),
                TILED: synchronised(lambda: attention_statistics(*long, backend="triton"), repeats=10),
            },
            rounds,
        ),
        SDPA,
        {TILED: 1.5},
    )
    show(f"{torch.cuda.get_device_name()}: one layer of 16384 tokens, bfloat16", rows)
    against = rows_of(
        alternate(
            {
                WHOLE: synchronised(lambda: every_statistic(*middle)),
                TILED: synchronised(lambda: attention_statistics(*middle, backend="triton")),
            },
            rounds,
        ),
        WHOLE,
        {TILED: 1 / 3},
    )
    show(f"{torch.cuda.get_device_name()}: one layer of 8192 tokens, bfloat16", against)
    second = other_sweeps(*middle[:2], rounds)
    wide = heads(2048, "cuda")
    by = [gradients(*wide[:2], backend) for backend in BACKENDS]
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*by, strict=True))
    print(f"largest relative difference of a gradient between the backends, float32, 2048 tokens: {apart:.3g}")
    difference = agreement(attention_statistics(*wide, backend="triton"), every_statistic(*wide))
    print(f"largest relative difference of any statistic, float32, 2048 tokens: {difference:.3g}")
    save(
        RESULTS / "attention_statistics_gpu.json",
        "Attention statistics on a GPU",
        [*rows, *against, *second],
        device=torch.cuda.get_device_name(),
    )


def other_sweeps(q: Tensor, k: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Columns and gradients, in Triton and in plain torch on the same GPU."""
    lse = attention_statistics(q, k, backend="triton").lse
    others = {
        f"{what}, {backend}": synchronised(run)
        for backend in BACKENDS
        for what, run in {
            "columns": lambda backend=backend: column_statistics(q, k, lse, backend=backend),
            "entropy and its gradients": lambda backend=backend: gradients(q, k, backend),
        }.items()
    }
    seconds = alternate(others, rounds)
    second = [
        row
        for what in ("columns", "entropy and its gradients")
        for row in rows_of(
            {name: taken for name, taken in seconds.items() if name.startswith(what)},
            f"{what}, torch",
            {f"{what}, triton": 1.0},
        )
    ]
    show(f"{torch.cuda.get_device_name()}: the other sweeps, 8192 tokens, bfloat16", second)
    return second


def gradients(q: Tensor, k: Tensor, backend: Backend) -> tuple[Tensor, ...]:
    """Of the mean entropy, by queries and keys."""
    given = [x.detach().requires_grad_() for x in (q, k)]
    with torch.enable_grad():
        entropy = attention_statistics(*given, backend=backend).entropy
        return torch.autograd.grad(entropy.mean(), given)


def synchronised(run: Callable[[], object], repeats: int = 1) -> Callable[[], object]:
    """Several runs, and the wait for the last of them."""

    def waited() -> object:
        for _ in range(repeats):
            result = run()
        torch.cuda.synchronize()
        return result

    return waited


if __name__ == "__main__":
    main()
