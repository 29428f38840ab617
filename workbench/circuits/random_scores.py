"""Random scores: what any method has to beat."""

from __future__ import annotations

import torch

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Scores
from workbench.circuits.progress import Progress, ProgressFn
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.models import Transformer


def random_scores(
    model: Transformer,
    task: Task,
    *,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Scores:
    """A score for every edge, drawn from the standard normal distribution; the model is not run.

    Args:
        model: gives the graph.
        task: gives its name.
        seed: the same gives the same scores.
        budget: not needed.
        progress: told once.
    """
    del budget
    graph = graph_of(model)
    drawn = torch.randn(graph.mask.shape, generator=torch.Generator().manual_seed(seed))
    if progress is not None:
        progress(Progress(1, 1, "drawing scores"))
    return Scores(graph, drawn.masked_fill(~graph.mask, 0.0), "random", task.name, {"seed": seed}, len(task))
