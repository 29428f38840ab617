"""What the programs of the library compute, in plain Python and without RASP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

Values = list[Any]
Oracle = Callable[[Sequence[Any]], Values]


def everywhere(f: Callable[[Sequence[Any]], Any]) -> Oracle:
    """One value of the whole input, at every position."""
    return lambda xs: [f(xs)] * len(xs)


def each(f: Callable[[Any], Any]) -> Oracle:
    """A function of each token."""
    return lambda xs: [f(x) for x in xs]


def placed(f: Callable[[Sequence[Any], int], Any]) -> Oracle:
    """A function of the input and a position."""
    return lambda xs: [f(xs, i) for i in range(len(xs))]


def shares(opening: Any, closing: Any = None) -> Oracle:
    """Share of a token up to each position, minus that of another."""

    def share(xs: Sequence[Any], i: int) -> float:
        before = list(xs[: i + 1])
        return (before.count(opening) - (before.count(closing) if closing is not None else 0)) / len(before)

    return placed(share)


def balanced(*pairs: str) -> Oracle:
    """Whether no kind of bracket is ever closed more often than opened, and all are closed at the end."""

    def check(xs: Sequence[Any]) -> bool:
        for pair in pairs:
            depth = 0
            for x in xs:
                depth += (x == pair[0]) - (x == pair[1])
                if depth < 0:
                    return False
            if depth:
                return False
        return True

    return everywhere(check)


def sort_freq(xs: Sequence[Any]) -> Values:
    """The most frequent first; Python's sort keeps the order of equals."""
    return sorted(xs, key=lambda x: -list(xs).count(x))


def shift_by(offset: int) -> Oracle:
    """None where there is nothing that far before."""
    return placed(lambda xs, i: xs[i - offset] if 0 <= i - offset < len(xs) else None)


def detect_pattern(pattern: str) -> Oracle:
    """Whether the pattern ends at a position."""
    n = len(pattern)
    return placed(lambda xs, i: None if i < n - 1 else list(xs[i - n + 1 : i + 1]) == list(pattern))


def with_previous(f: Callable[[Any, Any], Any]) -> Oracle:
    """A function of a token and the one before."""
    return placed(lambda xs, i: f(xs[i], xs[i - 1]) if i else None)


def local_maximum(xs: Sequence[Any], i: int) -> bool | None:
    """None at the ends."""
    return None if i in (0, len(xs) - 1) else xs[i] > xs[i - 1] and xs[i] > xs[i + 1]


def induction(xs: Sequence[Any], i: int) -> Any:
    """What followed the last occurrence before this one."""
    earlier = [j for j in range(i) if xs[j] == xs[i]]
    return xs[earlier[-1] + 1] if earlier else None


def indirect_object(names: Collection[Any]) -> Oracle:
    """The other name where one has occurred twice by then."""

    def answer(xs: Sequence[Any], i: int) -> Any:
        seen = [x for x in xs[: i + 1] if x in names]
        twice = {x for x in seen if seen.count(x) > 1}
        others = [x for x in seen if x not in twice]
        return others[0] if twice and others else None

    return placed(answer)


def swapped(i: int, n: int) -> int:
    """The other position of a pair; the last one where it has none."""
    return i ^ 1 if i ^ 1 < n else i
