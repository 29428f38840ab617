"""What paths carry as tables: by attentions and MLPs on the way, and by length and position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.figures.colours import theme
from workbench.figures.figure import SMALL, Figure, frame, line
from workbench.figures.path_lengths import prompt_of, said_of, unit_of
from workbench.figures.signed_cells import SignedScale
from workbench.figures.svg import Markup, element, isolate, join, number, plural, readable, show_token, text_width

if TYPE_CHECKING:
    from workbench.paths import Ensemble

MOST_POSITIONS = 160
_HELD = 0.98  # share of the cells that the scale of a map holds
_SLANT = 0.71  # sine and cosine of 45 degrees
_BESIDE = 34.0  # px for the numbers and the name of the vertical axis


def path_kinds(
    ens: Ensemble,
    *,
    example: int | None = None,
    selected: tuple[int, int] | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what paths of each kind carry: attentions down, MLPs across. A click gives ``attentions,MLPs``.

    Args:
        ens: by kind.
        example: one prompt; by default the mean over all.
        selected: attentions and MLPs of a cell to outline.
        title: the finding; by default the kind that carries most.
        caption: in place of model, target and rule.

    Raises:
        ValueError: the ensemble is not by kind, or there is no such prompt.
    """
    if ens.kinds_by_prompt is None:
        raise ValueError("This ensemble is by length; decompose with by='kind' to draw kinds.")
    prompt_of(ens, example)
    pick = slice(None) if example is None else slice(example, example + 1)
    table = ens.kinds_by_prompt[pick].mean(0).tolist()
    value = float(ens.value[pick].mean())
    unit = unit_of(ens)
    there = [(i, j) for i, row in enumerate(table) for j in range(len(row)) if i + j <= ens.keep and _exists(ens, i, j)]
    scale = SignedScale.of([table[i][j] for i, j in there], unit)
    side = min(46.0, max(30.0, 420.0 / len(table)))
    high, left, top = 24.0, _BESIDE, 36.0
    rows, columns = 1 + max(i for i, _ in there), 1 + max(j for _, j in there)
    marks = [line("MLPs on the path", left, 9, SMALL, fill=theme("muted"))]
    marks += [line(str(j), left + (j + 0.5) * side, top - 6, SMALL, text_anchor="middle") for j in range(columns)]
    marks += [line(str(i), left - 6, top + (i + 0.5) * high + 3.5, SMALL, text_anchor="end") for i in range(rows)]
    marks.append(_upright("attentions", top + rows * high / 2))
    for i, j in there:
        carried = table[i][j]
        share = f", {number(100 * carried / value)} % of the whole" if value else ""
        words = f"{plural(i, 'attention')} and {plural(j, 'MLP')}: {number(carried)} {unit}{share}"
        box = (left + j * side, top + i * high, side, high)
        chosen = selected == (i, j)
        marks.append(scale.cell(box, carried, id=f"{i},{j}", kind="kind", words=words, selected=chosen))
    bar = left + columns * side + 26
    height = max(60.0, min(rows * high, 200.0))
    marks.append(scale.bar(bar, top + 4, height))
    rest = math.fsum(ens.by_prompt[pick].mean(0).tolist()) - math.fsum(table[i][j] for i, j in there)
    notes = [caption or said_of(ens, example)]
    if ens.truncated:
        notes.append(f"Longer paths carry {number(rest)} together.")
    i, j = max(there, key=lambda cell: table[cell[0]][cell[1]])
    finding = f"Paths of {plural(i, 'attention')} and {plural(j, 'MLP')} carry most: {number(table[i][j])} {unit}"
    if table[i][j] <= 0:
        finding = f"No kind of up to {plural(ens.keep, 'sublayer')} is for the target: together {number(value - rest)}"
    return frame(
        join(marks),
        bar + scale.room,
        max(top + rows * high, top + 4 + height) + 6,
        title=f"{finding} of {number(value)}" if title is None else title,
        caption=" ".join(notes),
        data={"unit": unit, "whole": value, "keep": ens.keep, "rest": rest, "kinds": table},
    )


def _exists(ens: Ensemble, attentions: int, mlps: int) -> bool:
    """Whether any path is of this kind: a model without MLPs has none with one."""
    assert ens.kinds_by_prompt is not None
    return ens.keep == 0 or bool((ens.kinds_by_prompt[:, attentions, mlps] != 0).any()) or not (attentions or mlps)


def length_positions(
    ens: Ensemble,
    names: Sequence[str],
    *,
    example: int = 0,
    selected: str | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what each length says of the target at each position: lengths upwards, tokens across.

    The scale holds 98 % of the cells; what lies beyond has the end's colour. Of more than 160 positions the last are
    drawn. A click gives ``length,position``.

    Args:
        ens: of a model that answers at every position.
        names: tokens of the prompt.
        example: which prompt.
        selected: the cell to outline, such as ``3,12``.
        title: the finding; by default where the shortest half of the lengths says most.
        caption: in place of model, target and rule.

    Raises:
        ValueError: the model answers once, there is no such prompt, or the names do not fit.
    """
    prompt_of(ens, example)
    if ens.by_position_by_prompt is None:
        raise ValueError(f"{ens.model} gives one answer for the whole input, so there are no positions to draw.")
    n = ens.by_position_by_prompt.shape[-1]
    if len(names) > n:
        raise ValueError(f"The ensemble has {n} positions and {len(names)} names were given.")
    n = len(names)
    table = ens.by_position_by_prompt[example, :, :n].tolist()
    places = list(range(max(0, n - MOST_POSITIONS), n))
    unit = unit_of(ens)
    scale = SignedScale.of([row[place] for row in table for place in places], unit, _HELD)
    w = min(34.0, max(5.0, 620.0 / len(places)))
    h = min(24.0, max(9.0, 300.0 / len(table)))
    shown = [show_token(names[place]) for place in places]
    left = _BESIDE + 4
    top = max(text_width(label, SMALL) for label in shown) * _SLANT + 12
    marks = [_upright("sublayers on the path", top + len(table) * h / 2)]
    step = math.ceil(12 / h)
    for i, label in enumerate(ens.labels):
        y = top + (len(table) - 1 - i) * h
        if i % step == 0 or i == len(table) - 1:
            marks.append(line(label, left - 6, y + h / 2 + 3.5, SMALL, text_anchor="end"))
        for column, place in enumerate(places):
            words = f"length {label} at position {place} ({isolate(readable(names[place]))}): "
            words += f"{number(table[i][place])} {unit}"
            id = f"{label},{place}"
            box = (left + column * w, y, w, h)
            marks.append(
                scale.cell(box, table[i][place], id=id, kind="cell", words=words, selected=id == selected, told=False)
            )
    marks += _tokens(names, places, shown, left, top, w)
    over = max(left + (i + 0.5) * w + text_width(label, SMALL) * _SLANT for i, label in enumerate(shown))
    right = left + len(places) * w
    height = max(min(len(table) * h, 220.0), 60.0)
    bar = max(right, over) + 16
    marks.append(scale.bar(bar, max(top, 16.0), height))
    at = None if ens.at is None else ens.at[example]
    notes = [caption or said_of(ens, example), "Each column: the same target read at that position."]
    if len(places) < n:
        notes.append(f"The last {len(places)} of {n} positions.")
    return frame(
        join(marks),
        bar + scale.room,
        max(top, 16.0) + max(len(table) * h, height) + 8,
        title=_strongest(ens, table, names, places, at) if title is None else title,
        caption=" ".join(notes),
        data={"labels": ens.labels, "names": list(names), "unit": unit, "values": table},
    )


def _strongest(
    ens: Ensemble, table: Sequence[Sequence[float]], names: Sequence[str], places: Sequence[int], at: int | None
) -> str:
    """Where one length says most for the target."""
    cells = [(table[i][place], i, place) for i in range(len(table)) for place in places]
    value, i, place = max(cells)
    where = f"“{isolate(show_token(names[place]))}”" + (" (where it is asked)" if place == at else "")
    return f"Length {ens.labels[i]} says most for the target at {where}: {number(value)} {unit_of(ens)}"


def _tokens(
    names: Sequence[str], places: Sequence[int], shown: Sequence[str], left: float, top: float, w: float
) -> list[Markup]:
    step = math.ceil(11 / w)
    marks = []
    for i, label in enumerate(shown):
        if i % step:
            continue
        x = left + (i + 0.5) * w
        whole = element("title", f"position {places[i]}: {readable(names[places[i]])}")
        words = line(label, x, top - 5, SMALL, transform=f"rotate(-45 {x:.1f} {top - 5:.1f})")
        marks.append(element("g", whole, words, class_="wb-place"))
    return marks


def _upright(words: str, middle: float) -> Markup:
    turned = f"rotate(-90 9 {middle:.1f})"
    return line(words, 9, middle, SMALL, fill=theme("muted"), text_anchor="middle", transform=turned)


__all__ = ["length_positions", "path_kinds"]
