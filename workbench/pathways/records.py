"""What is asked about the paths of one input, and what was found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from workbench.paths import Ensemble, GradientMass, QueryResult, TopPaths

KEEP = 8
"""Longest length that is told apart unless another is asked for, where the model has it."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        model: its name, as it was loaded.
        text: what it reads; of a vision model an image file or the number of a sample.
        target: a word or a class; empty for the model's own first answer.
        against: what is subtracted; empty for nothing.
        keep: longest length that is told apart; None for :data:`KEEP`, or all of a model that has fewer.
        kinds: whether to count attentions and MLPs apart as well.
        queries: patterns.
        top: how many single paths to look for; 0 for none.
        budget: suffixes that the search for these takes up at most.
        longest: sublayers on the longest path of the search; None for all.
        at: position that the target is read at, negative from the end; None for the last, or the mask.
        gradient: whether to split the gradient by length as well.
    """

    model: str = "smollm2-135m"
    text: str = ""
    target: str = ""
    against: str = ""
    keep: int | None = None
    kinds: bool = False
    queries: tuple[str, ...] = ()
    top: int = 20
    budget: int = 400
    longest: int | None = None
    at: int | None = None
    gradient: bool = False


@dataclass(frozen=True)
class Found:
    """What was found; None and empty where it was not asked for, or the work was stopped before.

    Attributes:
        request: what was asked.
        subject: the text, or what is on the image.
        names: what stands at each position.
        size: layers, and heads of each.
        lengths: by length.
        kinds: by kind.
        queries: of the patterns.
        top: the strongest single paths.
        gradient: by length.
        complete: False where it was stopped before all of this was there.
        notes: sentences for a person.
    """

    request: Request
    subject: str
    names: tuple[str, ...]
    size: tuple[int, int]
    lengths: Ensemble
    kinds: Ensemble | None = None
    queries: tuple[QueryResult, ...] = ()
    top: TopPaths | None = None
    gradient: GradientMass | None = None
    complete: bool = True
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers and lists."""
        parts = {name: getattr(self, name) for name in ("lengths", "kinds", "top", "gradient")}
        return {
            "request": asdict(self.request),
            "tokens": list(self.names),
            "queries": [one.to_dict() for one in self.queries],
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
            "complete": self.complete,
            "notes": list(self.notes),
        }
