"""From a RASP program to the nodes that are computed, in the order of computation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from workbench.circuits.known.expression import Encoding, RASPExpr, Value
from workbench.circuits.known.maps import LinearNode, MapNode, SequenceMapNode
from workbench.circuits.known.nodes import AggregateNode, Node, WidthNode
from workbench.circuits.known.selectors import (
    Aggregate,
    Comparison,
    Select,
    Selector,
    SelectorAnd,
    SelectorNot,
    SelectorOr,
    SelectorWidth,
    joint,
    selector_not,
)
from workbench.circuits.known.sops import (
    Full,
    IndicesType,
    LengthType,
    LinearSequenceMap,
    Map,
    SequenceMap,
    SOp,
    TokensType,
    tokens,
)
from workbench.circuits.known.variables import BOS_NAME, Variable, order


def check_vocab(vocab: Sequence[Value] | set[Value] | frozenset[Value]) -> list[Value]:
    """The vocabulary as a list; a set is put in order.

    Raises:
        ValueError: it is empty, or a token cannot be hashed, is there twice, or is the compiler's own.
    """
    found: dict[Value, Value] = {}
    for token in order(vocab) if isinstance(vocab, set | frozenset) else vocab:
        try:
            clash = token in found
        except TypeError:
            raise ValueError(f"tokens: {token!r} cannot be a token, for it cannot be hashed.") from None
        if clash:
            raise ValueError(f"tokens: {found[token]!r} and {token!r} in the vocabulary are one value to Python.")
        if token is None or token == BOS_NAME:
            raise ValueError(f"tokens: {token!r} cannot be a token; it has a meaning of its own.")
        found[token] = token
    if not found:
        raise ValueError("tokens: the vocabulary is empty.")
    return list(found)


class Builder:
    """Nodes of one program; each operator becomes one.

    Args:
        vocab: the tokens.
        max_len: the longest input.
    """

    def __init__(self, vocab: list[Value], max_len: int) -> None:
        self.max_len = max_len
        self.tokens = Node(tokens, Variable("tokens", vocab))
        self.indices = Node(tokens, Variable("indices", list(range(max_len))))
        self.nodes: list[Node] = []
        self._of: dict[int, Node] = {}
        self._names = Counter(["one", "tokens", "indices"])
        self._length: Node | None = None

    def node(self, expr: RASPExpr) -> Node:
        """The node of an operator.

        Raises:
            ValueError: it, or what it is made of, cannot be compiled; the message names the operator.
        """
        if id(expr) not in self._of:
            self._of[id(expr)] = self._make(expr)
        return self._of[id(expr)]

    def _make(self, expr: RASPExpr) -> Node:
        if isinstance(expr, TokensType | IndicesType):
            if _numerical(expr):
                raise ValueError(f"{expr.name} is numerical; {expr!r} can only be categorical. Map it first.")
            return self.tokens if isinstance(expr, TokensType) else self.indices
        if isinstance(expr, LengthType):
            self._length = self._length or self._made(expr)
            return self._length
        return self._made(expr)

    def _made(self, expr: RASPExpr) -> Node:
        node = self._computed(expr)
        self.nodes.append(node)
        return node

    def _computed(self, expr: RASPExpr) -> Node:
        match expr:
            case LengthType():
                everything = Select(tokens, tokens, Comparison.TRUE)
                return WidthNode(expr, everything, [self.tokens] * 2, self._name(expr), self.max_len, _numerical(expr))
            case Full():
                if _numerical(expr):
                    raise ValueError(f"{expr.name} is numerical; a Full can only be categorical. Map it first.")
                return Node(expr, Variable(self._name(expr), [expr.fill]))
            case Map():
                return MapNode(expr, [self.node(expr.inner)], self._name(expr), _numerical(expr))
            case LinearSequenceMap():
                inputs = self._alike(expr, [expr.fst, expr.snd], Encoding.NUMERICAL)
                return LinearNode(expr, inputs, self._name(expr))
            case SequenceMap():
                inputs = self._alike(expr, [expr.fst, expr.snd], Encoding.CATEGORICAL)
                return SequenceMapNode(expr, inputs, self._name(expr))
            case SelectorWidth():
                select, ends = self._select(expr.selector)
                return WidthNode(expr, select, ends, self._name(expr), self.max_len, _numerical(expr))
            case Aggregate():
                return self._aggregate(expr)
        raise ValueError(f"{expr.name}: a {type(expr).__name__} can be interpreted, not compiled.")

    def _aggregate(self, expr: Aggregate) -> Node:
        numerical, wanted = _numerical(expr), 0 if _numerical(expr) else None
        if numerical != _numerical(expr.sop):
            raise ValueError(
                f"{expr.name} is {_encoding(expr)}, but what it aggregates, {expr.sop.name}, is {_encoding(expr.sop)}; "
                "both must be the same. Map one of them."
            )
        if expr.default is not wanted and not (numerical and expr.default == 0):
            raise ValueError(
                f"{expr.name} is {_encoding(expr)}, and its default must be {wanted} then, not {expr.default!r}."
            )
        select, ends = self._select(expr.selector)
        source = self.node(expr.sop)
        if numerical and not all(-1 < x < 2 for x in source.out.values):
            raise ValueError(
                f"{expr.name} averages {expr.sop.name}, which has values such as "
                f"{max(source.out.values, key=abs)!r}; only 0, 1 and fractions of them can be averaged."
            )
        return AggregateNode(expr, select, [*ends, source], self._name(expr), self.max_len)

    def _select(self, selector: Selector) -> tuple[Select, list[Node]]:
        """A selector as one Select, and its keys and queries."""
        select = as_select(selector)
        for what, end in (("keys", select.keys), ("queries", select.queries)):
            if _numerical(end):
                raise ValueError(f"{selector.name}: its {what}, {end.name}, are numerical; they must be categorical.")
        return select, [self.node(select.keys), self.node(select.queries)]

    def _alike(self, expr: SOp, inputs: list[SOp], encoding: Encoding) -> list[Node]:
        """Inputs of a node that must all have its encoding, and it this one."""
        for sop in [expr, *inputs]:
            if sop.annotations["encoding"] is not encoding:
                raise ValueError(
                    f"{expr.name}: a {type(expr).__name__} works on {encoding.value} operators only, "
                    f"and {'it' if sop is expr else sop.name} is {_encoding(sop)}."
                )
        return [self.node(sop) for sop in inputs]

    def _name(self, expr: RASPExpr) -> str:
        """The operator's name, with a number if another one has it."""
        self._names[expr.name] += 1
        name, count = expr.name, self._names[expr.name]
        return name if count == 1 else f"{name}_{count}"


def as_select(selector: Selector) -> Select:
    """A selector as one Select.

    Raises:
        ValueError: its parts have different keys or queries.
    """
    if isinstance(selector, Select):
        return selector
    made: Any = None
    if isinstance(selector, SelectorNot):
        made = selector_not(as_select(selector.inner))
    elif isinstance(selector, SelectorAnd):
        made = joint(as_select(selector.fst), as_select(selector.snd), lambda one, two: one and two)
    elif isinstance(selector, SelectorOr):
        made = joint(as_select(selector.fst), as_select(selector.snd), lambda one, two: one or two)
    else:
        raise ValueError(f"{selector.name}: a {type(selector).__name__} can be interpreted, not compiled.")
    if made is None:
        raise ValueError(
            f"{selector.name} combines selectors of different keys or queries, which one head cannot; join them by a "
            "SequenceMap first."
        )
    assert isinstance(made, Select)
    return made.named(selector.name)


def _numerical(expr: RASPExpr) -> bool:
    return expr.annotations["encoding"] is Encoding.NUMERICAL


def _encoding(expr: RASPExpr) -> str:
    return str(expr.annotations["encoding"].value)
