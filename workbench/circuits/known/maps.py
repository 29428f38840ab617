"""Nodes of a program that an MLP computes: functions of the values at one position."""

from __future__ import annotations

import torch

from workbench.circuits.known.expression import Value
from workbench.circuits.known.nodes import Node, Part, Units, put, steps
from workbench.circuits.known.sops import LinearSequenceMap, Map, SequenceMap
from workbench.circuits.known.variables import ONE, Variable, merged, order, table


class MapNode(Node):
    """A function of one variable: a unit for each value that it gives, or steps where its input is a number."""

    def __init__(self, expr: Map, inputs: list[Node], name: str, numerical: bool) -> None:
        source = inputs[0].out
        found = table(expr, expr.f, [source.values], numerical)
        self.gives = {given: value for (given,), value in found.items()}
        super().__init__(expr, _result(name, found, numerical, source.optional), inputs, has_mlp=True)

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """Its input, where two values of it give different ones."""
        source = self.inputs[0].out
        return [("mlp", source)] if len({self.gives.get(case) for case in source.cases}) > 1 else []

    @property
    def constants(self) -> set[Part]:
        """``one``, where thresholds are needed."""
        return {"mlp"} if self.inputs[0].out.numerical else set()

    def make_units(self, d: int) -> Units:
        """Weights for each value of the input."""
        source = self.inputs[0].out
        if source.numerical:
            return steps(d, source, self.gives, self.out)
        given = [value for value in dict.fromkeys(self.gives.values()) if value is not None]
        into, out = torch.zeros(len(given), d), torch.zeros(d, len(given))
        for i, value in enumerate(source.values):
            if self.gives[value] is not None:
                into[given.index(self.gives[value]), source.start + i] = 1
        for unit, value in enumerate(given):
            put(out, unit, self.out, value)
        return Units(into, out)


class SequenceMapNode(Node):
    """A function of two variables: a unit for each pair of values, on where both are there."""

    def __init__(self, expr: SequenceMap, inputs: list[Node], name: str) -> None:
        one, two = (node.out for node in inputs)
        self.gives = _pairs(expr, one, two, False)
        super().__init__(expr, _result(name, self.gives, False, one.optional or two.optional), inputs, has_mlp=True)

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """Each input of which two values give different ones beside the same value of the other."""
        one, two = (node.out for node in self.inputs)
        if one is two:
            return [("mlp", one)] if len({self.gives.get((x, x)) for x in one.cases}) > 1 else []
        rows = {tuple(self.gives.get((x, y)) for y in two.cases) for x in one.cases}
        columns = {tuple(self.gives.get((x, y)) for x in one.cases) for y in two.cases}
        found: list[tuple[Part, Variable]] = []
        found += [("mlp", one)] if len(rows) > 1 else []
        return found + ([("mlp", two)] if len(columns) > 1 else [])

    @property
    def constants(self) -> set[Part]:
        """``one``, which is taken from the sum of the two."""
        return {"mlp"} if self.inputs[0].out is not self.inputs[1].out else set()

    def make_units(self, d: int) -> Units:
        """``relu(x + y - 1)`` for each pair of values that gives one."""
        one, two = (node.out for node in self.inputs)
        pairs = [(x, y) for x, y in self.gives if self.gives[x, y] is not None]
        into, out = torch.zeros(len(pairs), d), torch.zeros(d, len(pairs))
        at_one = {x: one.start + i for i, x in enumerate(one.values)}
        at_two = {y: two.start + i for i, y in enumerate(two.values)}
        for unit, (x, y) in enumerate(pairs):
            into[unit, at_one[x]] = 1
            if one is not two:
                into[unit, at_two[y]] = 1
                into[unit, ONE] = -1
            put(out, unit, self.out, self.gives[x, y])
        return Units(into, out)


class LinearNode(Node):
    """A weighted sum of two numbers: a unit for either sign of each."""

    def __init__(self, expr: LinearSequenceMap, inputs: list[Node], name: str) -> None:
        one, two = (node.out for node in inputs)
        self.factors = float(expr.fst_fac), float(expr.snd_fac)
        super().__init__(expr, _result(name, _pairs(expr, one, two, True), True, False), inputs, has_mlp=True)

    @property
    def reads(self) -> list[tuple[Part, Variable]]:
        """Each input with a factor other than 0."""
        pairs = zip(self.inputs, self.factors, strict=True)
        return [("mlp", node.out) for node, factor in pairs if factor and len(node.out.values) > 1]

    def make_units(self, d: int) -> Units:
        """``relu(x) - relu(-x)`` is x."""
        into, out = torch.zeros(4, d), torch.zeros(d, 4)
        for i, (node, factor) in enumerate(zip(self.inputs, self.factors, strict=True)):
            for unit, sign in ((2 * i, 1), (2 * i + 1, -1)):
                into[unit, node.out.start] = sign
                out[self.out.start, unit] = sign * factor
        return Units(into, out)


def _pairs(expr: SequenceMap, one: Variable, two: Variable, numerical: bool) -> dict[tuple[Value, ...], Value]:
    """What the function gives for each pair of values; of one variable with itself, only for equal ones."""
    if one is not two:
        return table(expr, expr.f, [one.values, two.values], numerical)
    return {(x, x): value for (x,), value in table(expr, lambda x: expr.f(x, x), [one.values], numerical).items()}


def _result(name: str, gives: dict[tuple[Value, ...], Value], numerical: bool, optional: bool) -> Variable:
    found = [value for value in gives.values() if value is not None]
    values = merged(found) if numerical else order(found)
    return Variable(name, values, numerical, not numerical and (optional or len(found) < len(gives)))
