"""From an expression over components to the smallest deterministic automaton.

An expression adds itself to a nondeterministic automaton (Thompson 1968); its reachable sets of states are those of a
deterministic one (Rabin and Scott 1959); states that no word tells apart become one (Moore 1956).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

MOST_STEPS = 20_000
MOST_STATES = 2000
"""Larger automata are refused: each state is a tensor in a sweep."""


class TooLarge(ValueError):  # noqa: N818 - the caller says it in its own words
    """The automaton would have too many states."""


@dataclass
class Machine:
    """A nondeterministic automaton under construction.

    Attributes:
        edges: [state] the sets of symbols that lead on, and where to.
        free: [state] the states that are reached with no symbol.
    """

    edges: list[list[tuple[frozenset[int], int]]] = field(default_factory=list)
    free: list[list[int]] = field(default_factory=list)

    def state(self) -> int:
        """A new state.

        Raises:
            TooLarge: there are too many.
        """
        if len(self.edges) >= MOST_STEPS:
            raise TooLarge
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """These states and all that are reached from them with no symbol."""
        found = set(states)
        todo = list(found)
        while todo:
            for to in self.free[todo.pop()]:
                if to not in found:
                    found.add(to)
                    todo.append(to)
        return frozenset(found)


Piece = Callable[[Machine, int], int]
"""An expression: adds itself to a machine behind a state, and says the state that it ends in."""


def atom(symbols: frozenset[int]) -> Piece:
    """One symbol of a set."""

    def add(machine: Machine, start: int) -> int:
        end = machine.state()
        machine.edges[start].append((symbols, end))
        return end

    return add


def sequence(pieces: Sequence[Piece]) -> Piece:
    """One after the other."""

    def add(machine: Machine, start: int) -> int:
        for piece in pieces:
            start = piece(machine, start)
        return start

    return add


def either(branches: Sequence[Piece]) -> Piece:
    """One of several."""

    def add(machine: Machine, start: int) -> int:
        # Each branch begins in a state of its own: one that loops back must not reach the others.
        ends = []
        for branch in branches:
            own = machine.state()
            machine.free[start].append(own)
            ends.append(branch(machine, own))
        end = machine.state()
        for other in ends:
            machine.free[other].append(end)
        return end

    return add


def repeat(piece: Piece, least: int, most: int | None) -> Piece:
    """From ``least`` to ``most`` times; None for no limit."""

    def add(machine: Machine, start: int) -> int:
        for _ in range(least):
            start = piece(machine, start)
        end = machine.state()
        if most is None:
            loop = machine.state()
            machine.free[start].append(loop)
            machine.free[piece(machine, loop)].append(loop)
            machine.free[loop].append(end)
            return end
        for _ in range(most - least):
            machine.free[start].append(end)
            own = machine.state()
            machine.free[start].append(own)
            start = piece(machine, own)
        machine.free[start].append(end)
        return end

    return add


def smallest(piece: Piece, n_symbols: int, starts: frozenset[int]) -> tuple[list[list[int]], list[bool]]:
    """The smallest deterministic automaton of the words of an expression that begin with a start and have no other.

    Args:
        piece: the expression.
        n_symbols: how many symbols there are.
        starts: those that words begin with.

    Returns:
        [state][symbol] the next state, -1 where no word that goes on is accepted, state 0 being the start; and [state]
        whether words that end there are accepted. An expression that accepts nothing has one state.

    Raises:
        TooLarge: it, or what it is made from, has too many states.
    """
    machine = Machine()
    start = machine.state()
    end = piece(machine, start)
    kinds = _kinds(machine, n_symbols, starts)
    step, accepted = _deterministic(machine, start, end, [members[0] for members in kinds], starts)
    block = _told_apart(step, accepted)
    return _written_out(step, accepted, block, kinds, n_symbols)


def _kinds(machine: Machine, n_symbols: int, starts: frozenset[int]) -> list[list[int]]:
    """Symbols by the sets that hold them: no expression of these sets tells those of a kind apart."""
    sets = [starts, *{symbols for edges in machine.edges for symbols, _ in edges}]
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for symbol in range(n_symbols):
        kinds.setdefault(tuple(symbol in symbols for symbols in sets), []).append(symbol)
    return list(kinds.values())


def _deterministic(
    machine: Machine, start: int, end: int, symbols: list[int], starts: frozenset[int]
) -> tuple[list[list[int]], list[bool]]:
    """States are sets of the machine's, before a word has begun and after; the empty one is among them."""
    first = (machine.closure([start]), False)
    number = {first: 0}
    todo, step = [first], []
    for states, begun in todo:
        edges = [edge for state in states for edge in machine.edges[state]]
        row = []
        for symbol in symbols:
            may = begun != (symbol in starts)
            to = machine.closure(to for members, to in edges if may and symbol in members), True
            if to not in number:
                if len(number) > MOST_STATES:
                    raise TooLarge
                number[to] = len(number)
                todo.append(to)
            row.append(number[to])
        step.append(row)
    return step, [begun and end in states for states, begun in todo]


def _told_apart(step: list[list[int]], accepted: list[bool]) -> list[int]:
    """[state] its block: two states share one if every word is accepted from both or from neither."""
    block = [int(is_in) for is_in in accepted]
    while True:
        seen: dict[tuple[int, ...], int] = {}
        finer = [seen.setdefault((block[s], *(block[to] for to in row)), len(seen)) for s, row in enumerate(step)]
        if len(seen) == len(set(block)):
            return finer
        block = finer


def _written_out(
    step: list[list[int]], accepted: list[bool], block: list[int], kinds: list[list[int]], n_symbols: int
) -> tuple[list[list[int]], list[bool]]:
    """One state a block, the start first, without the one from which nothing is accepted; kinds as symbols again."""
    stands_for = {b: state for state, b in reversed(list(enumerate(block)))}
    dead = {b for b, s in stands_for.items() if not accepted[s] and all(block[to] == b for to in step[s])}
    order = [block[0], *(b for b in stands_for if b != block[0] and b not in dead)]
    place = {b: number for number, b in enumerate(order) if b not in dead}
    rows = []
    for b in order:
        row = [-1] * n_symbols
        for kind, to in zip(kinds, step[stands_for[b]], strict=True):
            for symbol in kind:
                row[symbol] = place.get(block[to], -1)
        rows.append(row)
    return rows, [accepted[stands_for[b]] for b in order]
