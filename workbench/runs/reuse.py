"""Scores that another run of the same search found already: another size of a circuit costs no second search."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.runs.files import RunError, finite
from workbench.runs.record import Run
from workbench.runs.store import RunStore, version

if TYPE_CHECKING:  # torch takes seconds to import; listing runs needs none of it
    from workbench.circuits.graph import Scores

# Changes how long a search takes, never what it finds.
_NO_MATTER = ("budget",)


@dataclass(frozen=True)
class Found:
    """What other runs have of a search.

    Attributes:
        run: id of the run that the scores are from; the one that found them, not one that took them over.
        scores: all of them, or None.
        partial: those that a search that was not finished handed out, or None.
        curve: a faithfulness curve's fields, measured with the ablation that is asked for, or None.
    """

    run: str
    scores: Scores | None = None
    partial: Scores | None = None
    curve: dict[str, Any] | None = None


def same_search(
    store: RunStore, model: Mapping[str, Any], task: Mapping[str, Any], method: str, settings: Mapping[str, Any]
) -> list[Run]:
    """Runs that ask for the scores of a request, whatever circuit they make of them, newest first.

    The request is given as to :func:`workbench.runs.run_id`. Weights, prompts, method, its options and the version of
    the workbench are the same.
    """
    options = _options(settings)
    return [
        Run(info)
        for info in store.list()
        if info.method == method
        and info.model.get("fingerprint") == model["fingerprint"]
        and info.task == finite(task)
        and _options(info.settings) == options
        and info.versions.get("workbench") == version()
    ]


def found_before(
    store: RunStore,
    *,
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    method: str,
    settings: Mapping[str, Any],
) -> Found | None:
    """The scores of the newest run of the same search that has them all, or what a search under way had; else None.

    What cannot be read counts as not there.
    """
    runs = same_search(store, model, task, method, settings)
    for run in runs:
        with contextlib.suppress(RunError):
            if run.info.scores is not None and run.scores.complete:
                return Found(run.info.scores_from or run.id, run.scores, curve=_curve(runs, settings))
    for run in runs:
        if (partial := run.partial) is not None:
            return Found(run.id, partial=partial)
    return None


def _curve(runs: list[Run], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A whole curve depends on scores and ablation, and on nothing else that a request says."""
    for run in runs:
        curve, ablation = run.info.curve, run.info.settings.get("ablation")
        if curve is not None and curve.get("complete") and ablation == settings.get("ablation"):
            return curve
    return None


def _options(settings: Mapping[str, Any]) -> Any:
    options = settings.get("options", {})
    return finite({name: value for name, value in options.items() if name not in _NO_MATTER})
