"""What is asked and what is found, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SOURCES: dict[str, str] = {
    "words": "words of the text",
    "tokens": "tokens of the text",
    "patches": "patches of the image",
    "heads": "attention heads",
    "mlps": "MLPs",
    "nodes": "heads and MLPs",
}
"""What ``Request.sources`` may name, and what it is in words."""
BASELINES: dict[str, str] = {
    "zero": "nothing",
    "mean": "the mean over this input's positions",
    "blank": "an input of masks (or padding), or of empty patches",
}
"""What ``Request.baseline`` may name, and what it is in words."""


@dataclass(frozen=True)
class Request:
    """What is asked. Plain data.

    Attributes:
        model: name of the model, as for ``load``.
        text: the text; for a model without a tokenizer numbers of tokens.
        image: for a vision model the number of a sample (``"33"``) or an image file; see also ``given`` of :func:`run`.
        other: the second sentence, for ``similarity``.
        sources: a key of :data:`SOURCES` (of heads and MLPs those before the target), or a list: each a place
            (``a9.h6``, ``m4@-1``, ``input@2-5``, :mod:`workbench.circuits.decomposition.sites`), or a phrase of the
            text (``"not good"``).
        target: ``logit: Mary - John``, ``logit: Mary``, ``class: 7``, ``class: 7 - 1``, ``similarity``, or a place such
            as ``a9.h6<q>@-1``; empty for the model's own answer: the most likely next token against the runner-up, the
            top class against the next, ``similarity`` for an encoder of sentences.
        rule: key of a decomposition rule; empty for ``shapley``.
        baseline: a key of :data:`BASELINES`; empty for ``mean``, which leaves out the first position of a causal
            model: activations there can be hundreds of times as large.
        tree: whether to build the tree of phrases or patches as well (words, tokens and patches only).
    """

    model: str
    text: str = ""
    image: str = ""
    other: str = ""
    sources: str | Sequence[str] = "words"
    target: str = ""
    rule: str = ""
    baseline: str = ""
    tree: bool = False


@dataclass(frozen=True)
class Merge:
    """One step of the tree: two neighbouring groups become one.

    Groups are numbered: sources first (0 to n - 1), then merges in their order (n, n + 1, ...).

    Attributes:
        left, right: numbers of the two groups.
        members: numbers of all sources in the new group, ascending.
        name: the words of the group, or its patches.
        value: what the group gives to the target, in the result's unit.
        interaction: ``value`` less what the two groups give by themselves.
    """

    left: int
    right: int
    members: tuple[int, ...]
    name: str
    value: float
    interaction: float


@dataclass(frozen=True)
class Result:
    """What was found. Plain data, without a model.

    Attributes:
        request: what was asked, with defaults filled in (``target``, ``rule``, ``baseline`` as they were used).
        kind: what the sources are: a key of :data:`SOURCES`, or ``places``.
        names: a name for each source: the word, ``patch (row, column)``, ``a9.h6``, ``m4``.
        places: for each source the places that it is, such as ``("input@3-4",)``.
        values: what each gives to the target, in ``unit``; NaN for those not reached before a stop, and for numbers
            that became too large (``notes`` says so).
        whole: the target's own value on this input.
        together: what all sources together give (one source of them all), of words, tokens, patches and listed sources;
            NaN for others, and where it was not reached.
        target: what was read, in words, such as ``logit of ' Mary' - ' John' at the last position``.
        unit: of the values.
        tree: the merges, where a tree was asked for.
        special: numbers of the sources that are no part of the text (``[CLS]``).
        grid: rows and columns of patches, for an image.
        size: layers of the model and heads of each, for heads, MLPs and nodes.
        image: what a person sees, from 0 to 1 [channel][height][width], for an image.
        complete: whether nothing was left out.
        notes: sentences for a person: what was chosen by default, what was left out.
    """

    request: Request
    kind: str
    names: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    values: tuple[float, ...]
    whole: float
    together: float
    target: str
    unit: str
    tree: tuple[Merge, ...] = ()
    special: tuple[int, ...] = ()
    grid: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    image: tuple[Any, ...] | None = None
    complete: bool = True
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_json`, of what JSON made of it too: null for NaN, lists for tuples."""
        known = {key: tuples(value) for key, value in data.items()}
        known["request"] = Request(**{key: tuples(value) for key, value in data["request"].items()})
        known["tree"] = tuple(Merge(**{k: tuples(v) for k, v in merge.items()}) for merge in data["tree"])
        known["values"] = tuple(math.nan if value is None else value for value in data["values"])
        known |= {key: math.nan for key in ("whole", "together") if data[key] is None}
        return cls(**known)


def tuples(value: Any) -> Any:
    """The value with tuples for its lists."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value
