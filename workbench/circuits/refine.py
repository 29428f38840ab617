"""A ranking of all edges learned so that its best edges are a faithful circuit at every size.

Attribution ranks edges by what each does alone; the circuit of the best k of them need not do what the model does.
Here the ranking itself is trained. Every step draws a size k, runs the circuit of the k best edges as it is (binary,
pruned of dangling nodes), and takes how far it is from the model. The gradient with respect to every edge's mask is
exact (:mod:`workbench.circuits.soft_run`). It reaches the scores by a straight-through estimate (Bengio et al. 2013,
arXiv 1308.3432): as if the mask were sigmoid((score - the k-th best) / temperature). So edges near the threshold are
exchanged, and those far from it stay. One score for each edge serves all sizes, so that circuits are nested, and what
is minimised is MIB's area between the faithfulness curve and 1 (CMD; Mueller et al. 2025, arXiv 2504.13151) on the
prompts that it learns from.

It starts from the ranking of another method. Scores begin at -log(rank / number of edges), in which circuits of half
the size are equally far apart at all sizes.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.eap import BUDGET
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.circuits.mask_training import Loss, check_training
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep
from workbench.circuits.progress import ProgressFn, Stopped
from workbench.circuits.task import Task
from workbench.circuits.training import Training
from workbench.models import Transformer

SMALLEST, LARGEST = 0.001, 0.5
"""Circuits learned from, as shares of all edges: MIB's sizes without the whole graph."""


def refine(
    model: Transformer,
    task: Task,
    *,
    start: str = "eap-ig",
    steps: int = 160,
    learning_rate: float = 0.05,
    temperature: float = 0.3,
    loss: Loss = "metric",
    prompts: int = 16,
    ablation: Ablation = "resample",
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Learn a ranking of all edges whose circuits are faithful at every size.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts. What is learned fits these prompts: judge it on others.
        start: the method whose ranking it starts from.
        steps: circuits run, each with one backward; about ten plain forwards in cost.
        learning_rate: of Adam; in log(2) = 0.69 steps of it an edge moves to circuits of half the size.
        temperature: how far from the threshold, in log(size), edges still move.
        loss: how far a circuit is from the model, see :data:`workbench.circuits.mask_training.LOSSES`.
        prompts: pairs in a step.
        ablation: what the other edges carry.
        seed: of sizes and order of prompts.
        budget: bytes beside the model.
        progress: called after every step; returning False keeps the ranking learned so far.
        resume: what ``keep`` was given by an earlier call with the same settings; it goes on from there.
        keep: called every few seconds: at first with what the starting method has found, if that can be gone on with,
            then with the ranking learned so far and all that the next step depends on.

    Returns:
        Scores between -1 and 1. The absolute value is the learned rank: 1 for the best edge, 0 for the last. The sign
        is that of the starting method: negative edges lower the behaviour.

    Raises:
        ValueError: an unknown starting method, ablation or loss, a number that is not positive, or ``resume`` of
            another training.
        Stopped: stopped before the starting method was done.
    """
    check_training(model, loss, steps, learning_rate, prompts)
    check_range("temperature", temperature)
    graph = graph_of(model)
    first = Scores(graph, torch.zeros(graph.mask.shape))  # what was learned brings its own with it
    if resume is None or _is_by(start, resume):
        first, resume = _start(model, task, start, ablation, budget, progress, resume, keep), None
    exists, signs = graph.mask.to(model.device), first.values.cpu().sign()
    scores = _log_ranks(first)[graph.mask].to(model.device).requires_grad_()
    sizes = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam([scores], lr=learning_rate, betas=(0.9, 0.98))
    now = scores.detach()  # the same numbers
    settings: dict[str, Any] = {
        "start": start,
        "steps": steps,
        "learning_rate": learning_rate,
        "temperature": temperature,
        "loss": loss,
        "prompts": prompts,
        "ablation": ablation,
        "seed": seed,
    }
    training = Training(
        model,
        task,
        "learned-ranking",
        settings,
        learned={"scores": now, "signs": signs},
        optimisers={"adam": adam},
        draws={"sizes": sizes},
        scores=lambda _: _as_ranks(graph, now.cpu(), signs),
        budget=budget,
        resume=resume,
        keep=keep,
    )
    for ready in training.steps(progress, "learning the ranking"):
        size = _draw_size(graph, sizes)
        mask = _circuit(graph, now, size).to(now).requires_grad_()
        (by_edge,) = torch.autograd.grad(ready.distance(mask, loss, training.batches.scale), mask)
        soft = torch.sigmoid((now - now.topk(size).values[-1]) / temperature)
        scores.grad = by_edge[exists] * soft * (1 - soft)
        adam.param_groups[0]["lr"] = learning_rate * (1 - training.done / steps)
        adam.step()
    return training.result()


def _is_by(start: str, handed: Scores) -> bool:
    """Whether scores are those of the starting method, and nothing was learned yet."""
    return handed.method == start and handed.settings.get("start") != start


def _start(
    model: Transformer,
    task: Task,
    start: str,
    ablation: Ablation,
    budget: int,
    progress: ProgressFn | None,
    resume: Scores | None,
    keep: Keep | None,
) -> Scores:
    """The scores that the ranking starts from."""
    from workbench.circuits.methods import discover, method  # the registry names this file's method too

    takes = inspect.signature(method(start).run).parameters
    offered = {"ablation": ablation, "resume": resume, "keep": keep}
    options = {name: value for name, value in offered.items() if name in takes}
    found = discover(model, task, start, budget=budget, progress=progress, **options)
    if not found.complete:
        raise Stopped(f"Stopped before '{start}' had a ranking to start from; nothing was learned.")
    return found


def _log_ranks(scores: Scores) -> Float[Tensor, "writers readers"]:
    """-log(rank / number of edges): large for the best; equal scores in the order of the graph."""
    ranks = torch.empty(scores.values.numel())
    order = scores.ranked().cpu().flatten().argsort(descending=True, stable=True)
    ranks[order] = torch.arange(len(order)) + 0.5
    return -torch.log(ranks / scores.graph.n_edges).view(scores.values.shape)


def _draw_size(graph: Graph, generator: torch.Generator) -> int:
    """A circuit size: log-uniform over MIB's range, as far as it holds an edge."""
    u = float(torch.rand((), generator=generator))
    smallest = max(SMALLEST, 1 / graph.n_edges)
    return max(1, round(graph.n_edges * smallest * math.pow(LARGEST / smallest, u)))


def _circuit(graph: Graph, scores: Float[Tensor, " edges"], size: int) -> Bool[Tensor, "writers readers"]:
    """The best ``size`` edges, pruned as every circuit is that is judged."""
    best = torch.zeros(len(scores), dtype=torch.bool)
    best[scores.topk(size).indices.cpu()] = True
    mask = torch.zeros_like(graph.mask)
    mask[graph.mask] = best
    return Circuit(graph, mask).prune().mask


def _as_ranks(
    graph: Graph, scores: Float[Tensor, " edges"], signs: Float[Tensor, "writers readers"]
) -> Float[Tensor, "writers readers"]:
    """Learned ranks between 0 and 1 with the signs of the starting scores (plus where there is none)."""
    ranks = torch.empty(len(scores))
    ranks[scores.argsort(stable=True)] = (torch.arange(len(scores)) + 1.0) / len(scores)
    values = torch.zeros(graph.mask.shape)
    values[graph.mask] = ranks
    return torch.where(signs.cpu() < 0, -values, values)
