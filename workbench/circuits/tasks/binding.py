"""Which colour belongs to which thing: binding in context (Feng and Steinhardt 2023)."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.words import COLOURS, THINGS_WITH_COLOURS, single_tokens
from workbench.models import Transformer

_MOST = 4


def make(model: Transformer, n: int, seed: int = 0, things: int = 2) -> Task:
    """``n`` pairs: right is the colour of the thing asked for, wrong that of the thing the corrupted prompt asks for.

    The two prompts differ in that one word; the things and their colours are the same.

    Args:
        model: colours and things are those that its tokenizer has as single tokens.
        n: number of pairs.
        seed: chooses colours and things, and which is asked for.
        things: how many there are, 2 to 4.

    Raises:
        ValueError: too few colours or things are single tokens, or another number of things.
    """
    if not 2 <= things <= _MOST:
        raise ValueError(f"The prompt names 2 to {_MOST} things with their colours, not {things}.")
    colours = single_tokens(model, COLOURS, _MOST, "colours")
    nouns = single_tokens(model, THINGS_WITH_COLOURS, _MOST, "things")

    def example(draw: random.Random, _turn: int) -> Pair:
        painted, named = draw.sample(colours, things), draw.sample(nouns, things)
        *first, last = [f"the{thing} is{colour}" for thing, colour in zip(named, painted, strict=True)]
        told = f"{', '.join(first)} and {last}. As I said, the"
        one, other = draw.sample(range(things), 2)
        clean, corrupted = (f"{told[0].upper()}{told[1:]}{named[k]} is" for k in (one, other))
        return Pair(clean, corrupted, [painted[one]], [painted[other]])

    options = {} if things == 2 else {"things": things}
    return build(model, n, seed, example, name="binding", title="Colour binding", options=options)
