"""What lies in the residual stream of a compiled program: variables, their values and their dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.circuits.known.expression import RASPExpr, Value

ONE, BOS = 0, 1
"""The first two dimensions: 1 everywhere, and 1 at the token that the compiler puts in front."""
BOS_NAME = "compiler_bos"
# Numbers closer than this are one value: fractions that are added come out a rounding error apart.
SAME = 1e-6
MOST = 50_000
Varies = Literal["tokens", "length", "never"]


@dataclass(eq=False)
class Variable:
    """One variable of a compiled program.

    Attributes:
        name: what its labels start with.
        values: those that it may have, without None: one dimension each, or of a numerical variable the numbers.
        numerical: it is one dimension that holds the number.
        optional: it may be None, and then all its dimensions are 0.
        start: its first dimension.
        writer: the node of the graph that writes it.
        varies: what its value at a position depends on: on the tokens, on no more than the length of the input, or
            on nothing, as that of a position does.
    """

    name: str
    values: list[Value]
    numerical: bool = False
    optional: bool = False
    start: int = -1
    writer: str = "input"
    varies: Varies = "tokens"

    @property
    def size(self) -> int:
        """How many dimensions it takes."""
        return 1 if self.numerical else len(self.values)

    @property
    def labels(self) -> list[str]:
        """Its dimensions in words; values that read alike are told apart by how Python writes them."""
        if self.numerical:
            return [self.name]
        plain = [str(value) for value in self.values]
        named = plain if len(set(plain)) == len(plain) else [repr(value) for value in self.values]
        return [f"{self.name}:{text}" for text in named]

    @property
    def cases(self) -> list[Value]:
        """Its values, and None where it may be None."""
        return [*self.values, None] if self.optional else self.values


def order(values: Iterable[Value]) -> list[Value]:
    """Values without repetition, numbers first and by size, others by their text."""
    kept = list(dict.fromkeys(values))
    return sorted(kept, key=lambda x: (0, x, "") if isinstance(x, int | float) else (1, 0, repr(x)))


def merged(numbers: Iterable[float]) -> list[float]:
    """Numbers by size; of those that only rounding tells apart the one nearest to 0."""
    kept: list[float] = []
    for x in sorted(set(numbers)):
        if not kept or x - kept[-1] > SAME:
            kept.append(x)
        elif abs(x) < abs(kept[-1]):
            kept[-1] = x
    return kept


def averages(values: Sequence[float], most: int) -> list[float]:
    """Every mean of 1 to ``most`` of the values, and 0."""
    sums, found = [0.0], [0.0]
    for n in range(1, most + 1):
        sums = merged(total + x for total, x in itertools.product(sums, values))
        found += [total / n for total in sums]
    return merged(found)


def table(
    expr: RASPExpr, f: Callable[..., Value], inputs: Sequence[Sequence[Value]], numerical: bool
) -> dict[tuple[Value, ...], Value]:
    """What a function gives for each combination of values; None where it fails.

    Whether a value on which it fails occurs is another question, which :mod:`workbench.circuits.known.check` answers.

    Raises:
        ValueError: it gives what is no value, never gives any, or the combinations are too many.
    """
    n = 1
    for values in inputs:
        n *= len(values)
    if n > MOST:
        raise ValueError(f"{expr.name}: its inputs have {n:,} combinations of values; more than {MOST:,} are too many.")
    found = {}
    for given in itertools.product(*inputs):
        try:
            value = f(*given)
        except Exception:
            value = None
        if value is not None:
            check_value(expr, value, given, numerical)
        found[given] = value
    if all(value is None for value in found.values()):
        raise ValueError(f"{expr.name}: its function is undefined, or None, on every value of its input.")
    return found


def check_value(expr: RASPExpr, value: Any, given: tuple[Value, ...], numerical: bool) -> None:
    """Refuse what a variable cannot hold.

    Raises:
        ValueError: naming the node.
    """
    of = " and ".join(map(repr, given))
    try:
        hash(value)
    except TypeError:
        raise ValueError(f"{expr.name}: its function gives {value!r} of {of}, which cannot be hashed.") from None
    if isinstance(value, RASPExpr) or value != value:
        raise ValueError(f"{expr.name}: its function gives {value!r} of {of}, which is no value.")
    if numerical and not isinstance(value, int | float):
        raise ValueError(f"{expr.name} is numerical, but its function gives {value!r} of {of}.")
