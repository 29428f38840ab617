"""What a source costs: decomposition by every rule, and exact patching of the same heads the plain way.

The unit is one plain forward of Hugging Face's own model over the same prompts. Every rule, and plain patching, carry
the same heads, one of every third layer, so that the time for one is a mean over layers; a last row carries all 270
heads at once. Plain patching puts the corrupted run's head into Hugging Face's model by a hook: one run a head, and
with as many heads side by side on the batch axis as the decomposition carries. Peak memory is counted tensor by
tensor, not weighed: the parts of a batch of sources against a plain forward of as many prompts as there are sources
times prompts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import TEMPLATE, alternate, options, peak_growth, report, rows_of

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))  # memory is counted as in the tests

from tests.circuits.decomposition.memory import peak_bytes
from workbench.circuits import Task, tasks
from workbench.circuits.decomposition import RULES, Rule, task_contributions
from workbench.circuits.decomposition.contributions import bytes_of, sources_that_fit
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.split import baseline_of, sources_of
from workbench.circuits.decomposition.targets import Metric
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer, load, registry

BASE, STRICT = "HF forward", "our forward, logits at the answer"
DEFAULT = RULES[0]


class Plain:
    """Patching by hooks on Hugging Face's model: a head's output is that of the corrupted run."""

    def __init__(self, net: Any, task: Task) -> None:
        self.net, self.task = net, task
        self.d_head = net.config.hidden_size // net.config.num_attention_heads
        self.corrupted: list[Tensor] = []
        handles = [
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: self.corrupted.append(args[0]))
            for layer in net.model.layers
        ]
        self.logits(task.corrupted)
        for handle in handles:
            handle.remove()
        self.whole = task.metric(self.logits(task.clean))

    def logits(self, tokens: Tensor) -> Tensor:
        """A plain forward."""
        with torch.no_grad():
            found: Tensor = self.net(tokens, use_cache=False).logits
        return found

    def effects(self, heads: Sequence[tuple[int, int]], together: int) -> Tensor:
        """What each head takes from the metric [head], ``together`` of them on the batch axis of one run."""
        found = []
        for start in range(0, len(heads), together):
            group, n = heads[start : start + together], len(self.task)
            handles = [
                self.net.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
                    lambda _, args, i=i, layer=layer, head=head: (self._swapped(args[0], i, layer, head),)
                )
                for i, (layer, head) in enumerate(group)
            ]
            logits = self.logits(self.task.clean.repeat(len(group), 1))
            for handle in handles:
                handle.remove()
            found += [(self.whole - self.task.metric(part)).mean() for part in logits.split(n)]
        return torch.stack(found)

    def _swapped(self, z: Tensor, i: int, layer: int, head: int) -> Tensor:
        rows, numbers = slice(i * len(self.task), (i + 1) * len(self.task)), slice(head * self.d_head, None)
        z[rows, :, numbers][..., : self.d_head] = self.corrupted[layer][:, :, numbers][..., : self.d_head]
        return z


def memory_of(model: Transformer, task: Task, n: int) -> dict[str, dict[str, float]]:
    """Peak bytes of ``n`` sources that all begin in the first layer, in forwards of as many prompts: rule by rule."""
    prompts = Prompts.run(model, task.clean, None, task.lengths)
    values = baseline_of(prompts, task.corrupted)
    sources = sources_of([f"a0.h{i}" for i in range(n)], model.cfg)
    rows, at = task.clean.repeat(n, 1), task.last.repeat(n)

    def sweep(rule: Rule) -> None:
        with torch.no_grad():
            Metric(task).read(Sweep(rule, prompts, sources, values))

    with torch.no_grad():
        forward, short = (peak_bytes(lambda at=at: model(rows, logits_at=at)) for at in (None, at))
    found = {}
    for rule in RULES:
        taken = peak_bytes(lambda rule=rule: sweep(rule))
        found[rule.key] = {
            "forwards": round(taken / forward, 2),
            "forwards with logits at the answer alone": round(taken / short, 2),
            "MiB": round(taken / 2**20),
            "expected / counted": round(bytes_of(model, prompts.width, rule) * n * len(task) / taken, 2),
        }
    return found


def main() -> None:
    """Count memory, then time, 16 prompts of 14 tokens."""
    args = options(__doc__ or "", rounds=1)
    model = load("smollm2-135m")
    task = tasks.load("ioi", model, n=16, template=TEMPLATE)
    model(task.clean)  # the weights are mapped from the file: have them in memory before weighing what comes on top
    every = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    some = [(layer, layer % model.cfg.n_heads) for layer in range(1, model.cfg.n_layers, 3)]  # on average half way up
    names, all_names = ([f"a{layer}.h{head}" for layer, head in heads] for heads in (some, every))
    fits = sources_that_fit(Prompts.run(model, task.clean, None), BUDGET)
    grown = round(peak_growth(lambda: task_contributions(model, task, names[:fits])))
    memory = memory_of(model, task, 2)
    patching = Plain(AutoModelForCausalLM.from_pretrained(registry.get("smollm2-135m")), task)
    contestants = {
        BASE: lambda: patching.logits(task.clean),
        STRICT: lambda: model(task.clean, logits_at=task.last),
        "plain patching, one run a head": lambda: patching.effects(some, 1),
        f"plain patching, {fits} heads a run": lambda: patching.effects(some, fits),
    }
    contestants |= {rule.key: lambda rule=rule: task_contributions(model, task, names, rule=rule.key) for rule in RULES}
    exact, plain = task_contributions(model, task, names, rule="exact").mean, patching.effects(some[:3], 1)
    if not torch.allclose(exact[:3], plain, atol=1e-3):
        raise SystemExit(
            f"Decomposition says {exact[:3].tolist()} of the first heads, plain patching {plain.tolist()}."
        )
    seconds = alternate(contestants, args.rounds)
    per_source = {
        name: [s / (1 if name in (BASE, STRICT) else len(some)) for s in times] for name, times in seconds.items()
    }
    begin = time.perf_counter()
    task_contributions(model, task, all_names)
    took = time.perf_counter() - begin
    rows = rows_of(per_source, BASE, {rule.key: 1.5 for rule in RULES})
    unit = {row["what"]: row["seconds"] for row in rows}
    rows.append({
        "what": f"{DEFAULT.key}, all {len(every)} heads x {len(task)} prompts: {took:.0f} s",
        "seconds": took / len(every), "ratio": took / len(every) / unit[BASE], "at most": 1.5,
    })  # fmt: skip
    strict = {row["what"]: round(row["seconds"] / unit[STRICT], 2) for row in rows}
    report(
        "decomposition",
        f"One source, SmolLM2-135M, {len(task)} prompts of {task.clean.shape[1]} tokens, mean over heads",
        rows,
        ratio_to_our_forward_with_logits_at_the_answer=strict,
        sources_side_by_side=fits,
        peak_memory_of_2_sources_at_most_3_forwards=memory,
        resident_mib_beyond_the_model_default_budget=grown,
    )


if __name__ == "__main__":
    main()
