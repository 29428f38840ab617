"""Words that the tasks draw from, and how those that suit a tokenizer are found."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.models import Transformer

NAMES = (
    "Mary John Tom James Dan Sarah Martin Amy Paul Anna Mark Kate David Emma Peter Lucy Michael Laura Robert Alice "
    "William Jane Richard Susan Thomas Julia Charles Rachel George Helen Henry Lisa Jack Emily Simon Grace Adam "
    "Ruth Daniel Sophie Alex Karen Linda Kevin Diana Brian Claire Edward Maria Frank Nancy Eric Elizabeth "
    "Scott Rebecca Andrew Jennifer Joseph Victoria"
).split()

PLACES = "store park school garden station office library market beach museum hospital restaurant".split()

OBJECTS = "drink book ring letter ball bag gift coin flower map card".split()

# For series of unrelated words.
THINGS = (
    "apple river stone chair music winter paper horse window silver bread cloud dragon engine forest guitar hammer "
    "island jacket kitchen lemon mirror needle ocean pencil queen rabbit summer table umbrella village water yellow "
    "zebra bridge candle doctor flower garden hotel iron king lamp moon night orange planet ring snow tree wall "
    "train camera desert farm glass honey knife leaf metal"
).split()

PERIODS = "war siege reign voyage famine drought project campaign treaty strike alliance expedition".split()


def single_tokens(model: Transformer, words: Sequence[str], need: int, what: str) -> list[str]:
    """Those of ``words`` that are one token after a space, with that space.

    Raises:
        ValueError: fewer than ``need`` are.
    """
    found = [f" {word}" for word in words if model.text.is_single(f" {word}")]
    if len(found) < need:
        raise ValueError(
            f"The tokenizer of {model.name} has only {len(found)} of our {len(words)} {what} as single tokens and "
            f"this task needs {need}; use tasks.from_pairs with words that it has."
        )
    return found
