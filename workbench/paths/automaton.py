"""Deterministic automata over the components of a model: which paths are told apart.

One sweep through a model carries one tensor for each state: the sum of what all paths give whose words lead there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from workbench.paths.components import BIAS, EMBED, Alphabet, Sublayer

DEAD = -1


@dataclass(frozen=True)
class Automaton:
    """States, and where each component leads from each.

    Attributes:
        alphabet: the components.
        step: [state][component] the next state, or ``DEAD`` (no word that goes on from there is accepted).
        starts: the states before the first symbol; several where several automata lie beside each other.
        final: [state] which output the words that end there count for; ``DEAD`` for none.
        outputs: what the outputs are called.
    """

    alphabet: Alphabet
    step: Sequence[Sequence[int]]
    starts: tuple[int, ...]
    final: tuple[int, ...]
    outputs: tuple[str, ...]

    @property
    def n_states(self) -> int:
        """How many states there are."""
        return len(self.step)

    def after(self, symbol: int, states: Iterable[int]) -> list[int]:
        """Where a component leads from these states, dead ends left out."""
        return [to for state in states if (to := self.step[state][symbol]) != DEAD]

    def accepts(self, word: Iterable[str]) -> list[str]:
        """The outputs that a word counts for.

        Raises:
            KeyError: the model has no such component.
        """
        states = list(self.starts)
        for name in word:
            states = self.after(self.alphabet.index[name], states)
        return [self.outputs[self.final[state]] for state in states if self.final[state] != DEAD]

    def beside(self, other: Automaton) -> Automaton:
        """Both at once: the states of one, then those of the other."""
        n, m = self.n_states, len(self.outputs)
        moved = [[to if to == DEAD else to + n for to in row] for row in other.step]
        final = tuple(to if to == DEAD else to + m for to in other.final)
        starts = (*self.starts, *(start + n for start in other.starts))
        return replace(
            self,
            step=[*self.step, *moved],
            starts=starts,
            final=self.final + final,
            outputs=self.outputs + other.outputs,
        )


def everything(alphabet: Alphabet) -> Automaton:
    """One state that all paths lead to: the forward pass."""
    return Automaton(alphabet, [[1] * len(alphabet.symbols)] * 2, (0,), (DEAD, 0), ("everything",))


def by_length(alphabet: Alphabet, keep: int, *, apart: bool = True) -> Automaton:
    """A state for each length from 0 to ``keep`` and, where paths can be longer, one for those that are.

    Args:
        alphabet: the components.
        keep: the longest length with a state of its own.
        apart: paths from biases have states of their own; outputs are then first those of embeddings, then theirs.
    """
    labels = length_labels(keep, alphabet.depth)
    n, components = len(labels), len(alphabet.symbols) - 2
    step = [[1, 1 + n * apart, *[DEAD] * components]]
    for track in range(1 + apart):
        for length in range(n):
            longer = min(length + 1, n - 1)
            # Without a state for longer paths, none goes on from the longest.
            ends = length == keep == alphabet.depth
            step.append([DEAD, DEAD, *[DEAD if ends else 1 + track * n + longer] * components])
    outputs = (*labels, *(f"bias {label}" for label in labels * apart))
    return Automaton(alphabet, step, (0,), (DEAD, *range(len(outputs))), outputs)


def length_labels(keep: int, depth: int) -> list[str]:
    """Names of lengths: ``0``, ``1``, ... and ``9+`` for all that are longer than ``keep``."""
    return [*map(str, range(keep + 1)), *([f"{keep + 1}+"] if keep < depth else [])]


def by_kind(alphabet: Alphabet, keep: int) -> tuple[Automaton, list[tuple[int, int] | None]]:
    """A state for each number of attention and of MLP hops, up to ``keep`` together, and one for longer paths.

    Returns:
        The automaton, and what each of its outputs stands for: ``(attention hops, MLP hops)``, None for longer paths.
    """
    most_mlp = alphabet.n_layers if alphabet.has_mlp else 0
    cells: list[tuple[int, int] | None] = [
        (a, total - a)
        for total in range(keep + 1)
        for a in range(total + 1)
        if a <= alphabet.n_layers and total - a <= most_mlp
    ]
    if keep < alphabet.depth:
        cells.append(None)
    state = {cell: number + 1 for number, cell in enumerate(cells)}
    attends = [name.startswith("a") for name in alphabet.symbols]

    def onward(cell: tuple[int, int] | None, symbol: int) -> int:
        if symbol in (EMBED, BIAS):
            return DEAD
        if cell is None:
            return state[None]
        a, m = cell
        return state.get((a + 1, m) if attends[symbol] else (a, m + 1), state.get(None, DEAD))

    n = len(alphabet.symbols)
    step = [[1, 1, *[DEAD] * (n - 2)], *([onward(cell, symbol) for symbol in range(n)] for cell in cells)]
    outputs = tuple("more" if cell is None else f"{cell[0]}a {cell[1]}m" for cell in cells)
    return Automaton(alphabet, step, (0,), (DEAD, *range(len(cells))), outputs), cells


@dataclass(frozen=True)
class Routes:
    """What a sublayer does with the states: a stage of the sweep.

    Attributes:
        sources: the states that are to be passed through the sublayer, in order.
        moves: ``(source, component, next state)`` for each component of the sublayer that a path can pass.
        begins: ``(component, next state)`` for paths that begin at a bias here.
        whole: the states that paths from what the sublayer as a whole adds begin in.
        first: number of the sublayer's first component.
    """

    sources: tuple[int, ...]
    moves: tuple[tuple[int, int, int], ...]
    begins: tuple[tuple[int, int], ...]
    whole: tuple[int, ...]
    first: int


def routes(automaton: Automaton) -> dict[tuple[str, int], Routes]:
    """For each sublayer ``(kind, layer)`` the moves that some accepted path makes; all others need no computing.

    A state counts where words lead to it that the components so far allow (forward), and words lead from it to an
    output that those still to come allow (backward).
    """
    stages = automaton.alphabet.stages
    ready = automaton.after(BIAS, automaton.starts)
    useful = {state for state, output in enumerate(automaton.final) if output != DEAD}
    wanted = []
    for stage in reversed(stages):
        wanted.append(useful)
        passed = [symbol for sublayer in stage for symbol in sublayer.passed]
        leads = {s for s in range(automaton.n_states) if any(automaton.step[s][c] in useful for c in passed)}
        useful = useful | leads
    reached = set(automaton.after(EMBED, automaton.starts))
    found: dict[tuple[str, int], Routes] = {}
    for stage, useful in zip(stages, reversed(wanted), strict=True):
        now = set(reached)
        for sublayer in stage:
            here = _routes(automaton, sublayer, now, useful, ready)
            found[sublayer.kind, sublayer.layer] = here
            reached |= {to for *_, to in (*here.moves, *here.begins)}
    return found


def _routes(automaton: Automaton, sublayer: Sublayer, reached: set[int], useful: set[int], ready: list[int]) -> Routes:
    moves = [
        (state, symbol, to)
        for state in sorted(reached)
        for symbol in sublayer.passed
        if (to := automaton.step[state][symbol]) in useful
    ]
    begins = [(symbol, to) for symbol in sublayer.starts for to in automaton.after(symbol, ready) if to in useful]
    whole = tuple(to for symbol, to in begins if symbol == sublayer.symbols[-1])
    sources = tuple(sorted({source for source, *_ in moves}))
    return Routes(sources, tuple(moves), tuple(begins), whole, sublayer.symbols[0])
