"""Selectors: which positions each position looks at, and how they are combined."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Sequence
from typing import Any

from workbench.circuits.known.expression import RASPExpr, Value, check_kind
from workbench.circuits.known.sops import Full, SOp


class Comparison(enum.Enum):
    """Predicates ``key ? query`` for :class:`Select`."""

    EQ = "=="
    LT = "<"
    LEQ = "<="
    GT = ">"
    GEQ = ">="
    NEQ = "!="
    TRUE = "True"
    FALSE = "False"

    def __call__(self, key: Value, query: Value) -> bool:
        """Whether ``key ? query`` holds.

        Raises:
            ValueError: one of them is None.
        """
        if key is None or query is None:
            raise ValueError(f"The {'key' if key is None else 'query'} of a comparison '{self.value}' is None.")
        return bool(_COMPARISONS[self](key, query))


_COMPARISONS: dict[Comparison, Callable[[Value, Value], Any]] = {
    Comparison.EQ: operator.eq,
    Comparison.LT: operator.lt,
    Comparison.LEQ: operator.le,
    Comparison.GT: operator.gt,
    Comparison.GEQ: operator.ge,
    Comparison.NEQ: operator.ne,
    Comparison.TRUE: lambda *_: True,
    Comparison.FALSE: lambda *_: False,
}
Predicate = Callable[[Value, Value], bool]


class Selector(RASPExpr):
    """Which keys each query looks at. ``&``, ``|`` and ``~`` combine selectors, into one Select where that can be."""

    default_name = "selector"

    def __and__(self, other: Selector) -> Selector:
        return selector_and(self, other)

    def __or__(self, other: Selector) -> Selector:
        return selector_or(self, other)

    def __invert__(self) -> Selector:
        return selector_not(self)


class Select(Selector):
    """Query looks at key where ``predicate(key, query)`` holds of their values."""

    default_name = "select"

    def __init__(self, keys: SOp, queries: SOp, predicate: Predicate) -> None:
        super().__init__()
        check_kind(self, "its keys", keys, SOp)
        check_kind(self, "its queries", queries, SOp)
        self.keys, self.queries, self.predicate = keys, queries, predicate

    @property
    def children(self) -> list[RASPExpr]:
        """Keys and queries."""
        return [self.keys, self.queries]


class ConstantSelector(Selector):
    """A given matrix, whatever the input; for tests of the interpreter, not compiled."""

    default_name = "constant_selector"

    def __init__(self, value: Sequence[Sequence[bool]], check_length: bool = True) -> None:
        super().__init__()
        self.value, self.check_length = value, check_length


class _Pair(Selector):
    def __init__(self, fst: Selector, snd: Selector) -> None:
        super().__init__()
        check_kind(self, "its first input", fst, Selector)
        check_kind(self, "its second input", snd, Selector)
        self.fst, self.snd = fst, snd

    @property
    def children(self) -> list[RASPExpr]:
        """Both selectors."""
        return [self.fst, self.snd]


class SelectorAnd(_Pair):
    """Where both selectors hold."""

    default_name = "selector_and"


class SelectorOr(_Pair):
    """Where one of two selectors holds."""

    default_name = "selector_or"


class SelectorNot(Selector):
    """Where a selector does not hold."""

    default_name = "selector_not"

    def __init__(self, inner: Selector) -> None:
        super().__init__()
        check_kind(self, "what it negates", inner, Selector)
        self.inner = inner

    @property
    def children(self) -> list[RASPExpr]:
        """What it negates."""
        return [self.inner]


class SelectorWidth(SOp):
    """How many keys each query looks at."""

    default_name = "selector_width"

    def __init__(self, selector: Selector) -> None:
        super().__init__()
        check_kind(self, "what it counts", selector, Selector)
        self.selector = selector

    @property
    def children(self) -> list[RASPExpr]:
        """What it counts."""
        return [self.selector]


class Aggregate(SOp):
    """The value at the key that is looked at, the mean where there are several, ``default`` where there is none."""

    default_name = "aggregate"

    def __init__(self, selector: Selector, sop: SOp, default: Value = None) -> None:
        super().__init__()
        check_kind(self, "its selector", selector, Selector)
        check_kind(self, "what it aggregates", sop, SOp)
        self.selector, self.sop, self.default = selector, sop, default

    @property
    def children(self) -> list[RASPExpr]:
        """Selector and what it aggregates."""
        return [self.selector, self.sop]


def selector_not(inner: Selector, simplify: bool = True) -> Selector:
    """The opposite of a selector; of a Select another Select."""
    if simplify and isinstance(inner, Select):
        predicate = inner.predicate
        return Select(inner.keys, inner.queries, lambda key, query: not predicate(key, query))
    return SelectorNot(inner)


def selector_and(fst: Selector, snd: Selector, simplify: bool = True) -> Selector:
    """Where both hold; one Select where the two have the same keys and queries."""
    joined = joint(fst, snd, lambda one, two: one and two) if simplify else None
    return SelectorAnd(fst, snd) if joined is None else joined


def selector_or(fst: Selector, snd: Selector, simplify: bool = True) -> Selector:
    """Where one of them holds; one Select where the two have the same keys and queries."""
    joined = joint(fst, snd, lambda one, two: one or two) if simplify else None
    return SelectorOr(fst, snd) if joined is None else joined


def joint(fst: Selector, snd: Selector, combine: Callable[[bool, bool], bool]) -> Select | None:
    """One Select for two, or None where their keys or queries differ. A :class:`Full` goes with any other."""
    if not (isinstance(fst, Select) and isinstance(snd, Select)):
        return None
    keys, queries = _common(fst.keys, snd.keys), _common(fst.queries, snd.queries)
    if keys is None or queries is None:
        return None
    one, two = _filled(fst, keys, queries), _filled(snd, keys, queries)
    return Select(keys, queries, lambda key, query: combine(one(key, query), two(key, query)))


def _common(one: SOp, two: SOp) -> SOp | None:
    if one is two or isinstance(two, Full):
        return one
    return two if isinstance(one, Full) else None


def _filled(select: Select, keys: SOp, queries: SOp) -> Predicate:
    """The predicate of a Select for values of other keys and queries: those that a Full stood for are its own."""
    own, predicate = (select.keys, select.queries), select.predicate

    def holds(key: Value, query: Value) -> bool:
        key = own[0].fill if isinstance(own[0], Full) and own[0] is not keys else key
        query = own[1].fill if isinstance(own[1], Full) and own[1] is not queries else query
        return predicate(key, query)

    return holds
