"""Path patching: what one sender tells one receiver, with everything between them held still.

Wang et al. 2022 (arXiv 2211.00593, section 3.1) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969): the sender's output
of another run goes to the receiver over the paths asked for and over no other, everything else that the receiver takes
in stays, and what comes after the receiver is computed anew.

With the defaults the path is the edge itself, and everything after the receiver runs: then it is what
:func:`workbench.circuits.exact.exact` measures, the effect of ablating the edge alone. What this method adds:

- ``direction="denoising"`` starts from the corrupted run and hands the receiver the *clean* output. Noising asks what
  the behaviour cannot do without, denoising what is enough to bring it back; where two edges do one job, the first
  finds neither and the second finds both.
- ``direct=True`` follows one path only, sender -> receiver -> logits, past all later readers.
- ``mlps=True`` lets MLPs between sender and receiver react, as Wang et al. do; only heads are held still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor

from workbench.circuits.activations import (
    Ablation,
    Ablator,
    WriterOutputs,
    batch_size_for,
    check_ablation,
    graph_of,
)
from workbench.circuits.candidates import ModelRun, is_plain
from workbench.circuits.exact import Ablated, OneBatch, score_edges
from workbench.circuits.graph import Scores
from workbench.circuits.partial import Keep, Partial
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET
from workbench.circuits.task import Task
from workbench.models import Transformer

Direction = Literal["noising", "denoising"]


def path_patching(
    model: Transformer,
    task: Task,
    *,
    direction: Direction = "noising",
    direct: bool = False,
    mlps: bool = False,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by path patching: one forward, from the receiver's layer on, for each.

    Args:
        model: any model whose graph has edges; for ``direct`` and ``mlps`` its readers must take in plain sums.
        task: pairs of prompts; scores are means over them.
        direction: ``noising`` (clean run, the sender's output ablated; the score is what the metric loses) or
            ``denoising`` (corrupted run, the sender's output clean; the score is what the metric gains).
        direct: the receiver's node tells only the logits.
        mlps: MLPs between sender and receiver work out what they make of the change.
        ablation: what a sender's output is replaced by in noising; denoising has ``resample`` only.
        budget: bytes beside the model.
        progress, resume, keep: as in :func:`workbench.circuits.exact.exact`.

    Raises:
        ValueError: an unknown direction or ablation, another ablation than resample in denoising, a model that
            normalises sums with ``direct`` or ``mlps``, or ``resume`` of another search.
        Stopped: stopped before the edges into one reader were scored.
    """
    check_direction(direction, ablation)
    check_paths(model, direct, mlps)
    settings: dict[str, Any] = {"direction": direction, "direct": direct, "mlps": mlps, "ablation": ablation}
    rest = Partial(graph_of(model), task, "path-patching", settings, resume, keep)
    half = budget // 2
    ablator = Ablator(model, task, ablation, batch_size_for(model, task, half))

    def opened(batch: Task) -> OneBatch:
        restores = direction == "denoising"
        side = swapped(batch) if restores else batch
        replaced = ablator(side)
        if direct or mlps:
            return _Paths(model, side, replaced, half, restores, direct, mlps)
        return Ablated(model, side, replaced, half, restores)

    return score_edges(model, task, opened, rest, half, progress)


def swapped(batch: Task) -> Task:
    """The same pairs with the corrupted prompt in the clean one's place; the answers stay those of the clean one."""
    return replace(
        batch,
        clean=batch.corrupted,
        corrupted=batch.clean,
        clean_text=batch.corrupted_text,
        corrupted_text=batch.clean_text,
    )


def check_direction(direction: str, ablation: str) -> None:
    """Refuse a direction that there is not.

    Raises:
        ValueError: naming those that there are.
    """
    check_ablation(ablation)
    if direction not in get_args(Direction):
        raise ValueError(f"Unknown direction '{direction}'; choose 'noising' or 'denoising'.")
    if direction == "denoising" and ablation != "resample":
        raise ValueError(
            f"Denoising starts from a run on the corrupted prompts, which the ablation '{ablation}' has not; "
            "choose ablation='resample' or direction='noising'."
        )


def check_paths(model: Transformer, direct: bool, mlps: bool) -> None:
    """Refuse to follow paths past readers where what a reader takes in is no plain sum.

    Raises:
        ValueError: saying that the method serves the model otherwise.
    """
    if (direct or mlps) and not is_plain(model):
        raise ValueError(
            f"{model.name} normalises sums of what its nodes write, or its heads read from each other; path patching "
            "serves it without 'direct' and 'mlps'."
        )


class _Paths(Ablated):
    """A batch for paths that leave out what comes after the receiver, or lead through MLPs."""

    def __init__(
        self,
        model: Transformer,
        batch: Task,
        replaced: WriterOutputs,
        budget: int,
        restores: bool,
        direct: bool,
        mlps: bool,
    ) -> None:
        super().__init__(model, batch, replaced, budget, restores)
        run = ModelRun(model, batch, batch.clean, replaced)

        def without(reader: int, writers: Sequence[int]) -> Tensor:
            shifts = run.through_mlps(reader, writers) if mlps else -run.changes[list(writers)]
            return run.shifted(reader, shifts, direct)

        self.without = without
