"""What a RASP program means: the values that each expression has on an input, without any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workbench.circuits.known.expression import RASPExpr, Value
from workbench.circuits.known.selectors import (
    Aggregate,
    ConstantSelector,
    Select,
    SelectorAnd,
    SelectorNot,
    SelectorOr,
    SelectorWidth,
)
from workbench.circuits.known.sops import (
    ConstantSOp,
    Full,
    IndicesType,
    LengthType,
    Map,
    SequenceMap,
    TokensType,
)


class UndefinedFunctionError(ValueError):
    """A function of the program fails on a value that it meets."""


def evaluate(expr: RASPExpr, xs: Sequence[Value], causal: bool = False) -> list[Any]:
    """What an expression makes of an input.

    Args:
        expr: the expression.
        xs: the tokens.
        causal: no query looks at a later key, as in a model with causal attention.

    Returns:
        One value a position; of a selector one row of booleans a query.

    Raises:
        UndefinedFunctionError: a function or predicate fails on a value; the message names the expression.
        ValueError: None is compared, texts are averaged, or a constant has another length than the input.
    """
    return _Evaluation(xs, causal).of(expr)


class _Evaluation:
    """One input; every expression is worked out once."""

    def __init__(self, xs: Sequence[Value], causal: bool) -> None:
        self.xs, self.causal = list(xs), causal
        self.known: dict[int, list[Any]] = {}

    def of(self, expr: RASPExpr) -> list[Any]:
        if id(expr) not in self.known:
            self.known[id(expr)] = self._select(expr) if isinstance(expr, _SELECTORS) else self._values(expr)
        return self.known[id(expr)]

    def _values(self, expr: RASPExpr) -> list[Value]:
        n = len(self.xs)
        match expr:
            case TokensType():
                return self.xs
            case IndicesType():
                return list(range(n))
            case LengthType():
                return [n] * n
            case Full():
                return [expr.fill] * n
            case ConstantSOp():
                _check_length(expr, expr.value, n)
                return list(expr.value)
            case Map():
                return [None if x is None else apply(expr, expr.f, x) for x in self.of(expr.inner)]
            case SequenceMap():
                pairs = zip(self.of(expr.fst), self.of(expr.snd), strict=True)
                return [None if x is None or y is None else apply(expr, expr.f, x, y) for x, y in pairs]
            case SelectorWidth():
                return [sum(row) for row in self.of(expr.selector)]
            case Aggregate():
                values = self.of(expr.sop)
                return [
                    _mean(expr, [v for v, taken in zip(values, row, strict=True) if taken])
                    for row in self.of(expr.selector)
                ]
        raise TypeError(f"{expr.name} is no expression that can be evaluated.")

    def _select(self, expr: RASPExpr) -> list[list[bool]]:
        rows = self._matrix(expr)
        return [[s and k <= q for k, s in enumerate(row)] for q, row in enumerate(rows)] if self.causal else rows

    def _matrix(self, expr: RASPExpr) -> list[list[bool]]:
        match expr:
            case Select():
                keys = self.of(expr.keys)
                return [[bool(apply(expr, expr.predicate, k, q)) for k in keys] for q in self.of(expr.queries)]
            case ConstantSelector():
                _check_length(expr, expr.value, len(self.xs))
                return [list(row) for row in expr.value]
            case SelectorAnd():
                return _both(self.of(expr.fst), self.of(expr.snd), lambda x, y: x and y)
            case SelectorOr():
                return _both(self.of(expr.fst), self.of(expr.snd), lambda x, y: x or y)
            case SelectorNot():
                return [[not x for x in row] for row in self.of(expr.inner)]
        raise TypeError(f"{expr.name} is no selector that can be evaluated.")


_SELECTORS = (Select, ConstantSelector, SelectorAnd, SelectorOr, SelectorNot)


def apply(expr: RASPExpr, f: Callable[..., Value], *values: Value) -> Value:
    """``f`` of values that are there.

    Raises:
        UndefinedFunctionError: it fails on them.
        ValueError: it fails, and one of them is None.
    """
    try:
        return f(*values)
    except Exception as error:
        if any(value is None for value in values):
            raise ValueError(f"{expr.name} meets None, which its predicate does not compare ({error}).") from error
        raise UndefinedFunctionError(undefined(expr, values, error)) from error


def undefined(expr: RASPExpr, values: Sequence[Value], error: Exception) -> str:
    """The sentence about a function that fails."""
    met = " and ".join(map(repr, values))
    return f"{expr.name}: its function is undefined on {met}, which occurs ({type(error).__name__}: {error})."


def _mean(expr: Aggregate, found: list[Value]) -> Value:
    if len(found) < 2:
        return found[0] if found else expr.default
    if all(isinstance(x, int | float) for x in found):
        return sum(found) / len(found)
    raise ValueError(
        f"{expr.name} selects several values ({', '.join(map(repr, found))}) and can average only numbers."
    )


def _both(one: list[list[bool]], two: list[list[bool]], combine: Callable[[bool, bool], bool]) -> list[list[bool]]:
    return [[combine(x, y) for x, y in zip(a, b, strict=True)] for a, b in zip(one, two, strict=True)]


def _check_length(expr: RASPExpr, value: Sequence[Any], n: int) -> None:
    if getattr(expr, "check_length", True) and len(value) != n:
        raise ValueError(f"{expr.name} has {len(value)} values, and the input {n} tokens.")
