"""What is asked of a reading by depth, and what was found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from workbench.attention.observed import plain
from workbench.lens import DirectAttribution, ExitDepth, LogitLens


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
        model: its name, as it was loaded.
        text: what it reads; of a vision model an image file or the number of a sample.
        targets: answers to follow by depth; the first is what direct attribution explains. Empty for the model's own
            first answer.
        against: what direct attribution subtracts; empty for nothing.
        k: how many of the most likely answers to keep.
        sublayers: whether to read behind each attention as well.
        lens: file of a trained lens; empty for none.
        at: position that is explained, negative from the end; None for the last, or the mask.
    """

    model: str = "smollm2-135m"
    text: str = ""
    targets: tuple[str, ...] = ()
    against: str = ""
    k: int = 5
    sublayers: bool = False
    lens: str = ""
    at: int | None = None


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        request: what was asked.
        subject: the text, or what is on the image.
        names: what stands at each position.
        logit: the logit lens.
        tuned: the trained lens; None without one.
        direct: what each component writes into the answer; None where it was stopped before.
        depth: from which place on answers stay.
        complete: False where it was stopped before all of this was there.
        notes: sentences for a person.
    """

    request: Request
    subject: str
    names: tuple[str, ...]
    logit: LogitLens
    tuned: LogitLens | None
    direct: DirectAttribution | None
    depth: ExitDepth
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def at(self) -> int:
        """Where the explained position stands among those that were read; the last one without an explanation."""
        there = [p for p in range(self.logit.top.shape[2]) if int(self.logit.top[-1, 0, p, 0]) >= 0]
        if self.direct is None or self.direct.at is None or not self.logit.positions:
            return there[-1]
        asked = int(self.direct.at[0])
        return self.logit.positions.index(asked) if asked in self.logit.positions else there[-1]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain numbers and lists."""
        return {
            "request": asdict(self.request),
            "tokens": list(self.names),
            "logit": self.logit.to_dict(),
            "tuned": None if self.tuned is None else self.tuned.to_dict(),
            "direct": None if self.direct is None else self.direct.to_dict(),
            "depth": {
                "places": list(self.depth.places),
                "confidence": self.depth.confidence,
                **{name: plain(getattr(self.depth, name)) for name in ("settled", "sure", "agrees")},
            },
            "complete": self.complete,
            "notes": list(self.notes),
        }
