"""The loop that the methods share: a task in batches that fit, a mean over its prompts, progress, and a stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import Ablation, Ablator, WriterOutputs, batch_size_for
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.partial import Means, Prompts
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer

BUDGET = 400 * 2**20
"""Bytes beside the model that a method may use by default."""

Step = Callable[[], None]
"""Called after every pass through the model; raises :class:`Stopped` where a batch is left half done."""

BatchScore = Callable[[Task, WriterOutputs, Step], Tensor]
"""``(batch, what its writers are replaced by, step)`` -> scores of any shape, summed over the batch."""


@dataclass(frozen=True)
class Mean:
    """A mean over prompts.

    Attributes:
        values: of whatever shape the batches gave.
        n_examples: prompts that it is a mean of, fewer than the task has where it was stopped before the last.
    """

    values: Tensor
    n_examples: int


def mean_over(
    model: Transformer,
    task: Task,
    score: BatchScore,
    *,
    steps: int,
    ablation: Ablation,
    budget: int,
    progress: ProgressFn | None,
    rest: Means[Any] | None = None,
) -> Mean:
    """Mean of ``score`` over the prompts of a task.

    Args:
        model: the model.
        task: pairs of prompts.
        score: scores one batch, and calls its third argument ``steps`` times.
        steps: passes that a batch takes.
        ablation: what writers are replaced by.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every pass; returning False keeps the batches that are finished.
        rest: which prompts were scored before, and who takes the mean so far.

    Raises:
        ValueError: an unknown ablation, or a model or task that cannot be scored.
        Stopped: stopped before the first batch was done.
    """
    size = batch_size_for(model, task, budget)
    ablator = Ablator(model, task, ablation, size)
    finished = 0 if rest is None else rest.done
    report = Reporter(progress, -(-(len(task) - finished) // size) * steps, "scoring edges")

    def step() -> None:
        report.step()
        if not report.going and report.done % steps:
            raise Stopped("Stopped in the middle of a batch.")

    before = None if rest is None else rest.total
    total = None if before is None else before.to(model.device)
    for batch in (task.rows(start, start + size) for start in range(finished, len(task), size)):
        try:
            part = score(batch, ablator(batch), step)
        except Stopped:
            break
        if not part.isfinite().all():
            raise ValueError(
                f"The gradient of '{task.name}' is not a number on some of the examples {finished + 1} to "
                f"{finished + len(batch)}, though the metric is; mend the metric or leave the example out."
            )
        total = part if total is None else total + part
        finished += len(batch)
        if not report.going:
            break
        if rest is not None and finished < len(task):
            rest.hand_mean(total, finished)
    if total is None:
        raise Stopped("Stopped before the first prompts were scored; nothing was kept.")
    if rest is not None:
        rest.hand_mean(total, finished, now=True)
    return Mean(total / finished, finished)


def edge_means(
    model: Transformer, rest: Prompts, score: BatchScore, *, steps: int, budget: int, progress: ProgressFn | None
) -> Scores:
    """:func:`mean_over` of scores of edges, as the result of a method that can be taken up again.

    Args:
        model: the model.
        rest: the search: its task, method and settings (``ablation`` among them), and what was scored before.
        score, steps, budget, progress: as in :func:`mean_over`.

    Raises:
        ValueError, Stopped: as :func:`mean_over`.
    """
    ablation = rest.settings["ablation"]
    mean = mean_over(
        model, rest.task, score, steps=steps, ablation=ablation, budget=budget, progress=progress, rest=rest
    )
    return rest.found(mean.values, mean.n_examples)


def spread(
    graph: Graph, writers: Float[Tensor, " writers"], readers: Float[Tensor, " readers"]
) -> Float[Tensor, "writers readers"]:
    """Scores of edges from scores of nodes: an edge carries the score of that end which is worth less.

    So the edges above a threshold are all the edges between the nodes above it, which is how a circuit of nodes is
    run as one of edges (Mueller et al. 2025, section 3). ``logits`` is worth more than any writer.
    """
    mask = graph.mask.to(writers.device)
    ends = torch.where(writers.abs()[:, None] <= readers.abs(), writers[:, None], readers)
    ends[:, -1] = writers
    return ends.masked_fill(~mask, 0.0)
