"""Lines over a plane: measured values, their intervals as bands, baselines dashed, names at the lines' ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from workbench.figures.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.plane import BELOW, TOP, Plane, apart, linear, logarithmic
from workbench.figures.svg import Markup, cut, element, join, number, readable, text_width

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_DOTTED = 24  # most points of a line that are marked one by one
_SPACING = BODY + 3  # between names at the lines' ends
_LONGEST = 36  # letters of a name


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: stands at its end, and in hover text.
        x, y: its points; where y is NaN the line has a gap.
        low, high: an interval around every point, drawn as a band.
        dashed: a baseline or a bound: grey and dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False


def curves(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str,
    caption: str = "",
    marks: Sequence[tuple[float, str]] = (),
) -> Figure:
    """Draw lines with their names at their ends; a line that is alone is what the vertical axis says.

    Args:
        lines: at least one with a point. Those that are not dashed take one colour after the other, then the same
            colours in dashes.
        x_title, y_title: what the axes are, with the unit.
        log_x, log_y: logarithmic axes; points at or below 0 are left out.
        title: the finding.
        caption: model, data, settings.
        marks: vertical lines: (where, text).

    Raises:
        ValueError: lists of one line differ in length, or there is nothing to draw.
    """
    for one in lines:
        if any(part is not None and len(part) != len(one.x) for part in (one.y, one.low, one.high)):
            raise ValueError(f"The lists of the line '{one.name}' differ in length.")
    plane = _plane(lines, [at for at, _ in marks], log_x, log_y)
    found = [(one, _runs(one, plane), *_look(lines, i)) for i, one in enumerate(lines)]
    found = [drawn for drawn in found if drawn[1]]
    if not found:
        raise ValueError("No line has a point that can be drawn: all values are missing, or have no logarithm.")
    body = [plane.drawn(x_title, y_title), *_marks(marks, plane)]
    body += [_band(one, plane, colour) for one, _, colour, _ in found]
    ordered = sorted(found, key=lambda drawn: not drawn[0].dashed)  # baselines below
    body += [_drawn(one, runs, plane, colour, dash) for one, runs, colour, dash in ordered]
    room = 14.0
    if len(lines) > 1:
        ends = [(one, runs[-1][-1], colour) for one, runs, colour, _ in found]
        body.append(_names(ends, plane))
        room = max(text_width(_shown(one), BODY) for one, *_ in found) + 20
    return frame(
        join(body),
        plane.right + room,
        max(plane.bottom + BELOW, TOP + len(found) * _SPACING),
        title=title,
        caption=caption,
        data={
            "x": x_title,
            "y": y_title,
            "lines": [_data(one) for one in lines],
            "marks": [[at, text] for at, text in marks],
        },
    )


def _plane(lines: Sequence[Line], marks: Sequence[float], log_x: bool, log_y: bool) -> Plane:
    xs = [float(x) for one in lines for x in one.x] + list(marks)
    ys = [float(y) for one in lines for part in (one.y, one.low, one.high) if part is not None for y in part]
    xs, ys = ([value for value in values if value - value == 0] for values in (xs, ys))
    across = logarithmic(xs) if log_x else linear(xs, room=0.0, aim=6)
    return Plane(across, logarithmic(ys) if log_y else linear(ys))


def _look(lines: Sequence[Line], i: int) -> tuple[str, str | None]:
    """Colour and dashes of a line."""
    if lines[i].dashed:
        before = sum(one.dashed for one in lines[:i])
        return theme("muted"), ("2 3", "7 3", "7 3 2 3")[before % 3]
    before = sum(not one.dashed for one in lines[:i])
    return COLOURS[before % len(COLOURS)], None if before < len(COLOURS) else "9 3"


Point = tuple[float, float]


def _runs(one: Line, plane: Plane) -> list[list[Point]]:
    """Points without a gap between them, in values."""
    runs = groupby(
        zip(map(float, one.x), map(float, one.y), strict=True), lambda at: plane.x.has(at[0]) and plane.y.has(at[1])
    )
    return [list(run) for there, run in runs if there]


def _drawn(one: Line, runs: list[list[Point]], plane: Plane, colour: str, dash: str | None) -> Markup:
    d = "".join("M" + "L".join(f"{plane.px(x):.1f} {plane.py(y):.1f}" for x, y in run) for run in runs)
    look: dict[str, Any] = {
        "fill": "none",
        "stroke": colour,
        "stroke_width": 1.4 if one.dashed else 2.0,
        "stroke_dasharray": dash,
    }
    parts = [element("title", one.name), element("path", d=d, **look)]
    points = [point for run in runs for point in run]
    single = {run[0] for run in runs if len(run) == 1}
    if not one.dashed and (len(points) <= _DOTTED or single):
        parts += [
            element(
                "circle",
                element("title", f"{one.name}: {number(y)} at {number(x)}"),
                cx=plane.px(x),
                cy=plane.py(y),
                r=2.6,
                fill=colour,
            )
            for x, y in (points if len(points) <= _DOTTED else sorted(single))
        ]
    return element("g", *parts, class_="wb-series", data_id=one.name)


def _band(one: Line, plane: Plane, colour: str) -> Markup:
    """The interval, from ``low`` to ``high``."""
    if one.low is None or one.high is None:
        return Markup("")
    points = [
        (plane.px(x), plane.py(low), plane.py(high))
        for x, low, high in zip(one.x, one.low, one.high, strict=True)
        if plane.x.has(x) and plane.y.has(low) and plane.y.has(high)
    ]
    if len(points) < 2:
        return Markup("")
    there = [f"{x:.1f} {low:.1f}" for x, low, _ in points]
    back = [f"{x:.1f} {high:.1f}" for x, _, high in reversed(points)]
    return element("path", d="M" + "L".join(there + back) + "z", fill=colour, fill_opacity=0.16, class_="wb-band")


def _marks(marks: Sequence[tuple[float, str]], plane: Plane) -> list[Markup]:
    """Vertical lines; their texts stand in rows of their own where they would touch."""
    drawn: list[Markup] = []
    rows: list[float] = []  # where the text of each row ends
    places = sorted((plane.px(at), text) for at, text in marks if plane.x.has(at))
    for i, (x, text) in enumerate(places):
        width = text_width(text, SMALL)
        start = x + 4
        # To the left of its line where the next line, or the edge, would run through it.
        if start + width > (places[i + 1][0] if i + 1 < len(places) else plane.right) and x - 4 - width >= plane.left:
            start = x - 4 - width
        row = next((i for i, end in enumerate(rows) if end + 6 <= start), len(rows))
        rows[row:] = [start + width]
        drawn.append(element("line", x1=x, x2=x, y1=TOP, y2=plane.bottom, stroke=theme("muted"), stroke_width=1.0))
        drawn.append(line(text, start, TOP + 10 + row * (SMALL + 3), SMALL, fill=theme("muted")))
    return drawn


def _names(ends: Sequence[tuple[Line, Point, str]], plane: Plane) -> Markup:
    """The lines' names at their ends, with a hair to the end."""
    heights = [plane.py(y) for _, (_, y), _ in ends]
    marks = []
    for (one, (x, _), colour), height, at in zip(
        ends, heights, apart(heights, _SPACING, TOP + 4, plane.bottom - 2), strict=True
    ):
        end = plane.px(x)
        marks.append(
            element("line", x1=end + 3, x2=plane.right + 12, y1=height, y2=at, stroke=colour, stroke_width=0.8)
        )
        marks.append(line(_shown(one), plane.right + 15, at + 4, BODY, fill=colour))
    return join(marks)


def _shown(one: Line) -> str:
    return cut(" ".join(readable(word) for word in one.name.split()), _LONGEST)


def _data(one: Line) -> dict[str, object]:
    def plain(values: Sequence[float] | None) -> list[float | None] | None:
        return None if values is None else [float(value) if value - value == 0 else None for value in values]

    return {
        "name": one.name,
        "x": plain(one.x),
        "y": plain(one.y),
        "low": plain(one.low),
        "high": plain(one.high),
        "dashed": one.dashed,
    }


__all__ = ["Line", "curves"]
