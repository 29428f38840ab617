"""Signed numbers with names as bars, and numbers before and after something was done."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

from workbench.figures.colours import SIGNED, SKY, theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.plane import Axis, linear
from workbench.figures.svg import Markup, cut, element, isolate, join, number, plural, readable, text_width

_ROW, _WIDE = 19.0, 360.0  # px
_NAME = 44  # letters


def signed_bars(
    values: Sequence[tuple[str, float]],
    *,
    unit: str,
    whole: float | None = None,
    shown: int = 20,
    selected: Collection[str] = (),
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the largest of named numbers as bars, vermilion for and blue against; the order is by size.

    A click on a row gives its name. What is left out is said below in one row.

    Args:
        values: name and number; those that are no number are left out.
        unit: of them.
        whole: what they are parts of, drawn as a dashed line where it lies within reach.
        shown: how many.
        selected: names to mark.
        title: the finding; by default the largest.
        caption: model, target.

    Raises:
        ValueError: no value is a number, or none is to be shown.
    """
    known = [(name, float(value)) for name, value in values if math.isfinite(value)]
    if not known:
        raise ValueError("No value is a number, so that there is nothing to draw.")
    if shown < 1:
        raise ValueError(f"At least one bar is drawn; got shown={shown}.")
    ordered = sorted(known, key=lambda one: -abs(one[1]))
    rows, rest = ordered[:shown], ordered[shown:]
    others = f"{plural(len(rest), 'other')}"
    listed = [*rows, (others, math.fsum(value for _, value in rest))] if rest else rows
    reach = [0.0, *(value for _, value in listed)]
    if whole is not None and abs(whole) <= 1.5 * max(map(abs, reach)):
        reach.append(whole)
    axis = linear(reach)
    names = [cut(readable_words(name), _NAME) for name, _ in listed]
    left = max(text_width(name, BODY) for name in names) + 10
    top, bottom = 20.0, 20.0 + _ROW * len(listed)
    marks = [line(unit, left, 9, SMALL, fill=theme("muted")), _grid(axis, left, top, bottom)]
    if whole is not None and whole in reach:
        x = left + _WIDE * axis.place(whole)
        dash: dict[str, Any] = {"stroke": theme("muted"), "stroke_width": 1.2, "stroke_dasharray": "5 3"}
        marks.append(element("line", x1=x, x2=x, y1=top - 4, y2=bottom, **dash))
        marks.append(line("whole", x, top - 7, SMALL, fill=theme("muted"), text_anchor="middle"))
    for i, ((name, value), words) in enumerate(zip(listed, names, strict=True)):
        other = bool(rest) and i == len(listed) - 1
        marks.append(_bar(name, words, value, unit, axis, left, top + i * _ROW, name in selected, other))
    widest = max(text_width(number(value), SMALL) for _, value in listed)
    best, value = rows[0]
    of = "" if whole is None else f" of {number(whole)}"
    found = f"{readable_words(best)} gives most: {number(value)}{of} {unit}"
    if value < 0:
        found = f"{readable_words(best)} works against it most: {number(value)} {unit}"
    return frame(
        join(marks),
        left + _WIDE + widest + 12,
        bottom + 18,
        title=found if title is None else title,
        caption=caption,
        data={"unit": unit, "whole": whole, "values": dict(known)},
    )


def readable_words(text: str) -> str:
    """Text with single spaces between words, and everything invisible in them made visible."""
    return " ".join(readable(word) for word in text.split()) or readable(text)


def _grid(axis: Axis, left: float, top: float, bottom: float) -> Markup:
    marks = []
    for tick in axis.ticks:
        x = left + _WIDE * axis.place(tick)
        colour = theme("muted" if tick == 0 else "faint")
        marks.append(element("line", x1=x, x2=x, y1=top, y2=bottom, stroke=colour, stroke_width=0.7))
        marks.append(line(number(tick), x, bottom + 13, SMALL, text_anchor="middle"))
    return join(marks)


def _bar(
    name: str, shown: str, value: float, unit: str, axis: Axis, left: float, y: float, selected: bool, other: bool
) -> Markup:
    zero, at = (left + _WIDE * axis.place(x) for x in (0.0, value))
    text = number(value)
    words = f"{isolate(readable_words(name))}: {number(value)} {unit}"
    fill = (SIGNED[0], SIGNED[-1])[value >= 0]
    look: dict[str, Any] = {"fill": "none", "stroke": fill} if other else {"fill": fill}
    width = text_width(text, SMALL)
    # Left of a bar there may be the name; then the number goes to the other side of zero.
    outside = value < 0 and at - 7 - width >= left
    start = at - 5 - width if outside else max(zero, at) + 5
    # Over the dashed line of the whole the number keeps its ground.
    under = element("rect", x=start - 2, y=y + 4, width=width + 4, height=_ROW - 8, fill=theme("ground"))
    ground: dict[str, Any] = {"fill": SKY, "fill_opacity": 0.18 if selected else 0.0}
    return element(
        "g",
        element("title", words),
        element("rect", x=0, y=y, width=left + _WIDE, height=_ROW, class_="wb-shape", **ground),
        line(shown, left - 8, y + 13, BODY, text_anchor="end", fill=theme("muted" if other else "text")),
        element("rect", x=min(zero, at), y=y + 3, width=max(abs(at - zero), 0.6), height=_ROW - 6, **look),
        under,
        line(text, start + width if outside else start, y + 13, SMALL, text_anchor="end" if outside else None),
        class_="wb-cell-head",
        data_id=name,
        data_kind="bar",
        tabindex="0",
        role="button",
        aria_label=words,
    )


Change = tuple[str, float, float, float, float]
"""Name, before, after, and the interval of the difference (after - before); NaN where there is none."""


def before_after(
    rows: Sequence[Change],
    *,
    unit: str,
    better: Literal["lower", "higher"] | None = "lower",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what a number was and what it became, with the interval of the difference around the latter.

    An open circle is before, a filled one after: vermilion where it is better and the interval leaves no doubt, blue
    where it is worse, grey where the interval holds zero or there is none. A click on a row gives its name.

    Args:
        rows: name, before, after, low and high end of the interval of after - before.
        unit: of the numbers.
        better: which way is better; None where neither is.
        title: the finding; by default how many are better and how many worse.
        caption: model, data, how the interval was made.

    Raises:
        ValueError: there are no rows, or a number is not finite.
    """
    if not rows:
        raise ValueError("There is nothing to compare: give at least one row.")
    for name, before, after, *_ in rows:
        if not (math.isfinite(before) and math.isfinite(after)):
            raise ValueError(f"'{name}' has no number before or after.")
    ends = [x for _, before, after, low, high in rows for x in (before, after, before + low, before + high)]
    axis = _tight([x for x in ends if math.isfinite(x)])
    names = [cut(readable_words(name), _NAME) for name, *_ in rows]
    told = [_difference(row) for row in rows]
    left = max(text_width(name, BODY) for name in names) + 12
    top, bottom = 20.0, 20.0 + 26.0 * len(rows)
    marks = [line(unit, left, 9, SMALL, fill=theme("muted")), _grid(axis, left, top, bottom)]
    marks.append(line("after − before", left + _WIDE + 14, 9, SMALL, fill=theme("muted")))
    verdicts = [_verdict(row, better) for row in rows]
    for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        marks.append(_change(row, names[i], told[i], verdict, axis, left, top + 26.0 * i, unit))
    counts = {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "open")}
    words = {
        "better": f"{counts['better']} better",
        "worse": f"{counts['worse']} worse",
        "open": "without a clear change",
    }
    words["open"] = f"{counts['open']} {words['open']}"
    found = ", ".join(words[verdict] for verdict in counts if counts[verdict])
    if len(rows) == 1:
        found = f"{readable_words(rows[0][0])}: {number(rows[0][1])} to {number(rows[0][2])} {unit}"
    widest = max(text_width(text, SMALL) for text in [*told, "after − before"])
    which = "Open: before; filled: after." if better is None else f"Open: before; filled: after; {better} is better."
    return frame(
        join(marks),
        left + _WIDE + 14 + widest,
        bottom + 18,
        title=found if title is None else title,
        caption=f"{caption} {which}".strip(),
        data={
            "unit": unit,
            "rows": [
                {"name": name, "before": before, "after": after, "low": _plain(low), "high": _plain(high)}
                for name, before, after, low, high in rows
            ],
        },
    )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tight(values: Sequence[float]) -> Axis:
    """An axis that holds the values and need not begin at 0, for what matters is the change."""
    low, high = min(values), max(values)
    spread = high - low or abs(high) or 1.0
    low, high = low - 0.08 * spread, high + 0.08 * spread
    fine = linear([0.0, high - low])  # its ticks are one round step apart
    step = fine.ticks[1]
    ticks = tuple(float(f"{i * step:.9g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1))
    return Axis(low, high, ticks)


def _verdict(row: Change, better: str | None) -> str:
    _, _, _, low, high = row
    if better is None or not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
        return "open"
    return "better" if (high < 0) == (better == "lower") else "worse"


def _difference(row: Change) -> str:
    _, before, after, low, high = row
    sign = "+" if after > before else ""
    interval = f" ({number(low)} to {number(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{sign}{number(after - before)}{interval}"


def _change(row: Change, shown: str, told: str, verdict: str, axis: Axis, left: float, y: float, unit: str) -> Markup:
    name, before, after, low, high = row
    colour = {"better": SIGNED[-1], "worse": SIGNED[0], "open": theme("muted")}[verdict]
    middle = y + 13
    x0, x1 = (left + _WIDE * axis.place(x) for x in (before, after))
    marks = [element("line", x1=x0, x2=x1, y1=middle, y2=middle, stroke=colour, stroke_width=1.4)]
    if math.isfinite(low) and math.isfinite(high):
        ends = [left + _WIDE * axis.place(before + x) for x in (low, high)]
        wide: dict[str, Any] = {"stroke": colour, "stroke_width": 7.0, "stroke_opacity": 0.28}
        marks.append(element("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, **wide))
    edge: dict[str, Any] = {"stroke": theme("text"), "stroke_width": 1.4}
    marks.append(element("circle", cx=x0, cy=middle, r=4, fill=theme("ground"), **edge))
    marks.append(element("circle", cx=x1, cy=middle, r=4, fill=colour))
    words = f"{isolate(readable_words(name))}: {number(before)} to {number(after)} {unit}, {told}"
    return element(
        "g",
        element("title", words),
        element("rect", x=0, y=y, width=left + _WIDE, height=26, fill=SKY, fill_opacity=0.0, class_="wb-shape"),
        line(shown, left - 10, middle + 4, BODY, text_anchor="end"),
        *marks,
        line(told, left + _WIDE + 14, middle + 3.5, SMALL),
        class_="wb-cell-head",
        data_id=name,
        data_kind="row",
        tabindex="0",
        role="button",
        aria_label=words,
    )


__all__ = ["Change", "before_after", "readable_words", "signed_bars"]
