"""What each word gives to an answer: the text on a signed ground, and the same numbers as a sorted list of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.figures.colours import BLUE, SIGNED, VERMILION, ink_on, signed, theme
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, cut, element, join, number, readable, show_token, text_width

WIDTH = 620.0  # of the text, px
CHIP = 26.0  # height of a word
ROW = 50.0  # of one line of words and the next
GAP = 6.0
LONGEST = 24  # letters of a word that are drawn
_BAR = 15.0  # height of a bar with its gap
_MOST_BARS = 15


def token_contributions(
    names: Sequence[str],
    values: Sequence[float],
    *,
    unit: str = "logits",
    special: Sequence[int] = (),
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw words coloured by what they give; ids are ``s`` and the word's number.

    Args:
        names: the words in their order.
        values: what each gives; NaN where it is not known.
        unit: of the values.
        special: numbers of words that are no part of the text, drawn with a dashed frame.
        title: the finding; by default the strongest words.
        caption: model, target, rule, baseline.

    Raises:
        ValueError: unlike many names and values.
    """
    check_lengths(names, values)
    limit = limit_of(values)
    marks, height = _text(names, values, limit, unit, special)
    bars, more = _bars(names, values, limit, height + 8, special)
    ticks, bar_x, below = signed_ticks(limit), WIDTH + 24, height + 8 + more
    tall = min(max(below - 20, 70.0), 160.0)
    marks.append(colour_bar(SIGNED, bar_x, 14, tall, ticks=ticks, unit=unit))
    return frame(
        join([*marks, bars]),
        bar_x + bar_room(ticks, unit),
        max(below, tall + 22),
        title=finding(names, values, unit) if title is None else title,
        caption=caption,
        data={"names": list(names), "values": plain(values), "unit": unit, "special": list(special)},
    )


def check_lengths(names: Sequence[str], values: Sequence[float]) -> None:
    """Refuse unlike many names and values.

    Raises:
        ValueError: saying how many there are.
    """
    if len(names) != len(values):
        raise ValueError(f"There are {len(names)} names and {len(values)} values; give one value for each name.")


def limit_of(values: Sequence[float]) -> float:
    """The largest size of a value, which the scale ends at; 1 where all are 0 or not known."""
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0


def signed_ticks(limit: float) -> list[tuple[float, str]]:
    """Numbers beside a signed scale."""
    return [(0.0, number(-limit)), (0.5, "0"), (1.0, number(limit))]


def plain(values: Sequence[float]) -> list[float | None]:
    """Values ready for JSON."""
    return [value if math.isfinite(value) else None for value in values]


def finding(names: Sequence[str], values: Sequence[float], unit: str) -> str:
    """The strongest two in a sentence."""
    known = [i for i, value in enumerate(values) if math.isfinite(value) and value != 0]
    best = sorted(known, key=lambda i: -abs(values[i]))[:2]
    if not best:
        return "Nothing gives anything"
    told, limit = [f"“{as_words(names[i], LONGEST)}”" for i in best], limit_of(values)
    first = f"{told[0]} gives most, {with_sign(values[best[0]], limit)} {unit}"
    return first if len(best) == 1 else f"{first}, then {told[1]}, {with_sign(values[best[1]], limit)}"


def as_words(name: str, limit: int = 60) -> str:
    """A name as it stands in a sentence: everything invisible made visible but for the spaces between words."""
    return cut(readable(name.strip() or name).replace("·", " ") if name.strip() else readable(name), limit)


def with_sign(value: float, limit: float) -> str:
    """A value as it is printed: with its sign, and to two digits of the largest one, ``limit``."""
    if not math.isfinite(value):
        return "–"
    decimals = min(max(0, 1 - math.floor(math.log10(limit))), 9)
    rounded = round(value, decimals)
    if not rounded:
        return "0"
    text = f"{abs(rounded):,.{decimals}f}" if 1e-4 <= limit < 1e6 else number(abs(rounded))
    return ("+" if rounded > 0 else "−") + text


def chip(
    name: str, value: float, limit: float, x: float, y: float, width: float, words: str, key: str, dashed: bool = False
) -> Markup:
    """A word on its ground, clickable, its value below."""
    known = math.isfinite(value)
    ground = signed(value, limit) if known else theme("faint")
    ink = ink_on(ground) if known else theme("text")
    return element(
        "g",
        element("title", words),
        element(
            "rect",
            class_="wb-shape",
            x=x,
            y=y,
            width=width,
            height=CHIP,
            rx=3,
            fill=ground,
            stroke=theme("muted") if dashed else theme("faint"),
            stroke_dasharray="3 2" if dashed else None,
        ),
        line(show_token(name, LONGEST), x + width / 2, y + 17.5, BODY, text_anchor="middle", fill=ink),
        line(with_sign(value, limit), x + width / 2, y + CHIP + 11, SMALL, text_anchor="middle", fill=theme("muted")),
        class_="wb-cell",
        data_id=key,
        data_kind="word",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def chip_width(name: str, value: float, limit: float) -> float:
    """Pixels that a word with its value takes."""
    return max(text_width(show_token(name, LONGEST), BODY) + 12, text_width(with_sign(value, limit), SMALL) + 4)


def said(name: str, value: float, unit: str) -> str:
    """A word and its value for the hover text."""
    return f"{as_words(name, 200)}: {number(value)} {unit}" if math.isfinite(value) else f"{as_words(name)}: not known"


def _text(
    names: Sequence[str], values: Sequence[float], limit: float, unit: str, special: Sequence[int]
) -> tuple[list[Markup], float]:
    marks, x, y = [], 0.0, 0.0
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        width = chip_width(name, value, limit)
        if x and x + width > WIDTH:
            x, y = 0.0, y + ROW
        marks.append(chip(name, value, limit, x, y, width, said(name, value, unit), f"s{i}", i in special))
        x += width + GAP
    return marks, y + ROW


def _bars(
    names: Sequence[str], values: Sequence[float], limit: float, top: float, special: Sequence[int]
) -> tuple[Markup, float]:
    """Bars from the most positive down to the most negative; the weakest left out where there are too many."""
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    strong = sorted(known, key=lambda i: -abs(values[i]))[:_MOST_BARS]
    order = sorted(strong, key=lambda i: -values[i])
    labels = {i: show_token(names[i], LONGEST) + (" (special)" if i in special else "") for i in order}
    left = max((text_width(label, SMALL) for label in labels.values()), default=0.0) + 10
    room = max((text_width(with_sign(values[i], limit), SMALL) for i in order), default=0.0) + 8
    low = max((-values[i] for i in order), default=0.0)
    has_low, has_high = low > 0, any(values[i] > 0 for i in order)
    half = (WIDTH - left - room * (has_low + has_high)) / ((1 if has_high else 0) + (1 if has_low else 0) or 1)
    axis = left + (half + room if has_low else 0)
    marks = []
    for row, i in enumerate(order):
        y, length = top + row * _BAR, abs(values[i]) / limit * half
        below = values[i] < 0
        marks.append(line(labels[i], left - 8, y + 9.5, SMALL, text_anchor="end"))
        marks.append(
            element(
                "rect",
                x=axis - length if below else axis,
                y=y + 1,
                width=max(length, 0.5),
                height=_BAR - 4,
                fill=BLUE if below else VERMILION,
                fill_opacity=0.85,
            )
        )
        at = axis - length - 4 if below else axis + length + 4
        marks.append(line(with_sign(values[i], limit), at, y + 9.5, SMALL, text_anchor="end" if below else "start"))
    height = len(order) * _BAR
    if order:
        marks.append(element("path", d=f"M{axis:.1f} {top:.1f}v{height:.1f}", stroke=theme("muted"), stroke_width=1))
    if len(known) > len(order):
        words = f"and {len(known) - len(order)} weaker"
        marks.append(line(words, left - 8, top + height + 9.5, SMALL, text_anchor="end", fill=theme("muted")))
        height += _BAR
    return join(marks), height
