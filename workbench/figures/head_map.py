"""Layer x head map of one quantity: entropy, sink mass, importance, on one ordered scale."""

from __future__ import annotations

import math
from collections.abc import Collection

from jaxtyping import Float
from torch import Tensor

from workbench.figures.colours import CIVIDIS, ink_on, scale, theme
from workbench.figures.figure import Figure, bar_room, colour_bar, frame
from workbench.figures.layer_grid import Grid, axes, cell, means, outline, told
from workbench.figures.svg import join, number


def head_map(
    values: Float[Tensor, "layer head"],
    *,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    selected: Collection[str] = (),
    absent: str = "no value",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw a number of every head, dark for low and light for high, layer 0 at the bottom.

    The highest and the lowest cell carry their number, every other one shows it on hover; a click gives the head's
    name, such as ``a9.h6``. The bars at the right are the mean over the heads of a layer; there is no mean over layers,
    for heads of one number in two layers have nothing to do with each other.

    Args:
        values: of each head; NaN is grey.
        unit: of the values.
        low: where the scale begins; by default at 0, or the lowest value where that is negative.
        high: where it ends; by default at the highest value. Values beyond either end take its colour.
        selected: names of heads to outline.
        absent: what hovering a grey cell says of it.
        title: the finding; by default the heads with the highest and the lowest value.
        caption: model, text, settings.

    Raises:
        ValueError: the values are no [layer, head] tensor, none of them is a number, or the scale is empty.
    """
    if values.ndim != 2:
        raise ValueError(f"A map of heads is [layer, head], but these values have shape {list(values.shape)}.")
    layers, heads = values.shape
    rows = values.detach().double().cpu().tolist()
    there = {(i, j): x for i, row in enumerate(rows) for j, x in enumerate(row) if math.isfinite(x)}
    if not there:
        raise ValueError("No head has a value, so that there is nothing to draw.")
    start, end = _limits(list(there.values()), low, high)
    grid = Grid(layers, heads)
    extremes = {max(there, key=lambda place: there[place])}
    least = min(there, key=lambda place: there[place])
    if abs(there[least]) > (end - start) / 100:  # next to nothing is said by its colour
        extremes.add(least)
    marks = axes(grid)
    for layer in range(layers):
        for head in range(heads):
            name, box = f"a{layer}.h{head}", grid.box(layer, head)
            value = there.get((layer, head))
            if value is None:
                marks.append(cell(box, name, f"{name}: {absent}", theme("faint"), opacity=0.5))
                continue
            fill = scale(CIVIDIS, (value - start) / (end - start))
            text = told(_short(value), box, ink_on(fill)) if (layer, head) in extremes else None
            marks.append(cell(box, name, f"{name}: {number(value)} {unit}", fill, *([] if text is None else [text])))
    names = {f"a{layer}.h{head}": (layer, head) for layer in range(layers) for head in range(heads)}
    marks += [outline(grid.box(*names[name])) for name in selected if name in names]
    right = grid.right
    if layers > 1 and heads > 1:
        bars, right = means(grid, there, unit, (CIVIDIS[2], CIVIDIS[2]))
        marks += bars
    ticks = _ticks(list(there.values()), start, end)
    height = max(min(grid.bottom - grid.top, 220.0), 60.0)
    marks.append(colour_bar(CIVIDIS, right + 26, grid.top + 4, height, ticks=ticks, unit=unit))
    notes = [caption, f"Grey: {absent}." if len(there) < layers * heads else ""]
    return frame(
        join(marks),
        right + 26 + bar_room(ticks, unit),
        max(grid.bottom + 30, grid.top + 4 + height + 6),
        title=_finding(there, unit) if title is None else title,
        caption=" ".join(note for note in notes if note),
        data={
            "layers": layers,
            "heads": heads,
            "unit": unit,
            "values": [[x if math.isfinite(x) else None for x in row] for row in rows],
        },
    )


def _limits(values: list[float], low: float | None, high: float | None) -> tuple[float, float]:
    start = min(0.0, *values, 0.0) if low is None else low
    end = max(values) if high is None else high
    if low is not None and high is not None and not low < high:
        raise ValueError(f"A scale goes from a low to a high number; got {low:g} to {high:g}.")
    return start, end if end > start else start + 1.0


def _short(value: float) -> str:
    return number(float(f"{value:.2g}"))


def _ticks(values: list[float], start: float, end: float) -> list[tuple[float, str]]:
    below, above = min(values) < start - 1e-9 * (end - start), max(values) > end + 1e-9 * (end - start)
    middle = 0.0 if 0.1 < -start / (end - start) < 0.9 else (start + end) / 2
    return [
        (0.0, f"{'≤ ' if below else ''}{number(start)}"),
        ((middle - start) / (end - start), number(middle)),
        (1.0, f"{'≥ ' if above else ''}{number(end)}"),
    ]


def _finding(there: dict[tuple[int, int], float], unit: str) -> str:
    most = max(there, key=lambda place: there[place])
    least = min(there, key=lambda place: there[place])
    if there[most] == there[least]:
        return f"All heads have {number(there[most])} {unit}"
    return (
        f"From {number(there[least])} in head {least[0]}.{least[1]} to {number(there[most])} {unit} "
        f"in head {most[0]}.{most[1]}"
    )


__all__ = ["head_map"]
