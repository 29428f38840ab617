"""Faithfulness by number of heads on SmolLM2-135M: contextual decomposition as CD-T's paper draws it.

Heads are ranked by what they contribute (mean over prompts, against the corrupted prompt) under each rule; the rule
``tangent`` is EAP at nodes, gradient times difference. The k best heads, all MLPs and the input run as they are, the
other heads are resampled (Hsu et al. 2025, figure 2, has mean ablation and GPT-2). Prints how many heads it takes for a
faithfulness of .985, which is how that figure was read off, and writes ``results/cdt_sizes_TASK.json``.
"""

from __future__ import annotations

import argparse
import json
import time

from common import RESULTS

import torch
from rich.console import Console
from rich.table import Table

from workbench.circuits import tasks
from workbench.circuits.activations import graph_of
from workbench.circuits.cdt_search import cdt_search, nodes_mask
from workbench.circuits.decomposition import RULES, task_contributions
from workbench.circuits.evaluate import circuit_metrics, full_metric
from workbench.models import load

SIZES = [0, 5, 10, 20, 30, 40, 60, 80, 100, 130, 160, 200, 240, 270]
ENOUGH = 0.985


def main() -> None:
    """Rank, cut, run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--search", action="store_true", help="also run CD-T's own search")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model = load("smollm2-135m")
    task, graph = tasks.load(chosen.task, model, n=chosen.n, seed=0), graph_of(model)
    heads = [f"a{layer}.h{head}" for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    full = full_metric(model, task)
    # All MLPs alone are where this counts from, as in the paper's m(0).
    empty = float(circuit_metrics(model, task, [nodes_mask(graph, [])]).mean())
    rankings: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    for rule in RULES:
        begin = time.perf_counter()
        worth = task_contributions(model, task, heads, rule=rule.key).mean
        seconds[rule.key] = round(time.perf_counter() - begin, 1)
        rankings[f"{rule.key}"] = [heads[i] for i in worth.abs().argsort(descending=True).tolist()]
        rankings[f"{rule.key}, signed"] = [heads[i] for i in worth.argsort(descending=True).tolist()]
    order = torch.randperm(len(heads), generator=torch.Generator().manual_seed(0)).tolist()
    rankings["random"] = [heads[i] for i in order]
    table = Table("ranking", *map(str, SIZES), "heads for .985", "s")
    rows = []
    for name, ranked in rankings.items():
        metrics = circuit_metrics(model, task, [nodes_mask(graph, ranked[:k]) for k in SIZES]).mean(1)
        curve = [round((float(x) - empty) / (full - empty), 3) for x in metrics]
        enough = next((k for k, y in zip(SIZES, curve, strict=True) if y >= ENOUGH), None)
        row = {"task": chosen.task, "ranking": name, "sizes": SIZES, "faithfulness": curve, "enough": enough,
               "seconds": seconds.get(name)}  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
        table.add_row(name, *(f"{y:.2f}" for y in curve), str(enough), str(seconds.get(name, "")))
    Console(width=150).print(table)
    if chosen.search:
        begin = time.perf_counter()
        found = cdt_search(model, task)
        took = round(time.perf_counter() - begin)
        print(json.dumps({"search": found.heads, "faithfulness": found.faithfulness, "seconds": took}))
        for one in found.rounds:
            print(
                json.dumps({"targets": one.targets, "added": one.added, "dropped": one.dropped, "f": one.faithfulness})
            )
    (RESULTS / f"cdt_sizes_{chosen.task}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
