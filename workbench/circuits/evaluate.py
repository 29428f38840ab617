"""How much of the behaviour a circuit keeps: faithfulness, and its curve over sizes with MIB's two areas.

Faithfulness f(C) = (m(C) - m(empty)) / (m(full) - m(empty)), with m the task's mean metric, full the model itself
and empty the run with every edge ablated (Mueller et al. 2025, arXiv 2504.13151, section 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import Ablator, AnyAblation, batch_size_for, check_ablation
from workbench.circuits.eap import BUDGET
from workbench.circuits.graph import Circuit, Ranking, Scores
from workbench.circuits.partial import SECONDS
from workbench.circuits.patching import PatchedRun
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's circuit sizes as shares of all edges."""
KeepMetrics = Callable[[Tensor], None]
"""Takes the metrics [masks, examples] of circuits so far, NaN where there are none yet."""


@dataclass(frozen=True)
class Evaluation:
    """What a circuit keeps of a task.

    Attributes:
        faithfulness: 1 for the model itself, 0 for everything ablated; can be outside that range.
        metric, metric_full, metric_empty: mean metric of the circuit, the model and the ablated run.
        accuracy: share of examples whose right answers are above the wrong ones in the circuit; None where the metric
            does not compare answers (:func:`compares_answers`).
        n_edges, n_nodes: size of the circuit (``input`` and ``logits`` are nodes too).
        n_edges_total: edges of the whole graph.
        n_examples: prompts that the means are over.
        ablation: what the other edges carried.
        complete: False where it was stopped before the last prompt.
    """

    faithfulness: float
    metric: float
    metric_full: float
    metric_empty: float
    accuracy: float | None
    n_edges: int
    n_nodes: int
    n_edges_total: int
    n_examples: int
    ablation: str
    complete: bool = True


@dataclass(frozen=True)
class FaithfulnessCurve:
    """Faithfulness of the best edges of a ranking, by size.

    Attributes:
        fractions: share of all edges taken, ascending.
        n_edges: edges left after pruning, ranked by absolute score.
        faithfulness: with edges ranked by absolute score, as for CMD.
        faithfulness_signed: with edges ranked by signed score, as for CPR.
        random: with edges in random order, pruned alike; the control. None where it was not asked for.
        cpr: area under the signed curve; the higher the better, and above 1 is possible.
        cmd: area between the absolute curve and 1; 0 is best.
        metric_full, metric_empty: mean metric of the model and of the ablated run.
        n_edges_total: edges of the whole graph.
        n_examples: prompts that the means are over.
        ablation: what the other edges carried.
        complete: False where it was stopped before the last prompt.
    """

    fractions: list[float]
    n_edges: list[int]
    faithfulness: list[float]
    faithfulness_signed: list[float]
    random: list[float] | None
    cpr: float
    cmd: float
    metric_full: float
    metric_empty: float
    n_edges_total: int
    n_examples: int
    ablation: str
    complete: bool = True


def circuit_metrics(
    model: Transformer,
    task: Task,
    masks: Sequence[Bool[Tensor, "writers readers"]],
    *,
    ablation: AnyAblation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    what: str = "running circuits",
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> Float[Tensor, "masks examples"]:
    """The task's metric of every example in every circuit.

    Prompts go in batches that fit into ``budget`` bytes; a stop keeps the batches that are finished. ``keep`` takes
    what is there every few seconds and at the end, single circuits of a batch too, and ``resume`` goes on from that.

    Raises:
        ValueError: ``resume`` is of other circuits or prompts.
        Stopped: stopped before one batch was through all circuits.
    """
    size = batch_size_for(model, task, budget)
    values = torch.full((len(masks), len(task)), torch.nan) if resume is None else resume.clone()
    if values.shape != (len(masks), len(task)):
        raise ValueError(
            f"The work to go on with had {values.shape[0]} circuits and {values.shape[1]} prompts; these are "
            f"{len(masks)} and {len(task)}. Start anew."
        )
    parts = [slice(start, start + size) for start in range(0, len(task), size)]
    left = [values[:, part].isnan().any(1).nonzero().flatten().tolist() for part in parts]
    total = len(parts) * len(masks)
    report = Reporter(progress, total, what, done=total - sum(map(len, left)))
    ablator = Ablator(model, task, ablation, size, progress) if any(left) else None
    handed = time.monotonic()
    for part, places in zip(parts, left, strict=True):
        if not places or ablator is None:
            continue
        batch = task.rows(part.start, part.stop)
        run = PatchedRun(model, batch, ablator(batch))
        for place in places:
            if not report.going:
                break
            values[place, part] = run.metric(masks[place]).float().cpu()
            report.step()
            if keep is not None and time.monotonic() - handed > SECONDS:
                keep(values.clone())
                handed = time.monotonic()
        if not report.going:
            break
    if keep is not None:
        keep(values.clone())
    finished = int((~values.isnan().any(0)).long().cumprod(0).sum())
    if not finished:
        raise Stopped("Stopped before the first prompts were through; nothing was kept.")
    return values[:, :finished]


def compares_answers(task: Task) -> bool:
    """Whether a metric above 0 means that right answers are above wrong ones: it compares them, on every prompt."""
    both = [ids.shape[1] > 0 and bool((ids >= 0).any(1).all()) for ids in (task.right, task.wrong)]
    return task.metric_kind in ("logit-diff", "prob-diff") and task.fn is None and all(both)


def full_metric(model: Transformer, task: Task, n: int | None = None) -> float:
    """Mean metric of the model itself on the first ``n`` clean prompts."""
    values = [batch.checked_score(batch.answers(model)) for batch in task.rows(0, n or len(task)).batches(32)]
    return float(torch.cat(values).mean())


def evaluate(
    model: Transformer,
    task: Task,
    circuit: Circuit,
    ablation: AnyAblation = "resample",
    *,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Evaluation:
    """Run a circuit and say how much of the behaviour it keeps.

    Args:
        model: the model.
        task: prompts and metric.
        circuit: edges that carry the clean run; it is taken as it is.
        ablation: what all other edges carry; ``optimal`` learns its constants first, unless they are given
            (:func:`workbench.circuits.optimal.optimal_constants`).
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch.

    Raises:
        ValueError: an unknown ablation, a circuit of another model, or an ablation that changes nothing.
        Stopped: stopped before the first batch was done.
    """
    check_ablation(ablation)
    check_graph(model, circuit)
    masks = [circuit.mask, torch.zeros_like(circuit.mask)]
    metrics = circuit_metrics(model, task, masks, ablation=ablation, budget=budget, progress=progress)
    kept, empty = metrics
    full = full_metric(model, task, len(kept))
    return Evaluation(
        faithfulness=share_kept(float(kept.mean()), full, float(empty.mean()), ablation),
        metric=float(kept.mean()),
        metric_full=full,
        metric_empty=float(empty.mean()),
        accuracy=float((kept > 0).float().mean()) if compares_answers(task) else None,
        n_edges=circuit.n_edges,
        n_nodes=len(circuit.nodes),
        n_edges_total=circuit.graph.n_edges,
        n_examples=len(kept),
        ablation=str(ablation),
        complete=len(kept) == len(task),
    )


def faithfulness_curve(
    model: Transformer,
    task: Task,
    scores: Scores,
    ablation: AnyAblation = "resample",
    *,
    fractions: Sequence[float] = FRACTIONS,
    control: bool = True,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> FaithfulnessCurve:
    """Faithfulness of the best k edges for k over MIB's sizes, with CPR and CMD (trapezoids over the linear share).

    Args:
        model, task, ablation, budget, progress: as in :func:`evaluate`.
        scores: the ranking.
        fractions: shares of all edges, ascending.
        control: also run random circuits of the same sizes.
        seed: of the random order.
        resume, keep: as in :func:`circuit_metrics`.

    Raises:
        ValueError: an unknown ablation, scores of another model, fractions not ascending in (0, 1], or an ablation
            that changes nothing.
        Stopped: stopped before the first batch was done.
    """
    check_ablation(ablation)
    graph = scores.graph
    whole = Circuit.full(graph)
    check_graph(model, whole)
    if not fractions or any(not 0 < f <= 1 for f in fractions) or sorted(set(fractions)) != list(fractions):
        raise ValueError(f"Fractions must ascend and lie in (0, 1]; got {list(fractions)}.")
    noise = torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(seed))
    orders = [(scores, "absolute"), (scores, "signed")] + [(Scores(graph, noise), "absolute")] * control
    circuits = [
        order.top(round(fraction * graph.n_edges), cast(Ranking, ranking))
        for order, ranking in orders
        for fraction in fractions
    ]
    # Circuits that are equal (the whole graph, in every order) are run once.
    masks: list[Tensor] = []
    index = []
    for circuit in [*circuits, Circuit.empty(graph)]:
        same = next((i for i, mask in enumerate(masks) if torch.equal(mask, circuit.mask)), None)
        index.append(len(masks) if same is None else same)
        if same is None:
            masks.append(circuit.mask)
    metrics = circuit_metrics(
        model,
        task,
        masks,
        ablation=ablation,
        budget=budget,
        progress=progress,
        what="checking faithfulness",
        resume=resume,
        keep=keep,
    )
    n = metrics.shape[1]
    full, (*means, empty) = full_metric(model, task, n), metrics.mean(1)[index].tolist()
    values = [share_kept(mean, full, empty, ablation) for mean in means]
    size = len(fractions)
    absolute, signed = values[:size], values[size : 2 * size]
    return FaithfulnessCurve(
        fractions=list(fractions),
        n_edges=[circuit.n_edges for circuit in circuits[:size]],
        faithfulness=absolute,
        faithfulness_signed=signed,
        random=values[2 * size :] if control else None,
        cpr=_area(fractions, signed),
        cmd=_area(fractions, [abs(1 - value) for value in absolute]),
        metric_full=full,
        metric_empty=empty,
        n_edges_total=graph.n_edges,
        n_examples=n,
        ablation=str(ablation),
        complete=n == len(task),
    )


def check_graph(model: Transformer, circuit: Circuit) -> None:
    """Refuse a circuit of a model with other layers or heads.

    Raises:
        ValueError: saying both sizes.
    """
    have, need = (circuit.graph.n_layers, circuit.graph.n_heads), (model.cfg.n_layers, model.cfg.n_heads)
    if have != need:
        raise ValueError(
            f"The circuit belongs to a model of {have[0]} layers x {have[1]} heads; "
            f"{model.name} has {need[0]} x {need[1]}."
        )


def share_kept(metric: float, full: float, empty: float, ablation: str) -> float:
    """Faithfulness from the three means.

    Raises:
        ValueError: the ablation does not change the metric, so that there is nothing to have a share of.
    """
    if abs(full - empty) < 1e-6 * max(1.0, abs(full)):
        raise ValueError(
            f"The ablation '{ablation}' does not change the metric ({full:.3g} with and without it), "
            "so that faithfulness means nothing here; choose other prompts or another ablation."
        )
    return (metric - empty) / (full - empty)


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    return float(torch.trapezoid(torch.tensor(y, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)))
