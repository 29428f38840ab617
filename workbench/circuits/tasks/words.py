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


# Those of the names that are given to women and to men alone.
WOMEN = (
    "Mary Sarah Amy Anna Kate Emma Lucy Laura Alice Jane Susan Julia Rachel Helen Lisa Emily Grace Ruth Sophie Karen "
    "Linda Diana Claire Maria Nancy Elizabeth Rebecca Jennifer Victoria"
).split()
MEN = (
    "John Tom James Dan Martin Paul Mark David Peter Michael Robert William Richard Thomas Charles George Henry Jack "
    "Simon Adam Daniel Kevin Brian Edward Frank Eric Scott Andrew Joseph"
).split()

# One and several.
NOUNS = tuple(
    zip(
        "key book chair teacher student doctor picture letter box car dog cat boy girl house farmer bird flower "
        "machine tree table window river lawyer artist".split(),
        "keys books chairs teachers students doctors pictures letters boxes cars dogs cats boys girls houses farmers "
        "birds flowers machines trees tables windows rivers lawyers artists".split(),
        strict=True,
    )
)

# What functions take, and what they are called.
PARAMETERS = (
    "size name file key path index value count start width height color data text mode level date user time order "
    "group source target label image state message version number parent field table column row"
).split()
FUNCTIONS = "load save run build copy read write move sort print send open close check clean".split()

CAPITALS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Germany", "Berlin"),
    ("England", "London"),
    ("Russia", "Moscow"),
    ("Japan", "Tokyo"),
    ("China", "Beijing"),
    ("Egypt", "Cairo"),
    ("Greece", "Athens"),
    ("Ireland", "Dublin"),
    ("Austria", "Vienna"),
    ("Portugal", "Lisbon"),
    ("Poland", "Warsaw"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
    ("Canada", "Ottawa"),
    ("Cuba", "Havana"),
    ("Sweden", "Stockholm"),
    ("Belgium", "Brussels"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
    ("Hungary", "Budapest"),
    ("Denmark", "Copenhagen"),
    ("Norway", "Oslo"),
    ("Thailand", "Bangkok"),
)

COLOURS = "red blue green yellow black white orange purple brown pink".split()
THINGS_WITH_COLOURS = "book cup ball box hat bag car chair pen door shirt bowl lamp ring coat".split()

# Words that organisations are called by, of many initials.
TITLES = (
    "American Army Art Bank Board British Business Care Central City Council Data Defense Development Digital Economic "
    "Education Energy European Federal Finance Food Forest Global Government Health History Home Human Institute "
    "International Island Justice Labor Language Law Library Local Market Medical Music National Northern Network "
    "Office Ocean Oil Park People Police Product Public Queen Rail Research River Royal School Science Social Southern "
    "State Technology Trade Travel Union Urban University Valley Village Water Western World Youth"
).split()


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


def single_pairs(model: Transformer, pairs: Sequence[tuple[str, str]], need: int, what: str) -> list[tuple[str, str]]:
    """Those pairs of words of which both are one token after a space, with that space.

    Raises:
        ValueError: fewer than ``need`` are.
    """
    found = [
        (f" {one}", f" {other}")
        for one, other in pairs
        if one != other and model.text.is_single(f" {one}") and model.text.is_single(f" {other}")
    ]
    if len(found) < need:
        raise ValueError(
            f"The tokenizer of {model.name} has only {len(found)} of our {len(pairs)} {what} as single tokens and "
            f"this task needs {need}; use tasks.from_pairs with words that it has."
        )
    return found
