"""The search of CD-T: from the output backwards, the heads that matter to the heads found last (Hsu et al. 2025).

Algorithm 1 of arXiv 2407.00886. The targets of the first round are the logits. Each round scores all heads before the
targets by contextual decomposition and takes the best; they are the next targets. Of all that were taken, whatever the
circuit is better without is dropped again. The search ends when the circuit does what the model does, when two rounds
make it no better, or when nothing comes before the targets. Heads are the nodes; MLPs and the input always stay, as in
the paper. The paper's score has no sign (eq. 16); here a head counts by its share of a target times what the target
contributes. The paper stops at the first round that is no better, and so at any chain of heads that only work together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablator, AnyAblation, batch_size_for, graph_of
from workbench.circuits.decomposition import flow, rules, targets
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.contributions import carry, prompts_that_fit
from workbench.circuits.decomposition.propagate import Prompts, Source
from workbench.circuits.decomposition.rules import Rule, RuleKey
from workbench.circuits.decomposition.split import source_of
from workbench.circuits.evaluate import circuit_metrics, full_metric, share_kept
from workbench.circuits.graph import Circuit, Graph, head_of
from workbench.circuits.optimal import with_constants
from workbench.circuits.option_values import check_range
from workbench.circuits.progress import Progress, ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions

PATIENCE = 2
"""Rounds without a better circuit after which the search ends."""


@dataclass(frozen=True)
class Round:
    """One round of the search.

    Attributes:
        targets: what heads were scored against.
        added: heads that were taken, best first.
        dropped: heads taken so far that the circuit is better without.
        faithfulness: of the circuit after the round.
    """

    targets: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    faithfulness: float


@dataclass(frozen=True)
class Search:
    """What the search found.

    Attributes:
        circuit: every edge between the heads that were found, all MLPs, the input and the logits.
        heads: their names.
        rounds: how it came about.
        faithfulness: of the circuit; 1 is the model's own metric, 0 that of the ablated run.
        complete: False where the search was stopped.
    """

    circuit: Circuit
    heads: tuple[str, ...]
    rounds: tuple[Round, ...]
    faithfulness: float
    complete: bool = True


def cdt_search(
    model: Transformer,
    task: Task,
    *,
    rule: RuleKey = "exact",
    share: float = 0.05,
    tolerance: float = 0.02,
    rounds: int = 10,
    ablation: AnyAblation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Search:
    """Find a circuit of heads by rounds of contextual decomposition and greedy refinement.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts.
        rule: how parts are carried.
        share: of the heads that a round scores, how many it takes (at least two).
        tolerance: how far from 1 the faithfulness may be in the end.
        rounds: at most so many.
        ablation: what heads are compared with, and what those outside the circuit carry.
        budget: bytes beside the model.
        progress: called while heads are scored and after every circuit that is tried; returning False keeps the circuit
            of the rounds so far.

    Raises:
        ValueError: an unknown rule or ablation, or a number out of range.
        Stopped: stopped in the first round.
    """
    carrier = rules.find(rule)
    flow.check_rule(carrier, model)
    for name, value in (("share", share), ("tolerance", tolerance), ("rounds", rounds)):
        check_range(name, value, "cdt_search")
    work = _Work(model, task, carrier, ablation, budget, progress)
    taken: list[str] = []
    found: list[str] = []
    best, idle = 0.0, 0
    told: list[Round] = []
    worth = {"logits": 1.0}
    while len(told) < rounds and worth and idle < PATIENCE and not (told and abs(1 - best) <= tolerance):
        scores = work.score(worth, taken)
        if not scores:
            break
        count = max(2, round(share * len(scores)))
        added = sorted(scores, key=lambda name: -abs(scores[name]))[:count]
        taken += added
        kept, reached = work.refine(taken)
        if kept is None:
            break
        aims, worth = tuple(worth), {name: scores[name] for name in added}
        told.append(Round(aims, tuple(added), tuple(name for name in taken if name not in kept), reached))
        if not found or abs(1 - reached) < abs(1 - best):
            found, best, idle = kept, reached, 0
        else:
            idle += 1
    if not told:
        raise Stopped("Stopped before the first round was done; nothing was kept.")
    mask = nodes_mask(work.graph, found)
    return Search(Circuit(work.graph, mask), tuple(found), tuple(told), best, complete=work.going)


def nodes_mask(graph: Graph, heads: Iterable[str]) -> Tensor:
    """[writer, reader] True for every edge between these heads, all MLPs, the input and the logits."""
    keep = set(heads)
    out = torch.tensor([head_of(name) is None or name in keep for name in graph.writers])
    into = torch.where(graph.reader_node >= 0, out[graph.reader_node.clamp(min=0)], True)
    return graph.mask & out[:, None] & into


class _Work:
    """What rounds share: prompts in batches, and the metrics of the model and of the ablated run."""

    def __init__(
        self,
        model: Transformer,
        task: Task,
        rule: Rule,
        ablation: AnyAblation,
        budget: int,
        progress: ProgressFn | None,
    ) -> None:
        self.model, self.task, self.rule, self.budget, self.progress = model, task, rule, budget, progress
        self.graph, self.going = graph_of(model), True
        size = batch_size_for(model, task, budget)
        self.kind = with_constants(ablation, model, task, progress)  # learned once for all circuits that are tried
        self.ablator = Ablator(model, task, self.kind, size)
        fits = prompts_that_fit(model, n_positions(model, task.clean), len(task), budget)
        self.batches = list(task.batches(min(size, fits)))
        self.full = full_metric(model, task)
        nothing = [torch.zeros_like(self.graph.mask)]
        self.empty = float(circuit_metrics(model, task, nothing, ablation=self.kind, budget=budget).mean())

    def score(self, worth: dict[str, float], found: list[str]) -> dict[str, float] | None:
        """What each head that comes before a target gives to the targets together; None when stopped."""
        aims = list(worth)
        total: dict[str, float] = {}
        heads = [name for name in self.graph.writers if head_of(name) is not None and name not in found]
        report = Reporter(self.progress, len(aims) * len(heads) * len(self.batches), "scoring heads")
        for batch in self.batches:
            mask = stream.attention_mask(self.model, batch)
            prompts = Prompts.run(self.model, batch.clean.to(self.model.device), mask, batch.lengths)
            baseline = Baseline.of(self.ablator(batch))
            for aim in aims:
                target = targets.Metric(batch) if aim == "logits" else targets.node(aim, self.model)
                sources = [source_of(name, self.model.cfg) for name in heads]
                sources = [source for source in sources if source.first < target.order]
                if not sources:
                    continue
                values = self._carry(prompts, sources, baseline, target, report)
                if values is None:
                    return None
                for source, value in zip(sources, values.sum(1).tolist(), strict=True):
                    total[source.name] = total.get(source.name, 0.0) + worth[aim] * value / len(self.task)
        return total

    def _carry(
        self,
        prompts: Prompts,
        sources: list[Source],
        baseline: Baseline,
        target: targets.Target,
        report: Reporter,
    ) -> Float[Tensor, "source batch"] | None:
        values, *_ = carry(self.rule, prompts, sources, baseline, target, budget=self.budget, report=report)
        self.going = report.going
        return values if self.going else None

    def refine(self, heads: list[str]) -> tuple[list[str] | None, float]:
        """Drop heads, the worst for the circuit first, while it comes nearer to the model without one."""
        kept, reached = list(heads), self._faithfulness([heads])
        if reached is None:
            return None, 0.0
        now = reached[0]
        while len(kept) > 1:
            tried = [[name for name in kept if name != other] for other in kept]
            found = self._faithfulness(tried)
            if found is None:
                return None, 0.0
            at = min(range(len(tried)), key=lambda i: abs(1 - found[i]))
            if abs(1 - found[at]) >= abs(1 - now):
                break
            kept, now = tried[at], found[at]
        return kept, now

    def _faithfulness(self, circuits: list[list[str]]) -> list[float] | None:
        def heard(step: Progress) -> bool:
            self.going = self.progress is None or self.progress(step) is not False
            return self.going

        masks = [nodes_mask(self.graph, heads) for heads in circuits]
        metrics = circuit_metrics(
            self.model, self.task, masks, ablation=self.kind, budget=self.budget, progress=heard, what="dropping heads"
        )
        if not self.going:
            return None
        return [share_kept(float(row.mean()), self.full, self.empty, self.kind) for row in metrics]


__all__ = ["Round", "Search", "cdt_search", "nodes_mask"]
