"""Layer x head map: what each head and MLP gives to a target, on one signed scale."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from workbench.figures.colours import SIGNED, SKY, ink_on, signed, theme
from workbench.figures.figure import SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, element, join, number, plural, text_width

_NODE = re.compile(r"a(\d+)\.h(\d+)|m(\d+)")
_ROOM = (420.0, 460.0)  # width and height that the heads' cells share, px
_WIDTH, _HEIGHT = (15.0, 44.0), (12.0, 34.0)  # least and most of one cell, px
_GAP, _BARS = 10.0, 56.0  # before the MLPs' column; width of the means at the right
_NUMBERED = 6  # strongest cells whose number is printed


class _Grid:
    """Where the cells of ``layers`` x ``heads`` stand; layer 0 at the bottom, MLPs behind a gap."""

    def __init__(self, layers: int, heads: int, has_mlps: bool) -> None:
        self.layers, self.heads = layers, heads
        self.w = min(max(_ROOM[0] / max(heads, 1), _WIDTH[0]), _WIDTH[1])
        self.h = min(max(_ROOM[1] / max(layers, 1), _HEIGHT[0]), _HEIGHT[1])
        self.left, self.top = text_width(str(layers), SMALL) + 26.0, 20.0
        self.heads_end = self.left + heads * self.w
        self.mlps = self.heads_end + _GAP
        self.right = self.mlps + max(self.w, 26.0) if has_mlps else self.heads_end
        self.bottom = self.top + layers * self.h

    def box(self, layer: int, head: int | None) -> tuple[float, float, float, float]:
        """Left, top, width and height of a cell; the MLP's for no head."""
        y = self.top + (self.layers - 1 - layer) * self.h
        if head is None:
            return self.mlps, y, self.right - self.mlps, self.h
        return self.left + head * self.w, y, self.w, self.h


def contribution_map(
    values: Mapping[str, float],
    layers: int | None = None,
    heads: int | None = None,
    *,
    unit: str,
    whole: float | None = None,
    selected: Collection[str] = (),
    absent: str = "no value",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what heads and MLPs give: vermilion for the target, blue against it, layer 0 at the bottom.

    The scale ends at the strongest head, unless heads give next to nothing; MLPs beyond it have their number.
    A click on a cell gives the node's name. The bars at the right are the mean over the heads of a layer; there is no
    mean over layers, for heads of one number in two layers have nothing to do with each other.

    Args:
        values: by node, ``a9.h6`` or ``m4``; what is missing or no number is grey.
        layers: of the model; by default as many as the names tell.
        heads: of each layer; by default as many as the names tell.
        unit: of the values.
        whole: the target's own value, for the title; 1 where values are shares of it.
        selected: nodes to outline.
        absent: what hovering a grey cell says of it.
        title: the finding; by default the node with the largest value.
        caption: model, input, target, rule.

    Raises:
        ValueError: a name is no node of such a model, or no value is a number.
    """
    layers, heads = _size(values, layers, heads)
    where = {name: _place(name, layers, heads) for name in values}
    there = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    if not there:
        raise ValueError("No head or MLP has a value, so that there is nothing to draw.")
    limit, beyond = _limit(there)
    grid = _Grid(layers, heads, any(head is None for _, head in where.values()))
    by_place = {where[name]: value for name, value in there.items()}
    told = {*sorted(there, key=lambda name: -abs(there[name]))[:_NUMBERED], *beyond}
    marks = _axes(grid)
    for layer in range(layers):
        for head in [*range(heads), *([None] if grid.right > grid.heads_end else [])]:
            name = f"m{layer}" if head is None else f"a{layer}.h{head}"
            value = by_place.get((layer, head))
            marks.append(_cell(grid.box(layer, head), name, value, limit, unit, absent, name in told))
    marks += [_outline(grid.box(*place)) for name in selected if (place := _known(name, layers, heads)) is not None]
    end = grid.right
    if layers > 1 and heads > 1:
        means, end = _means(grid, by_place, unit)
        marks += means
    more = "≥ " if beyond else ""
    ticks = [(0.0, f"{'≤ ' if beyond else ''}{number(-limit)}"), (0.5, "0"), (1.0, f"{more}{number(limit)}")]
    height = max(min(grid.bottom - grid.top, 220.0), 60.0)
    marks.append(colour_bar(SIGNED, end + 26, grid.top + 4, height, ticks=ticks, unit=unit))
    clipped = f"The scale ends at the strongest head; beyond it: {', '.join(beyond[:6])}." if beyond else ""
    notes = [caption, "Dashes: against it.", clipped, _grey(there, layers, heads, grid, absent)]
    return frame(
        join(marks),
        end + 26 + bar_room(ticks, unit),
        max(grid.bottom + 30, grid.top + 4 + height + 6),
        title=_finding(there, whole, unit) if title is None else title,
        caption=" ".join(note for note in notes if note),
        data={"layers": layers, "heads": heads, "unit": unit, "whole": whole, "values": there},
    )


def _size(names: Collection[str], layers: int | None, heads: int | None) -> tuple[int, int]:
    """Layers and heads that the names tell, where nobody says."""
    found = [match for name in names if (match := _NODE.fullmatch(name)) is not None]
    deepest = max((int(match[1] or match[3]) for match in found), default=0)
    widest = max((int(match[2]) for match in found if match[2] is not None), default=-1)
    return deepest + 1 if layers is None else layers, widest + 1 if heads is None else heads


def _limit(values: Mapping[str, float]) -> tuple[float, list[str]]:
    """Where the scale ends, and what lies beyond: a few MLPs can give so much more that all heads would look alike."""
    heads = max((abs(value) for name, value in values.items() if name.startswith("a")), default=0.0)
    largest = max(map(abs, values.values()))
    if heads < largest / 100:
        return largest, []
    beyond = [name for name, value in values.items() if abs(value) > heads]
    return heads, sorted(beyond, key=lambda name: -abs(values[name]))


def _known(name: str, layers: int, heads: int) -> tuple[int, int | None] | None:
    match = _NODE.fullmatch(name)
    if match is None:
        return None
    layer, head = (int(match[3]), None) if match[3] is not None else (int(match[1]), int(match[2]))
    return (layer, head) if layer < layers and (head is None or head < heads) else None


def _place(name: str, layers: int, heads: int) -> tuple[int, int | None]:
    """Layer and head of a node; no head for an MLP.

    Raises:
        ValueError: there is no such node.
    """
    found = _known(name, layers, heads)
    if found is None:
        raise ValueError(
            f"'{name}' is no node of a model with {plural(layers, 'layer')} of {plural(heads, 'head')}; "
            "write a9.h6 or m4."
        )
    return found


def _axes(grid: _Grid) -> list[Markup]:
    """Numbers of layers and heads, as many as have room."""
    middle = (grid.top + grid.bottom) / 2
    turned = f"rotate(-90 9 {middle:.1f})"
    marks = [line("layer", 9, middle, SMALL, fill=theme("muted"), text_anchor="middle", transform=turned)]
    every = _step(grid.layers, grid.h, 12.0)
    for layer in range(0, grid.layers, every):
        y = grid.box(layer, None)[1] + grid.h / 2 + 3.5
        marks.append(line(str(layer), grid.left - 6, y, SMALL, text_anchor="end"))
    every = _step(grid.heads, grid.w, text_width(str(grid.heads), SMALL) + 4)
    for head in range(0, grid.heads, every):
        x = grid.left + (head + 0.5) * grid.w
        marks.append(line(str(head), x, grid.bottom + 13, SMALL, text_anchor="middle"))
    if grid.heads:
        x = (grid.left + grid.heads_end) / 2
        marks.append(line("head", x, grid.bottom + 27, SMALL, fill=theme("muted"), text_anchor="middle"))
    if grid.right > grid.heads_end:
        x = (grid.mlps + grid.right) / 2
        marks.append(line("MLP", x, grid.bottom + 13, SMALL, text_anchor="middle"))
    return marks


def _step(count: int, room: float, needed: float) -> int:
    """Label every how many, so that labels do not touch."""
    return next((step for step in (1, 2, 5, 10, 20, 50) if step * room >= needed), max(count, 1))


def _cell(
    box: tuple[float, float, float, float],
    name: str,
    value: float | None,
    limit: float,
    unit: str,
    absent: str,
    told: bool,
) -> Markup:
    x, y, w, h = box
    words = f"{name}: {absent}" if value is None else f"{name}: {number(value)} {unit}"
    fill = theme("faint") if value is None else signed(value, limit)
    look: dict[str, str | float | None] = {"fill": fill, "stroke": theme("faint"), "stroke_width": 0.6}
    look["fill_opacity"] = 0.5 if value is None else None
    marks = [element("title", words), element("rect", class_="wb-shape", x=x, y=y, width=w, height=h, **look)]
    middle = y + h / 2
    if value is not None:
        ink, text = ink_on(fill), number(float(f"{value:.2g}"))
        if told and value != 0 and text_width(text, SMALL) <= w - 2 and h >= SMALL + 2:
            marks.append(line(text, x + w / 2, middle + 3.5, SMALL, text_anchor="middle", fill=ink))
        elif value < 0 and -value > limit / 8:
            # The sign also by a mark, so that colour is not its only carrier; on faint cells it would say too much.
            marks.append(
                element("line", x1=x + w * 0.35, x2=x + w * 0.65, y1=middle, y2=middle, stroke=ink, stroke_width=1.4)
            )
    return element(
        "g",
        *marks,
        class_="wb-cell-head",
        data_id=name,
        data_kind="mlp" if name.startswith("m") else "head",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def _outline(box: tuple[float, float, float, float]) -> Markup:
    x, y, w, h = box
    return element(
        "rect", x=x, y=y, width=w, height=h, fill="none", stroke=SKY, stroke_width=3, pointer_events="none", rx=1
    )


def _means(grid: _Grid, values: Mapping[tuple[int, int | None], float], unit: str) -> tuple[list[Markup], float]:
    """A bar for the mean over each layer's heads, on a scale of its own, and where they end."""
    means = {}
    for layer in range(grid.layers):
        own = [values[layer, head] for head in range(grid.heads) if (layer, head) in values]
        if own:
            means[layer] = sum(own) / len(own)
    most = max(map(abs, means.values()), default=0.0)
    if most == 0:
        return [], grid.right
    low = _BARS * 0.5 if min(means.values()) < -most / 20 else 0.0
    start = grid.right + 16
    zero, length = start + low, _BARS - low
    marks = [line("mean of heads", start, grid.top - 8, SMALL, fill=theme("muted"))]
    for layer, mean in means.items():
        y, size = grid.box(layer, None)[1], length * abs(mean) / most
        size = min(size, low) if mean < 0 else size
        marks.append(
            element(
                "rect",
                element("title", f"layer {layer}, mean of its heads: {number(mean)} {unit}"),
                x=zero - (size if mean < 0 else 0),
                y=y + 2,
                width=size,
                height=grid.h - 4,
                fill=SIGNED[1] if mean < 0 else SIGNED[-2],
            )
        )
    marks.append(element("line", x1=zero, x2=zero, y1=grid.top, y2=grid.bottom, stroke=theme("muted")))
    label = number(float(f"{most:.2g}"))
    marks.append(line(label, zero + length, grid.bottom + 13, SMALL, text_anchor="middle", fill=theme("muted")))
    marks.append(line("0", zero, grid.bottom + 13, SMALL, text_anchor="middle", fill=theme("muted")))
    return marks, max(zero + length + text_width(label, SMALL) / 2, start + text_width("mean of heads", SMALL))


def _finding(values: Mapping[str, float], whole: float | None, unit: str) -> str:
    if not any(values.values()):
        return f"None of {plural(len(values), 'node')} gives anything"
    best = max(values, key=lambda name: values[name])
    if values[best] <= 0:
        best = min(values, key=lambda name: values[name])
        return f"{_said(best)} works against it most: {number(values[best])} {unit}"
    # A share is of 1 anyway.
    of = "" if whole is None or whole == 1 or not math.isfinite(whole) else f" of {number(whole)}"
    return f"{_said(best)} gives most: {number(values[best])}{of} {unit}"


def _said(name: str) -> str:
    return f"MLP {name[1:]}" if name.startswith("m") else f"Head {name[1:].replace('.h', '.')}"


def _grey(there: Mapping[str, float], layers: int, heads: int, grid: _Grid, absent: str) -> str:
    missing = layers * (heads + (grid.right > grid.heads_end)) - len(there)
    return f"Grey: {absent}." if missing else ""


__all__ = ["contribution_map"]
