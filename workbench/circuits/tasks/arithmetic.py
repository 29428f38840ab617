"""Sums of two-digit numbers (Stolfo et al. 2023; Nikankin et al. 2024)."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build, continues
from workbench.models import Transformer


def make(model: Transformer, n: int, seed: int = 0, shots: int = 2) -> Task:
    """``n`` pairs: right is the sum, wrong the sum of the corrupted prompt, in which the second number is another.

    A tokenizer that writes a number of two digits as one token is asked for the sum. One that writes every digit as a
    token is asked for the tens digit of the sum, and the two sums differ in it; about half of the sums carry.

    Args:
        model: its tokenizer decides between the two forms.
        n: number of pairs.
        seed: chooses numbers.
        shots: sums that are worked out before the one that is asked for; the same in both prompts.

    Raises:
        ValueError: the tokenizer writes numbers in neither way, or ``shots`` is negative.
    """
    if shots < 0:
        raise ValueError(f"The prompt cannot begin with {shots} sums that are worked out; give 0 or more.")
    whole = _writes(model, "12 + 25 =", [f" {value}" for value in range(20, 100)])
    if not whole and not _writes(model, "12 + 25 = ", list("0123456789")):
        raise ValueError(
            f"The tokenizer of {model.name} writes numbers neither as two-digit tokens nor digit by digit; "
            "'arithmetic' cannot be asked through it."
        )

    def example(draw: random.Random, turn: int) -> Pair:
        lines = "".join(f"{a} + {b} = {a + b}\n" for a, b in (_terms(draw) for _ in range(shots)))
        a, b = _terms(draw)
        other = draw.randrange(10, 100 - a)
        one, two = (f"{lines}{a} + {second} =" for second in (b, other))
        if whole:
            if b == other:
                return example(draw, turn)
            return Pair(one, two, [f" {a + b}"], [f" {a + other}"])
        if (a + b) // 10 == (a + other) // 10:
            return example(draw, turn)
        return Pair(f"{one} ", f"{two} ", [str((a + b) // 10)], [str((a + other) // 10)])

    options = {} if shots == 2 else {"shots": shots}
    return build(model, n, seed, example, name="arithmetic", title="Two-digit arithmetic", options=options)


def _terms(draw: random.Random) -> tuple[int, int]:
    """Two numbers of two digits whose sum has two as well."""
    a = draw.randrange(10, 80)
    return a, draw.randrange(10, 100 - a)


def _writes(model: Transformer, prompt: str, endings: list[str]) -> bool:
    return all(continues(model, prompt, ending) for ending in endings)
