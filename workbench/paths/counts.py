"""How many paths there are, of each length and for each pattern, and what lengths would be if all paths were alike.

Through a stream that L sublayers add to, a path takes or leaves each, so that lengths are binomial: 2^L paths of mean
length L / 2 (Veit, Wilber and Belongie 2016, arXiv 1605.06431, section 3). With heads counted apart, an attention of H
heads is left or taken in H ways: the number of paths of length k is the coefficient of z^k in the product of (1 + H z)
and (1 + z) over the layers. Counts are whole numbers of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from typing import Literal

from workbench.models import ModelConfig, Transformer
from workbench.paths.automaton import DEAD, Automaton, everything
from workbench.paths.components import BIAS, EMBED, Alphabet

Counts = list[int]
"""[length] number of paths."""


def path_counts(model: Transformer | ModelConfig | Alphabet, level: Literal["head", "block"] = "head") -> Counts:
    """Paths from the embedding by length, 0 to the longest.

    Args:
        model: whose.
        level: whether a path goes through a head, or through a whole attention.

    Raises:
        ValueError: an unknown level.
    """
    if level not in ("head", "block"):
        raise ValueError(f"Paths go through a 'head' or through a whole 'block' of attention, not '{level}'.")
    alphabet = replace(Alphabet.of(model), biases=(), readout_bias=False)
    return count(everything(replace(alphabet, n_heads=1) if level == "block" else alphabet))[0]


def count(automaton: Automaton) -> list[Counts]:
    """Paths that an automaton accepts, for each of its outputs by length: dynamic programming over sublayers.

    Paths that begin at a bias are counted where the alphabet has one.
    """
    alphabet = automaton.alphabet
    n = alphabet.depth + 1
    ways = [[0] * n for _ in range(automaton.n_states)]
    for state in automaton.after(EMBED, automaton.starts):
        ways[state][0] += 1
    ready = automaton.after(BIAS, automaton.starts)
    for stage in alphabet.stages:
        before = [list(row) for row in ways]
        for sublayer in stage:
            for state, row in enumerate(before):
                if any(row):
                    _go_on(ways, row, [automaton.step[state][symbol] for symbol in sublayer.passed])
            for symbol in sublayer.starts:
                for to in automaton.after(symbol, ready):
                    ways[to][1] += 1
    if alphabet.readout_bias:
        for state in ready:
            ways[state][0] += 1
    found = [[0] * n for _ in automaton.outputs]
    for state, output in enumerate(automaton.final):
        if output != DEAD:
            found[output] = [a + b for a, b in zip(found[output], ways[state], strict=True)]
    return found


def _go_on(ways: list[Counts], row: Counts, leads: list[int]) -> None:
    """Add the paths of one state, a component longer, to the states that its components lead to."""
    for to in set(leads) - {DEAD}:
        times = leads.count(to)
        for length, number in enumerate(row[:-1]):
            ways[to][length + 1] += times * number


def mean_length(counts: Sequence[int]) -> float:
    """Mean length of all paths, each counted once; for GPT-2 small 17.08 by heads and 12 by blocks."""
    return sum(length * number for length, number in enumerate(counts)) / sum(counts)


def binomial(n: int) -> list[float]:
    """[length] share of the paths of that length when each of ``n`` sublayers is taken or left: C(n, k) / 2^n."""
    return [comb(n, k) / 2**n for k in range(n + 1)]


def shares(counts: Sequence[int]) -> list[float]:
    """[length] share of all paths."""
    whole = sum(counts)
    return [number / whole for number in counts]


def bucketed(counts: Sequence[int], keep: int) -> Counts:
    """The same with all lengths beyond ``keep`` in one last number."""
    return [*counts[: keep + 1], *([sum(counts[keep + 1 :])] if keep + 1 < len(counts) else [])]
