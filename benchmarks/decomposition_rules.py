"""How close each decomposition rule comes to exact patching: all heads of several models, one row a rule.

Each head's contribution to the metric (its output against that on the corrupted prompt, a mean over prompts) under a
rule is compared with what patching the head changes. The reference is made here with plain taps, one run a head, and
not by the rule ``exact``, which therefore has a row of its own: it must be 1. Also shown: how many of the 20 strongest
heads agree.
"""

from __future__ import annotations

import argparse
import json

from common import RESULTS

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from workbench.circuits import stream, tasks
from workbench.circuits.decomposition import RULES, task_contributions
from workbench.circuits.known import known_models
from workbench.circuits.task import Task
from workbench.models import Transformer, load

CASES = {
    "smollm2-135m ioi": 4,
    "smollm2-135m greater-than": 4,
    "siit-simple-ioi -": 32,
    "siit-detect-pattern -": 32,
    "induction-2l induction": 16,
    "minilm-l6 sentence-similarity": 8,
    "digits-vit digits": 16,
}


def patched(model: Transformer, task: Task) -> torch.Tensor:
    """What patching each head alone takes from the metric, head by head."""
    mask = stream.attention_mask(model, task)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    once = stream.answers_once(model)

    def metric(taps: dict) -> torch.Tensor:  # type: ignore[type-arg]
        out = model(task.clean, taps, attention_mask=mask, logits_at=None if once else task.last)
        return task.score(out if once else out[:, 0])

    with torch.no_grad():
        _, corrupted = model.run_with_cache(task.corrupted, names, attention_mask=mask)
        whole, found = metric({}), []
        for name in names:
            for head in range(model.cfg.n_heads):

                def swap(z: torch.Tensor, name: str = name, head: int = head) -> torch.Tensor:
                    z[:, :, head] = corrupted[name][:, :, head]
                    return z

                found.append((whole - metric({name: swap})).mean())
    return torch.stack(found)


def case_of(name: str, n: int) -> tuple[Transformer, Task]:
    """Model and task of a row."""
    key, task = name.split()
    if task != "-":
        model = load(key)
        return model, tasks.load(task, model, n=n, seed=0)
    made = next(record for record in known_models() if record.key == key).load()
    return made.model, made.task(n, 0)


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases that contain this text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    table = Table("case", "heads", "rule", "cosine", "rank correlation", "of the 20 strongest", "whole metric")
    rows = []
    for case, n in CASES.items():
        if chosen.only not in case:
            continue
        model, task = case_of(case, n)
        reference = patched(model, task)
        heads = [f"a{layer}.h{head}" for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
        strongest = min(20, len(heads))
        best = set(reference.abs().topk(strongest).indices.tolist())
        for rule in RULES:
            found = task_contributions(model, task, heads, rule=rule.key)
            row = {
                "case": case,
                "heads": len(heads),
                "rule": rule.key,
                "cosine": round(float(torch.cosine_similarity(found.mean, reference, dim=0)), 3),
                "rank": round(float(spearmanr(found.mean, reference)[0]), 3),
                "strongest": len(best & set(found.mean.abs().topk(strongest).indices.tolist())),
                "of": strongest,
                "whole": round(float(found.whole.mean()), 3),
            }
            rows.append(row)
            table.add_row(
                case, str(len(heads)), rule.key, f"{row['cosine']:.3f}", f"{row['rank']:.3f}",
                f"{row['strongest']} / {strongest}", f"{row['whole']:.3f}",
            )  # fmt: skip
            print(json.dumps(row), flush=True)
    Console(width=110).print(table)
    if not chosen.only:
        (RESULTS / "decomposition_rules.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
