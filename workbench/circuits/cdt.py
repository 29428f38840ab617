"""Contextual decomposition as a way to find circuits (Hsu et al. 2025, arXiv 2407.00886), at nodes and at edges.

At nodes, a writer's score is what :mod:`workbench.circuits.decomposition` says it contributes to the metric: its output
less its ablated output is the relevant part, carried to the logits. An edge has the score of its lesser end.

At edges, u -> v: what u writes goes down the residual stream to v alone and is decomposed there, as the input of v's
queries, keys or values, or of an MLP. What then is relevant in v's output, b_v(u), is weighed by the slope of v's own
contribution C_v at v's whole output:

    score(u -> v) = <b_v(u), dC_v / db_v>          u -> logits: what u contributes when nothing else passes it on

So an edge is decomposed by the rule at its reader, and the rest of the way by the rule as well. The paper has heads as
nodes, one rule and an unsigned score; edges, MLPs and signs are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, Ablator, WriterOutputs, batch_size_for, graph_of, record
from workbench.circuits.decomposition import flow, rules, targets
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.contributions import bytes_of, carry, prompts_that_fit, sources_that_fit
from workbench.circuits.decomposition.direct import Direct
from workbench.circuits.decomposition.propagate import Prompts as Run
from workbench.circuits.decomposition.propagate import Source, Sweep
from workbench.circuits.decomposition.rules import Rule, RuleKey
from workbench.circuits.decomposition.split import all_nodes, source_of
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET, spread
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions

Level = Literal["edges", "nodes"]
PROMPTS = 8
"""At most so many prompts at once; what a stopped search keeps is whole batches."""
_KEPT = 4
"""Share of the budget that one source may take: slopes need what every layer of its sweep computed."""


def cdt(
    model: Transformer,
    task: Task,
    *,
    rule: RuleKey = "exact",
    level: Level = "edges",
    steps: int = 1,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score edges, or nodes, by contextual decomposition.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts; scores are means over them.
        rule: how parts are carried, see :data:`workbench.circuits.decomposition.RULES`.
        level: ``nodes`` gives an edge what that end contributes which contributes less.
        steps: over how many points between nothing and the whole of v's part the slope is a mean.
        ablation: what a writer is compared with.
        budget: bytes beside the model; prompts and sources are taken in batches that fit.
        progress: called after every source of every batch of prompts; returning False keeps the prompts that are done.
        resume: what ``keep`` was given by an earlier call with the same settings; only the other prompts are worked on.
        keep: called every few seconds with the mean over the prompts that are done.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown rule, level or ablation, or a budget too small for one source.
        Stopped: stopped before one batch of prompts was done.
    """
    carrier, graph = rules.find(rule), graph_of(model)
    check(model, {"rule": rule})
    if level not in get_args(Level):
        raise ValueError(f"Unknown level '{level}'; choose 'edges' or 'nodes'.")
    settings = {"rule": rule, "level": level, "steps": steps, "ablation": ablation}

    def between(mean: Tensor) -> Tensor:
        nodes = mean[:, -1]
        return spread(graph, nodes, nodes[graph.reader_node])  # the last, of logits, is not looked at

    rest = Prompts(graph, task, "cdt", settings, resume, keep, between if level == "nodes" else None)
    width = n_positions(model, task.clean)
    fits = prompts_that_fit(model, width, min(PROMPTS, len(task)), budget // _KEPT)
    ablator = Ablator(model, task, ablation, batch_size_for(model, task, budget))
    batches = list(task.rows(rest.done, len(task)).batches(fits))
    report = Reporter(progress, len(batches) * len(graph.writers) * (1 + steps * (level == "edges")), "carrying parts")
    total, done = torch.zeros(graph.mask.shape, dtype=torch.float64), rest.done
    if rest.total is not None:
        total += rest.total
    for batch in batches:
        run = _Batch(model, batch, carrier, ablator(batch), graph, steps, budget, report)
        found = run.edges() if level == "edges" else run.nodes()
        if found is None:
            break
        total += found.masked_fill(~graph.mask, 0.0) if level == "edges" else found
        done += len(batch)
        rest.hand_mean(total.float(), done, done == len(task))
    if not done:
        raise Stopped("Stopped before the first prompts were done; nothing was kept.")
    return rest.found((total / done).float(), done)


def check(model: Transformer | None, options: Mapping[str, Any]) -> None:
    """Refuse a rule that a model's attention does not admit.

    Raises:
        ValueError: there is no such rule, or saying which rules the model admits.
    """
    rule = rules.find(options["rule"])
    if model is not None:
        flow.check_rule(rule, model)


class _Batch:
    """One batch of prompts: contributions of its writers, their slopes, and what edges are worth."""

    def __init__(
        self,
        model: Transformer,
        batch: Task,
        rule: Rule,
        ablated: WriterOutputs,
        graph: Graph,
        steps: int,
        budget: int,
        report: Reporter,
    ) -> None:
        self.model, self.rule, self.graph, self.budget, self.report = model, rule, graph, budget, report
        self.mask = stream.attention_mask(model, batch)
        self.prompts = Run.run(model, batch.clean.to(model.device), self.mask, batch.lengths)
        self.steps, self.ablated = steps, ablated
        self.baseline = Baseline.of(ablated)
        self.target = targets.Metric(batch)
        self.sources = [source_of(name, model.cfg) for name in ("input", *all_nodes(model.cfg))]

    def nodes(self) -> Tensor | None:
        """[writers, readers] summed over prompts; None when stopped."""
        values, _, reached = carry(
            self.rule, self.prompts, self.sources, self.baseline, self.target, budget=self.budget, report=self.report
        )
        if not bool(reached.all()):
            return None
        return values.double().sum(1)[:, None].expand(-1, len(self.graph.readers))

    def edges(self) -> Tensor | None:
        """[writers, readers] summed over prompts; None when stopped."""
        slopes = self._slopes()
        if slopes is None:
            return None
        found = torch.zeros(len(self.sources), len(self.graph.readers), dtype=torch.float64)
        size = sources_that_fit(self.prompts, self.budget, self.rule)
        for start in range(0, len(self.sources), size):
            if not self.report.going:
                return None
            part = self.sources[start : start + size]
            sweep = Direct(self.rule, self.prompts, part, self.baseline, self.graph, *slopes)
            with torch.no_grad():
                at_logits = self.target.read(sweep)[0].double().sum(1).cpu()
                sweep.scores[:, -1] = at_logits
                found[start : start + size] = sweep.in_given_order(sweep.scores)
            self._step(len(part))
        return found

    def _slopes(self) -> tuple[list[Tensor], list[Tensor]] | None:
        """Slope of each writer's contribution at its output: heads [batch, pos, head, d_head], MLPs, layer by layer."""
        outputs = record(self.model, self.prompts.tokens, self.mask)
        slopes = outputs.map(torch.zeros_like)
        for step in range(self.steps):
            far = (step + 0.5) / self.steps
            # A source is its output less the baseline, so that this baseline leaves so much of it.
            near = outputs.combine(self.ablated, partial(torch.lerp, weight=far))
            for layer in range(self.model.cfg.n_layers):
                given = [x.requires_grad_() for x in (near.z[layer], *near.mlp[layer : layer + 1])]
                into = [slopes.z[layer], *slopes.mlp[layer : layer + 1]]
                here = [source for source in self.sources if source.sites[0].layer == layer and source.name != "input"]
                for part in self._groups(here, layer):
                    if not self.report.going:
                        return None
                    sweep = Sweep(self.rule, self.prompts, part, Baseline.of(near))
                    with torch.enable_grad():
                        value = self.target.read(sweep)[0].sum()
                        found = torch.autograd.grad(value, given, allow_unused=True)
                    for x, y in zip(into, found, strict=True):
                        x -= 0 if y is None else y / self.steps
                    self._step(len(part))
        return slopes.z, slopes.mlp

    def _groups(self, sources: Sequence[Source], layer: int) -> list[Sequence[Source]]:
        """As many sources at once as the graph of their backward pass leaves room for."""
        one = bytes_of(self.model, self.prompts.width) * len(self.prompts)
        kept = one * (1 + (self.model.cfg.n_layers - layer) // 2)
        size = max(1, self.budget // kept)
        return [sources[i : i + size] for i in range(0, len(sources), size)]

    def _step(self, n: int) -> None:
        for _ in range(n):
            self.report.step()


__all__ = ["Level", "cdt"]
