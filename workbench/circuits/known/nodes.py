"""Nodes of a program that is being compiled: what each reads, what it writes, and the weights that do so.

Shapes in comments: d_model d, dimensions of a head e, hidden units h.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.known.expression import Value
from workbench.circuits.known.selectors import Aggregate, Select
from workbench.circuits.known.sops import SOp
from workbench.circuits.known.variables import BOS, ONE, Variable, averages

Part = Literal["q", "k", "v", "mlp"]
COLDNESS = 100.0
"""Score of a key that is looked at; with it, softmax leaves less than 1e-21 to any other (Tracr's number)."""


@dataclass
class Head:
    """Weights of one attention head: ``q``, ``k``, ``v`` [e, d] and ``o`` [d, e]."""

    q: Float[Tensor, "d_head d_model"]
    k: Float[Tensor, "d_head d_model"]
    v: Float[Tensor, "d_head d_model"]
    o: Float[Tensor, "d_model d_head"]


@dataclass
class Units:
    """Hidden units of an MLP: what goes in [h, d] and what comes out [d, h]."""

    into: Float[Tensor, "units d_model"]
    out: Float[Tensor, "d_model units"]


@dataclass(eq=False)
class Node:
    """One operator of the program.

    Attributes:
        expr: the operator.
        out: the variable that it is.
        inputs: the nodes that it is made of.
        layer, head: where it is computed.
        attends, has_mlp: whether it needs a head, and hidden units.
        depth: the longest way from an input to it, in operators.
    """

    expr: SOp
    out: Variable
    inputs: list[Node] = field(default_factory=list)
    layer: int = -1
    head: int = -1
    attends: bool = False
    has_mlp: bool = False
    depth: int = 0

    def __post_init__(self) -> None:
        self.depth = 1 + max(node.depth for node in self.inputs) if self.inputs else 0

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """The variables of which it tells apart two values, and through what."""
        return []

    @property
    def variables(self) -> list[Variable]:
        """What it writes."""
        return [self.out]

    @property
    def constants(self) -> set[Part]:
        """Through what it reads dimensions that are the same on every input."""
        return set()

    def make_head(self, d: int) -> Head:
        """Its attention head in a model of width ``d``."""
        raise NotImplementedError

    def make_units(self, d: int) -> Units:
        """Its hidden units in a model of width ``d``."""
        raise NotImplementedError


class _Attending(Node):
    """A node with a head: keys and queries are ``inputs[0]`` and ``inputs[1]``."""

    def select(self, select: Select) -> None:
        """Work out which query looks at which key, for every pair of values."""
        keys, queries = (node.out for node in self.inputs[:2])
        self.looks = torch.tensor([[_holds(select, k, q) for k in keys.cases] for q in queries.cases]).int()

    def _tells_apart(self) -> list[tuple[Part, Variable]]:
        keys, queries = (node.out for node in self.inputs[:2])
        found: list[tuple[Part, Variable]] = []
        if len({*map(tuple, self.looks.tolist())}) > 1:
            found.append(("q", queries))
        if len({*map(tuple, self.looks.T.tolist())}) > 1:
            found.append(("k", keys))
        return found

    def _scores(self, d: int, at_first: float) -> tuple[Tensor, Tensor]:
        """Query and key weights [e, d]: a dimension for each key, and one for the first token.

        The first token gets ``at_first`` of a key's score from every query.
        """
        keys, queries = (node.out for node in self.inputs[:2])
        e = keys.size + 1
        q, k = torch.zeros(e, d), torch.zeros(e, d)
        looks = self.looks[: queries.size, : keys.size].float().T
        q[:-1, queries.start : queries.start + queries.size] = COLDNESS * looks
        q[-1, ONE] = COLDNESS * at_first
        k[torch.arange(keys.size), keys.start + torch.arange(keys.size)] = 1
        k[-1, BOS] = 1
        return q, k


class AggregateNode(_Attending):
    """One head. Half a score for the first token makes it the one that is looked at where nothing is selected."""

    def __init__(self, expr: Aggregate, select: Select, inputs: list[Node], name: str, max_len: int) -> None:
        source = inputs[2].out
        values = averages(source.values, max_len) if source.numerical else source.values
        super().__init__(expr, Variable(name, values, source.numerical), inputs, attends=True)
        self.select(select)
        self.out.optional = not source.numerical and (source.optional or not self._always_looks())

    def _always_looks(self) -> bool:
        """Whether every position certainly looks at one: at itself, or at all."""
        keys, queries = (node.out for node in self.inputs[:2])
        return bool(self.looks.all() or (keys is queries and self.looks.diagonal().all()))

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """Queries, keys and what is aggregated."""
        source = self.inputs[2].out
        carried: list[tuple[Part, Variable]] = [("v", source)] if len(source.cases) > 1 and self.looks.any() else []
        return self._tells_apart() + carried

    @property
    def constants(self) -> set[Part]:
        """The first token's score."""
        return {"q", "k"}

    def make_head(self, d: int) -> Head:
        """Values are copied as they are."""
        source, n = self.inputs[2].out, self.out.size
        q, k = self._scores(d, 0.5)
        v, o = torch.zeros(n, d), torch.zeros(d, n)
        each = torch.arange(n)
        v[each, source.start + each] = 1
        o[self.out.start + each, each] = 1
        return Head(q, k, v, o)


class WidthNode(_Attending):
    """A head and hidden units. The first token is always looked at too, so its share is 1 / (width + 1)."""

    def __init__(self, expr: SOp, select: Select, inputs: list[Node], name: str, max_len: int, numerical: bool) -> None:
        out = Variable(name, list(range(max_len + 1)), numerical)
        super().__init__(expr, out, inputs, attends=True, has_mlp=True)
        self.share = Variable(f"{name}_share", [1 / (1 + width) for width in out.values], numerical=True)
        self.select(select)

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """Queries and keys, then the share."""
        return [*self._tells_apart(), ("mlp", self.share)]

    @property
    def variables(self) -> list[Variable]:
        """The share that its head writes, and the width."""
        return [self.share, self.out]

    @property
    def constants(self) -> set[Part]:
        """The first token, whose share is measured, and ``one`` for the thresholds."""
        return {"q", "k", "v", "mlp"}

    def make_head(self, d: int) -> Head:
        """What is carried is the mark of the first token."""
        q, k = self._scores(d, 1.0)
        v, o = torch.zeros(1, d), torch.zeros(d, 1)
        v[0, BOS] = 1
        o[self.share.start, 0] = 1
        return Head(q, k, v, o)

    def make_units(self, d: int) -> Units:
        """From the share back to the width."""
        return steps(d, self.share, {share: round(1 / share - 1) for share in self.share.values}, self.out)


def _holds(select: Select, key: Value, query: Value) -> bool:
    # None is no dimension: it looks at nothing and is not looked at.
    if key is None or query is None:
        return False
    try:
        return bool(select.predicate(key, query))
    except Exception:
        return False


def put(out: Tensor, column: int, variable: Variable, value: Value, factor: float = 1.0) -> None:
    """Let a hidden unit write ``factor`` times a value; None writes nothing."""
    if value is None:
        return
    if variable.numerical:
        out[variable.start, column] += factor * float(value)
    else:
        out[variable.start + variable.values.index(value), column] += factor


def steps(d: int, source: Variable, gives: dict[float, Value], out: Variable) -> Units:
    """Units that turn a number into a value: a step wherever the value changes between neighbouring numbers.

    A step at t of steepness L is ``relu(L (x - t) + 1/2) - relu(L (x - t) - 1/2)``, which is exact where no number is
    nearer to t than 1 / (2 L). At the first token every unit is 0.
    """
    numbers = sorted(gives)
    changes = [(a, b) for a, b in pairwise(numbers) if _differ(gives[a], gives[b])]
    into, written = torch.zeros(1 + 2 * len(changes), d), torch.zeros(d, 1 + 2 * len(changes))
    into[0, ONE], into[0, BOS] = 1, -1
    put(written, 0, out, gives[numbers[0]])
    for i, (low, high) in enumerate(changes):
        steepness = max(COLDNESS, 2 / (high - low))
        for unit, sign in ((1 + 2 * i, 1), (2 + 2 * i, -1)):
            constant = sign / 2 - steepness * (low + high) / 2
            into[unit, source.start] += steepness
            into[unit, ONE], into[unit, BOS] = constant, -abs(constant) - constant - 2 * steepness
            put(written, unit, out, gives[high], sign)
            put(written, unit, out, gives[low], -sign)
    return Units(into, written)


def _differ(one: Value, other: Value) -> bool:
    return (one is None) != (other is None) or one != other
