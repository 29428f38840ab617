"""Constants of optimal ablation in a folder: learned once, for all that a run or its examination measures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.runs import files

if TYPE_CHECKING:
    from workbench.circuits.activations import AnyAblation, OptimalConstants
    from workbench.circuits.progress import ProgressFn
    from workbench.circuits.task import Task
    from workbench.models import Transformer

CONSTANTS = "constants.safetensors"


def with_constants(
    kind: AnyAblation,
    model: Transformer,
    task: Task,
    folders: Sequence[Path],
    progress: ProgressFn | None = None,
) -> AnyAblation:
    """An ablation with all that it needs: ``optimal`` with its constants, every other as it is.

    Args:
        kind: the ablation.
        model, task: whose constants.
        folders: the first that holds the constants has them, and the last keeps a copy; where none does they are
            learned and kept in the last every few seconds, so that a search that was stopped or killed goes on there; a
            folder that cannot be written keeps none.
        progress: called after every step of learning.

    Raises:
        Stopped: stopped before the constants were learned; what there is was kept.
    """
    from workbench.circuits.activations import OptimalConstants
    from workbench.circuits.optimal import are_for, optimal_constants, pack
    from workbench.circuits.progress import Stopped

    if kind != "optimal" or isinstance(kind, OptimalConstants):
        return kind
    found = [one for one in map(constants_in, folders) if one is not None and are_for(one, model, task)]
    path = folders[-1] / CONSTANTS
    for one in found:
        if one.complete:
            if not path.exists():
                _write(path, pack(one))
            return one
    learned = optimal_constants(
        model,
        task,
        progress=progress,
        resume=found[-1] if found else None,
        keep=lambda constants: _write(path, pack(constants)),
    )
    if not learned.complete:
        raise Stopped("Stopped while the constants of optimal ablation were learned; they are kept as they are.")
    return learned


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a run of others can be read only; the constants serve all the same
        files.write(path, data)


def constants_in(folder: Path) -> OptimalConstants | None:
    """The constants in a folder, whole or under way; None where there are none to be read."""
    from workbench.circuits.optimal import unpack

    with contextlib.suppress(ValueError):
        return unpack(folder / CONSTANTS)
    return None
