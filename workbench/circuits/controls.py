"""What a circuit is compared with: random circuits of its size, and the same method on a model that learned nothing.

Faithfulness alone convinces nobody: many circuits may do as well. Shi et al. 2024 (arXiv 2410.13032, sufficiency test)
ask how often a random circuit of the same size comes as close to the model. Adebayo et al. 2018 (arXiv 1810.03292) and
Conmy et al. 2023 (arXiv 2304.14997, reset networks) ask what a method finds where there is nothing to be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import Ablation, AnyAblation, check_ablation
from workbench.circuits.eap import BUDGET
from workbench.circuits.evaluate import KeepMetrics, check_graph, circuit_metrics, evaluate, share_kept
from workbench.circuits.graph import Circuit, Graph, Ranking
from workbench.circuits.intervals import LEVEL, bounds
from workbench.circuits.methods import discover
from workbench.circuits.methods import method as method_of
from workbench.circuits.progress import Progress, ProgressFn, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer, fresh

_ATTEMPTS = 200


@dataclass(frozen=True)
class RandomControl:
    """A circuit beside random circuits of its size.

    Attributes:
        faithfulness: of the circuit.
        random: faithfulness of each random circuit.
        mean: of those.
        low, high: the middle 95 % of those.
        p: (1 + random circuits at least as close to faithfulness 1) / (1 + all of them): the chance of a random circuit
            being as good, bounded from above.
        n_edges: of the circuit and of each random one.
        n_examples: prompts that every mean is over.
        ablation: what the other edges carried.
        complete: False where it was stopped before the last prompt.
    """

    faithfulness: float
    random: list[float]
    mean: float
    low: float
    high: float
    p: float
    n_edges: int
    n_examples: int
    ablation: str
    complete: bool = True


@dataclass(frozen=True)
class UntrainedControl:
    """What a method finds in models of the same shape with random weights.

    Attributes:
        method: its key.
        own: faithfulness of each circuit in the random model that it was found in; NaN where the task's metric does not
            depend on the prompts there.
        transferred: faithfulness of each of them in the model at hand: what the shape of the graph and the
            prompts alone are worth.
        own_low, own_high, transferred_low, transferred_high: the middle 95 % of either.
        n_edges: edges that each circuit was asked for, before pruning.
        seeds: of the random weights.
        complete: False where it was stopped before the last draw.
    """

    method: str
    own: list[float]
    transferred: list[float]
    own_low: float
    own_high: float
    transferred_low: float
    transferred_high: float
    n_edges: int
    seeds: list[int]
    complete: bool = True


def random_circuit(graph: Graph, n_edges: int, generator: torch.Generator) -> Circuit:
    """A random circuit of exactly ``n_edges`` edges, each of them on a path from ``input`` to ``logits``.

    Edges are drawn evenly. One whose ends are not in the circuit yet brings along a random edge that feeds its writer,
    and one that reads its reader. Once all nodes are in, the rest is drawn at once.

    Raises:
        ValueError: the graph has no such circuit.
    """
    if not 0 <= n_edges <= graph.n_edges:
        raise ValueError(f"A random circuit has 0 to {graph.n_edges:,} edges in this graph; got {n_edges:,}.")
    for _ in range(_ATTEMPTS):
        mask = _grown(graph, n_edges, generator)
        if mask is not None:
            return Circuit(graph, mask)
    raise ValueError(f"No random circuit of {n_edges:,} edges was found in a graph of {graph.n_edges:,}.")


def _grown(graph: Graph, n_edges: int, generator: torch.Generator) -> Bool[Tensor, "writers readers"] | None:
    """One attempt at a random circuit; None where the last edges fit nowhere."""
    mask = torch.zeros_like(graph.mask)
    writers = torch.zeros(len(graph.writers), dtype=torch.bool)
    writers[0] = True
    node = graph.reader_node
    order = graph.mask.nonzero()[torch.randperm(graph.n_edges, generator=generator)].tolist()
    left, next_up = n_edges, 0
    while left:
        if writers.all() or next_up == len(order):
            readers = (node < 0) | writers[node]
            free = (graph.mask & ~mask & writers[:, None] & readers).nonzero()
            if len(free) < left:
                return None
            chosen = free[torch.randperm(len(free), generator=generator)[:left]]
            mask[chosen[:, 0], chosen[:, 1]] = True
            return mask
        row, column = order[next_up]
        next_up += 1
        new = [(row, column)]
        if not writers[row]:
            new.append(_fed(graph, row, writers, generator))
        target = int(node[column])
        if target >= 0 and not writers[target]:
            new.append(_read(graph, target, writers, generator))
        if len(new) > left or mask[row, column]:
            continue
        for place in new:
            mask[place] = True
        writers[[row, *([target] if target >= 0 else [])]] = True
        left -= len(new)
    return mask


def _fed(graph: Graph, row: int, writers: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """A random edge into the node of ``row`` from a writer that is in already."""
    places = (graph.mask & writers[:, None] & (graph.reader_node == row)).nonzero()
    return _one_of(places, generator)


def _read(graph: Graph, row: int, writers: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """A random edge from the node of ``row`` to ``logits`` or a node that is in already."""
    node = graph.reader_node
    columns = (graph.mask[row] & ((node < 0) | writers[node])).nonzero()
    _, column = _one_of(torch.cat([torch.zeros_like(columns), columns], 1), generator)
    return row, column


def _one_of(places: Tensor, generator: torch.Generator) -> tuple[int, int]:
    row, column = places[int(torch.randint(len(places), (1,), generator=generator))].tolist()
    return row, column


def random_control(
    model: Transformer,
    task: Task,
    circuit: Circuit,
    ablation: AnyAblation = "resample",
    *,
    draws: int = 20,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> RandomControl:
    """Run a circuit and random circuits of its size (:func:`random_circuit`).

    Cost: ``draws + 3`` patched forwards.

    Args:
        model, task, ablation, budget, progress: as in :func:`workbench.circuits.evaluate`.
        circuit: the circuit; best pruned, as the random ones have no dangling edges.
        draws: how many random circuits.
        seed: of them.
        resume, keep: as in :func:`workbench.circuits.evaluate.circuit_metrics`.

    Raises:
        ValueError: fewer than one draw, a circuit of another model, an ablation that is unknown or changes nothing.
        Stopped: stopped before the first prompts were through.
    """
    check_ablation(ablation)
    check_graph(model, circuit)
    if draws < 1:
        raise ValueError(f"The control needs at least one random circuit; got draws={draws}.")
    generator = torch.Generator().manual_seed(seed)
    drawn = [random_circuit(circuit.graph, circuit.n_edges, generator).mask for _ in range(draws)]
    masks = [circuit.graph.mask, torch.zeros_like(circuit.mask), circuit.mask, *drawn]
    metrics = circuit_metrics(
        model,
        task,
        masks,
        ablation=ablation,
        budget=budget,
        progress=progress,
        what="running random circuits",
        resume=resume,
        keep=keep,
    )
    full, empty, *means = metrics.double().mean(1).tolist()
    own, *random = (share_kept(mean, full, empty, ablation) for mean in means)
    low, high = bounds(torch.tensor(random, dtype=torch.float64), LEVEL)
    as_good = sum(abs(1 - value) <= abs(1 - own) for value in random)
    return RandomControl(
        faithfulness=own,
        random=random,
        mean=sum(random) / draws,
        low=low,
        high=high,
        p=(1 + as_good) / (1 + draws),
        n_edges=circuit.n_edges,
        n_examples=metrics.shape[1],
        ablation=str(ablation),
        complete=metrics.shape[1] == len(task),
    )


def untrained_control(
    model: Transformer,
    task: Task,
    method: str = "eap-ig",
    *,
    n_edges: int,
    ranking: Ranking = "absolute",
    ablation: AnyAblation = "resample",
    draws: int = 3,
    seed: int = 0,
    progress: ProgressFn | None = None,
    resume: UntrainedControl | None = None,
    keep: Callable[[UntrainedControl], None] | None = None,
    **options: Any,
) -> UntrainedControl:
    """Run a method on models with random weights (:func:`workbench.models.fresh`), and judge what it finds.

    Cost: for each draw the method once, and four patched forwards.

    Args:
        model, task, ablation: as in :func:`workbench.circuits.evaluate`; the method ablates the same, unless its own
            default is another than ``resample`` and none was named.
        method: its key.
        n_edges: best edges that make a circuit, before pruning.
        ranking: best by absolute or by signed score.
        draws: how many random models.
        seed: of the first; each further one has the next.
        progress: called after every step; returning False keeps the draws that are finished.
        resume: what an earlier run with the same settings handed out; its draws are not done again.
        keep: takes the control so far, after every draw.
        **options: of the method.

    Raises:
        ValueError: as :func:`workbench.circuits.discover` and :func:`workbench.circuits.evaluate`, or ``resume`` of
            another method, size or seed.
        Stopped: stopped before the first draw was finished.
    """
    check_ablation(ablation)
    if draws < 1:
        raise ValueError(f"The control needs at least one random model; got draws={draws}.")
    _check_resumed(resume, method, n_edges, range(seed, seed + draws))
    own = [] if resume is None else list(resume.own)
    transferred = [] if resume is None else list(resume.transferred)
    # Constants of this model say nothing of another: a random one learns its own.
    named = cast(Ablation, str(ablation))
    default = method_of(method).options.get("ablation")
    if default == "resample" or (default is not None and named != "resample"):
        options = {"ablation": named, **options}
    for draw in range(len(own), draws):
        try:
            control = fresh(model.cfg, seed=seed + draw)
            scores = discover(control, task, method=method, progress=progress, **options)
            if not scores.complete:
                break
            circuit = scores.top(n_edges, ranking)
            there = _own_faithfulness(control, task, circuit, named, progress)
            judged = evaluate(model, task, circuit, ablation, progress=progress)
        except Stopped:
            break
        own.append(there)
        transferred.append(judged.faithfulness)
        if keep is not None:
            keep(_control(method, own, transferred, n_edges, seed, draws))
        if progress is not None and progress(Progress(draw + 1, draws, "random models")) is False:
            break
    if not own:
        raise Stopped("Stopped before the first random model was through; nothing was kept.")
    return _control(method, own, transferred, n_edges, seed, draws)


def _control(
    method: str, own: list[float], transferred: list[float], n_edges: int, seed: int, draws: int
) -> UntrainedControl:
    """The control after some of its draws."""
    spans = [bounds(torch.tensor(values, dtype=torch.float64), LEVEL) for values in (own, transferred)]
    seeds = [seed + draw for draw in range(len(own))]
    complete = len(own) == draws
    return UntrainedControl(method, list(own), list(transferred), *spans[0], *spans[1], n_edges, seeds, complete)


def _check_resumed(resume: UntrainedControl | None, method: str, n_edges: int, seeds: range) -> None:
    """Refuse to go on with another control, both said.

    Raises:
        ValueError: another method, size or seeds.
    """
    if resume is None:
        return
    began, asked = (resume.method, resume.n_edges), (method, n_edges)
    if began != asked or resume.seeds != list(seeds[: len(resume.seeds)]):
        raise ValueError(
            f"The control to go on with began with {began[0]}, {began[1]} edges, seeds {resume.seeds}; asked is "
            f"{asked[0]}, {asked[1]} edges, seeds {list(seeds)}. Use the same, or start anew."
        )


def _own_faithfulness(
    model: Transformer, task: Task, circuit: Circuit, ablation: AnyAblation, progress: ProgressFn | None
) -> float:
    """Faithfulness in a random model, whose metric the ablation need not change at all."""
    masks = [circuit.graph.mask, torch.zeros_like(circuit.mask), circuit.mask]
    metrics = circuit_metrics(model, task, masks, ablation=ablation, progress=progress)
    full, empty, kept = metrics.double().mean(1).tolist()
    try:
        return share_kept(kept, full, empty, ablation)
    except ValueError:
        return math.nan
