"""EAP with the mean of the gradients at its two ends, the clean and the ablated run.

A variant in the code of EAP-IG (Hanna et al. 2024, arXiv 2403.17806), compared in Mueller et al. 2025.
"""

from __future__ import annotations

from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of, record
from workbench.circuits.eap import scores_along
from workbench.circuits.graph import Scores
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means
from workbench.circuits.task import Task
from workbench.models import Transformer


def clean_corrupted(
    model: Transformer,
    task: Task,
    *,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the mean of its gradients on the clean and the ablated side: two backwards.

    It is the trapezoid rule with the two ends alone of the integral that EAP-IG takes by many points.

    Args:
        model, task, ablation, budget, progress: as in :func:`workbench.circuits.eap.eap`. With another ablation than
            ``resample`` the other end is the run that starts at the ablated embedding.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        clean = record(model, batch.clean, stream.attention_mask(model, batch))
        ends = (clean.embed, ablated.embed.expand_as(clean.embed))
        return scores_along(model, batch, clean, ablated, ends, step) / 2

    rest = Prompts(graph_of(model), task, "clean-corrupted", {"ablation": ablation}, resume, keep)
    return edge_means(model, rest, score, steps=2, budget=budget, progress=progress)
