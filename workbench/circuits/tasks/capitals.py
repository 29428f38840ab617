"""Capitals of countries: facts that are known by heart (Meng et al. 2022; Merullo et al. 2023)."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.kinds import kind_of
from workbench.circuits.tasks.pairs import MASK
from workbench.circuits.tasks.words import CAPITALS, single_pairs
from workbench.models import Transformer

TEMPLATES = (
    "The capital of{country} is",
    "The capital city of{country} is",
    "I want to see the capital of{country}, the city of",
)


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: right is the capital of the country, wrong that of the country that the corrupted prompt names.

    Args:
        model: countries and capitals are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses templates and countries.

    Raises:
        ValueError: too few countries with their capitals are single tokens.
    """
    known = single_pairs(model, CAPITALS, 4, "countries and capitals")
    end = f" {MASK}." if kind_of(model) == "masked-lm" else ""

    def example(draw: random.Random, _turn: int) -> Pair:
        one, other = draw.sample(known, 2)
        template = draw.choice(TEMPLATES) + end
        return Pair(template.format(country=one[0]), template.format(country=other[0]), [one[1]], [other[1]])

    return build(model, n, seed, example, name="capital-of-country", title="Capital of a country")
