"""Edge attribution patching (EAP) and EAP with integrated gradients (EAP-IG).

EAP (Syed et al. 2023, arXiv 2310.10348): gradients of the clean run. EAP-IG (Hanna et al. 2024, arXiv 2403.17806,
"inputs"): gradients averaged over runs whose embedding lies between the ablated and the clean one, at
``ablated + k/steps * (clean - ablated)`` for k = 0 ... steps - 1 (left Riemann sum; the clean end is not among them).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import Ablation, Ablator, batch_size_for, graph_of, record
from workbench.circuits.attribution import edge_scores, reader_gradients, writer_differences
from workbench.circuits.graph import Scores
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer

BUDGET = 400 * 2**20
"""Bytes beside the model that a method may use by default."""


def eap(
    model: Transformer,
    task: Task,
    *,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Scores:
    """Score every edge by edge attribution patching: two forwards and one backward.

    Args:
        model: any hooked decoder.
        task: pairs of prompts; scores are means over them.
        ablation: what an edge is replaced by.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch; returning False keeps the scores of the prompts finished so far.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    return _attribute(model, task, "eap", None, ablation, budget, progress)


def eap_ig(
    model: Transformer,
    task: Task,
    *,
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Scores:
    """Score every edge by EAP with integrated gradients: ``steps`` forwards and backwards, and one forward.

    Args:
        steps: points between the ablated and the clean embedding.
        model, task, ablation, budget, progress: as in :func:`eap`.

    Raises:
        ValueError: ``steps`` below 1, or an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    if steps < 1:
        raise ValueError(f"EAP-IG needs at least one step; got steps={steps}.")
    return _attribute(model, task, "eap-ig", steps, ablation, budget, progress)


def _attribute(
    model: Transformer,
    task: Task,
    method: str,
    steps: int | None,
    ablation: Ablation,
    budget: int,
    progress: ProgressFn | None,
) -> Scores:
    graph = graph_of(model)
    size = batch_size_for(model, task, budget)
    ablator = Ablator(model, task, ablation, size)
    total = torch.zeros(graph.mask.shape, device=model.device)
    report = Reporter(progress, -(-len(task) // size) * (steps or 1), "scoring edges")
    finished = 0
    for batch in task.batches(size):
        scores = _batch(model, batch, ablator, steps, report) if report.going else None
        if scores is None:
            break
        total += scores
        finished += len(batch)
    if not finished:
        raise Stopped("Stopped before the first prompts were scored; nothing was kept.")
    settings: dict[str, Any] = {"ablation": ablation} | ({"steps": steps} if steps else {})
    return Scores(
        graph, (total / finished).cpu(), method, task.name, settings, finished, complete=finished == len(task)
    )


def _batch(
    model: Transformer, batch: Task, ablator: Ablator, steps: int | None, report: Reporter
) -> Float[Tensor, "writers readers"] | None:
    """Summed scores of one batch; None where it was stopped midway."""
    graph, last = graph_of(model), batch.last.to(model.device)
    ablated = ablator(batch)
    if steps is None:
        clean_embed = model(batch.clean.to(model.device), stop_at_layer=0)
        gradients = reader_gradients(model, batch, clean_embed)
        differences = writer_differences(model, graph, gradients.outputs, ablated)
        scores = edge_scores(model, graph, differences, gradients, last)
        report.step()
        return scores
    clean = record(model, batch.clean)
    differences = writer_differences(model, graph, clean, ablated)
    scores = torch.zeros(graph.mask.shape, device=model.device)
    for k in range(steps):
        if not report.going:
            return None
        embed = torch.lerp(ablated.embed.expand_as(clean.embed), clean.embed, k / steps)
        scores += edge_scores(model, graph, differences, reader_gradients(model, batch, embed), last) / steps
        report.step()
    return scores
