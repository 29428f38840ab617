"""Stability: would other prompts or another seed have given the same circuit?

Over prompts: the method is run on pieces of the task, and the pieces are resampled (bootstrap, Efron 1979). Each
resample is a ranking of its own; how far its scores and its best edges are from those of all pieces together is what
other prompts would have changed. The measure of judging, CMD and CPR, is resampled over prompts for a ranking that
stays (:func:`curve_interval`). Over seeds: the method is run anew for each, and every pair is compared.

A piece's scores are means over its prompts, and so is their mean over pieces of one size; for a method that does not
score by means (masks that are trained, greedy search) the reference is the mean over pieces, not the scores of the
whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import AnyAblation, check_ablation
from workbench.circuits.agreement import Agreement, agreement
from workbench.circuits.eap import BUDGET
from workbench.circuits.evaluate import FRACTIONS, KeepMetrics, check_graph, circuit_metrics, share_kept
from workbench.circuits.graph import Circuit, Ranking, Scores
from workbench.circuits.intervals import LEVEL, RESAMPLES, bounds, resamples
from workbench.circuits.methods import check_options, discover
from workbench.circuits.methods import method as method_of
from workbench.circuits.parts import KeepScores, check_resumed, each
from workbench.circuits.progress import ProgressFn, Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer

Vary = Literal["task", "method"]


@dataclass(frozen=True)
class EdgeInterval:
    """One edge over resampled prompts.

    Attributes:
        edge: its name.
        score: mean over the pieces.
        low, high: 95 % interval of the score.
        chosen: share of resamples in which it is among the best.
    """

    edge: str
    score: float
    low: float
    high: float
    chosen: float


@dataclass(frozen=True)
class PromptStability:
    """How much scores and circuit depend on the prompts.

    Attributes:
        scores: the mean over the pieces.
        edges: the best edges, best first.
        overlap: mean Jaccard overlap of the best edges of a resample with those of all pieces.
        overlap_low, overlap_high: its 95 % interval.
        chance: the share of its best edges that a random ranking has in common with another.
        n_edges: how many best edges were compared.
        pieces: how many the task was cut into; each was one run of the method.
        complete: False where it was stopped before the last piece.
    """

    scores: Scores
    edges: list[EdgeInterval]
    overlap: float
    overlap_low: float
    overlap_high: float
    chance: float
    n_edges: int
    pieces: int
    complete: bool = True


@dataclass(frozen=True)
class SeedStability:
    """How much the circuit depends on a seed.

    Attributes:
        seeds: those that are through.
        scores: of each.
        agreement: of every pair, with the overlap at ``n_edges``.
        overlap: mean over pairs of the Jaccard overlap of the best ``n_edges`` edges; ``lowest`` of all pairs.
        always: edges that are among the best for every seed.
        vary: whether the seed was the ``task``'s or the ``method``'s.
        complete: False where it was stopped before the last seed.
    """

    seeds: list[int]
    scores: list[Scores]
    agreement: Agreement
    overlap: float
    lowest: float
    always: list[str]
    vary: Vary
    complete: bool = True


@dataclass(frozen=True)
class CurveInterval:
    """CMD and CPR of a ranking with their intervals over prompts.

    Attributes:
        cmd, cmd_low, cmd_high: area between the curve and 1, by absolute score.
        cpr, cpr_low, cpr_high: area under the curve, by signed score.
        fractions: sizes as shares of all edges.
        faithfulness, low, high: at each size, by absolute score.
        n_examples: prompts that were resampled.
        complete: False where it was stopped before the last prompt.
    """

    cmd: float
    cmd_low: float
    cmd_high: float
    cpr: float
    cpr_low: float
    cpr_high: float
    fractions: list[float]
    faithfulness: list[float]
    low: list[float]
    high: list[float]
    n_examples: int
    complete: bool = True


def prompt_stability(
    model: Transformer,
    task: Task,
    method: str = "eap-ig",
    *,
    n_edges: int,
    pieces: int = 8,
    count: int = RESAMPLES,
    ranking: Ranking = "absolute",
    seed: int = 0,
    progress: ProgressFn | None = None,
    resume: Sequence[Scores] = (),
    keep: KeepScores | None = None,
    **options: Any,
) -> PromptStability:
    """Bootstrap a method over prompts. Cost: the method once on each piece; as much as once on the whole.

    Args:
        model, task: as in :func:`workbench.circuits.discover`.
        method: its key.
        n_edges: how many best edges to follow.
        pieces: how many parts of about equal size to cut the task into.
        count: resamples.
        ranking: best by absolute or by signed score.
        seed: of the resampling.
        progress: called after every step; returning False keeps the pieces that are finished.
        resume: scores of the first pieces, which an earlier run had finished.
        keep: takes the scores of all pieces that are finished, after each.
        **options: of the method.

    Raises:
        ValueError: fewer than two pieces or more than prompts, a number of edges out of range, what the method refuses,
            or ``resume`` of other prompts or another method.
        Stopped: stopped before two pieces were through.
    """
    check_options(method, options)
    if not 2 <= pieces <= len(task):
        raise ValueError(f"Cut the task into 2 to {len(task)} pieces (it has {len(task)} prompts); got {pieces}.")
    cuts = [round(i * len(task) / pieces) for i in range(pieces + 1)]
    parts = [task.rows(start, stop) for start, stop in pairwise(cuts)]
    check_resumed(resume, method, [len(part) for part in parts])
    found = each(
        parts,
        lambda part: discover(model, part, method=method, progress=progress, **options),
        "pieces",
        progress,
        resume,
        keep,
    )
    if len(found) < 2:
        raise Stopped("Stopped before two pieces of the task were through; nothing was kept.")
    sizes = torch.tensor([float(one.n_examples) for one in found], dtype=torch.float64)
    graph = found[0].graph
    values = torch.stack([one.values[graph.mask] for one in found]).double().cpu()
    mean = Scores(
        graph,
        _scattered((sizes / sizes.sum()) @ values, graph.mask),
        method,
        task.name,
        found[0].settings,
        int(sizes.sum()),
        len(found) == pieces,
    )
    best = mean.top(n_edges, ranking, prune=False)
    chosen = best.mask[graph.mask].nonzero().flatten()
    weights = resamples(len(found), count, seed) * sizes
    weights /= weights.sum(1, keepdim=True)
    sampled, overlaps, often = _resampled(weights, values, chosen, ranking)
    low, high = bounds(overlaps, LEVEL)
    names = [best.name(row, column) for row, column in graph.mask.nonzero()[chosen].tolist()]
    edges = [
        EdgeInterval(name, mean.values[graph.edge(name)].item(), *bounds(sampled[:, i], LEVEL), float(often[i]))
        for i, name in enumerate(names)
    ]
    sign = 1 if ranking == "signed" else 0
    edges.sort(key=lambda one: (-(one.score if sign else abs(one.score)), one.edge))
    return PromptStability(
        scores=mean,
        edges=edges,
        overlap=float(overlaps.mean()),
        overlap_low=low,
        overlap_high=high,
        chance=n_edges / graph.n_edges,
        n_edges=n_edges,
        pieces=len(found),
        complete=len(found) == pieces,
    )


def _scattered(values: Float[Tensor, " edges"], mask: Tensor) -> Float[Tensor, "writers readers"]:
    full = torch.zeros(mask.shape)
    full[mask] = values.float()
    return full


def _resampled(
    weights: Float[Tensor, "resamples pieces"],
    values: Float[Tensor, "pieces edges"],
    chosen: Tensor,
    ranking: Ranking,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the chosen edges in each resample, the overlap of its best with them, how often each is among those."""
    overlaps, often = torch.zeros(len(weights)), torch.zeros(len(chosen))
    is_chosen = torch.zeros(values.shape[1], dtype=torch.bool)
    is_chosen[chosen] = True
    for i, row in enumerate(weights):
        scores = row @ values
        best = (scores.abs() if ranking == "absolute" else scores).topk(len(chosen)).indices
        common = int(is_chosen[best].sum())
        overlaps[i] = common / max(2 * len(chosen) - common, 1)
        often += torch.isin(chosen, best)
    return weights @ values[:, chosen], overlaps, often / len(weights)


def seed_stability(
    model: Transformer,
    task: Task | Callable[[int], Task],
    method: str = "eap-ig",
    *,
    n_edges: int,
    seeds: Sequence[int] = (0, 1, 2),
    ranking: Ranking = "absolute",
    progress: ProgressFn | None = None,
    resume: Sequence[Scores] = (),
    keep: KeepScores | None = None,
    **options: Any,
) -> SeedStability:
    """Run a method for several seeds and compare every pair. Cost: the method once for each seed.

    Args:
        model: the model.
        task: a function from a seed to a task, to vary the prompts; or one task, to vary the method's own ``seed``.
        method: its key.
        n_edges: how many best edges to compare.
        seeds: at least two.
        ranking: best by absolute or by signed score.
        progress: called after every step; returning False keeps the seeds that are through.
        resume: scores of the first seeds, which an earlier run had finished.
        keep: takes the scores of all seeds that are through, after each.
        **options: of the method.

    Raises:
        ValueError: fewer than two different seeds, a method without a seed where its own is to vary, what it refuses,
            or ``resume`` of another method.
        Stopped: stopped before two seeds were through.
    """
    vary: Vary = "method" if isinstance(task, Task) else "task"
    check_options(method, options)
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"Stability over seeds needs at least two, all different; got {list(seeds)}.")
    if vary == "method" and "seed" not in inspect.signature(method_of(method).run).parameters:
        raise ValueError(f"The method '{method}' draws nothing at random and has no seed; vary the task's instead.")

    def once(seed: int) -> Scores:
        if isinstance(task, Task):
            return discover(model, task, method=method, progress=progress, **(options | {"seed": seed}))
        return discover(model, task(seed), method=method, progress=progress, **options)

    check_resumed(resume, method, [len(task)] * len(seeds) if isinstance(task, Task) else [None] * len(seeds))
    found = each(seeds, once, "seeds", progress, resume, keep)
    if len(found) < 2:
        raise Stopped("Stopped before two seeds were through; nothing was kept.")
    done = list(seeds[: len(found)])
    compared = agreement(
        {str(seed): one for seed, one in zip(done, found, strict=True)}, sizes=[n_edges], ranking=ranking
    )
    matrix = compared.jaccard[0]
    pairs = [matrix[a][b] for a in range(len(done)) for b in range(a)]
    always = set.intersection(*(one.top(n_edges, ranking, prune=False).edges for one in found))
    return SeedStability(
        done, found, compared, sum(pairs) / len(pairs), min(pairs), sorted(always), vary, len(done) == len(seeds)
    )


def curve_interval(
    model: Transformer,
    task: Task,
    scores: Scores,
    ablation: AnyAblation = "resample",
    *,
    fractions: Sequence[float] = FRACTIONS,
    count: int = RESAMPLES,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Float[Tensor, "masks examples"] | None = None,
    keep: KeepMetrics | None = None,
) -> CurveInterval:
    """CMD and CPR (Mueller et al. 2025, arXiv 2504.13151, section 3) of one ranking, resampled over prompts.

    In each resample all means of faithfulness (m(C) - m(empty)) / (m(full) - m(empty)) are taken over the same prompts.
    Cost: as the faithfulness curve.

    Args:
        model, task, scores, ablation, fractions, budget, progress: as in :func:`workbench.circuits.faithfulness_curve`.
        count: resamples.
        seed: of the resampling.
        resume, keep: as in :func:`workbench.circuits.evaluate.circuit_metrics`.

    Raises:
        ValueError: fewer than two prompts, scores of another model, fractions not ascending in (0, 1], an ablation
            that is unknown or changes nothing.
        Stopped: stopped before the first prompts were through.
    """
    check_ablation(ablation)
    check_graph(model, Circuit.full(scores.graph))
    if not fractions or any(not 0 < f <= 1 for f in fractions) or sorted(set(fractions)) != list(fractions):
        raise ValueError(f"Fractions must ascend and lie in (0, 1]; got {list(fractions)}.")
    if len(task) < 2:
        raise ValueError("An interval over prompts needs at least two of them; take a task of more.")
    whole = scores.graph.mask
    masks = [whole, torch.zeros_like(whole)]
    rankings: tuple[Ranking, ...] = ("absolute", "signed")
    for ranking in rankings:
        masks += [scores.top(round(f * scores.graph.n_edges), ranking).mask for f in fractions]
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
    ).double()
    n = metrics.shape[1]
    weights = torch.cat([torch.full((1, n), 1 / n, dtype=torch.float64), resamples(n, count, seed)])
    full, empty, *means = metrics @ weights.T
    span = full - empty
    share_kept(0.0, float(full[0]), float(empty[0]), ablation)  # refuses an ablation that changes nothing
    kept = (torch.stack(means) - empty) / span
    absolute, signed = kept[: len(fractions)], kept[len(fractions) :]
    x = torch.tensor(fractions, dtype=torch.float64)
    cmd = torch.trapezoid((1 - absolute).abs(), x, dim=0)
    cpr = torch.trapezoid(signed, x, dim=0)
    spans = [bounds(row[1:], LEVEL) for row in absolute]
    return CurveInterval(
        float(cmd[0]),
        *bounds(cmd[1:], LEVEL),
        float(cpr[0]),
        *bounds(cpr[1:], LEVEL),
        fractions=list(fractions),
        faithfulness=absolute[:, 0].tolist(),
        low=[low for low, _ in spans],
        high=[high for _, high in spans],
        n_examples=n,
        complete=n == len(task),
    )
