"""Working out one cell of the table."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.bench.table import RANDOM, Cell, Kind, Place
from workbench.runs.files import RunError

if TYPE_CHECKING:
    from workbench.circuits.graph import Scores
    from workbench.circuits.progress import ProgressFn
    from workbench.circuits.task import Task
    from workbench.models import Transformer


@dataclass(frozen=True)
class Slot:
    """A cell that is to be filled.

    Attributes:
        kind, method, task, model, seed: as of the :class:`Cell`.
        source: the model or its name; the record of a known model.
    """

    kind: Kind
    method: str
    task: str
    model: str
    seed: int
    source: Any

    @property
    def place(self) -> Place:
        """What tells a cell from all others."""
        return self.kind, self.method, self.task, self.model, self.seed


def fill(
    slot: Slot,
    settings: Mapping[str, Any],
    loaded: dict[str, Any],
    cells: list[Cell],
    progress: ProgressFn,
) -> Cell:
    """Fill one cell; what a method refuses becomes its reason.

    Args:
        slot: which.
        settings: of the benchmark.
        loaded: the model of the cell before, kept for this one.
        cells: those before.
        progress: called after every step.

    Raises:
        RunError: the model is not the one that earlier cells are about.
        Stopped: the work was stopped before its end.
    """
    made = _load(slot, loaded)
    fingerprint = str(getattr(made, "fingerprint", ""))
    before = {cell.fingerprint for cell in cells if slot.kind == cell.kind == "task" and cell.model == slot.model}
    if before - {fingerprint}:
        raise RunError(f"The weights of '{slot.model}' have changed since this benchmark began; choose another folder.")
    begin = time.perf_counter()
    figures: dict[str, float] = {}
    reason = None
    try:
        work = _on_task if slot.kind == "task" else _on_known
        figures = work(slot, made, settings, loaded, progress)
        figures["seconds"] = round(time.perf_counter() - begin, 3)
    except ValueError as error:
        reason = " ".join(str(error).split())
    return Cell(slot.kind, slot.method, slot.task, slot.model, slot.seed, figures, reason, fingerprint)


def _load(slot: Slot, loaded: dict[str, Any]) -> Any:
    """The model or known model; only the last one is kept."""
    from workbench.models import load

    key = f"{slot.kind} {slot.model}"
    if key not in loaded:
        loaded.clear()
        if slot.kind == "known":
            loaded[key] = slot.source.load()
        else:
            loaded[key] = load(slot.source) if isinstance(slot.source, str) else slot.source
    return loaded[key]


def _options(slot: Slot, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options: those asked for, and the ablation where it has one."""
    from workbench.circuits.methods import method

    if slot.method == RANDOM:
        return {}
    own = method(slot.method).options.get("ablation")
    # A method with another default, such as zero, keeps it unless another ablation than the usual was asked for.
    asked = own is not None and (own == "resample" or settings["ablation"] != "resample")
    same = {"ablation": settings["ablation"]} if asked else {}
    return {**same, **settings["options"].get(slot.method, {})}


def _on_task(
    slot: Slot, model: Transformer, settings: Mapping[str, Any], loaded: dict[str, Any], progress: ProgressFn
) -> dict[str, float]:
    """CMD and CPR of a method, or of edges in random order."""
    from workbench.circuits import Stopped, faithfulness_curve, tasks

    task = tasks.load(slot.task, model, n=settings["n"], seed=slot.seed)
    options = _options(slot, settings)
    kind = settings["ablation"]
    if "optimal" in (kind, options.get("ablation")):
        constants = _constants(slot, model, task, loaded, progress)
        kind = constants if kind == "optimal" else kind
        options |= {"ablation": constants} if options.get("ablation") == "optimal" else {}
    scores = _scores(slot, model, task, options, progress)
    if not scores.complete:
        raise Stopped("Stopped before the cell was finished.")
    curve = faithfulness_curve(model, task, scores, kind, control=False, progress=progress)
    if not curve.complete:
        raise Stopped("Stopped before the cell was finished.")
    return {
        "cmd": curve.cmd,
        "cpr": curve.cpr,
        "accuracy": task.check(model).accuracy,
        "n_examples": float(curve.n_examples),
    }


def _constants(slot: Slot, model: Transformer, task: Task, loaded: dict[str, Any], progress: ProgressFn) -> Any:
    """The constants of optimal ablation, learned once for all methods on the same prompts."""
    from workbench.circuits.optimal import with_constants

    key = f"constants {slot.task} {slot.seed}"
    if key not in loaded:
        loaded[key] = with_constants("optimal", model, task, progress)
    return loaded[key]


def _scores(slot: Slot, model: Transformer, task: Task, options: Mapping[str, Any], progress: ProgressFn) -> Scores:
    import torch

    from workbench.circuits import Scores, discover
    from workbench.circuits.activations import graph_of

    if slot.method != RANDOM:
        return discover(model, task, method=slot.method, progress=progress, **options)
    graph = graph_of(model)
    noise = torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(slot.seed))
    return Scores(graph, noise * graph.mask, RANDOM, task.name, {"seed": slot.seed}, len(task))


def _on_known(
    slot: Slot,
    made: Any,
    settings: Mapping[str, Any],
    loaded: dict[str, Any],  # noqa: ARG001 - as of a task's cell
    progress: ProgressFn,
) -> dict[str, float]:
    """AUROC and average precision of a method on a model whose circuit is known, and the same on random weights."""
    from workbench.circuits import Progress, Stopped, discover, ground_truth
    from workbench.circuits.known.examine import examine_made, shown_edges
    from workbench.models import fresh

    options, n, seed = _options(slot, settings), settings["n"], slot.seed
    draws = settings["untrained"]
    found = examine_made(made, slot.method, n=n, seed=seed, progress=progress, **options)
    untrained = [found.untrained]
    for draw in range(draws):
        if draw:
            other = fresh(made.model.cfg, seed=seed + draw)
            control = discover(other, made.task(n, seed), slot.method, progress=progress, **options)
            untrained.append(ground_truth(control, shown_edges(made)))
        if progress(Progress(draw + 1, draws, "random weights")) is False:
            raise Stopped("Stopped before the cell was finished.")
    aurocs = [one.auroc for one in untrained if math.isfinite(one.auroc)]
    return {
        "auroc": found.truth.auroc,
        "average_precision": found.truth.average_precision,
        "node_auroc": found.truth.node_auroc,
        "untrained_auroc": statistics.fmean(aurocs) if aurocs else math.nan,
        "untrained_auroc_low": min(aurocs, default=math.nan),
        "untrained_auroc_high": max(aurocs, default=math.nan),
        "random_auroc": found.random_auroc,
        "chance_average_precision": found.truth.chance_average_precision,
    }
