"""What was observed, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from workbench.attention import Census, Dispersion, EntropyBound, Sinks, Statistics
from workbench.attention.observed import plain

PATTERNS = 96
"""Most positions of which every head's pattern is kept."""


@dataclass(frozen=True)
class Observation:
    """Attention on one input.

    Attributes:
        statistics: of every row, head and layer, with what each key receives.
        census: what kind of head each one is.
        bound: entropy beside what it cannot fall below; None where attention is no softmax.
        sinks: keys that many heads park on.
        dispersion: entropy against the length of the context; None for images, padded or very short texts.
        tokens: the first example's tokens as text; None for images and without a tokenizer.
        patterns: of the first example; None where it has more than :data:`PATTERNS` positions.
        causal: whether queries look back only.
        complete: False where it was stopped before all of this was there.
        notes: sentences for a person.
    """

    statistics: Statistics
    census: Census
    bound: EntropyBound | None = None
    sinks: Sinks | None = None
    dispersion: Dispersion | None = None
    tokens: list[str] | None = None
    patterns: Float[Tensor, "layer head query key"] | None = None
    causal: bool = True
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.statistics.model

    def to_json(self) -> dict[str, Any]:
        """Everything but single rows and patterns, as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "tokens": self.tokens,
            "statistics": self.statistics.to_dict(),
            "census": self.census.to_dict(),
            "bound": None if self.bound is None else _bound(self.bound),
            "sinks": None if self.sinks is None else _sinks(self.sinks, self.tokens),
            "dispersion": None if self.dispersion is None else _dispersion(self.dispersion),
            "complete": self.complete,
            "notes": list(self.notes),
        }


def _bound(bound: EntropyBound) -> dict[str, Any]:
    return {
        "entropy": plain(bound.entropy),
        "by_rows": plain(bound.by_rows),
        "by_weights": plain(bound.by_weights),
        "theorem": bound.theorem,
    }


def _sinks(sinks: Sinks, tokens: list[str] | None) -> dict[str, Any]:
    return {
        "eps": sinks.eps,
        "first": plain(sinks.first),
        "found": plain(sinks.found),
        "tokens": [
            {
                "example": one.example,
                "position": one.position,
                "token": None if tokens is None or one.example else tokens[one.position],
                "share": one.share,
                "weight": one.weight,
            }
            for one in sinks.tokens
        ],
    }


def _dispersion(found: Dispersion) -> dict[str, Any]:
    parts = {key: plain(getattr(found, key)) for key in ("entropy", "largest", "entropy_floor", "largest_ceiling")}
    return {"lengths": list(found.lengths), "rows": list(found.rows), "adaptive": found.adaptive, **parts}
