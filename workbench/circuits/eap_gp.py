"""EAP along a gradient path (EAP-GP, Zhang et al. 2025, arXiv 2502.06852).

EAP-IG's straight line between the two embeddings may lead through regions where the metric hardly changes. EAP-GP
walks: from the clean embedding g_0, each step goes one unit against the gradient of the squared distance between the
logits there and the ablated run's,

    g_{j+1} = g_j - G_j / ||G_j||,    G_j = d ||logits(g_j) - logits(ablated)||^2 / d g_j,

and the metric's gradients are averaged over g_1 ... g_steps.

What the paper leaves open is settled here so: the path is one of embeddings (its formulas have one for every node, its
run times cannot); the distance is between the logits where the answer is read; the norm is taken over positions and
numbers of one example, so that no example depends on its batch. A step has length 1 in the units of the embedding:
where embeddings are small (norm 0.1 a token, say), five steps lead far beyond the ablated one, and EAP-IG is the
safer choice.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of, record
from workbench.circuits.eap import scores_along
from workbench.circuits.graph import Scores
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means
from workbench.circuits.task import Task
from workbench.models import Transformer


def eap_gp(
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
    """Score every edge by EAP along a gradient path: ``2 steps`` forwards and backwards.

    Args:
        steps: how far the path goes, in units of the embedding.
        model, task, ablation, budget, progress: as in :func:`workbench.circuits.eap.eap`. With another ablation than
            ``resample`` the path heads for the logits of the run that starts at the ablated embedding.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: ``steps`` below 1, or an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    check_range("steps", steps, "eap-gp")

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        clean = record(model, batch.clean, stream.attention_mask(model, batch))
        path = gradient_path(model, batch, clean.embed, ablated.embed.expand_as(clean.embed), steps)
        return scores_along(model, batch, clean, ablated, path, step) / steps

    rest = Prompts(graph_of(model), task, "eap-gp", {"ablation": ablation, "steps": steps}, resume, keep)
    return edge_means(model, rest, score, steps=steps, budget=budget, progress=progress)


def gradient_path(
    model: Transformer,
    batch: Task,
    start: Float[Tensor, "batch pos d_model"],
    end: Float[Tensor, "batch pos d_model"],
    steps: int,
) -> Iterator[Float[Tensor, "batch pos d_model"]]:
    """The points g_1 ... g_steps from ``start`` towards the logits that ``end`` gives; it stays where G is 0."""
    with torch.no_grad():
        aim = _answers(model, batch, end)
    point = start.detach()
    for _ in range(steps):
        with torch.enable_grad():
            here = point.requires_grad_(True)
            distance = (_answers(model, batch, here) - aim).pow(2).sum()
            (g,) = torch.autograd.grad(distance, here)
        norm = g.flatten(1).norm(dim=1).view(-1, 1, 1)
        point = point.detach() - torch.where(norm > 0, g / norm, 0.0)
        yield point


def _answers(model: Transformer, batch: Task, embed: Tensor) -> Float[Tensor, "batch *answer"]:
    mask = stream.attention_mask(model, batch)
    return stream.answer_of(model, batch, model(embed, attention_mask=mask, stop_at_layer=model.cfg.n_layers))
