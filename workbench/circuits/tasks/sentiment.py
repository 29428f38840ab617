"""Sentiment of a review (Tigges et al. 2023): one adjective says whether the reviewer liked it."""

from __future__ import annotations

import random

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, build
from workbench.circuits.tasks.kinds import kind_of
from workbench.circuits.tasks.words import single_tokens
from workbench.models import Transformer

_GOOD = "great wonderful brilliant excellent beautiful fantastic lovely perfect amazing delightful".split()
_BAD = "terrible awful horrible boring bad disappointing dreadful ugly poor stupid".split()
_WORKS = "film book play show song story game concert".split()
_PARTS = "start acting ending music plot beginning".split()
_REVIEW = "The{work} was{how} and its{part} was{how}."
# One of either sort is judged first, the same in all prompts.
_JUDGED = (
    "Review: The food was delicious.\nSentiment: positive\n\nReview: The service was rude.\nSentiment: negative\n\n"
    "Review: {review}\nSentiment:"
)
_ANSWERS = "positive", "negative"


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: the corrupted review has an adjective of the other sort. Right is the sentiment, wrong the other.

    A decoder is shown two reviews with their sentiment and asked for that of a third; a classifier that has classes
    called *positive* and *negative* gets that review alone.

    Args:
        model: words are those that its tokenizer has as single tokens.
        n: number of pairs; good and bad reviews in turn.
        seed: chooses words.

    Raises:
        ValueError: too few words are single tokens, or the classifier has other classes.
    """
    sorts = single_tokens(model, _GOOD, 2, "good adjectives"), single_tokens(model, _BAD, 2, "bad adjectives")
    works, parts = single_tokens(model, _WORKS, 2, "works"), single_tokens(model, _PARTS, 1, "parts")
    template = _REVIEW if kind_of(model) == "classifier" else _JUDGED.format(review=_REVIEW)

    def example(draw: random.Random, turn: int) -> Pair:
        one, other = turn % 2, 1 - turn % 2
        work, part, how = draw.choice(works), draw.choice(parts), [draw.choice(sort) for sort in sorts]
        clean, corrupted = (template.format(work=work, part=part, how=how[k]) for k in (one, other))
        return Pair(clean, corrupted, [f" {_ANSWERS[one]}"], [f" {_ANSWERS[other]}"])

    return build(model, n, seed, example, name="sentiment", title="Sentiment")
