"""Finding circuits by patching: ACDC here against ACDC one edge at a time, exact patching, EAP-IG against EAP.

Both kinds of ACDC run on our own model and must find the same circuit. The model is one of four layers of four heads
with random weights, so that nothing is fetched and every edge does something. Patching's peak memory is weighed for
16 prompts and for four times as many.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from common import alternate, options, peak_growth, report, rows_of

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the sequential search is the tests' reference

from tests.circuits.sequential_acdc import sequential_acdc
from workbench.circuits import Task, discover
from workbench.circuits.acdc import acdc, acdc_circuit
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.exact import exact
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, fresh
from workbench.models.config import ModelConfig

CONFIG = ModelConfig(
    family="gpt2", n_layers=4, n_heads=4, n_key_value_heads=4, d_model=256, d_head=64, d_mlp=1024, d_vocab=1000,
    n_ctx=32, norm="layer", norm_eps=1e-5, act_fn="gelu_new", gated_mlp=False, positions="learned", attn_scale=0.125,
    attn_bias=True, out_bias=True, mlp_bias=True,
)  # fmt: skip
SHARES = (0.1, 0.03)
"""Thresholds, as shares of the divergence that ablating everything makes."""


def random_task(n: int, length: int = 16) -> Task:
    """Pairs of random prompts."""
    draw = torch.randint(0, CONFIG.d_vocab, (2, n, length + 2), generator=torch.Generator().manual_seed(0))
    names = [f"prompt {i}" for i in range(n)]
    clean, corrupted = draw[..., :length]
    right, wrong = draw[0, :, length:].split(1, 1)
    return Task("random", "Random prompts", clean, corrupted, torch.full((n,), length), right, wrong, names, names)


def one_by_one(model: Transformer, task: Task, threshold: float) -> Tensor:
    """ACDC's circuit, one whole patched forward for each trial."""
    run = PatchedRun(model, task, Ablator(model, task, "resample", len(task))(task))
    return sequential_acdc(run.graph, lambda mask: -float(run.metric(mask).double().mean()), threshold)[0]


def main() -> None:
    """Weigh, then time."""
    args = options(__doc__ or "", rounds=3)
    model, few, many = fresh(CONFIG), random_task(8), random_task(64)
    budget = 64 * 2**20
    exact(model, few.rows(0, 2), budget=budget)
    memory = {
        f"{name}, {n} prompts": round(peak_growth(lambda method=method, n=n: method(model, random_task(n))))
        for name, method in {
            "exact": lambda m, t: exact(m, t, budget=budget),
            "ACDC": lambda m, t: acdc(m, t, threshold=0.005, budget=budget),
            "EAP-IG": lambda m, t: discover(m, t, "eap-ig", budget=budget),
        }.items()
        for n in (16, 64)
    }
    task = few.with_metric("kl", model)
    run = PatchedRun(model, task, Ablator(model, task, "resample", len(task))(task))
    span = -float(run.metric(torch.zeros_like(run.graph.mask)).mean())
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        threshold = share * span
        base, ours = f"ACDC one by one, threshold {share:g}", f"ACDC, threshold {share:g}"
        found = acdc_circuit(model, task, threshold).mask
        if not torch.equal(found, one_by_one(model, task, threshold)):
            raise SystemExit(f"ACDC found another circuit than one edge at a time at the threshold {threshold}.")
        contestants = {
            f"{base} ({int(found.sum())} edges stay)": lambda t=threshold: one_by_one(model, task, t),
            ours: lambda t=threshold: acdc_circuit(model, task, t),
        }
        rows += rows_of(alternate(contestants, args.rounds), next(iter(contestants)), {ours: 0.2})
    steps = 5
    gradients = {"EAP": lambda: discover(model, many, "eap"), "EAP-IG": lambda: discover(model, many, "eap-ig")}
    rows += rows_of(alternate(gradients, args.rounds), "EAP", {"EAP-IG": steps + 1.0})
    begin = time.perf_counter()
    exact(model, many)
    report(
        "discovery",
        f"Discovery, {CONFIG.n_layers} layers of {CONFIG.n_heads} heads, {graph_of(model).n_edges} edges; ACDC on "
        f"{len(few)} prompts, the rest on {len(many)}",
        rows,
        exact_seconds=round(time.perf_counter() - begin, 1),
        peak_mib_beyond_the_model=memory,
    )


if __name__ == "__main__":
    main()
