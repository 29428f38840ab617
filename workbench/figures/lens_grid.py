"""What a model would answer at every depth and position: the words of a lens in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from workbench.figures.colours import CIVIDIS, SHARE, SKY, Scale, ink_on, scale, theme
from workbench.figures.figure import SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, element, isolate, join, number, readable, show_token, text_width

if TYPE_CHECKING:
    from workbench.lens import LogitLens

Show = Literal["prob", "entropy", "kl", "rank"]
UNITS: dict[str, str] = {"prob": "probability", "entropy": "nats", "kl": "nats", "rank": "rank"}
_TITLES = {
    "prob": "probability of the word",
    "entropy": "entropy of the answer",
    "kl": "KL from the model's own answer",
    "rank": "rank of the target",
}
_HIGH = 16.0  # px
_SLANT = 0.71


def lens_grid(
    lens: LogitLens,
    *,
    show: Show = "prob",
    target: int = 0,
    example: int = 0,
    selected: tuple[str, int] | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the most likely word behind every layer at every position, the model's own answer on top.

    The ground of a word is its probability, the entropy of the answer, its KL from the model's own answer, or the
    rank of a target. Hovering a cell lists the most likely words; a click gives ``place,position``.

    Args:
        lens: what was read.
        show: what colours say.
        target: which of the followed answers, for ``rank``.
        example: which prompt.
        selected: place and position (its index among those read) of a cell to outline.
        title: the finding; by default from which layer on the last position's answer stays.
        caption: in place of model and lens.

    Raises:
        ValueError: there is no such prompt or target, or an unknown word for ``show``.
    """
    if show not in UNITS:
        raise ValueError(f"'show' is one of {', '.join(UNITS)}; got {show!r}.")
    if not 0 <= example < lens.top.shape[1]:
        raise ValueError(f"There is no prompt {example}: these are 0 to {lens.top.shape[1] - 1}.")
    if not 0 <= target < lens.targets.shape[-1]:
        raise ValueError(f"There is no target {target}: {lens.targets.shape[-1]} were followed.")
    columns = [p for p in range(lens.top.shape[2]) if int(lens.top[-1, example, p, 0]) >= 0]
    names = [_position(lens, example, p) for p in columns]
    colours, end, ticks = _scale(lens, show, target, example, columns)
    w = min(76.0, max(40.0, 900.0 / max(len(columns), 1)))
    left = max(text_width(place, SMALL) for place in lens.places) + 10
    shown = [show_token(name) for name in names]
    top = max((text_width(label, SMALL) for label in shown), default=0.0) * _SLANT + 12
    marks = [_header(names, shown, left, top, w)] if lens.positions else []
    for row, place in enumerate(reversed(lens.places)):
        y = top + row * _HIGH
        index = len(lens.places) - 1 - row
        marks.append(line(place, left - 6, y + 11.5, SMALL, text_anchor="end"))
        for column, p in enumerate(columns):
            value = _value(lens, show, target, index, example, p)
            fill = theme("faint") if value is None else scale(colours, _share(value, show, end))
            box = (left + column * w, y, w)
            marks.append(_cell(lens, index, example, p, names[column], value, fill, box, show, selected))
    right = left + len(columns) * w
    over = max((left + (i + 0.5) * w + text_width(label, SMALL) * _SLANT for i, label in enumerate(shown)), default=0)
    bar, bar_top = max(right, over) + 14, max(top, 16.0)
    height = max(60.0, min(len(lens.places) * _HIGH, 220.0))
    unit = UNITS[show]
    marks.append(colour_bar(colours, bar, bar_top, height, ticks=ticks, unit=unit))
    what = f"Words: the most likely; ground: {_TITLES[show]}"
    if show == "rank" and columns:
        what += f" “{show_token(_word(lens, int(lens.targets[example, columns[-1], target])), 20)}”"
    what += "."
    return frame(
        join(marks),
        bar + bar_room(ticks, unit),
        max(top + len(lens.places) * _HIGH, bar_top + height) + 6,
        title=_finding(lens, show, target, example, columns) if title is None else title,
        caption=f"{caption or f'{lens.model}, {lens.title}.'} {what}" + ("" if lens.complete else " Not complete."),
        data={
            "places": list(lens.places),
            "names": names,
            "show": show,
            "words": [[_word(lens, int(lens.top[i, example, p, 0])) for p in columns] for i in range(len(lens.places))],
            "values": [[_value(lens, show, target, i, example, p) for p in columns] for i in range(len(lens.places))],
        },
    )


def _position(lens: LogitLens, example: int, p: int) -> str:
    """What stands at a position that was read; of a classifier its answer."""
    if not lens.positions:
        return "answer"
    own, at = lens.names[example], lens.positions[p]
    return own[at] if at < len(own) else ""


def _word(lens: LogitLens, index: int) -> str:
    return lens.top_words.get(index, str(index))


def _value(lens: LogitLens, show: Show, target: int, place: int, example: int, p: int) -> float | None:
    found = {"prob": lens.top_probs[..., 0], "entropy": lens.entropy, "kl": lens.kl, "rank": lens.ranks[..., target]}
    value = float(found[show][place, example, p])
    return value if math.isfinite(value) and (show != "rank" or value > 0) else None


def _scale(
    lens: LogitLens, show: Show, target: int, example: int, columns: Sequence[int]
) -> tuple[Scale, float, list[tuple[float, str]]]:
    """Colours, the end of the scale, and its numbers."""
    if show == "prob":
        return SHARE, 1.0, [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    values = [
        value
        for place in range(len(lens.places))
        for p in columns
        if (value := _value(lens, show, target, place, example, p)) is not None
    ]
    end = max(values, default=1.0)
    if show == "rank":
        # Dark is the first rank; the scale is one of ratios.
        end = max(end, 10.0)
        powers = range(math.ceil(math.log10(end)))
        return SHARE, end, [(1 - i / math.log10(end), f"{10**i:,}") for i in powers]
    end = end or 1.0
    return CIVIDIS, end, [(0.0, "0"), (0.5, number(end / 2)), (1.0, number(end))]


def _share(value: float, show: Show, end: float) -> float:
    if show == "rank":
        return 1 - math.log10(max(value, 1.0)) / math.log10(end)
    return value / end


def _header(names: Sequence[str], shown: Sequence[str], left: float, top: float, w: float) -> Markup:
    marks = []
    for i, label in enumerate(shown):
        x = left + (i + 0.5) * w
        words = line(label, x, top - 5, SMALL, transform=f"rotate(-45 {x:.1f} {top - 5:.1f})")
        marks.append(element("g", element("title", f"position {i}: {readable(names[i])}"), words, class_="wb-place"))
    return join(marks)


def _cell(
    lens: LogitLens,
    place: int,
    example: int,
    p: int,
    name: str,
    value: float | None,
    fill: str,
    box: tuple[float, float, float],
    show: Show,
    selected: tuple[str, int] | None,
) -> Markup:
    x, y, w = box
    ids, probs = lens.top[place, example, p].tolist(), lens.top_probs[place, example, p].tolist()
    listed = ", ".join(
        f"{isolate(readable(_word(lens, i)))} {number(prob)}" for i, prob in zip(ids, probs, strict=True) if i >= 0
    )
    more = "" if value is None or show == "prob" else f"; {_TITLES[show]}: {number(value)}"
    words = f"{lens.places[place]} at {isolate(readable(name))}: {listed}{more}"
    chosen = selected == (lens.places[place], p)
    text = fitting(_word(lens, ids[0]), w - 5) if ids[0] >= 0 else ""
    ink = ink_on(fill) if fill.startswith("#") else theme("text")
    return element(
        "g",
        element("title", words),
        element(
            "rect",
            class_="wb-shape",
            x=x,
            y=y,
            width=w,
            height=_HIGH,
            fill=fill,
            stroke=SKY if chosen else theme("faint"),
            stroke_width=3.0 if chosen else 0.6,
        ),
        line(text, x + w / 2, y + 11.5, SMALL, text_anchor="middle", fill=ink),
        class_="wb-cell-head",
        data_id=f"{lens.places[place]},{p}",
        data_kind="cell",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def fitting(token: str, width: float) -> str:
    """A token as it is read, cut to the width of a cell."""
    text = readable(token)
    if text_width(text, SMALL) <= width:
        return text
    while text and text_width(f"{text}…", SMALL) > width:
        text = text[:-1]
    return f"{text}…"


def _finding(lens: LogitLens, show: Show, target: int, example: int, columns: Sequence[int]) -> str:
    """What the last position says about depth."""
    if not columns:
        return "Nothing was read"
    p = columns[-1]
    where = " at the last position" if lens.positions else ""
    if show in ("entropy", "kl"):
        values = [_value(lens, show, target, i, example, p) for i in range(len(lens.places))]
        known = [(value, place) for value, place in zip(values, lens.places, strict=True) if value is not None]
        what = "Entropy" if show == "entropy" else "KL from the model's own answer"
        most, place = max(known)
        return f"{what}{where} goes from {number(most)} nats at {place} to {number(known[-1][0])} at {known[-1][1]}"
    if show == "rank":
        word = isolate(show_token(_word(lens, int(lens.targets[example, p, target])), 20))
        first = [int(lens.ranks[i, example, p, target]) == 1 for i in range(len(lens.places))]
        stays = _stays(first)
        if stays is None:
            return f"“{word}” ends{where} with rank {int(lens.ranks[-1, example, p, target]):,}"
        return f"“{word}” comes first{where} {_from(lens, stays)}"
    answers = lens.top[:, example, p, 0].tolist()
    stays = _stays([answer == answers[-1] for answer in answers])
    assert stays is not None
    return f"“{isolate(show_token(_word(lens, answers[-1]), 20))}” is the answer{where} {_from(lens, stays)}"


def _stays(holds: Sequence[bool]) -> int | None:
    """From where on it holds to the end; None where it does not hold there."""
    if not holds[-1]:
        return None
    return len(holds) - next((i for i, one in enumerate(reversed(holds)) if not one), len(holds))


def _from(lens: LogitLens, stays: int) -> str:
    if stays == len(lens.places) - 1:
        return "only in the last layer"
    return "at every depth" if stays == 0 else f"from {lens.places[stays]} on"


__all__ = ["UNITS", "Show", "fitting", "lens_grid"]
