"""Finding things by name, and saying what was probably meant when there is no such name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

_MOST_LISTED = 12


class Keyed(Protocol):
    """Anything with a name."""

    @property
    def key(self) -> str:
        """The name."""
        ...


T = TypeVar("T", bound=Keyed)


def pick(records: Iterable[T], key: str, what: str) -> T:
    """The record called ``key``.

    Args:
        records: where to look.
        key: the name.
        what: what a record is, such as ``task``.

    Raises:
        ValueError: there is none; the message suggests the closest.
    """
    known = list(records)
    for record in known:
        if record.key == key:
            return record
    raise ValueError(f"There is no {what} '{key}'; {meant(key, [record.key for record in known])}")


def meant(name: str, known: Sequence[str], most: int = 1) -> str:
    """``did you mean 'x'?`` with up to ``most`` close names, or a list of what there is."""
    plain = {option.lower(): option for option in known}
    close = difflib.get_close_matches(name.lower(), plain, most, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(repr(plain[found]) for found in close)}?"
    if not known:
        return "there are none."
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return f"known are {', '.join(known[:_MOST_LISTED])}{more}."
