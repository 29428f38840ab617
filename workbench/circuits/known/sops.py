"""Sequence operators that work at each position by itself."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from workbench.circuits.known.expression import RASPExpr, Value, check_function, check_kind


class SOp(RASPExpr):
    """A sequence operator. Python's operators make a :class:`Map` with a constant and a :class:`SequenceMap` with
    another sequence operator."""

    default_name = "sop"
    # Comparing makes a new operator, so that identity is all that tells two apart.
    __hash__ = object.__hash__

    def _with(self, f: Callable[[Value, Value], Value], other: Any) -> SOp:
        return SequenceMap(f, self, other) if isinstance(other, SOp) else Map(lambda x: f(x, other), self)

    def _after(self, f: Callable[[Value, Value], Value], other: Any) -> SOp:
        return Map(lambda x: f(other, x), self)

    def __lt__(self, other: Any) -> SOp:
        return Map(lambda x: x < other, self)

    def __le__(self, other: Any) -> SOp:
        return Map(lambda x: x <= other, self)

    def __gt__(self, other: Any) -> SOp:
        return Map(lambda x: x > other, self)

    def __ge__(self, other: Any) -> SOp:
        return Map(lambda x: x >= other, self)

    def __eq__(self, other: Any) -> SOp:  # type: ignore[override]
        return Map(lambda x: x == other, self)

    def __ne__(self, other: Any) -> SOp:  # type: ignore[override]
        return Map(lambda x: x != other, self)

    def __invert__(self) -> SOp:
        return sop_not(self)

    def __add__(self, other: Any) -> SOp:
        return self._with(operator.add, other)

    def __radd__(self, other: Any) -> SOp:
        return self._after(operator.add, other)

    def __sub__(self, other: Any) -> SOp:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> SOp:
        return self._after(operator.sub, other)

    def __mul__(self, other: Any) -> SOp:
        return self._with(operator.mul, other)

    def __rmul__(self, other: Any) -> SOp:
        return self._after(operator.mul, other)

    def __truediv__(self, other: Any) -> SOp:
        return self._with(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> SOp:
        return self._after(operator.truediv, other)

    def __and__(self, other: Any) -> SOp:
        return self._with(lambda x, y: x and y, other)

    def __rand__(self, other: Any) -> SOp:
        return self._after(lambda x, y: x and y, other)

    def __or__(self, other: Any) -> SOp:
        return self._with(lambda x, y: x or y, other)

    def __ror__(self, other: Any) -> SOp:
        return self._after(lambda x, y: x or y, other)


class TokensType(SOp):
    """The input itself."""

    default_name = "tokens"

    def __repr__(self) -> str:
        return "tokens"


class IndicesType(SOp):
    """Positions, from 0."""

    default_name = "indices"

    def __repr__(self) -> str:
        return "indices"


class LengthType(SOp):
    """How long the input is, at every position."""

    default_name = "length"

    def __repr__(self) -> str:
        return "length"


tokens = TokensType()
indices = IndicesType()
length = LengthType()


class Map(SOp):
    """``f`` of each value; None stays None.

    Args:
        f: function of one value.
        inner: where the values come from.
        simplify: a Map of a Map is one Map of the composed functions.
    """

    default_name = "map"

    def __init__(self, f: Callable[[Value], Value], inner: SOp, simplify: bool = True) -> None:
        super().__init__()
        check_function(self, f)
        check_kind(self, "what it maps", inner, SOp)
        self.f, self.inner = f, inner
        if simplify and isinstance(inner, Map):
            first = inner.f
            self.f, self.inner = lambda x: f(first(x)), inner.inner

    @property
    def children(self) -> list[RASPExpr]:
        """What it maps."""
        return [self.inner]


class SequenceMap(SOp):
    """``f`` of the two values at each position; None where one of them is None."""

    default_name = "sequence_map"

    def __init__(self, f: Callable[[Value, Value], Value], fst: SOp, snd: SOp) -> None:
        super().__init__()
        check_function(self, f)
        check_kind(self, "its first input", fst, SOp)
        check_kind(self, "its second input", snd, SOp)
        self.f, self.fst, self.snd = f, fst, snd

    @property
    def children(self) -> list[RASPExpr]:
        """Both inputs."""
        return [self.fst, self.snd]


class LinearSequenceMap(SequenceMap):
    """``fst_fac * fst + snd_fac * snd`` of two numerical operators."""

    default_name = "linear_sequence_map"

    def __init__(self, fst: SOp, snd: SOp, fst_fac: float, snd_fac: float) -> None:
        super().__init__(lambda x, y: fst_fac * x + snd_fac * y, fst, snd)
        self.fst_fac, self.snd_fac = fst_fac, snd_fac


class Full(SOp):
    """One value at every position."""

    default_name = "full"

    def __init__(self, fill: Value) -> None:
        super().__init__()
        self.fill = fill


class ConstantSOp(SOp):
    """Given values, whatever the input; for tests of the interpreter, not compiled."""

    default_name = "constant_sop"

    def __init__(self, value: Sequence[Value], check_length: bool = True) -> None:
        super().__init__()
        self.value, self.check_length = value, check_length


def sop_not(sop: SOp) -> SOp:
    """``not`` of each value."""
    return Map(operator.not_, sop)
