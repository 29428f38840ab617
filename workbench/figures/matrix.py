"""A square map of what pairs have in common: head by head, in blocks of layers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.colours import CIVIDIS, SIGNED, Scale, scale, theme
from workbench.figures.figure import SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.shades import LEVELS, draw_levels
from workbench.figures.svg import Markup, cut, element, join, number, readable, text_width

_SIDE = 460.0  # px
_HOVERED = 40  # most rows whose cells have hover text and a click of their own
_HEAD = re.compile(r"a(\d+)\.h\d+")


def matrix(
    values: Float[Tensor, "n n"],
    *,
    names: Sequence[str],
    unit: str,
    low: float | None = None,
    high: float | None = None,
    title: str,
    caption: str = "",
) -> Figure:
    """Draw a number of every pair; the layers of heads (``a9.h6``) are marked as blocks.

    Values of both signs take the signed scale, others an ordered one. Up to 40 names each cell can be hovered and
    clicked (its id is ``row,column``); beyond that each row (its id is the name).

    Args:
        values: of row and column; NaN is grey.
        names: of rows and columns.
        unit: of the values.
        low, high: ends of the scale; by default 0 or the lowest, and the highest; symmetric for both signs.
        title: the finding.
        caption: model, text, settings.

    Raises:
        ValueError: the values are no square that fits the names, or none of them is a number.
    """
    n = len(names)
    if tuple(values.shape) != (n, n):
        raise ValueError(f"For {n} names the values are [{n}, {n}], but these have shape {list(values.shape)}.")
    rows = values.detach().double().cpu().tolist()
    known = [x for row in rows for x in row if math.isfinite(x)]
    if not known:
        raise ValueError("No pair has a value, so that there is nothing to draw.")
    colours, start, end = _scale(known, low, high)
    blocks = _blocks(names)
    shown = [cut(readable(name), 14) for name in names]
    size = min(max(_SIDE / n, 1.2), 30.0)
    whole = size * n
    marked = [_block_name(layer) for layer, _ in blocks] if blocks and size < 11 else shown
    left = max(text_width(text, SMALL) for text in marked) + 10
    top = 8.0 if blocks and size < 11 else max(text_width(text, SMALL) for text in shown) * 0.71 + 12
    body = [_rows(rows, names, left, top, size, colours, start, end, unit)]
    body += _borders(blocks, left, top, size, whole)
    if blocks and size < 11:
        body += _layer_labels(blocks, left, top, size, whole)
    else:
        body += _name_labels(shown, left, top, size)
    ticks = [(0.0, _tick(known, start, -1)), (0.5, number((start + end) / 2)), (1.0, _tick(known, end, 1))]
    height = max(min(whole, 220.0), 60.0)
    body.append(colour_bar(colours, left + whole + 30, top + 12, height, ticks=ticks, unit=unit))
    return frame(
        join(body),
        left + whole + 30 + bar_room(ticks, unit),
        max(top + whole + (30 if blocks and size < 11 else 4), top + height + 18),
        title=title,
        caption=caption,
        data={
            "names": list(names),
            "unit": unit,
            "values": [[x if math.isfinite(x) else None for x in row] for row in rows],
        },
    )


def _scale(known: Sequence[float], low: float | None, high: float | None) -> tuple[Scale, float, float]:
    least, most = min(known), max(known)
    if low is None and high is None and least < 0 < most:
        limit = max(-least, most)
        return SIGNED, -limit, limit
    start = min(0.0, least) if low is None else low
    end = most if high is None else high
    colours = SIGNED if start < 0 and math.isclose(-start, end) else CIVIDIS
    return colours, start, end if end > start else start + 1.0


def _tick(known: Sequence[float], at: float, side: int) -> str:
    beyond = max(known) > at * 1.0001 + 1e-12 if side > 0 else min(known) < at - 1e-4 * abs(at) - 1e-12
    return f"{('≤ ', '', '≥ ')[side + 1]}{number(at)}" if beyond else number(at)


def _blocks(names: Sequence[str]) -> list[tuple[int, int]]:
    """(layer, heads) of each run of one layer; none where a name is no head or there is one layer."""
    found = [_HEAD.fullmatch(name) for name in names]
    if any(match is None for match in found):
        return []
    layers = [(int(match[1])) for match in found if match is not None]
    runs = [(layer, len(list(run))) for layer, run in itertools.groupby(layers)]
    return runs if len(runs) > 1 else []


def _block_name(layer: int) -> str:
    return str(layer)


def _rows(
    rows: Sequence[Sequence[float]],
    names: Sequence[str],
    left: float,
    top: float,
    size: float,
    colours: Scale,
    start: float,
    end: float,
    unit: str,
) -> Markup:
    if len(rows) > _HOVERED:
        levels = [[_level(x, start, end) for x in row] for row in rows]
        hover = (
            _row(names[i], _nearest(row, names, i), left, top + i * size, size * len(rows), size)
            for i, row in enumerate(rows)
        )
        return join([draw_levels(levels, colours, left, top, size), *hover])
    return join(
        element(
            "rect",
            element("title", f"{names[i]}, {names[j]}: {number(x)} {unit}"),
            class_="wb-cell",
            data_id=f"{i},{j}",
            data_kind="cell",
            x=left + j * size,
            y=top + i * size,
            width=size,
            height=size,
            fill=scale(colours, (x - start) / (end - start)) if math.isfinite(x) else theme("faint"),
        )
        for i, row in enumerate(rows)
        for j, x in enumerate(row)
    )


def _level(x: float, start: float, end: float) -> int:
    return round(LEVELS * min(max((x - start) / (end - start), 0.0), 1.0)) if math.isfinite(x) else -1


def _row(name: str, nearest: str, x: float, y: float, width: float, height: float) -> Markup:
    """What a pointer meets over a row."""
    words = f"{name}: {nearest}"
    box = element("rect", x=x, y=y, width=width, height=height, fill="none", pointer_events="all", class_="wb-shape")
    role = {"tabindex": "0", "role": "button", "aria_label": words}
    return element("g", element("title", words), box, class_="wb-cell-head", data_id=name, data_kind="row", **role)


def _nearest(row: Sequence[float], names: Sequence[str], own: int) -> str:
    others = [(x, name) for j, (x, name) in enumerate(zip(row, names, strict=True)) if j != own and math.isfinite(x)]
    if not others:
        return "no value"
    value, name = max(others)
    return f"highest with {name}, {number(value)}"


def _borders(blocks: Sequence[tuple[int, int]], left: float, top: float, size: float, whole: float) -> list[Markup]:
    """Hairlines between layers, and the edge."""
    look: dict[str, str | float | None] = {
        "stroke": theme("ground"),
        "stroke_width": 0.8,
        "pointer_events": "none",
    }
    marks, at = [], 0
    for _, count in blocks[:-1]:
        at += count
        place = at * size
        marks.append(element("line", x1=left + place, x2=left + place, y1=top, y2=top + whole, **look))
        marks.append(element("line", x1=left, x2=left + whole, y1=top + place, y2=top + place, **look))
    edge = {"fill": "none", "stroke": theme("faint"), "pointer_events": "none"}
    return [*marks, element("rect", x=left, y=top, width=whole, height=whole, **edge)]


def _layer_labels(
    blocks: Sequence[tuple[int, int]], left: float, top: float, size: float, whole: float
) -> list[Markup]:
    """The numbers of layers at the left and below, as many as have room."""
    marks, at, last = [], 0, -99.0
    for layer, count in blocks:
        middle = (at + count / 2) * size
        at += count
        if middle - last < 12:
            continue
        last = middle
        marks.append(line(str(layer), left - 5, top + middle + 3.5, SMALL, text_anchor="end"))
        marks.append(line(str(layer), left + middle, top + whole + 13, SMALL, text_anchor="middle"))
    word = line("layer", left + whole / 2, top + whole + 27, SMALL, fill=theme("muted"), text_anchor="middle")
    return [*marks, word]


def _name_labels(shown: Sequence[str], left: float, top: float, size: float) -> list[Markup]:
    marks = []
    every = max(1, math.ceil(12 / size))
    for i, text in list(enumerate(shown))[::every]:
        middle = (i + 0.5) * size
        marks.append(line(text, left - 5, top + middle + 3.5, SMALL, text_anchor="end"))
        turn = f"translate({left + middle + 3:.2f} {top - 5:.2f}) rotate(-45)"
        marks.append(element("text", text, transform=turn, font_size=SMALL, fill=theme("text")))
    return marks


__all__ = ["matrix"]
