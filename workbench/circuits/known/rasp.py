"""The RASP language, under the names and with the meanings that Tracr gives it.

A program is an expression. A *sequence operator* (:class:`SOp`) makes of a list of tokens a list of as many values, a
:class:`Selector` makes of it a matrix of booleans ``[query][key]``. Called on a list, an expression interprets itself;
:func:`workbench.circuits.known.compile_program` makes a transformer of it.

RASP: Weiss et al. 2021, arXiv 2106.06981. Tracr: Lindner et al. 2023, arXiv 2301.05062. A program that was written for
Tracr needs another import and nothing else: ``from workbench.circuits.known import rasp``.
"""

from __future__ import annotations

from typing import TypeVar

from workbench.circuits.known.expression import Encoding, RASPExpr, Value, annotate
from workbench.circuits.known.interpret import evaluate
from workbench.circuits.known.selectors import (
    Aggregate,
    Comparison,
    ConstantSelector,
    Predicate,
    Select,
    Selector,
    SelectorAnd,
    SelectorNot,
    SelectorOr,
    SelectorWidth,
    selector_and,
    selector_not,
    selector_or,
)
from workbench.circuits.known.sops import (
    ConstantSOp,
    Full,
    IndicesType,
    LengthType,
    LinearSequenceMap,
    Map,
    SequenceMap,
    SOp,
    TokensType,
    indices,
    length,
    sop_not,
    tokens,
)

__all__ = [
    "Aggregate",
    "Comparison",
    "ConstantSOp",
    "ConstantSelector",
    "Encoding",
    "Full",
    "IndicesType",
    "LengthType",
    "LinearSequenceMap",
    "Map",
    "Predicate",
    "RASPExpr",
    "SOp",
    "Select",
    "Selector",
    "SelectorAnd",
    "SelectorNot",
    "SelectorOr",
    "SelectorWidth",
    "SequenceMap",
    "TokensType",
    "Value",
    "annotate",
    "categorical",
    "evaluate",
    "get_encoding",
    "indices",
    "is_categorical",
    "is_numerical",
    "length",
    "numerical",
    "selector_and",
    "selector_not",
    "selector_or",
    "sop_not",
    "tokens",
]

Op = TypeVar("Op", bound=SOp)


def numerical(sop: Op) -> Op:
    """The same operator as one dimension that holds the number."""
    return annotate(sop, encoding=Encoding.NUMERICAL)


def categorical(sop: Op) -> Op:
    """The same operator with one dimension for each value, which is the default."""
    return annotate(sop, encoding=Encoding.CATEGORICAL)


def get_encoding(sop: SOp) -> Encoding:
    """How an operator lies in the residual stream."""
    encoding: Encoding = sop.annotations["encoding"]
    return encoding


def is_numerical(sop: SOp) -> bool:
    """Whether it is one dimension that holds the number."""
    return get_encoding(sop) is Encoding.NUMERICAL


def is_categorical(sop: SOp) -> bool:
    """Whether it has one dimension for each value."""
    return get_encoding(sop) is Encoding.CATEGORICAL
