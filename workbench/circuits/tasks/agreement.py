"""Subject-verb agreement (Linzen et al. 2016): the verb has the number of its subject, not of the noun before it."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.kinds import kind_of
from workbench.circuits.tasks.pairs import MASK
from workbench.circuits.tasks.words import NOUNS, single_pairs
from workbench.models import Transformer

_NEAR = ("near", "behind", "beside")
# A masked model is asked between both halves of a sentence (Goldberg 2019).
_REST = ("very old.", "still here.", "quite new.")
_VERBS = [" is", " was"], [" are", " were"]


def make(model: Transformer, n: int, seed: int = 0, attractor: str = "any") -> Task:
    """``n`` pairs: right are the verbs of the subject's number, wrong those of the other, which is the corrupted one's.

    The noun between subject and verb is the same in both prompts. A masked language model gets ``[MASK]`` for the
    verb and words behind it.

    Args:
        model: nouns are those that its tokenizer has as single tokens, one and several.
        n: number of pairs; singular and plural in turn.
        seed: chooses nouns and words.
        attractor: the noun in between has the ``other`` number, the ``same`` or ``any``.

    Raises:
        ValueError: too few nouns are single tokens, or another ``attractor``.
    """
    if attractor not in ("any", "other", "same"):
        raise ValueError(f"The attractor is 'any', 'other' or 'same', not '{attractor}'.")
    nouns = single_pairs(model, NOUNS, 4, "nouns")
    masked = kind_of(model) == "masked-lm"

    def example(draw: random.Random, turn: int) -> Pair:
        number = turn % 2
        subject, between = draw.sample(nouns, 2)
        second = {"any": draw.randrange(2), "other": 1 - number, "same": number}[attractor]
        rest = f" {MASK} {draw.choice(_REST)}" if masked else ""
        sentence = f"The{{}} {draw.choice(_NEAR)} the{between[second]}{rest}"
        one, other = (sentence.format(subject[k]) for k in (number, 1 - number))
        return Pair(one, other, _VERBS[number], _VERBS[1 - number])

    options = {} if attractor == "any" else {"attractor": attractor}
    return build(model, n, seed, example, name="agreement", title="Subject-verb agreement", options=options)
