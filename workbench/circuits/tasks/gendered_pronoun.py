"""Gendered pronouns (Mathwin et al. 2023): a name is named, is it she or he?"""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.words import MEN, WOMEN, single_tokens
from workbench.models import Transformer

TEMPLATES = (
    "So{name} is a really great friend, isn't",
    "I heard that{name} is such a good cook, isn't",
    "You know,{name} was always so kind to me, wasn't",
    "I think{name} has already left the party, hasn't",
)


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: right is the pronoun of the name, wrong the other one, whose name the corrupted prompt has.

    Args:
        model: names are those that its tokenizer has as single tokens.
        n: number of pairs; women and men in turn.
        seed: chooses templates and names.

    Raises:
        ValueError: too few names are single tokens.
    """
    people = single_tokens(model, WOMEN, 2, "names of women"), single_tokens(model, MEN, 2, "names of men")

    def example(draw: random.Random, turn: int) -> Pair:
        template, names = draw.choice(TEMPLATES), [draw.choice(group) for group in people]
        one, other = turn % 2, 1 - turn % 2
        answers = [" she"], [" he"]
        return Pair(template.format(name=names[one]), template.format(name=names[other]), answers[one], answers[other])

    return build(model, n, seed, example, name="gendered-pronoun", title="Gendered pronoun")
