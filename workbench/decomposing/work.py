"""Answering a request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from workbench.circuits.decomposition import answers, phrases
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.decomposing.plan import INPUTS, NODES, against, understood
from workbench.decomposing.records import Merge, Request, Result, tuples
from workbench.figures.phrase_tree import phrase_of
from workbench.inspection import Given
from workbench.models import Transformer


def check(request: Request, model: Transformer, given: Given | None = None) -> None:
    """Refuse a request that cannot be answered, before any long work.

    Raises:
        ValueError: one sentence that names the input and the remedy.
    """
    plan = understood(request, model, given)
    if request.target or answers.gives_vectors(model):
        answers.answer(model, plan.cut.tensor, request.target, request.other)
    else:
        answers.answer_position(model, plan.cut.tensor)


def run(
    request: Request,
    model: Transformer,
    progress: ProgressFn | None = None,
    *,
    given: Given | None = None,
    budget: int = BUDGET,
) -> Result:
    """Answer a request.

    Args:
        request: what is asked.
        model: the model that ``request.model`` names, loaded.
        progress: called after every step; returning False stops and keeps what is done (``complete=False``).
        given: an image that was uploaded (:func:`workbench.inspection.see`), in place of ``request.image``.
        budget: bytes beside the model.

    Raises:
        ValueError: as :func:`check`.
        Stopped: stopped before there was anything to keep.
    """
    plan = understood(request, model, given)
    asked, cut = plan.request, plan.cut
    target, note = answers.answer(model, cut.tensor, asked.target, asked.other)
    groups = phrases.Groups(
        model,
        cut.tensor,
        [places for _, places in plan.sources],
        target,
        rule=asked.rule,
        baseline=against(model, cut, asked.baseline),
        budget=budget,
    )
    n, whole_input = len(plan.sources), plan.kind in (*INPUTS, "places")
    report = Reporter(progress, n + (whole_input and n > 1), "carrying sources")
    *values, together = groups([*([i] for i in range(n)), range(n) if whole_input else ()], report)
    if not groups.known:
        raise Stopped
    merges: tuple[phrases.Merge, ...] = ()
    complete = groups.known >= n or report.going
    if asked.tree and report.going:
        try:
            merges = phrases.tree(groups, cut.neighbours, progress=progress)
        except Stopped:
            complete = False
    if asked.tree:
        complete = complete and len(merges) == phrases.n_merges(cut.neighbours)
    names = tuple(name for name, _ in plan.sources)
    lost = sum(value != value for value in values) if report.going else 0
    unclear = (f"{lost} of {n} values are too large to be numbers by the rule '{asked.rule}' on this model.",)
    return Result(
        request=replace(asked, target=asked.target or target.name),
        kind=plan.kind,
        names=names,
        places=tuple(places for _, places in plan.sources),
        values=tuple(values),
        whole=groups.whole,
        together=together if whole_input else math.nan,
        target=target.name,
        unit=target.unit,
        tree=tuple(_named(merge, names) for merge in merges),
        special=plan.special,
        grid=cut.grid,
        size=(model.cfg.n_layers, model.cfg.n_heads) if plan.kind in NODES else None,
        image=None if plan.image is None else tuples(plan.image.tolist()),
        complete=complete,
        notes=((note,) if note else ()) + (unclear if lost else ()),
    )


def _named(merge: phrases.Merge, names: Sequence[str]) -> Merge:
    name = phrase_of(names, merge.members, 10_000)
    if names[merge.members[0]].startswith("patch ("):
        places = [names[i].removeprefix("patch ") for i in merge.members]
        name = (
            f"patches {' '.join(places)}" if len(places) < 5 else f"{len(places)} patches, {places[0]} to {places[-1]}"
        )
    return Merge(merge.left, merge.right, merge.members, name, merge.value, merge.interaction)
