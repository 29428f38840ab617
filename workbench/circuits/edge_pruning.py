"""Edge pruning: a mask on every edge, learned by gradient descent until a share of the edges is left.

Bhaskar, Wettig, Friedman and Chen 2024 (arXiv 2406.16778): every edge carries ``z * this run + (1 - z) * ablated`` with
a hard-concrete z, and one minimises

    distance(circuit, model) + l1 * (share - goal) + l2 * (share - goal)^2,

share the expected share of edges with z > 0. The two multipliers are learned by ascent, so that the share meets the
goal (section 3, after Louizos et al. 2018 and Wang et al. 2020). The goal sinks from 1 to ``target`` over the first
steps, evenly in its logarithm.

Differences from the paper: masks are on edges alone (theirs has some on writers too). The multipliers' gradient is the
violation in the logarithm of the share, as small circuits are a per mille of the edges. And an edge's score is its
keep-probability averaged over all steps, not the last one, which is 0 or 1 for nearly every edge: since the goal
sinks steadily, it says at which size of circuit the edge was given up, and so ranks the edges for every size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from workbench.circuits import hard_concrete
from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.eap import BUDGET
from workbench.circuits.graph import Scores
from workbench.circuits.mask_training import Loss, check_training
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.circuits.training import Training
from workbench.models import Transformer

WARM_UP = 0.7
"""Share of the steps over which the goal sinks."""
FIRST = 3.0
"""Where log alpha starts: an edge is then open, z = 1 with a chance of 0.8."""
LIMITS = (-30.0, 8.0)
"""Within these, keep-probabilities are different numbers in float32."""


def edge_pruning(
    model: Transformer,
    task: Task,
    *,
    target: float = 0.02,
    steps: int = 300,
    learning_rate: float = 0.5,
    loss: Loss = "metric",
    prompts: int = 16,
    ablation: Ablation = "resample",
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the chance that a learned mask keeps it.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts that the masks are learned on.
        target: share of all edges to keep.
        steps: masks drawn, each with one forward and backward of about ten plain forwards in cost.
        learning_rate: of Adam, for masks and multipliers.
        loss: how far a circuit is from the model, see :data:`workbench.circuits.mask_training.LOSSES`.
        prompts: pairs in a step.
        ablation: what an edge carries as far as it is closed.
        seed: of masks and order of prompts.
        budget: bytes beside the model.
        progress: called after every step; returning False keeps the masks so far.
        resume: what ``keep`` was given by an earlier call with the same settings; the training goes on from there.
        keep: called every few seconds with the masks so far and all that the next step depends on.

    Returns:
        P(z > 0) of every edge, the mean over the steps, between 0 and 1; edges dropped early have the smallest. It says
        which edges the behaviour needs, not how much, and has no sign.

    Raises:
        ValueError: a share not in (0, 1), an unknown ablation or loss, a number that is not positive, or ``resume`` of
            another training.
    """
    check_training(model, loss, steps, learning_rate, prompts)
    check_range("target", target)
    graph = graph_of(model)
    exists = graph.mask.to(model.device)
    log_alpha = torch.full((graph.n_edges,), FIRST, device=model.device, requires_grad=True)
    multipliers = torch.zeros(2, device=model.device, requires_grad=True)
    adam = torch.optim.Adam([log_alpha], lr=learning_rate)
    ascent = torch.optim.Adam([multipliers], lr=learning_rate, maximize=True)
    kept = torch.zeros_like(log_alpha, requires_grad=False)
    noise = torch.Generator().manual_seed(seed)

    def scores(done: int) -> Tensor:
        values = torch.zeros(graph.mask.shape)
        values[graph.mask] = (kept / done).cpu()
        return values

    settings: dict[str, Any] = {
        "target": target,
        "steps": steps,
        "learning_rate": learning_rate,
        "loss": loss,
        "prompts": prompts,
        "ablation": ablation,
        "seed": seed,
    }
    training = Training(
        model,
        task,
        "edge-pruning",
        settings,
        learned={"log_alpha": log_alpha, "multipliers": multipliers, "kept": kept},
        optimisers={"adam": adam, "ascent": ascent},
        draws={"noise": noise},
        scores=scores,
        budget=budget,
        resume=resume,
        keep=keep,
    )
    for ready in training.steps(progress, "learning masks of edges"):
        mask = torch.zeros(graph.mask.shape, device=model.device)
        mask = mask.masked_scatter(exists, hard_concrete.sample(log_alpha, noise))
        goal = math.exp(math.log(target) * min(1.0, (training.done + 1) / (WARM_UP * steps)))
        excess = hard_concrete.keep_probability(log_alpha).mean().log() - math.log(goal)
        price = multipliers[0] * excess + multipliers[1] * excess.square()
        total = ready.distance(mask, loss, training.batches.scale) + price
        adam.zero_grad()
        ascent.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        ascent.step()
        with torch.no_grad():
            log_alpha.clamp_(*LIMITS)
            multipliers[1].clamp_(min=0)
            kept += hard_concrete.keep_probability(log_alpha)
    return training.result()
