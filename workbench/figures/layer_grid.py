"""Where the cells of layers x heads stand, their axes and the means of layers: what all maps of a model share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.figures.colours import SKY, theme
from workbench.figures.figure import SMALL, line
from workbench.figures.svg import Markup, element, number, text_width

ROOM = (420.0, 460.0)  # width and height that the heads' cells share, px
_WIDTH, _HEIGHT = (15.0, 44.0), (12.0, 34.0)  # least and most of one cell, px
_GAP, _BARS = 10.0, 56.0  # before the MLPs' column; width of the means at the right
_MEAN = "mean of heads"


class Grid:
    """Where the cells of ``layers`` x ``heads`` stand; layer 0 at the bottom, MLPs behind a gap."""

    def __init__(self, layers: int, heads: int, has_mlps: bool = False, cell: tuple[float, float] | None = None):
        self.layers, self.heads = layers, heads
        self.w = min(max(ROOM[0] / max(heads, 1), _WIDTH[0]), _WIDTH[1])
        self.h = min(max(ROOM[1] / max(layers, 1), _HEIGHT[0]), _HEIGHT[1])
        if cell is not None:
            self.w, self.h = cell
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


def axes(grid: Grid) -> list[Markup]:
    """Numbers of layers and heads, as many as have room."""
    middle = (grid.top + grid.bottom) / 2
    turned = f"rotate(-90 9 {middle:.1f})"
    marks = [line("layer", 9, middle, SMALL, fill=theme("muted"), text_anchor="middle", transform=turned)]
    every = step(grid.layers, grid.h, 12.0)
    for layer in range(0, grid.layers, every):
        y = grid.box(layer, None)[1] + grid.h / 2 + 3.5
        marks.append(line(str(layer), grid.left - 6, y, SMALL, text_anchor="end"))
    every = step(grid.heads, grid.w, text_width(str(grid.heads), SMALL) + 4)
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


def step(count: int, room: float, needed: float) -> int:
    """Label every how many, so that labels do not touch."""
    return next((step for step in (1, 2, 5, 10, 20, 50) if step * room >= needed), max(count, 1))


def cell(
    box: tuple[float, float, float, float], name: str, words: str, fill: str, *inside: str, opacity: float | None = None
) -> Markup:
    """A cell that can be clicked: its ground, its words on hover, and what stands inside."""
    x, y, w, h = box
    look: dict[str, str | float | None] = {"fill": fill, "stroke": theme("faint"), "stroke_width": 0.6}
    return element(
        "g",
        element("title", words),
        element("rect", class_="wb-shape", x=x, y=y, width=w, height=h, **look, fill_opacity=opacity),
        *inside,
        class_="wb-cell-head",
        data_id=name,
        data_kind="mlp" if name.startswith("m") else "head",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def told(text: str, box: tuple[float, float, float, float], ink: str) -> Markup | None:
    """The text in the middle of a cell, where it has room."""
    x, y, w, h = box
    if text_width(text, SMALL) > w - 2 or h < SMALL + 2:
        return None
    return line(text, x + w / 2, y + h / 2 + 3.5, SMALL, text_anchor="middle", fill=ink)


def outline(box: tuple[float, float, float, float]) -> Markup:
    """The mark of a selected cell."""
    x, y, w, h = box
    return element(
        "rect", x=x, y=y, width=w, height=h, fill="none", stroke=SKY, stroke_width=3, pointer_events="none", rx=1
    )


def means(grid: Grid, values: Mapping[Any, float], unit: str, colours: tuple[str, str]) -> tuple[list[Markup], float]:
    """A bar for the mean over each layer's heads, on a scale of its own, and where they end.

    ``values`` are by (layer, head), MLPs by (layer, None); ``colours`` are those of bars below and above 0.
    """
    found = {}
    for layer in range(grid.layers):
        own = [values[layer, head] for head in range(grid.heads) if (layer, head) in values]
        if own:
            found[layer] = sum(own) / len(own)
    most = max(map(abs, found.values()), default=0.0)
    if most == 0:
        return [], grid.right
    low = _BARS * 0.5 if min(found.values()) < -most / 20 else 0.0
    start = grid.right + 16
    zero, length = start + low, _BARS - low
    marks = [line(_MEAN, start, grid.top - 8, SMALL, fill=theme("muted"))]
    for layer, mean in found.items():
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
                fill=colours[0] if mean < 0 else colours[1],
            )
        )
    marks.append(element("line", x1=zero, x2=zero, y1=grid.top, y2=grid.bottom, stroke=theme("muted")))
    label = number(float(f"{most:.2g}"))
    marks.append(line(label, zero + length, grid.bottom + 13, SMALL, text_anchor="middle", fill=theme("muted")))
    marks.append(line("0", zero, grid.bottom + 13, SMALL, text_anchor="middle", fill=theme("muted")))
    return marks, max(zero + length + text_width(label, SMALL) / 2, start + text_width(_MEAN, SMALL))
