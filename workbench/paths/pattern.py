"""A small language for sets of paths: ``"embed (a|m){0,2} a9.h6 m*"``.

=================  ====================================================================
``embed``          paths that begin at the embedding
``bias``           paths that begin at a bias; ``bias`` alone is what the readout adds
``a``, ``m``       any head (and any bias of an attention); any MLP
``a9``, ``m3``     those of one layer
``a3-7``, ``m3-7`` those of a range of layers, both ends included
``a9.h6``          one head
``.``              any component
``x y``            x and then, directly or around others, y
``x|y``            one or the other
``x* x+ x?``       any number, at least one, at most one
``x{2} x{2,}``     two, at least two; ``x{2,4}``: two to four
``( )``            groups
=================  ====================================================================

A pattern describes the whole word of a path. Where it leaves the start out, any start is meant. ``.*`` is everything.
:func:`compile_pattern` gives the smallest deterministic automaton.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from workbench.models import ModelConfig, Transformer
from workbench.paths.automaton import DEAD, Automaton
from workbench.paths.components import BIAS, EMBED, Alphabet
from workbench.paths.machine import Piece, TooLarge, atom, either, repeat, sequence, smallest

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z]+(?:\d+(?:-\d+)?)?(?:\.h\d+)?)|(?P<times>\{[^{}]*\}?)|(?P<mark>[.()|*+?])|(?P<bad>\S))"
)
_TIMES = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d+)?\s*)?\}")
_NAME = re.compile(r"(?P<kind>[am])(?:(?P<first>\d+)(?:-(?P<last>\d+))?(?:\.h(?P<head>\d+))?)?")


class PatternError(ValueError):
    """A pattern that does not parse; the message shows it with a caret under the place.

    Attributes:
        pattern: what was written.
        place: the character at which it goes wrong.
        reason: the sentence alone.
    """

    def __init__(self, reason: str, pattern: str, place: int) -> None:
        super().__init__(f"{reason}\n  {pattern}\n  {' ' * place}^")
        self.reason, self.pattern, self.place = reason, pattern, place


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


def compile_pattern(pattern: str, model: Transformer | ModelConfig | Alphabet) -> Automaton:
    """The smallest automaton that accepts the paths of a pattern.

    Args:
        pattern: see the module.
        model: a model, its configuration or its components.

    Raises:
        PatternError: the pattern does not parse, or names a component that the model does not have.
    """
    alphabet = Alphabet.of(model)
    starts = frozenset((EMBED, BIAS))
    parsed = sequence([repeat(atom(starts), 0, 1), _Parser(pattern, alphabet).whole()])
    try:
        step, accepted = smallest(parsed, len(alphabet.symbols), starts)
    except TooLarge:
        raise PatternError(
            "This pattern needs too many states; repeat less, or ask for its parts one by one.", pattern, 0
        ) from None
    final = tuple(0 if is_in else DEAD for is_in in accepted)
    return Automaton(alphabet, step, (0,), final, (pattern,))


class _Parser:
    """Recursive descent; each method gives a piece."""

    def __init__(self, pattern: str, alphabet: Alphabet) -> None:
        self.pattern, self.alphabet, self.next = pattern, alphabet, 0
        self.tokens = [
            _Token(m.lastgroup or "", m[m.lastgroup or 0], m.start(m.lastgroup or 0)) for m in _TOKEN.finditer(pattern)
        ]

    def fail(self, reason: str, place: int | None = None) -> PatternError:
        here = self.tokens[self.next].place if self.next < len(self.tokens) else len(self.pattern.rstrip())
        return PatternError(reason, self.pattern, here if place is None else place)

    def peek(self) -> str:
        return self.tokens[self.next].text if self.next < len(self.tokens) else ""

    def whole(self) -> Piece:
        if not self.tokens:
            raise self.fail("The pattern is empty; write .* for every path, or embed for the direct one.")
        piece = self.either()
        if self.next < len(self.tokens):
            raise self.fail("This closing parenthesis has no opening one." if self.peek() == ")" else self._unknown())
        return piece

    def _unknown(self) -> str:
        return f"'{self.peek()}' means nothing here; write components such as a9.h6 or m3, and . | * + ? {{n,m}} ( )."

    def either(self) -> Piece:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.next += 1
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else either(branches)

    def sequence(self) -> Piece:
        pieces = []
        while self.next < len(self.tokens) and self.peek() not in ("|", ")"):
            pieces.append(self.repeated())
        if not pieces:
            raise self.fail("Something is missing here; for 'or nothing' write x?.")
        return sequence(pieces)

    def repeated(self) -> Piece:
        piece = self.atom()
        while self.next < len(self.tokens):
            token = self.tokens[self.next]
            if token.kind == "times":
                least, most = self._times(token)
            elif token.text in ("*", "+", "?"):
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[token.text]
            else:
                break
            self.next += 1
            piece = repeat(piece, least, most)
        return piece

    def _times(self, token: _Token) -> tuple[int, int | None]:
        match = _TIMES.fullmatch(token.text)
        if match is None:
            raise self.fail("Write {n}, {n,} or {n,m} with whole numbers.")
        least = int(match[1])
        most = least if match[2] is None else None if match[3] is None else int(match[3])
        if most is not None and most < least:
            raise self.fail(f"At least {least} and at most {most} cannot be; put the smaller number first.")
        if max(least, most or 0) > self.alphabet.depth:
            raise self.fail(
                f"The longest path of this model has {self.alphabet.depth} components; choose at most that."
            )
        return least, most

    def atom(self) -> Piece:
        token = self.tokens[self.next]
        if token.text == "(":
            self.next += 1
            piece = self.either()
            if self.peek() != ")":
                raise self.fail("This parenthesis is never closed.", token.place)
            self.next += 1
            return piece
        if token.text == ".":
            symbols = frozenset(range(2, len(self.alphabet.symbols)))
        elif token.kind == "name":
            symbols = self._symbols(token)
        elif token.text in ("*", "+", "?") or token.kind == "times":
            raise self.fail(f"There is nothing before '{token.text}' to repeat.")
        else:
            raise self.fail(self._unknown())
        self.next += 1
        return atom(symbols)

    def _symbols(self, token: _Token) -> frozenset[int]:
        """The components that a name means."""
        if token.text in ("embed", "bias"):
            return frozenset((EMBED if token.text == "embed" else BIAS,))
        match, a = _NAME.fullmatch(token.text), self.alphabet
        last = a.n_layers - 1
        if match is None or (match["head"] and (match["kind"] == "m" or match["last"])):
            raise self.fail(
                f"'{token.text}' is no component: write embed, bias, a (any head), m (any MLP), a9, a9.h6, m3, or a3-7 "
                "for a range of layers."
            )
        if match["kind"] == "m" and not a.has_mlp:
            raise self.fail(f"'{token.text}' does not exist: this model has no MLPs.")
        low = int(match["first"] or 0)
        high = last if match["first"] is None else int(match["last"] or low)
        if max(low, high) > last:
            raise self.fail(f"'{token.text}' does not exist: this model has layers 0 to {last}.")
        if high < low:
            raise self.fail(f"The range '{token.text}' is empty; put the lower layer first.")
        if match["head"]:
            if int(match["head"]) >= a.n_heads:
                raise self.fail(f"'{token.text}' does not exist: layer {low} has heads 0 to {a.n_heads - 1}.")
            return frozenset((a.index[token.text],))
        sublayers = [sublayer for stage in a.stages for sublayer in stage]
        return frozenset(s for x in sublayers if x.kind == match["kind"] and low <= x.layer <= high for s in x.symbols)
