"""Exact edge patching: what the behaviour loses when one edge alone is ablated.

The score of an edge is ``metric(model) - metric(model with that edge ablated)``, a mean over prompts: what the
attribution methods approximate (Conmy et al. 2023, arXiv 2304.14997, call it activation patching of an edge; MIB's
"exact" column, Mueller et al. 2025). One forward from the reader's layer on for each edge and prompt; edges of one
reader go together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import Ablation, Ablator, WriterOutputs, batch_size_for, graph_of
from workbench.circuits.candidates import ModelRun, candidates_that_fit, is_plain, one_edge_off
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.partial import Keep, Partial
from workbench.circuits.patching import PatchedRun
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.models import Transformer


class OneBatch(Protocol):
    """A batch of prompts, opened for patching single edges; ``base`` is the metric of its unchanged run."""

    base: Float[Tensor, " batch"]

    def effects(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "candidates batch"]:
        """What each example's behaviour owes to the edge from each of ``writers`` to ``reader``."""


def exact(
    model: Transformer,
    task: Task,
    *,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by ablating it alone.

    Readers are scored one after the other, from the logits back to the first layer.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts; scores are means over them.
        ablation: what an edge is replaced by.
        budget: bytes beside the model; prompts and edges are taken in batches that fit.
        progress: called after every reader of every batch of prompts; returning False keeps the readers that are done
            (edges into others have score 0).
        resume: what ``keep`` was given by an earlier call with the same settings; only the rest is computed.
        keep: called every few seconds with the scores found so far, NaN where there are none.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation, a metric that is not a number, or ``resume`` of another search.
        Stopped: stopped before the edges into one reader were scored.
    """
    rest = Partial(graph_of(model), task, "exact", {"ablation": ablation}, resume, keep)
    half = budget // 2
    ablator = Ablator(model, task, ablation, batch_size_for(model, task, half))

    def opened(batch: Task) -> OneBatch:
        return Ablated(model, batch, ablator(batch), half)

    return score_edges(model, task, opened, rest, half, progress)


def score_edges(
    model: Transformer,
    task: Task,
    opened: Callable[[Task], OneBatch],
    rest: Partial,
    budget: int,
    progress: ProgressFn | None,
) -> Scores:
    """Mean effects of all edges that ``rest`` has not yet, reader by reader from the last.

    Args:
        opened: makes a batch ready; where prompts do not fit at once, each batch is opened for a few readers at a time.
        budget: bytes for the writers' outputs of one batch.

    Raises:
        ValueError: the metric of an example is not a number.
        Stopped: stopped before the edges into one reader were scored.
    """
    graph = graph_of(model)
    batches = list(task.batches(batch_size_for(model, task, budget)))
    groups = [[r for r in group if rest.open(r)] for group in _groups(graph)]
    report = Reporter(progress, sum(map(len, groups)) * len(batches), "patching edges")
    held = opened(batches[0]) if len(batches) == 1 and any(groups) else None
    for group in filter(None, groups):
        total = torch.zeros(len(group), len(graph.writers), dtype=torch.float64)
        for batch in batches:
            run = held or opened(batch)
            for i, reader in enumerate(group):
                if not report.going:
                    return rest.result()
                writers = graph.mask[:, reader].nonzero().flatten()
                total[i, writers] += run.effects(reader, writers.tolist()).double().sum(1).cpu()
                if batch is batches[-1]:
                    rest.fill(reader, total[i] / len(task))
                report.step()
    return rest.result()


def _groups(graph: Graph) -> list[list[int]]:
    """Readers of one kind and layer together, the last first; making a batch ready pays for itself over a group."""
    groups, n = [[len(graph.readers) - 1]], graph.n_heads
    for layer in reversed(range(graph.n_layers)):
        groups += [[graph.mlp_reader(layer)]] * graph.has_mlp
        start = graph.attention_readers(layer).start
        groups += [list(reversed(range(start + part * n, start + (part + 1) * n))) for part in (2, 1, 0)]
    return groups


class Ablated:
    """A batch's run, in which single edges carry something else.

    Args:
        model, batch: what is run is the clean side.
        replaced: what an edge carries instead.
        budget: bytes for the candidates.
        restores: the effect of an edge is what it adds to the metric, not what it takes from it.
    """

    def __init__(
        self, model: Transformer, batch: Task, replaced: WriterOutputs, budget: int, restores: bool = False
    ) -> None:
        self.size, self.sign = candidates_that_fit(model, batch, budget), -1 if restores else 1
        self.without: Callable[[int, Sequence[int]], Tensor]
        if is_plain(model):
            run = ModelRun(model, batch, batch.clean, replaced)
            self.base, self.without = run.metric(), run.edges
            return
        # Norms behind what writers write make their shares depend on each other: one plain patched run an edge.
        patched = PatchedRun(model, batch, replaced)

        def one_by_one(reader: int, writers: Sequence[int]) -> Tensor:
            return torch.stack([patched.metric(mask) for mask in one_edge_off(patched.graph, reader, writers)])

        self.base, self.without = patched.metric(patched.graph.mask), one_by_one

    def effects(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "candidates batch"]:
        """See :class:`OneBatch`."""
        parts = [writers[i : i + self.size] for i in range(0, len(writers), self.size)]
        return self.sign * torch.cat([self.base - self.without(reader, part) for part in parts])


__all__ = ["Ablated", "OneBatch", "exact", "score_edges"]
