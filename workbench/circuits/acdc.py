"""Automatic circuit discovery (ACDC): from the logits back, drop every edge that the behaviour does not miss.

Conmy et al. 2023 (arXiv 2304.14997), Algorithm 1. Readers in reverse order of computation; for each edge into one,
switch it to its ablated value and drop it for good if the metric gets worse by less than the threshold. Nodes that
nothing reads any more lose their edges untried.

The answer to nearly every trial is known before it is made: "drop it". So many edges are tried at once, each candidate
as if those before it had gone as guessed; answers hold up to the first wrong guess, and it goes on from there. What is
before the reader is computed once (:mod:`workbench.circuits.suffix`). The circuit is that of trying one by one.

As a ranking, the thresholds are swept from high to low, and the score of an edge is the increment at which it first
stayed: the largest threshold that it survives, refined within the step to the next.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep, Partial
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.circuits.trials import Loss, Trials
from workbench.models import Transformer

Order = Literal["reverse", "forward"]

BELOW = 1 - 1e-3
"""Scores of edges that a threshold dropped stay this much below it."""
LOWEST = 1e-3
"""The lowest threshold of a sweep, as a share of what ablating everything does."""
FIRST, FEWEST = 16, 4
"""How many edges are tried at once at first, and after wrong guesses."""


def acdc(
    model: Transformer,
    task: Task,
    *,
    threshold: float | None = None,
    steps: int = 10,
    metric: Loss = "task",
    order: Order = "reverse",
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by ACDC: one forward, from the reader's layer on, for each edge and threshold.

    With a ``threshold`` one search is made: edges that stay have their increment (at least the threshold), those that
    go have theirs too, held below the threshold in size. So ``scores.above(threshold, prune=False)`` is the circuit.

    Without one, ``steps`` searches are made, their thresholds evenly spaced on a logarithmic axis between what
    ablating everything does to the metric and a thousandth of that. An edge's score is its increment in the first
    search (the one of the highest threshold) that keeps it, held below the threshold before. Edges that none keeps
    have that of the last search, held below its threshold in size.

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts; increments are means over them.
        threshold: in units of the metric, above 0; None sweeps.
        steps: how many thresholds a sweep has.
        metric: ``task``, the task's own metric, or ``kl``, the divergence of the circuit's answer from the model's, in
            nats, where the answer is read.
        order: in which edges into a reader are tried: ``reverse``, the latest writer first, or ``forward``.
        ablation: what an edge is replaced by.
        budget: bytes beside the model.
        progress: called after every few edges; returning False keeps the readers (in a sweep: the thresholds) that
            are done.
        resume: what ``keep`` was given by an earlier call with the same settings.
        keep: called every few seconds with what is found (in a sweep: after each threshold), NaN where there is
            nothing yet.

    Raises:
        ValueError: a threshold that is not above 0, or keeps no edge or every edge (the message says the range of the
            increments); fewer steps than 1, an unknown metric, order or ablation, or an ablation that changes nothing.
        Stopped: stopped before there was anything to keep.
    """
    _check(threshold, steps, metric, order)
    settings: dict[str, Any] = {"metric": metric, "order": order, "ablation": ablation}
    settings |= {"steps": steps} if threshold is None else {"threshold": threshold}
    rest = Partial(graph_of(model), task, "acdc", settings, resume, keep)
    trials = Trials(model, task, metric, ablation, budget)
    if threshold is None:
        return _sweep(trials, rest, steps, order, progress)
    report = Reporter(progress, trials.graph.n_edges, "trying edges")
    _search(trials, threshold, order, report, rest=rest)
    scores = rest.result()
    if scores.complete:
        _refuse_extremes(scores.values.abs() >= threshold, scores.values, threshold, trials.graph)
    return scores


def acdc_circuit(
    model: Transformer,
    task: Task,
    threshold: float,
    *,
    metric: Loss = "task",
    order: Order = "reverse",
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Circuit:
    """ACDC's circuit at one threshold, as the algorithm leaves it (nothing is pruned); its scores are the increments.

    Args:
        model, task, threshold, metric, order, ablation, budget, progress: as in :func:`acdc`.

    Raises:
        ValueError: as :func:`acdc`; or the threshold keeps no edge or every edge (the message says the range of the
            increments).
        Stopped: stopped before the last reader.
    """
    _check(threshold, 1, metric, order)
    trials = Trials(model, task, metric, ablation, budget)
    report = Reporter(progress, trials.graph.n_edges, "trying edges")
    mask, increments = _search(trials, threshold, order, report)
    if not report.going:
        raise Stopped("Stopped before all edges were tried; the circuit of a part of them means nothing.")
    _refuse_extremes(mask, increments, threshold, trials.graph)
    return Circuit(trials.graph, mask, increments.nan_to_num(0.0))


def _refuse_extremes(
    mask: Bool[Tensor, "writers readers"], increments: Float[Tensor, "writers readers"], threshold: float, graph: Graph
) -> None:
    mask = mask & graph.mask
    if not mask.any() or torch.equal(mask, graph.mask):
        tried = increments[graph.mask & ~increments.isnan()]
        raise ValueError(
            f"The threshold {threshold:g} keeps {'every' if mask.any() else 'no'} edge: without one, the metric gets "
            f"worse by {tried.min():.3g} to {tried.max():.3g}; choose a threshold between."
        )


def _check(threshold: float | None, steps: int, metric: str, order: str) -> None:
    check_range("threshold", threshold, "acdc")
    check_range("steps", steps, "acdc")
    for what, given, known in (("metric", metric, get_args(Loss)), ("order", order, get_args(Order))):
        if given not in known:
            raise ValueError(f"ACDC has no {what} '{given}'; choose one of {', '.join(known)}.")


def _sweep(trials: Trials, rest: Partial, steps: int, order: Order, progress: ProgressFn | None) -> Scores:
    """Search with one threshold after the other, from high to low; the scores hold the edges that stayed."""
    thresholds = sweep_thresholds(trials.span(), steps)
    report = Reporter(progress, trials.graph.n_edges * (steps - rest.rounds), "trying edges")
    increments, limit = torch.full(trials.graph.mask.shape, torch.nan), math.inf
    for round_, threshold in enumerate(thresholds):
        if round_ >= rest.rounds:
            # An edge does about as much as in the search before.
            mask, increments = _search(trials, threshold, order, report, guess=increments >= threshold)
            if not report.going:
                return rest.result()
            fresh = mask & rest.values.isnan()
            rest.values[fresh] = increments[fresh].clamp(threshold, limit).float()
            if round_ + 1 == steps:
                below, gone = BELOW * threshold, rest.values.isnan()
                rest.values[gone] = increments[gone].nan_to_num(0.0).clamp(-below, below).float()
            rest.next_round()
        limit = BELOW * threshold
    return rest.result()


def sweep_thresholds(span: float, steps: int) -> list[float]:
    """Thresholds from what ablating everything does down to a thousandth of it, in equal ratios."""
    return [span * LOWEST ** (i / max(1, steps - 1)) for i in range(steps)]


def _search(
    trials: Trials,
    threshold: float,
    order: Order,
    report: Reporter,
    *,
    guess: Bool[Tensor, "writers readers"] | None = None,
    rest: Partial | None = None,
) -> tuple[Bool[Tensor, "writers readers"], Float[Tensor, "writers readers"]]:
    """The circuit at a threshold, and by how much the metric got worse at each trial (NaN for edges never tried).

    Args:
        guess: edges that are expected to stay; it changes how long the search takes, never what it finds.
        rest: takes the scores of each reader when it is done, and says which are done already.
    """
    graph = trials.graph
    mask, increments = graph.mask.clone(), torch.full(graph.mask.shape, torch.nan, dtype=torch.float64)
    expected = torch.zeros_like(mask) if guess is None else guess
    if rest is not None:
        for reader in range(len(graph.readers)):
            if not rest.open(reader):
                mask[:, reader] = rest.values[:, reader] >= threshold
                report.total -= int(graph.mask[:, reader].sum())
    trials.begin(mask)
    for reader in reversed(range(len(graph.readers))):
        if rest is not None and not rest.open(reader):
            continue
        node = int(graph.reader_node[reader])
        if node >= 0 and not mask[node].any():
            mask[:, reader] = False
            report.done += int(graph.mask[:, reader].sum()) - 1
            report.step()
        else:
            _decide(trials, reader, mask, increments[:, reader], threshold, order, expected[:, reader], report)
        if not report.going:
            break
        if rest is not None:
            below, column = BELOW * threshold, increments[:, reader].nan_to_num(0.0)
            kept = mask[:, reader]
            rest.fill(reader, torch.where(kept, column.clamp(min=threshold), column.clamp(-below, below)))
    return mask, increments


def _decide(
    trials: Trials,
    reader: int,
    mask: Bool[Tensor, "writers readers"],
    increments: Float[Tensor, " writers"],
    threshold: float,
    order: Order,
    guess: Bool[Tensor, " writers"],
    report: Reporter,
) -> None:
    """Keep or drop every edge into a reader, in ``mask``; the increments are noted."""
    writers: list[int] = mask[:, reader].nonzero().flatten().tolist()
    writers = writers[::-1] if order == "reverse" else writers
    trials.turn_to(reader, mask)
    column, stays, start, size = mask[:, reader].clone(), guess.clone(), 0, min(FIRST, trials.at_once)
    while start < len(writers) and report.going:
        some = writers[start : start + size]
        columns, befores = _candidates(column, some, stays)
        losses = trials.losses(columns)
        decided, taken, right = 0, -1, True
        for i, (writer, before) in enumerate(zip(some, befores, strict=True)):
            increment = losses[i] - (losses[before] if before >= 0 else trials.loss)
            needed = not increment < threshold
            if right:  # the trial was made on what the circuit is by now
                increments[writer], decided = increment, i + 1
                taken = taken if needed else i
                right = needed == bool(stays[writer])
            else:  # it was not, but is a good guess of what the next one will say
                stays[writer] = needed
        if taken >= 0:
            column = columns[taken]
            trials.take(taken, column, losses[taken])
        start += decided
        # A wrong guess costs what was tried behind it: be bolder after right ones, more careful after wrong ones.
        size = min(trials.at_once, 2 * size) if decided == len(some) else max(FEWEST, min(size, 2 * decided))
        report.done += decided - 1
        report.step()


def _candidates(
    column: Bool[Tensor, " writers"], some: list[int], stays: Bool[Tensor, " writers"]
) -> tuple[Bool[Tensor, "candidates writers"], list[int]]:
    """One candidate without each edge, on what is left if the guesses before it are right.

    Also which candidate that is: the last one that is guessed to be taken; -1 for the circuit as it stands.
    """
    columns, befores, before = column.repeat(len(some), 1), [], -1
    for i, writer in enumerate(some):
        befores.append(before)
        if before >= 0:
            columns[i] = columns[before]
        columns[i, writer] = False
        before = before if stays[writer] else i
    return columns, befores


__all__ = ["acdc", "acdc_circuit", "sweep_thresholds"]
