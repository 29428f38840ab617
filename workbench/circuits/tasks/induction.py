"""Induction (Olsson et al. 2022): a series of words comes round again; what followed the first time follows now."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.pairs import from_pairs
from workbench.circuits.tasks.words import THINGS, single_tokens
from workbench.models import Transformer


def make(model: Transformer, n: int, seed: int = 0, length: int = 8) -> Task:
    """``n`` pairs of a series of ``length`` unrelated words that has begun to repeat.

    The word asked for and a later one of the first round change places in the corrupted prompt: both prompts hold
    the same words, and only what followed the last of them differs.

    Args:
        model: the words are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses words and where the repeat breaks off.
        length: words in the series, at least 4.

    Raises:
        ValueError: ``length`` is too small, or too few words are single tokens.
    """
    if length < 4:
        raise ValueError(f"The series needs at least 4 words to exchange two of them; got length={length}.")
    words = single_tokens(model, THINGS, length, "words")
    draw = random.Random(seed)
    clean, corrupted, right, wrong = [], [], [], []
    for _ in range(n):
        series = draw.sample(words, length)
        asked = draw.randrange(2, length - 1)
        other = draw.randrange(asked + 1, length)
        exchanged = list(series)
        exchanged[asked], exchanged[other] = series[other], series[asked]
        again = series[:asked]
        clean.append("".join(series + again).strip())
        corrupted.append("".join(exchanged + again).strip())
        right.append(series[asked])
        wrong.append(series[other])
    spec = {"name": "induction", "n": n, "seed": seed, "length": length}
    return from_pairs(model, clean, corrupted, right, wrong, name="induction", title="Induction", spec=spec)
