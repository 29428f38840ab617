"""Patterns as small multiples, and other tables of many cells: few marks for all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.colours import SHARE, Scale, scale, theme
from workbench.figures.svg import Markup, element

LEVELS = 24  # shades
_OVERLAP = 0.25  # of neighbouring rows, px


def draw_shades(
    values: Float[Tensor, "rows columns"],
    exists: Float[Tensor, "rows columns"],
    x: float,
    y: float,
    side: float,
    top_value: float,
    mute_first: bool,
) -> Markup:
    """A pattern in a square, white for 0 to dark for ``top_value``: one path for each shade.

    Cells that do not exist stay empty; a muted first key, and what is no number, is grey.
    """
    there = exists.tolist()

    def level(row: int, column: int, value: float) -> int | None:
        if not there[row][column]:
            return None
        if not math.isfinite(value) or (mute_first and column == 0):
            return -1
        return round(LEVELS * min(max(value / top_value, 0.0), 1.0))

    levels = [[level(i, j, value) for j, value in enumerate(row)] for i, row in enumerate(values.tolist())]
    return draw_levels(levels, SHARE, x, y, side / max(values.shape[1], 1))


def draw_levels(levels: Sequence[Sequence[int | None]], colours: Scale, x: float, y: float, cell: float) -> Markup:
    """Cells in levels from 0 to :data:`LEVELS` of a scale: one path for each; grey for -1, nothing for None."""
    found: dict[int, list[str]] = {}
    for i, row in enumerate(levels):
        at = 0
        for level, run in itertools.groupby(row):
            count = sum(1 for _ in run)
            if level is not None:
                found.setdefault(level, []).append(f"M{at} {i}h{count}")
            at += count
    # Strokes of a row's height in units of cells: a third of the text that rectangles in pixels take. Crisp and a hair
    # over the next row, or a dark ground would shine through between neighbours.
    paths = (
        element("path", d="".join(rows), stroke=scale(colours, level / LEVELS) if level >= 0 else theme("faint"))
        for level, rows in sorted(found.items())
    )
    return element(
        "g",
        *paths,
        transform=f"translate({x:.2f} {y + cell / 2:.2f}) scale({cell:.4f})",
        stroke_width=1 + _OVERLAP / cell,
        shape_rendering="crispEdges",
    )
