"""What the options of the methods take: types, which their signatures say, and ranges of numbers, which are here.

An option means the same in every method that has it, so that a range belongs to its name. Methods, their records and
the page ask here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes.

    Attributes:
        low, high: the least and the largest.
        open: neither is taken itself.
    """

    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether the option takes this number; none takes NaN or an infinite one."""
        if not math.isfinite(value):
            return False
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    @property
    def words(self) -> str:
        """The range as it stands in a sentence, such as ``1 or more``."""
        if math.isfinite(self.high):
            return (
                f"a number {'between' if self.open else 'from'} {self.low} {'and' if self.open else 'to'} {self.high}"
            )
        return f"a number above {self.low}" if self.open else f"{self.low} or more"


RANGES: dict[str, Range] = {
    "steps": Range(1),
    "prompts": Range(1),
    "learning_rate": Range(0, open=True),
    "temperature": Range(0, open=True),
    "threshold": Range(0, open=True),
    "target": Range(0, 1, open=True),
    "sparsity": Range(0),
    "seed": Range(-(2**63), 2**64 - 1),
    "budget": Range(1),
    "share": Range(0, 1, open=True),
    "tolerance": Range(0),
    "rounds": Range(1),
}
"""By option."""


def check_range(option: str, value: float | None, method: str = "") -> None:
    """Refuse a number that an option does not take.

    Args:
        option: one of :data:`RANGES`; any other takes what it likes.
        value: the number; None for the method's own choice.
        method: key of the method, for the message.

    Raises:
        ValueError: naming option, value and range.
    """
    if value is None or option not in RANGES or RANGES[option].holds(value):
        return
    of = f" of the method '{method}'" if method else ""
    raise ValueError(f"The option '{option}'{of} takes {RANGES[option].words}, not {value}.")


def check_value(option: str, value: Any, hint: Any, method: str) -> None:
    """Refuse a value of another type than an option's, and a number out of its range.

    Args:
        option: its name.
        value: as it was given.
        hint: its type.
        method: key of the method, for the message.

    Raises:
        ValueError: naming option, value and what it takes.
    """
    if not _is_a(value, hint):
        takes = _in_words(hint)
        raise ValueError(f"The option '{option}' of the method '{method}' takes {takes}, not {_shown(value)}.")
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_range(option, value, method)


def hints_of(run: Callable[..., Any]) -> Mapping[str, Any]:
    """The types of a method's options, as far as they can be read."""
    try:
        return get_type_hints(run)
    except NameError:  # a name that only type checkers import
        return {}


def _parts(hint: Any) -> tuple[Any, ...]:
    """``T | None`` as its parts, and any other type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; whole numbers are numbers too, and truth values are not."""
    for part in _parts(hint):
        if get_origin(part) is Literal:
            fits = isinstance(value, str) and value in get_args(part)
        elif part is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        elif part is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = part not in (bool, str, NoneType) or isinstance(value, part)
        if fits:
            return True
    return False


def _in_words(hint: Any) -> str:
    """What a type admits, for people."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    found = [", ".join(get_args(p)) if get_origin(p) is Literal else words.get(p, str(p)) for p in _parts(hint)]
    return " or ".join(found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["RANGES", "Range", "check_range", "check_value", "hints_of"]
