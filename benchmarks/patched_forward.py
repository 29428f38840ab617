"""One patched forward of SmolLM2-135M, for circuits of every size, against one plain forward."""

from __future__ import annotations

from common import TEMPLATE, alternate, options, report, rows_of

import torch
from transformers import AutoModelForCausalLM

from workbench.circuits import discover, evaluate, tasks
from workbench.circuits.activations import Ablator
from workbench.circuits.patching import PatchedRun
from workbench.models import load, registry

BASE = "HF forward"


def main() -> None:
    """Time circuits from 0.1 % to all edges on 16 prompts of 14 tokens."""
    args = options(__doc__ or "", rounds=7)
    model = load("smollm2-135m")
    hf = AutoModelForCausalLM.from_pretrained(registry.get("smollm2-135m"))
    task = tasks.load("ioi", model, n=16, template=TEMPLATE)
    scores = discover(model, task, "eap")
    run = PatchedRun(model, task, Ablator(model, task, "resample", len(task))(task))

    def plain() -> torch.Tensor:
        with torch.no_grad():
            return hf(task.clean, use_cache=False).logits

    contestants = {BASE: plain, "our forward": lambda: model(task.clean)}
    for fraction in (0.001, 0.01, 0.1, 0.5, 1.0):
        circuit = scores.top(round(fraction * scores.graph.n_edges))
        name = f"patched forward, {fraction:.1%} of the edges ({circuit.n_edges:,})"
        contestants[name] = lambda circuit=circuit: run.metric(circuit.mask)
    best = scores.top(500)
    contestants["evaluate(), 500 edges, with its three baseline runs"] = lambda: evaluate(model, task, best)
    rows = rows_of(
        alternate(contestants, args.rounds), BASE, {name: 4.0 for name in contestants if name.startswith("patched")}
    )
    report(
        "patched_forward", f"Patched forward, SmolLM2-135M, {len(task)} prompts of {task.clean.shape[1]} tokens", rows
    )


if __name__ == "__main__":
    main()
