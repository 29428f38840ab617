"""Acronyms (García-Carrasco et al. 2024): three words and two of their initials ask for the third."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.words import TITLES, single_tokens
from workbench.models import Transformer


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: right is the third word's initial, wrong that of the word that the corrupted prompt has instead.

    Acronyms that the tokenizer does not cut before their last letter are left out.

    Args:
        model: words are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses words.

    Raises:
        ValueError: too few words are single tokens.
    """
    words = single_tokens(model, TITLES, 6, "words of names")

    def example(draw: random.Random, _turn: int) -> Pair:
        first, second, third, other = draw.sample(words, 4)
        while other[1] == third[1]:
            other = draw.choice(words)
        begun = f"The{first}{second}{{}} ({first[1]}{second[1]}"
        return Pair(begun.format(third), begun.format(other), [third[1]], [other[1]])

    return build(model, n, seed, example, name="acronyms", title="Acronyms")
