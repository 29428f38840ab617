"""Edge attribution patching (EAP) and EAP with integrated gradients (EAP-IG).

EAP (Syed et al. 2023, arXiv 2310.10348): gradients of the clean run. EAP-IG (Hanna et al. 2024, arXiv 2403.17806,
"inputs"): gradients averaged over runs whose embedding lies between the ablated and the clean one, at
``ablated + k/steps * (clean - ablated)`` for k = 0 ... steps - 1 (left Riemann sum; the clean end is not among them).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of, record
from workbench.circuits.attribution import edge_scores, reader_gradients, writer_differences
from workbench.circuits.graph import Scores
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means
from workbench.circuits.task import Task
from workbench.models import Transformer


def eap(
    model: Transformer,
    task: Task,
    *,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by edge attribution patching: two forwards and one backward.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts; scores are means over them.
        ablation: what an edge is replaced by.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch; returning False keeps the scores of the prompts finished so far.
        resume: what ``keep`` was given by an earlier call with the same settings; only the rest is scored.
        keep: called every few seconds with the mean over the prompts finished so far.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        tokens, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
        embed = model(tokens, attention_mask=mask, stop_at_layer=0)
        gradients = reader_gradients(model, batch, embed)
        differences = writer_differences(model, graph, gradients.outputs, ablated)
        scores = edge_scores(model, graph, differences, gradients, batch.last.to(model.device))
        step()
        return scores

    rest = Prompts(graph_of(model), task, "eap", {"ablation": ablation}, resume, keep)
    return edge_means(model, rest, score, steps=1, budget=budget, progress=progress)


def eap_ig(
    model: Transformer,
    task: Task,
    *,
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by EAP with integrated gradients: ``steps`` forwards and backwards, and two forwards.

    Args:
        steps: points between the ablated and the clean embedding.
        model, task, ablation, budget, progress, resume, keep: as in :func:`eap`.

    Raises:
        ValueError: ``steps`` below 1, or an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    check_range("steps", steps, "eap-ig")

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        clean = record(model, batch.clean, stream.attention_mask(model, batch))
        start = ablated.embed.expand_as(clean.embed)
        points = (torch.lerp(start, clean.embed, k / steps) for k in range(steps))
        return scores_along(model, batch, clean, ablated, points, step) / steps

    rest = Prompts(graph_of(model), task, "eap-ig", {"ablation": ablation, "steps": steps}, resume, keep)
    return edge_means(model, rest, score, steps=steps, budget=budget, progress=progress)


def scores_along(
    model: Transformer,
    batch: Task,
    clean: WriterOutputs,
    ablated: WriterOutputs,
    points: Iterable[Float[Tensor, "batch pos d_model"]],
    step: Step,
) -> Float[Tensor, "writers readers"]:
    """EAP with the gradients of runs that start at ``points``: summed over points, examples and positions.

    Args:
        model: the model.
        batch: examples.
        clean, ablated: what the writers write, and what it is replaced by.
        points: what enters block 0 in each run; made one at a time.
        step: called after every run.
    """
    graph, last = graph_of(model), batch.last.to(model.device)
    differences = writer_differences(model, graph, clean, ablated)
    scores = torch.zeros(graph.mask.shape, device=model.device)
    for embed in points:
        scores += edge_scores(model, graph, differences, reader_gradients(model, batch, embed), last)
        step()
    return scores


__all__ = ["BUDGET", "eap", "eap_ig", "scores_along"]
