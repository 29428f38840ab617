"""What a search by trial needs of a model: the loss of many candidates for the edges into one reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, Ablator, batch_size_for, graph_of
from workbench.circuits.candidates import candidates_that_fit, is_plain
from workbench.circuits.patching import PatchedRun
from workbench.circuits.suffix import CircuitRun, Suffix
from workbench.circuits.task import Task
from workbench.models import Transformer

Loss = Literal["task", "kl"]

Mask = Bool[Tensor, "writers readers"]


class Trials:
    """A circuit that loses edges into one reader after another, from the last reader to the first.

    Loss is what is to stay small: the negative of the task's metric, or the divergence KL(model || circuit) of the
    answer's distribution in nats; a mean over all prompts. Prompts that do not fit at once are taken in batches, and
    then what is before the reader is computed again for every few candidates.

    Args:
        model, task: what the loss is of.
        kind: ``task`` or ``kl``.
        ablation: what an edge outside the circuit carries.
        budget: bytes beside the model.

    Raises:
        ValueError: ``kl`` of a model with one output, an unknown ablation, or a metric that is no number.
    """

    def __init__(self, model: Transformer, task: Task, kind: Loss, ablation: Ablation, budget: int) -> None:
        if kind == "kl":
            stream.check_distribution(model, "metric='task'")
        self.task = task if kind == "task" else task.with_metric("kl", model)
        self.model, self.budget, self.graph, self.plain = model, budget // 4, graph_of(model), is_plain(model)
        size = batch_size_for(model, self.task, self.budget)
        self.batches = list(self.task.batches(size))
        self.ablator = Ablator(model, task, ablation, size)
        metric = torch.cat([batch.checked_score(batch.answers(model)) for batch in self.batches])
        self.full = -float(metric.double().mean())
        self.loss = self.full
        self.at_once = 1
        self._held: CircuitRun | None = None
        self._suffix: Suffix | None = None
        self._reader, self._mask = 0, self.graph.mask

    def span(self) -> float:
        """By how much the loss changes when every edge is ablated.

        Raises:
            ValueError: not at all.
        """
        empty = torch.zeros_like(self.graph.mask)
        total = 0.0
        for batch in self.batches:
            total -= float(PatchedRun(self.model, batch, self.ablator(batch)).metric(empty).double().sum())
        # On a model that does not do the task, as an untrained one, ablation may well raise the metric.
        span = abs(total / len(self.task) - self.full)
        if span < 1e-6 * max(1.0, abs(self.full)):
            raise ValueError(
                f"The ablation '{self.ablator.kind}' of every edge does not change '{self.task.name}' "
                f"({-self.full:.3g} with and without it), so that there is no circuit to find; choose other prompts or "
                "another ablation."
            )
        return span

    def begin(self, mask: Mask) -> None:
        """Start a search with a circuit; edges into readers that are still to be tried are all in it."""
        self._held = None
        if self.plain and len(self.batches) == 1:
            batch = self.batches[0]
            self._held = CircuitRun(self.model, batch, self.ablator(batch), mask)
        self.loss = self.full
        if not torch.equal(mask, self.graph.mask):
            self.turn_to(len(self.graph.readers) - 1, mask)
            self.loss = self.losses(mask[:, -1][None])[0]

    def turn_to(self, reader: int, mask: Mask) -> None:
        """Candidates will differ in the edges into ``reader``; all others are as in ``mask``."""
        self._reader, self._mask = reader, mask
        self._suffix = None
        streams = 0
        if self._held is not None:
            self._suffix = Suffix(self._held, mask, reader)
            streams = len(self._suffix.writers)
        elif self.plain:
            streams = len(self.graph.writers)
        # Without a shared prefix nothing is gained by many at once.
        fit = min(candidates_that_fit(self.model, batch, self.budget, streams) for batch in self.batches)
        self.at_once = fit if self.plain else 1

    def losses(self, columns: Bool[Tensor, "candidates writers"]) -> list[float]:
        """The loss of each candidate: the circuit with other edges into the reader."""
        total = torch.zeros(len(columns), dtype=torch.float64)
        for metric in self._metrics(columns):
            total -= metric.double().sum(1).cpu()
        if not total.isfinite().all():
            raise ValueError(
                f"The metric of '{self.task.name}' is not a number once edges into "
                f"{self.graph.readers[self._reader]} are ablated; mend the metric or choose other prompts."
            )
        found: list[float] = (total / len(self.task)).tolist()
        return found

    def take(self, candidate: int, column: Bool[Tensor, " writers"], loss: float) -> None:
        """Give the circuit the edges and the loss of one candidate of the last :meth:`losses`."""
        self._mask[:, self._reader] = column
        self.loss = loss
        if self._suffix is not None:
            self._suffix.take(candidate)

    def _metrics(self, columns: Tensor) -> Iterator[Float[Tensor, "candidates batch"]]:
        """The metric of all candidates, batch by batch."""
        if self._suffix is not None:
            yield self._suffix.metric(columns)
            return
        for batch in self.batches:
            ablated = self.ablator(batch)
            if self.plain:
                run = CircuitRun(self.model, batch, ablated, self._mask)
                yield Suffix(run, self._mask, self._reader).metric(columns)
                continue
            patched = PatchedRun(self.model, batch, ablated)
            masks = self._mask.repeat(len(columns), 1, 1)
            masks[:, :, self._reader] = columns
            yield torch.stack([patched.metric(mask) for mask in masks])


__all__ = ["Loss", "Trials"]
