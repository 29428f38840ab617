"""Filling the table: what is asked is checked, cells are taken from the folder or worked out, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bench.cells import Slot, fill
from workbench.bench.folder import held, keep, stored
from workbench.bench.table import RANDOM, BenchTable, Cell, Place
from workbench.runs.store import version

if TYPE_CHECKING:
    from workbench.circuits.activations import Ablation
    from workbench.circuits.progress import Progress, ProgressFn
    from workbench.models import Transformer


class _Voice:
    """Passes progress on and remembers that somebody wants to stop."""

    def __init__(self, fn: ProgressFn | None) -> None:
        self.fn, self.stopped = fn, False

    def __call__(self, step: Progress) -> bool:
        if self.fn is not None and self.fn(step) is False:
            self.stopped = True
        return not self.stopped


def run(
    methods: Sequence[str],
    tasks: Sequence[str] = (),
    models: Sequence[str | Transformer] = (),
    *,
    out: str | Path,
    known: Sequence[str] = (),
    n: int = 32,
    seeds: Sequence[int] = (0,),
    ablation: Ablation = "resample",
    untrained: int = 3,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: ProgressFn | None = None,
) -> BenchTable:
    """Fill the table, cell by cell; cells that lie in ``out`` already are taken from there.

    Args:
        methods: their keys.
        tasks: their keys; each on every model.
        models: names as :func:`workbench.models.load` takes them, or models.
        out: the folder where cells are kept; one benchmark a folder.
        known: models whose circuit is known, by name; ``all`` for every one that methods can be run on.
        n: pairs of prompts.
        seeds: of the prompts.
        ablation: what edges outside a circuit carry, and what a method that ablates compares with.
        untrained: random models of the shape of each known one, on which a method is run too; the first has the seed
            of the prompts, each further one the next.
        options: of methods, by method.
        progress: called after every step and every cell; returning False stops and keeps the finished cells.

    Returns:
        The table; ``complete`` is False where it was stopped.

    Raises:
        ValueError: an unknown method, task, model, option or ablation, nothing to do, or a folder with a benchmark of
            other settings (both are said) or that somebody works on. What a method refuses is a cell with a reason
            instead.
    """
    options = {key: dict(value) for key, value in (options or {}).items()}
    settings: dict[str, Any] = {
        "version": version(),
        "methods": list(methods),
        "tasks": list(tasks),
        "models": [_name(model) for model in models],
        "known": [record.key for record in _known(known)],
        "n": n,
        "seeds": list(seeds),
        "ablation": ablation,
        "untrained": untrained,
        "options": options,
    }
    _check(settings, models)
    slots = _slots(settings, models, known)
    folder, say = Path(out).expanduser(), _Voice(progress)
    with held(folder, settings):
        earlier = {cell.place: cell for cell in stored(folder)}
        cells, complete = _fill(slots, earlier, settings, folder, say)
    return BenchTable(settings, cells, complete)


def _name(model: str | Transformer) -> str:
    """What the table calls a model: a folder by its own name."""
    if not isinstance(model, str):
        return model.name
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _check(settings: Mapping[str, Any], models: Sequence[str | Transformer]) -> None:
    """Refuse what cannot be met, before any work."""
    from workbench.circuits import tasks
    from workbench.circuits.activations import check_ablation
    from workbench.circuits.methods import check_options, method
    from workbench.models.load import locate

    for key in ("methods", "tasks", "models", "known", "seeds"):
        twice = [one for one in settings[key] if settings[key].count(one) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' is asked for twice among the {key}; name each once.")
    for key in settings["methods"]:
        method(key)
    for key, given in settings["options"].items():
        if key not in settings["methods"]:
            raise ValueError(f"There are options of '{key}', which is not among the methods; add it or leave them out.")
        check_options(key, given)
    for name in settings["tasks"]:
        tasks.get(name)
    check_ablation(settings["ablation"])
    if settings["n"] < 1:
        raise ValueError(f"A task needs at least one pair of prompts, not {settings['n']}.")
    if settings["untrained"] < 1:
        raise ValueError(f"The baseline takes at least one untrained model, not {settings['untrained']}.")
    if not settings["methods"] or not settings["seeds"]:
        raise ValueError("A benchmark needs at least one method and one seed.")
    if not (settings["tasks"] and models) and not settings["known"]:
        raise ValueError("There is nothing to run methods on: name tasks and models, or known models.")
    if bool(settings["tasks"]) != bool(models):
        raise ValueError("Tasks need models and models need tasks: name both, or neither.")
    for model in models:
        if isinstance(model, str):
            locate(model, None)


def _known(names: Sequence[str]) -> list[Any]:
    """Records of known models that methods can be run on."""
    from workbench.circuits.known import known_models
    from workbench.models.lookup import pick

    if not names:
        return []
    records = [record for record in known_models() if record.examinable]
    return records if list(names) == ["all"] else [pick(records, name, "known model") for name in names]


def _slots(settings: Mapping[str, Any], models: Sequence[str | Transformer], known: Sequence[str]) -> list[Slot]:
    """All cells in the order of the work: a model is loaded once, and its random order comes first."""
    slots = []
    for model, name in zip(models, settings["models"], strict=True):
        for task in settings["tasks"]:
            for seed in settings["seeds"]:
                for method in [RANDOM, *settings["methods"]]:
                    slots.append(Slot("task", method, task, name, seed, model))
    for record in _known(known):
        for seed in settings["seeds"]:
            slots += [Slot("known", method, record.key, record.key, seed, record) for method in settings["methods"]]
    return slots


def _fill(
    slots: list[Slot],
    earlier: Mapping[Place, Cell],
    settings: Mapping[str, Any],
    folder: Path,
    say: _Voice,
) -> tuple[list[Cell], bool]:
    """The cells in order, and whether all are there."""
    from workbench.circuits.progress import Progress, Stopped

    cells: list[Cell] = []
    kept: dict[str, Any] = {}
    for done, slot in enumerate(slots):
        cell = earlier.get(slot.place)
        if cell is None:
            try:
                cell = fill(slot, settings, kept, cells, say)
            except (Stopped, KeyboardInterrupt):
                return cells, False
            if say.stopped and not cell.figures:
                return cells, False
            keep(folder, cell)
        cells.append(cell)
        if not say(Progress(done + 1, len(slots), "cells")):
            return cells, done + 1 == len(slots)
    return cells, True
