"""Indirect object identification (Wang et al. 2022, section 2): two people are named, one acts, who receives?"""

from __future__ import annotations

import random
from string import Formatter
from typing import Any

from workbench.circuits.task import Task
from workbench.circuits.tasks.pairs import from_pairs
from workbench.circuits.tasks.words import NAMES, OBJECTS, PLACES, single_tokens
from workbench.models import Transformer

# {} are the two people and then the one who acts; a name always follows a space.
TEMPLATES = (
    "When {} and {} went to the {place}, {} gave a {object} to",
    "After {} and {} arrived at the {place}, {} handed a {object} to",
    "Then {} and {} went to the {place} together, and {} gave a {object} to",
    "After the meeting {} and {} went to the {place}, and {} gave a {object} to",
    "While {} and {} were working at the {place}, {} gave a {object} to",
    "When {} and {} came back from the {place}, {} gave a {object} to",
)


def make(model: Transformer, n: int, seed: int = 0, template: str | None = None) -> Task:
    """``n`` pairs: right is the person who does not act, wrong the one who does (both name orders, in turn).

    The corrupted prompt lets a third person act, which leaves nothing to choose the right answer by.

    Args:
        model: names, places and objects are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses templates, names and words.
        template: one template instead of ours: three ``{}`` in the order above, ``{place}`` and ``{object}`` if wanted.

    Raises:
        ValueError: too few names are single tokens, or the template does not have three ``{}``.
    """
    slots = [field for _, field, _, _ in Formatter().parse(template or TEMPLATES[0]) if field is not None]
    if slots.count("") != 3 or set(slots) - {"", "place", "object"}:
        raise ValueError(
            f"The template '{template}' needs three {{}} for the names (and may have {{place}}, {{object}})."
        )
    names = single_tokens(model, NAMES, 3, "names")
    places = single_tokens(model, PLACES, 1, "places")
    objects = single_tokens(model, OBJECTS, 1, "objects")
    draw = random.Random(seed)
    clean: list[str] = []
    corrupted: list[str] = []
    right, wrong = [], []
    for i in range(n):
        first, second, third = draw.sample(names, 3)
        chosen = template or TEMPLATES[draw.randrange(len(TEMPLATES))]
        words = {"place": draw.choice(places).strip(), "object": draw.choice(objects).strip()}
        giver, receiver = (second, first) if i % 2 == 0 else (first, second)
        for texts, actor in ((clean, giver), (corrupted, third)):
            texts.append(chosen.format(*(name.strip() for name in (first, second, actor)), **words))
        right.append(receiver)
        wrong.append(giver)
    spec: dict[str, Any] = {"name": "ioi", "n": n, "seed": seed} | ({"template": template} if template else {})
    return from_pairs(model, clean, corrupted, right, wrong, name="ioi", title="Indirect object", spec=spec)
