"""How well scores find a known circuit: the ROC curve and precision against recall, beside the controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.figures.colours import theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.svg import Markup, element, join, number, text_width

if TYPE_CHECKING:
    from workbench.circuits.ground_truth import GroundTruth

SIDE = 250.0  # of the square that is plotted in, px
_LEFT, _TOP = 34.0, 22.0
_GAP = BODY + 4  # between the labels' lines


@dataclass(frozen=True)
class Line:
    """One line of a plot; both axes go from 0 to 1. Dashes tell the lines apart without colour."""

    key: str
    label: str
    colour: str  # name of a theme colour
    dash: str | None
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class _Plot:
    """What is drawn, and what it says."""

    lines: list[Line]
    x_label: str
    y_label: str
    title: str
    note: str


def roc_curve(
    truth: GroundTruth,
    untrained: GroundTruth | None = None,
    *,
    method: str = "the method",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the ROC curve of a ranking of edges: true edges let in against others let in.

    Args:
        truth: how the method's scores agree with the circuit.
        untrained: the same of a model with random weights, the control.
        method: how the method's line is labelled.
        title: the finding; by default how often a true edge stands above another one.
        caption: model, method, pairs, seed.
    """
    return _drawn(_roc(truth, untrained, method), title, caption, _figures(truth, untrained))


def precision_recall(
    truth: GroundTruth,
    untrained: GroundTruth | None = None,
    *,
    method: str = "the method",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw precision against recall: of the edges let in, how many are true, while more true ones are let in.

    The line is a step for each true edge, so that the area under it is the average precision. Arguments are those of
    :func:`roc_curve`.
    """
    return _drawn(_precision_recall(truth, untrained, method), title, caption, _figures(truth, untrained))


# -- what is drawn -------------------------------------------------------------------------------------------


def _roc(truth: GroundTruth, untrained: GroundTruth | None, method: str) -> _Plot:
    lines = [
        Line(key, f"{name} {number(one.auroc)}", colour, dash, one.false_positive_rate, one.true_positive_rate)
        for key, name, colour, dash, one in _rankings(truth, untrained, method)
        if math.isfinite(one.auroc)
    ]
    lines.append(Line("chance", "random 0.5", "muted", "2 3", [0.0, 1.0], [0.0, 1.0]))
    if not math.isfinite(truth.auroc):
        title = "Nothing to rank: all edges are true, or none is"
    elif truth.auroc == 1:
        title = "Every true edge stands above every other"
    else:
        title = f"A true edge stands above another in {number(100 * truth.auroc)} % of pairs"
    if untrained is not None and math.isfinite(untrained.auroc) and math.isfinite(truth.auroc):
        title += f"; with random weights in {number(100 * untrained.auroc)} %"
    note = "The number of a line is its AUROC, the area under it."
    return _Plot(lines, "share of the other edges let in", "share of the true edges let in", title, note)


def _precision_recall(truth: GroundTruth, untrained: GroundTruth | None, method: str) -> _Plot:
    lines = []
    for key, name, colour, dash, one in _rankings(truth, untrained, method):
        if one.recall:
            x, y = _steps(one.recall, one.precision)
            lines.append(Line(key, f"{name} {number(one.average_precision)}", colour, dash, x, y))
    chance = truth.chance_average_precision
    lines.append(Line("chance", f"random {number(chance)}", "muted", "2 3", [0.0, 1.0], [chance, chance]))
    title = f"Average precision {number(truth.average_precision)}; a random ranking has about {number(chance)}"
    if not truth.n_true:
        title = "Nothing to find: no edge is true"
    note = "The number of a line is its average precision, the area under it."
    return _Plot(lines, "recall: share of the true edges let in", "precision: share of true ones", title, note)


def _rankings(
    truth: GroundTruth, untrained: GroundTruth | None, method: str
) -> list[tuple[str, str, str, str | None, GroundTruth]]:
    found: list[tuple[str, str, str, str | None, GroundTruth]] = [("method", method, "q", None, truth)]
    if untrained is not None:
        found.append(("untrained", "random weights", "k", "7 3", untrained))
    return found


def _steps(recall: Sequence[float], precision: Sequence[float]) -> tuple[list[float], list[float]]:
    """A step to the left of each point: the precision at a true edge holds from the true edge before it.

    Ends where all true edges are let in: what comes after is no longer about them.
    """
    x, y, before = [], [], 0.0
    for r, p in zip(recall, precision, strict=True):
        x += [before, r]
        y += [p, p]
        before = r
        if r >= 1:
            break
    return x, y


def _figures(truth: GroundTruth, untrained: GroundTruth | None) -> dict[str, Any]:
    def of(one: GroundTruth) -> dict[str, float]:
        return {"auroc": one.auroc, "average_precision": one.average_precision, "node_auroc": one.node_auroc}

    return {
        "n_true": truth.n_true,
        "n_edges": truth.n_edges,
        "chance_average_precision": truth.chance_average_precision,
        "method": of(truth),
        **({"untrained": of(untrained)} if untrained is not None else {}),
    }


# -- on paper ------------------------------------------------------------------------------------------------


def _drawn(plot: _Plot, title: str | None, caption: str, figures: dict[str, Any]) -> Figure:
    marks = [line(plot.y_label, 0, 9, SMALL, fill=theme("muted")), *_axes()]
    marks.append(line(plot.x_label, _LEFT + SIDE / 2, _TOP + SIDE + 32, SMALL, text_anchor="middle"))
    marks += [_line(one) for one in reversed(plot.lines)]
    marks.append(_labels(plot.lines))
    room = max(text_width(one.label, BODY) for one in plot.lines) + 26
    series = [{"key": one.key, "label": one.label, "x": one.x, "y": one.y} for one in plot.lines]
    return frame(
        join(marks),
        _LEFT + SIDE + room,
        _TOP + SIDE + 36,
        title=plot.title if title is None else title,
        caption=" ".join(part for part in (caption, plot.note) if part),
        data={"series": series, **figures},
    )


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + SIDE * x, _TOP + SIDE * (1 - y)


def _axes() -> list[Markup]:
    marks = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(value, value)
        shade: dict[str, Any] = {"stroke": theme("faint"), "stroke_width": 0.7}
        marks.append(element("line", x1=_LEFT, x2=_LEFT + SIDE, y1=y, y2=y, **shade))
        marks.append(element("line", x1=x, x2=x, y1=_TOP, y2=_TOP + SIDE, **shade))
        if value != 0.25 and value != 0.75:
            marks.append(line(number(value), _LEFT - 6, y + 3.5, SMALL, text_anchor="end"))
            marks.append(line(number(value), x, _TOP + SIDE + 14, SMALL, text_anchor="middle"))
    return marks


def _line(one: Line) -> Markup:
    points = [_place(x, y) for x, y in zip(one.x, one.y, strict=True)]
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    width = 1.4 if one.key == "chance" else 2.2
    shape = element("path", d=d, fill="none", stroke=theme(one.colour), stroke_width=width, stroke_dasharray=one.dash)
    return element("g", element("title", one.label), shape, class_="wb-series", data_id=one.key)


def _labels(lines: Sequence[Line]) -> Markup:
    """The lines' names right of the plot, at the height of their ends, moved apart where they would overlap."""
    ends = sorted(lines, key=lambda one: (-one.y[-1], lines.index(one)))
    marks: list[Markup] = []
    lowest = _TOP + SIDE - _GAP * (len(ends) - 1) + 4
    at = -math.inf
    for i, one in enumerate(ends):
        x, y = _place(one.x[-1], one.y[-1])
        at = min(max(y, at + _GAP), lowest + _GAP * i)
        marks.append(element("line", x1=x + 3, x2=x + 14, y1=y, y2=at, stroke=theme(one.colour), stroke_width=0.8))
        marks.append(line(one.label, x + 17, at + 4, BODY, fill=theme(one.colour)))
    return join(marks)
