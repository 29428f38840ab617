"""Reading a known model: its program in lines, what its edges carry, and what it answers to an input."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.circuits.graph import head_of, layer_of, node_of, part_of
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.expression import RASPExpr
from workbench.circuits.known.library import PROGRAMS, Program
from workbench.circuits.known.programs import BundledProgram
from workbench.circuits.known.programs.tasks import END, START
from workbench.circuits.known.selectors import Aggregate, Comparison, Select
from workbench.circuits.known.sops import Full, LinearSequenceMap, Map, SequenceMap
from workbench.circuits.known.variables import BOS, ONE


@dataclass(frozen=True)
class Tried:
    """What a model made of an input.

    Attributes:
        words: the input, as written.
        answers: of the model, one a position.
        right: what they should be, None where nothing is asked; None as a whole where the input is not one that the
            program is meant for.
        note: why there is nothing to compare with, in a sentence.
    """

    words: list[str]
    answers: list[Any]
    right: list[Any] | None
    note: str = ""

    @property
    def errors(self) -> int:
        """Positions where something is asked and the answer is wrong."""
        pairs = zip(self.answers, self.right or [None] * len(self.answers), strict=True)
        return sum(right is not None and not _same(answer, right) for answer, right in pairs)


def compiled_of(made: Any) -> Compiled | None:
    """The compiled model itself, or the one whose circuit a trained model has."""
    found = made if isinstance(made, Compiled) else getattr(made, "high", None)
    return found if isinstance(found, Compiled) else None


# -- the program ---------------------------------------------------------------------------------------------


def listing(expr: RASPExpr) -> str:
    """A RASP program as one line for each of its expressions, in the order of computation.

    Functions that were given as Python functions are written ``f``.
    """
    lines: list[str] = []
    names: dict[tuple[Any, ...], str] = {}
    taken: dict[str, int] = {}

    def name(one: RASPExpr) -> str:
        inner = [name(child) for child in one.children]
        if not inner and not isinstance(one, Full):
            return one.name
        text, functions = _written(one, inner)
        # The same expression, written twice in the program, is one line; two unlike functions are not the same.
        key = (text, *map(id, functions))
        if key not in names:
            taken[one.name] = taken.get(one.name, 0) + 1
            names[key] = one.name if taken[one.name] == 1 else f"{one.name}_{taken[one.name]}"
            lines.append(f"{names[key]} = {text}")
        return names[key]

    last = name(expr)
    return "\n".join(lines) if lines else last


def _written(one: RASPExpr, inner: Sequence[str]) -> tuple[str, list[Callable[..., Any]]]:
    """An expression in terms of the names of what it is made of, and the Python functions in it."""
    kind = type(one).__name__
    if isinstance(one, Full):
        return f"{kind}({one.fill!r})", []
    if isinstance(one, Select):
        if isinstance(one.predicate, Comparison):
            return f"{kind}({', '.join(inner)}, {one.predicate.name})", []
        return f"{kind}({', '.join(inner)}, f)", [one.predicate]
    if isinstance(one, Aggregate):
        rest = [] if one.default is None else [f"default={one.default!r}"]
        return f"{kind}({', '.join([*inner, *rest])})", []
    if isinstance(one, LinearSequenceMap):
        return f"{kind}({', '.join(inner)}, {one.fst_fac:g}, {one.snd_fac:g})", []
    if isinstance(one, Map | SequenceMap):
        return f"{kind}(f, {', '.join(inner)})", [one.f]
    return f"{kind}({', '.join(inner)})", []


def source_of(program: BundledProgram, module: str) -> str | None:
    """The function of a module in a learned program's file; None for inputs and for what no answer depends on."""
    for node in ast.parse(program.text).body:
        if isinstance(node, ast.FunctionDef) and node.name == module:
            return ast.get_source_segment(program.text, node)
    return None


# -- what edges carry ----------------------------------------------------------------------------------------


def carried(high: Compiled, edge: str) -> dict[str, list[str]]:
    """What an edge of a compiled model carries: the values by variable, such as ``{"tokens": ["a", "b"]}``.

    Those are the dimensions of the residual stream that its writer writes and its reader reads, but for the constant
    and the mark of the token in front. A number is one dimension, so that there are no values to list.

    Raises:
        ValueError: the model has no such edge.
    """
    high.circuit.graph.edge(edge)
    writer, _, reader = edge.partition("->")
    both = _writes(high, writer) & _reads(high, reader)
    found: dict[str, list[str]] = {}
    for i in both.nonzero().flatten().tolist():
        if i not in (ONE, BOS):
            variable, _, value = high.labels[i].partition(":")
            found.setdefault(variable, []).extend([value] if value else [])
    return found


def _writes(high: Compiled, writer: str) -> Tensor:
    """Dimensions that a node writes."""
    model, layer, place = high.model, layer_of(writer), head_of(writer)
    if layer is None:
        positions = model.W_pos
        return (model.W_E != 0).any(0) | (positions != 0).any(0)
    return (model.W_O[layer, place[1]] if place else model.W_out[layer]).ne(0).any(0)


def _reads(high: Compiled, reader: str) -> Tensor:
    """Dimensions that a reader reads."""
    model, node = high.model, node_of(reader)
    layer, place = layer_of(node), head_of(node)
    if layer is None:
        return model.W_U.ne(0).any(1)
    if place is None:
        return model.W_in[layer].ne(0).any(1)
    weights = {"q": model.W_Q, "k": model.W_K, "v": model.W_V}[part_of(reader)]
    return weights[layer, place[1]].ne(0).any(1)


# -- trying it -----------------------------------------------------------------------------------------------


def _library(key: str) -> Program | None:
    """The program of the library that a model was made from, by the model's key."""
    return next((program for program in PROGRAMS if program.key == key.removeprefix("siit-")), None)


def example(made: Any) -> str:
    """An input to try: what the program draws first, as words."""
    source = random.Random(0)
    if isinstance(made, BundledProgram):
        return " ".join(made.task.draw(source))
    high = compiled_of(made)
    return "" if high is None else " ".join(map(str, high.draw(source)))


def try_words(key: str, made: Any, text: str) -> Tried:
    """What a compiled or trained model answers to an input, beside what the program should give.

    Args:
        key: of its record.
        made: what the record loads.
        text: tokens with spaces between them.

    Raises:
        ValueError: nothing was written, a token is unknown, or there are too many; one sentence.
    """
    high = compiled_of(made)
    if high is None:
        raise ValueError(f"'{key}' has no program to read tokens with.")
    known = {str(token): token for token in high.vocab}
    words = text.split()
    listed = " ".join(known)
    if not words:
        raise ValueError(f"Write tokens with spaces between them, out of: {listed}.")
    if strange := [word for word in words if word not in known]:
        raise ValueError(f"'{strange[0]}' is not a token of '{key}'; it knows {listed}.")
    if len(words) > high.max_len:
        raise ValueError(f"'{key}' reads at most {high.max_len} tokens; these are {len(words)}.")
    xs = [known[word] for word in words]
    answers, program = made.run(xs), _library(key)
    if program is None:
        return Tried(words, answers, None, "There is no oracle to compare with.")
    if not program.domain(xs):
        return Tried(words, answers, None, "The program is not meant for this input, so there is no right answer.")
    return Tried(words, answers, list(program.oracle(xs)))


def try_program(program: BundledProgram, text: str) -> Tried:
    """What a learned program answers to an input, beside what it should.

    Args:
        program: the program.
        text: words with spaces between them.

    Raises:
        ValueError: nothing was written, a word is unknown, or there are too many; one sentence.
    """
    task, words = program.task, text.split()
    if not words:
        raise ValueError(f"Write words with spaces between them, out of: {' '.join(task.words)}.")
    task.encode([words])  # its sentence says what is wrong; the program's own only what it takes
    answers = program.run(words)
    ends = END in task.words
    begun = words[0] == START and START not in words[1:]
    if not begun or (ends and (words[-1] != END or END in words[:-1])):
        form = f"start with {START}{f' and end with {END}' if ends else ''}"
        return Tried(words, answers, None, f"Inputs of this task {form} and have neither between; this one has not.")
    return Tried(words, answers, list(task.oracle(words)))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return one is not None and math.isclose(one, other, abs_tol=1e-3)
    return bool(one == other)
