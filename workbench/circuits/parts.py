"""Several runs of a method, one after the other, of which the finished ones outlive a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from workbench.circuits.graph import Scores
from workbench.circuits.progress import Progress, ProgressFn, Stopped

T = TypeVar("T")
KeepScores = Callable[[list[Scores]], None]
"""Takes the scores of the parts that are finished, in order."""


def check_resumed(resume: Sequence[Scores], method: str, sizes: Sequence[int | None]) -> None:
    """Refuse scores that are not the first of this work; ``sizes`` are its prompts, None where they are not known.

    Raises:
        ValueError: they are more, of another method or of other prompts; both are said.
    """
    if len(resume) > len(sizes):
        raise ValueError(f"The work to go on with had {len(resume)} parts; this has {len(sizes)}. Start anew.")
    for one, size in zip(resume, sizes, strict=False):
        if not one.complete or one.method != method or size not in (None, one.n_examples):
            prompts = "" if size is None else f", {size} prompts"
            raise ValueError(
                f"The work to go on with holds scores of {one.method}, {one.n_examples} prompts; asked is {method}"
                f"{prompts}. Use the same, or start anew."
            )


def each(
    over: Sequence[T],
    run: Callable[[T], Scores],
    what: str,
    progress: ProgressFn | None,
    resume: Sequence[Scores],
    keep: KeepScores | None,
) -> list[Scores]:
    """The results in order, up to where it was stopped; the first of them are there already."""
    found: list[Scores] = list(resume)
    for i, one in enumerate(over[len(found) :], len(found)):
        try:
            scores = run(one)
        except Stopped:
            break
        if not scores.complete:
            break
        found.append(scores)
        if keep is not None:
            keep(list(found))
        if progress is not None and progress(Progress(i + 1, len(over), what)) is False:
            break
    return found
