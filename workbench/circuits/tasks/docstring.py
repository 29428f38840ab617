"""Docstrings (Heimersheim and Janiak 2023): which parameter of a function is described next?"""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.words import FUNCTIONS, PARAMETERS, THINGS, single_tokens
from workbench.models import Transformer

_TEMPLATE = '''def {function}(self,{0},{1},{2},{3}):
    """{words[0]}{words[1]}{words[2]}

    :param{4}:{words[3]}{words[4]}
    :param{5}:{words[5]}{words[6]}
    :param'''
_N_PARAMETERS = 4


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: two of four parameters are described; right is the third, wrong are the others.

    In the corrupted prompt the definition and the lines that describe have other names, unlike each other and the
    clean ones, so that nothing says which comes next (Heimersheim and Janiak's ``random_random``).

    Args:
        model: names and words are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses names and words.

    Raises:
        ValueError: too few names are single tokens.
    """
    names = single_tokens(model, PARAMETERS, 2 * _N_PARAMETERS + 2, "names of parameters")
    things = single_tokens(model, THINGS, 7, "words")

    def example(draw: random.Random, _turn: int) -> Pair:
        drawn = draw.sample(names, 2 * _N_PARAMETERS + 2)
        given, others, described = drawn[:4], drawn[4:8], drawn[8:]
        words, function = draw.sample(things, 7), draw.choice(FUNCTIONS)
        return Pair(
            _TEMPLATE.format(*given, *given[:2], words=words, function=function),
            _TEMPLATE.format(*others, *described, words=words, function=function),
            [given[2]],
            [given[0], given[1], given[3]],
        )

    return build(model, n, seed, example, name="docstring", title="Docstring")
