"""Completeness: whether the circuit holds all that the model uses, or the model has a second way.

Wang et al. 2022 (arXiv 2211.00593, section 4): a circuit C of a model M is complete if for every part K of it the
incompleteness score |F(C without K) - F(M without K)| is small, with F the mean metric. A faithful circuit can fail:
where the model has backups outside the circuit, removing K hurts the circuit and not the model. There nodes are
knocked out; here K is a set of edges, all that leave some nodes or a random part of the circuit.

The score here is a share of what there is to explain: divided by |F(M) - F(empty)|, as in faithfulness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import AnyAblation, check_ablation
from workbench.circuits.eap import BUDGET
from workbench.circuits.evaluate import KeepMetrics, check_graph, circuit_metrics, share_kept
from workbench.circuits.graph import Circuit, head_of, layer_of
from workbench.circuits.intervals import LEVEL, RESAMPLES, bounds, resamples
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.models import Transformer

Unit = Literal["nodes", "edges"]


@dataclass(frozen=True)
class Removal:
    """One set K, taken from the circuit and from the model.

    Attributes:
        name: ``random 3`` or the name of a group.
        n_edges: edges of the circuit among K.
        circuit, model: faithfulness of the circuit without K, and of the model without K.
        incompleteness: the distance between the two.
    """

    name: str
    n_edges: int
    circuit: float
    model: float
    incompleteness: float


@dataclass(frozen=True)
class Completeness:
    """How alike circuit and model stay when the same is taken from both.

    Attributes:
        incompleteness: mean over the random removals; 0 is best. NaN where there were none.
        low, high: its 95 % interval (bootstrap over prompts and removals).
        worst: the largest incompleteness of all removals, groups too.
        removals: the random ones, then the groups.
        n_edges: of the circuit.
        n_examples: prompts that every mean is over.
        ablation: what removed edges carried.
        complete: False where it was stopped before the last prompt.
    """

    incompleteness: float
    low: float
    high: float
    worst: float
    removals: list[Removal]
    n_edges: int
    n_examples: int
    ablation: str
    complete: bool = True


def completeness(
    model: Transformer,
    task: Task,
    circuit: Circuit,
    ablation: AnyAblation = "resample",
    *,
    draws: int = 20,
    unit: Unit = "nodes",
    groups: Mapping[str, Iterable[str]] | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> Completeness:
    """Remove the same sets from circuit and model and compare.

    Cost: two patched forwards for each set, and two more.

    Args:
        model, task, circuit, ablation, budget, progress: as in :func:`workbench.circuits.evaluate`.
        draws: how many random sets; each head and MLP of the circuit (or each edge) is in one with probability 1/2.
        unit: draw ``nodes``, with all edges that leave them, or single ``edges`` of the circuit.
        groups: named sets of nodes besides; None for the circuit's own heads and MLP of every layer, ``{}`` for none.
        seed: of the random sets.
        resume, keep: as in :func:`workbench.circuits.evaluate.circuit_metrics`.

    Raises:
        ValueError: a circuit without edges or of another model, an unknown unit, ablation or node, nothing to remove,
            or an ablation that changes nothing.
        Stopped: stopped before the first prompts were through.
    """
    check_ablation(ablation)
    check_graph(model, circuit)
    if unit not in get_args(Unit):
        raise ValueError(f"Unknown unit '{unit}'; choose 'nodes' or 'edges'.")
    if not circuit.n_edges:
        raise ValueError("The circuit has no edges, so that there is nothing to remove from it.")
    drawn = _random_sets(circuit, unit, draws, torch.Generator().manual_seed(seed))
    named = {
        name: _leaving(circuit, nodes)
        for name, nodes in (component_groups(circuit) if groups is None else groups).items()
    }
    removed = {f"random {i + 1}": one for i, one in enumerate(drawn)} | named
    if not removed:
        raise ValueError("There is nothing to remove: ask for at least one random set or name a group.")
    whole = circuit.graph.mask
    masks = [whole, torch.zeros_like(whole)]
    for one in removed.values():
        masks += [circuit.mask & ~one, whole & ~one]
    metrics = circuit_metrics(
        model,
        task,
        masks,
        ablation=ablation,
        budget=budget,
        progress=progress,
        what="removing parts",
        resume=resume,
        keep=keep,
    ).double()
    full, empty, *means = metrics.mean(1).tolist()
    shares = [share_kept(mean, full, empty, ablation) for mean in means]
    removals = [
        Removal(name, int((one & circuit.mask).sum()), inside, outside, abs(inside - outside))
        for (name, one), inside, outside in zip(removed.items(), shares[::2], shares[1::2], strict=True)
    ]
    gaps = (metrics[2::2] - metrics[3::2])[: len(drawn)]
    low, high = _interval(gaps, metrics[0] - metrics[1], seed)
    return Completeness(
        incompleteness=_mean([removal.incompleteness for removal in removals[: len(drawn)]]),
        low=low,
        high=high,
        worst=max(removal.incompleteness for removal in removals),
        removals=removals,
        n_edges=circuit.n_edges,
        n_examples=metrics.shape[1],
        ablation=str(ablation),
        complete=metrics.shape[1] == len(task),
    )


def component_groups(circuit: Circuit) -> dict[str, list[str]]:
    """The circuit's heads of every layer as a group, each MLP as one, and the embedding."""
    groups: dict[str, list[str]] = {}
    for node in circuit.nodes:
        if node == "logits":
            continue
        name = f"heads of layer {layer_of(node)}" if head_of(node) else node
        groups.setdefault(name, []).append(node)
    return groups


def _random_sets(
    circuit: Circuit, unit: Unit, draws: int, generator: torch.Generator
) -> list[Bool[Tensor, "writers readers"]]:
    """Edges of each random set: half of the circuit's nodes with all they write, or half of its edges."""
    sets = []
    inside = [row for row in circuit.mask.any(1).nonzero().flatten().tolist() if row]
    for _ in range(draws):
        if unit == "edges":
            sets.append(circuit.mask & (torch.rand(circuit.mask.shape, generator=generator) < 0.5))
            continue
        chosen = torch.zeros(len(circuit.mask), dtype=torch.bool)
        chosen[inside] = torch.rand(len(inside), generator=generator) < 0.5
        sets.append(circuit.graph.mask & chosen[:, None])
    return sets


def _leaving(circuit: Circuit, nodes: Iterable[str]) -> Bool[Tensor, "writers readers"]:
    """All edges of the graph that leave the named nodes."""
    index = circuit.graph.writer_index
    chosen = torch.zeros(len(circuit.mask), dtype=torch.bool)
    for node in nodes:
        if node not in index:
            raise ValueError(f"'{node}' is no head, MLP or 'input' of this model; write for example 'a0.h1' or 'm0'.")
        chosen[index[node]] = True
    return circuit.graph.mask & chosen[:, None]


def _interval(
    gaps: Float[Tensor, "sets examples"], to_explain: Float[Tensor, " examples"], seed: int
) -> tuple[float, float]:
    """Bounds of the mean incompleteness over resampled prompts and resampled sets."""
    if not len(gaps):
        return bounds(torch.empty(0))
    prompts = resamples(gaps.shape[1], RESAMPLES, seed)
    sets = resamples(len(gaps), RESAMPLES, seed + 1)
    scale = (prompts @ to_explain).abs()
    return bounds(((prompts @ gaps.T).abs() * sets).sum(1) / scale, LEVEL)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
