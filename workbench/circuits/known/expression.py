"""What every expression of a RASP program has: a name, annotations, and that it can be called."""

from __future__ import annotations

import copy
import enum
import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

Value = Any
"""None, a number, a text, a boolean, or a tuple of them."""
Expr = TypeVar("Expr", bound="RASPExpr")
_numbers = itertools.count(1)


class Encoding(enum.Enum):
    """How a sequence operator lies in the residual stream: one dimension a value, or one that holds the number."""

    CATEGORICAL = "categorical"
    NUMERICAL = "numerical"


class RASPExpr:
    """What sequence operators and selectors share: a name, annotations, and that they can be called."""

    default_name = "expression"

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}
        self.unique_id = next(_numbers)

    @property
    def children(self) -> list[RASPExpr]:
        """The expressions that this one is made of."""
        return []

    @property
    def annotations(self) -> dict[str, Any]:
        """``name`` and ``encoding``, by default categorical, and what :meth:`annotated` added."""
        return {"name": self.default_name, "encoding": Encoding.CATEGORICAL} | self._given

    @property
    def name(self) -> str:
        """How messages and labels call it."""
        return str(self.annotations["name"])

    @property
    def label(self) -> str:
        """The name with a number that no other expression has."""
        return f"{self.name}_{self.unique_id}"

    def copy(self: Expr) -> Expr:
        """The same expression as another node of the program."""
        new = copy.copy(self)
        new._given, new.unique_id = dict(self._given), next(_numbers)
        return new

    def named(self: Expr, name: str) -> Expr:
        """The same under another name."""
        return annotate(self, name=name)

    def annotated(self: Expr, **annotations: Any) -> Expr:
        """The same with further annotations."""
        return annotate(self, **annotations)

    def __call__(self, xs: Sequence[Value]) -> list[Any]:
        """What the expression makes of ``xs``: a list of values, or of a selector a matrix ``[query][key]``."""
        from workbench.circuits.known.interpret import evaluate

        return evaluate(self, xs)


def annotate(expr: Expr, **annotations: Any) -> Expr:
    """A copy with further annotations; one that is there already is replaced."""
    new = expr.copy()
    new._given |= annotations
    return new


def check_kind(expr: RASPExpr, what: str, given: Any, kind: type[RASPExpr]) -> None:
    """Refuse an input that is no expression of a kind.

    Raises:
        TypeError: naming the expression.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{expr.name}: {what} must be a {kind.__name__}, not {given!r}.")


def check_function(expr: RASPExpr, f: Any) -> None:
    """Refuse what is no function of values.

    Raises:
        TypeError: naming the expression.
    """
    if not callable(f) or isinstance(f, RASPExpr):
        raise TypeError(f"{expr.name}: its first argument must be a function of values, not {f!r}.")
