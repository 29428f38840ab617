"""Layer x head map: what each head and MLP gives to a target, on one signed scale."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from workbench.figures.colours import SIGNED, ink_on, signed, theme
from workbench.figures.figure import Figure, bar_room, colour_bar, frame
from workbench.figures.layer_grid import Grid, axes, cell, means, outline, told
from workbench.figures.svg import Markup, element, join, number, plural

_NODE = re.compile(r"a(\d+)\.h(\d+)|m(\d+)")
_NUMBERED = 6  # strongest cells whose number is printed


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
    grid = Grid(layers, heads, any(head is None for _, head in where.values()))
    by_place = {where[name]: value for name, value in there.items()}
    strong = {*sorted(there, key=lambda name: -abs(there[name]))[:_NUMBERED], *beyond}
    marks = axes(grid)
    for layer in range(layers):
        for head in [*range(heads), *([None] if grid.right > grid.heads_end else [])]:
            name = f"m{layer}" if head is None else f"a{layer}.h{head}"
            value = by_place.get((layer, head))
            marks.append(_cell(grid.box(layer, head), name, value, limit, unit, absent, name in strong))
    marks += [outline(grid.box(*place)) for name in selected if (place := _known(name, layers, heads)) is not None]
    end = grid.right
    if layers > 1 and heads > 1:
        bars, end = means(grid, by_place, unit, (SIGNED[1], SIGNED[-2]))
        marks += bars
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


def _cell(
    box: tuple[float, float, float, float],
    name: str,
    value: float | None,
    limit: float,
    unit: str,
    absent: str,
    strong: bool,
) -> Markup:
    x, y, w, h = box
    words = f"{name}: {absent}" if value is None else f"{name}: {number(value)} {unit}"
    if value is None:
        return cell(box, name, words, theme("faint"), opacity=0.5)
    fill = signed(value, limit)
    ink, middle = ink_on(fill), y + h / 2
    text = told(number(float(f"{value:.2g}")), box, ink) if strong and value != 0 else None
    if text is None and value < 0 and -value > limit / 8:
        # The sign also by a mark, so that colour is not its only carrier; on faint cells it would say too much.
        text = element("line", x1=x + w * 0.35, x2=x + w * 0.65, y1=middle, y2=middle, stroke=ink, stroke_width=1.4)
    return cell(box, name, words, fill, *([] if text is None else [text]))


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


def _grey(there: Mapping[str, float], layers: int, heads: int, grid: Grid, absent: str) -> str:
    missing = layers * (heads + (grid.right > grid.heads_end)) - len(there)
    return f"Grey: {absent}." if missing else ""


__all__ = ["contribution_map"]
