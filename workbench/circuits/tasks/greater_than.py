"""Greater than (Hanna et al. 2023, section 2): a span of years that starts in 1732 must not end before it."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.pairs import from_pairs
from workbench.circuits.tasks.words import PERIODS
from workbench.models import Transformer

_TEMPLATE = "The {noun} lasted from the year {century}{year:02d} to the year {century}"


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: right are the later, wrong the earlier continuations; the corrupted prompt starts in year 01.

    A tokenizer that writes the last two digits of a year as one token is asked for the two digits. One that writes
    every digit as a token is asked for the tens digit: right are the larger, wrong the smaller digits, and the
    start's own tens digit counts for neither, since both later and earlier years begin with it.

    Args:
        model: its tokenizer decides between the two forms.
        n: number of pairs.
        seed: chooses nouns, centuries and years.

    Raises:
        ValueError: the tokenizer writes years in neither way.
    """
    pairs_of_digits = _continues(model, [f"{year:02d}" for year in range(100)])
    if not pairs_of_digits and not _continues(model, list("0123456789")):
        raise ValueError(
            f"The tokenizer of {model.name} writes years neither as two-digit halves nor digit by digit; "
            "'greater-than' cannot be asked through it."
        )
    draw = random.Random(seed)
    clean: list[str] = []
    corrupted: list[str] = []
    right, wrong = [], []
    for _ in range(n):
        noun, century = draw.choice(PERIODS), draw.randint(11, 17)
        if pairs_of_digits:
            year = draw.randint(2, 98)
            right.append([f"{later:02d}" for later in range(year + 1, 100)])
            wrong.append([f"{earlier:02d}" for earlier in range(year + 1)])
        else:
            year = 10 * draw.randint(1, 8) + draw.randint(2, 9)
            right.append([str(digit) for digit in range(year // 10 + 1, 10)])
            wrong.append([str(digit) for digit in range(year // 10)])
        for texts, start in ((clean, year), (corrupted, 1)):
            texts.append(_TEMPLATE.format(noun=noun, century=century, year=start))
    return from_pairs(
        model,
        clean,
        corrupted,
        right,
        wrong,
        metric="prob-diff",
        name="greater-than",
        title="Greater than",
        spec={"name": "greater-than", "n": n, "seed": seed},
    )


def _continues(model: Transformer, endings: list[str]) -> bool:
    """True if each ending adds exactly one token, the same alone as after a prompt."""
    prompt = _TEMPLATE.format(noun="war", century=17, year=32)
    before = model.text.ids(prompt)
    return all(
        model.text.is_single(ending) and model.text.ids(prompt + ending) == [*before, model.to_single_token(ending)]
        for ending in endings
    )
