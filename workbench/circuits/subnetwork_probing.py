"""Subnetwork probing: a mask on every node, learned with a price on each node that is kept.

Cao, Sanh and Rush 2021 (arXiv 2104.03514) learn hard-concrete masks on a network's parts with

    distance(circuit, model) + sparsity * expected share of nodes with z > 0.

As in the comparison by Conmy et al. 2023 (arXiv 2304.14997, section 4.1), the nodes are heads and MLPs, and what a
masked node writes is replaced by what it writes on the corrupted prompt. With ``parts``, the query, key and value
input of each head has a mask of its own beside.

An edge's score is the product of its two ends' keep-probabilities: masks are independent, so that this is the chance
that both ends are kept. ``input`` and ``logits`` are always kept.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import hard_concrete
from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.eap import BUDGET
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.mask_training import Loss, check_training
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.circuits.training import Training
from workbench.models import Transformer

FIRST = 2.0
"""Where log alpha starts: mostly open."""
LIMITS = (-30.0, 8.0)


def subnetwork_probing(
    model: Transformer,
    task: Task,
    *,
    sparsity: float = 0.5,
    parts: bool = False,
    steps: int = 200,
    learning_rate: float = 0.1,
    loss: Loss = "metric",
    prompts: int = 16,
    ablation: Ablation = "resample",
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by the chance that learned masks keep the nodes at both its ends.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts that the masks are learned on.
        sparsity: price of all nodes together, in units of the loss.
        parts: give each head's query, key and value input a mask of its own beside the head's.
        steps: masks drawn, each with one forward and backward of about ten plain forwards in cost.
        learning_rate: of Adam.
        loss: how far a circuit is from the model, see :data:`workbench.circuits.mask_training.LOSSES`.
        prompts: pairs in a step.
        ablation: what a node writes as far as it is closed.
        seed: of masks and order of prompts.
        budget: bytes beside the model.
        progress: called after every step; returning False keeps the masks so far.
        resume: what ``keep`` was given by an earlier call with the same settings; the training goes on from there.
        keep: called every few seconds with the masks so far and all that the next step depends on.

    Returns:
        Probabilities between 0 and 1. They say which nodes the behaviour needs, not how much, and have no sign.

    Raises:
        ValueError: an unknown ablation or loss, a negative price, a number that is not positive, or ``resume`` of
            another training.
    """
    check_training(model, loss, steps, learning_rate, prompts)
    check_range("sparsity", sparsity)
    graph = graph_of(model)
    nodes = len(graph.writers) - 1
    inputs = 3 * graph.n_heads * graph.n_layers if parts else 0
    log_alpha = torch.full((nodes + inputs,), FIRST, device=model.device, requires_grad=True)
    adam = torch.optim.Adam([log_alpha], lr=learning_rate)
    noise = torch.Generator().manual_seed(seed)
    settings: dict[str, Any] = {
        "sparsity": sparsity,
        "parts": parts,
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
        "subnetwork-probing",
        settings,
        learned={"log_alpha": log_alpha},
        optimisers={"adam": adam},
        draws={"noise": noise},
        scores=lambda _: edge_values(graph, hard_concrete.keep_probability(log_alpha.detach()).cpu()),
        budget=budget,
        resume=resume,
        keep=keep,
    )
    for ready in training.steps(progress, "learning masks of nodes"):
        writers, readers = _shares(graph, hard_concrete.sample(log_alpha, noise))
        price = sparsity * hard_concrete.keep_probability(log_alpha).mean()
        total = ready.distance(writers[:, None] * readers, loss, training.batches.scale) + price
        adam.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            log_alpha.clamp_(*LIMITS)
    return training.result()


def _shares(graph: Graph, z: Float[Tensor, " masks"]) -> tuple[Float[Tensor, " writers"], Float[Tensor, " readers"]]:
    """What each writer's and each reader's mask lets through; first the nodes' masks, then those of q, k and v."""
    nodes = len(graph.writers) - 1
    writers = torch.cat((z.new_ones(1), z[:nodes]))
    if len(z) == nodes:
        return writers, z.new_ones(len(graph.readers))
    heads = torch.tensor([name.endswith(">") for name in graph.readers], device=z.device)
    return writers, z.new_ones(len(graph.readers)).masked_scatter(heads, z[nodes:])


def edge_values(graph: Graph, keep: Float[Tensor, " masks"]) -> Float[Tensor, "writers readers"]:
    """Product of the keep-probabilities of both ends of every edge."""
    writers, readers = _shares(graph, keep)
    ends = torch.where(graph.reader_node >= 0, writers[graph.reader_node.clamp(min=0)], 1.0)
    return (writers[:, None] * readers * ends) * graph.mask
