"""Faithfulness against circuit size: a drawing for paper and an interactive plot of the same series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workbench.figures.colours import BLUE, VERMILION, theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.svg import Markup, element, join, number, text_width

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.circuits.evaluate import FaithfulnessCurve

GREY = "#6a7078"
WIDTH, HEIGHT = 470.0, 270.0  # of the plotting area, px
ENOUGH = 0.9  # the share of the behaviour that the default title asks for
Y_LABEL = "faithfulness (share of the behaviour restored)"


@dataclass(frozen=True)
class Series:
    """One line. ``x`` is the share of edges, above 0; dashes tell the lines apart without colour."""

    key: str
    label: str
    colour: str
    dash: str | None
    x: list[float]
    y: list[float]


def series(curve: FaithfulnessCurve) -> list[Series]:
    """The lines of a curve, the baseline last: what the drawing and the plot share."""
    lines = [
        ("absolute", "by size of score", BLUE, None, curve.faithfulness),
        ("signed", "by signed score", VERMILION, "7 3", curve.faithfulness_signed),
    ]
    if curve.random is not None:
        lines.append(("random", "random circuits", GREY, "2 3", curve.random))
    found = []
    for key, label, colour, dash, values in lines:
        # A logarithmic axis has no 0, and a value that is no number has no place.
        points = [(x, y) for x, y in zip(curve.fractions, values, strict=True) if x > 0 and math.isfinite(y)]
        found.append(Series(key, label, colour, dash, [x for x, _ in points], [y for _, y in points]))
    return found


def faithfulness_curve(curve: FaithfulnessCurve, *, title: str | None = None, caption: str = "") -> Figure:
    """Draw how much of the behaviour circuits of each size restore.

    Args:
        curve: the measurements.
        title: the finding; by default the smallest circuit measured that restores 90 %.
        caption: model, task, method, run. What CMD and CPR are, and the ablation, is added.

    Raises:
        ValueError: the curve's lists differ in length.
    """
    lines = series(curve)
    points = [point for s in lines for point in zip(s.x, s.y, strict=True)]
    x_low = min([x for x, _ in points], default=0.001)
    low, high, step = _range([y for _, y in points])
    decades = math.log10(1.0 / x_low) if x_low < 1 else 1.0
    left, top = 46.0, 22.0

    def px(x: float) -> float:
        return left + WIDTH * (1 + math.log10(x) / decades)

    def py(y: float) -> float:
        return top + HEIGHT * (high - y) / (high - low)

    marks = [line(Y_LABEL, 0, 9, SMALL, fill=theme("muted"))]
    value = math.ceil(low / step - 1e-9) * step
    while value <= high + 1e-9:
        rule = round(value, 6) in (0.0, 1.0)
        shade: dict[str, Any] = {
            "stroke": theme("muted" if rule else "faint"),
            "stroke_width": 0.9 if rule else 0.7,
        }
        marks.append(element("line", x1=left, x2=left + WIDTH, y1=py(value), y2=py(value), **shade))
        marks.append(line(number(round(value, 6)), left - 6, py(value) + 3.5, SMALL, text_anchor="end"))
        value += step
    marks.append(line("the whole model", left + 4, py(1) - 4, SMALL, fill=theme("muted")))
    marks.append(line("everything ablated", left + 4, py(0) - 4, SMALL, fill=theme("muted")))
    for exponent in range(math.ceil(math.log10(x_low) - 1e-9), 1):
        x = px(10.0**exponent)
        marks.append(
            element(
                "line",
                x1=x,
                x2=x,
                y1=top + HEIGHT,
                y2=top + HEIGHT + 4,
                stroke=theme("muted"),
                stroke_width=1,
            )
        )
        marks.append(line(f"{number(100 * 10.0**exponent)} %", x, top + HEIGHT + 16, SMALL, text_anchor="middle"))
    x_label = f"share of edges kept (of {curve.n_edges_total:,})"
    marks.append(line(x_label, left + WIDTH / 2, top + HEIGHT + 34, BODY, text_anchor="middle"))
    marks += [_polyline(s, [(px(x), py(y)) for x, y in zip(s.x, s.y, strict=True)]) for s in reversed(lines)]
    labels = _end_labels([(s, px(s.x[-1]), py(s.y[-1])) for s in lines if s.x], top, top + HEIGHT)
    marks.append(labels)
    room = max((text_width(s.label, BODY) for s in lines), default=0) + 18
    return frame(
        join(marks),
        left + WIDTH + room,
        top + HEIGHT + 42,
        title=_finding(curve) if title is None else title,
        caption=" ".join(part for part in (caption, _notes(curve)) if part),
        data=_data(curve, lines),
    )


def faithfulness_plot(curve: FaithfulnessCurve) -> go.Figure:
    """The same lines as an interactive plot; transparent, so that it takes the page's theme."""
    import plotly.graph_objects as go  # half a second, which only the app should pay

    figure = go.Figure()
    for s in series(curve):
        counts = [f"{round(x * curve.n_edges_total):,}" for x in s.x]
        figure.add_scatter(
            x=s.x,
            y=s.y,
            name=s.label,
            mode="lines+markers",
            line={
                "color": s.colour,
                "width": 2,
                "dash": s.dash.replace(" ", "px,") + "px" if s.dash else "solid",
            },
            marker={"size": 6},
            customdata=counts,
            hovertemplate="%{customdata} edges (%{x:.3~p}): faithfulness %{y:.3~g}<extra>" + s.label + "</extra>",
        )
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": "rgba(128,128,128,0.6)", "width": 1})
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    x_label = f"share of edges kept (of {curve.n_edges_total:,})"
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": x_label}, "tickformat": "~p", "dtick": 1, **grid},
        yaxis={"title": {"text": Y_LABEL}, **grid},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        hovermode="closest",
    )
    return figure


def _finding(curve: FaithfulnessCurve) -> str:
    """The smallest circuit, in the order of the absolute ranking, that restores most of the behaviour."""
    for fraction, n_edges, value in zip(curve.fractions, curve.n_edges, curve.faithfulness, strict=True):
        if value >= ENOUGH:
            if fraction >= 1:
                break
            share = number(100 * n_edges / max(curve.n_edges_total, 1))
            edges = f"{n_edges:,} of {curve.n_edges_total:,} edges ({share} %)"
            return f"{edges} restore {number(100 * value)} % of the behaviour"
    return f"No circuit smaller than the model restores {100 * ENOUGH:.0f} % of the behaviour"


def _notes(curve: FaithfulnessCurve) -> str:
    parts = [
        f"CMD {number(curve.cmd)} (mean distance from 1, ranked by size of score; 0 is best).",
        f"CPR {number(curve.cpr)} (area under the curve, ranked by signed score; more is better).",
        f"{curve.ablation.capitalize()} ablation; metric {number(curve.metric_full)} for the whole model,"
        f" {number(curve.metric_empty)} with everything ablated.",
    ]
    if not curve.complete:
        parts.append("Stopped before its end: the curve is not complete.")
    return " ".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    """(lowest, highest, step of the ticks) of the vertical axis; 0 and 1 are always on it."""
    low, high = min([0.0, *values]), max([1.0, *values])
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    return low - 0.04 * (high - low), high + 0.06 * (high - low), step


def _polyline(s: Series, points: Sequence[tuple[float, float]]) -> Markup:
    if not points:
        return Markup("")
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    shape = element("path", d=d, fill="none", stroke=s.colour, stroke_width=2, stroke_dasharray=s.dash)
    dots = (
        element(
            "circle",
            element("title", f"{s.label}: {number(100 * x)} % of the edges, faithfulness {number(y)}"),
            cx=cx,
            cy=cy,
            r=2.6,
        )
        for (cx, cy), x, y in zip(points, s.x, s.y, strict=True)
    )
    return element("g", shape, element("g", *dots, fill=s.colour), class_="wb-series", data_id=s.key)


def _end_labels(ends: Sequence[tuple[Series, float, float]], low: float, high: float) -> Markup:
    """The lines' names at their ends, moved apart where they would overlap, with a hair to their end."""
    spacing = BODY + 3
    ordered = sorted(ends, key=lambda end: end[2])
    # All lines of a whole curve end at 1, so the labels spread evenly around where they would like to be.
    middle = sum(y for *_, y in ordered) / max(len(ordered), 1)
    crowded = any(b[2] - a[2] < spacing for a, b in pairwise(ordered))
    marks = []
    for i, (s, x, y) in enumerate(ordered):
        at = middle + (i - (len(ordered) - 1) / 2) * spacing if crowded else y
        at = min(max(at, low), high)
        marks.append(element("line", x1=x + 3, x2=x + 13, y1=y, y2=at, stroke=s.colour, stroke_width=0.8))
        marks.append(line(s.label, x + 16, at + 4, BODY, fill=s.colour))
    return join(marks)


def _data(curve: FaithfulnessCurve, lines: Sequence[Series]) -> dict[str, Any]:
    return {
        "series": [{"key": s.key, "label": s.label, "x": s.x, "y": s.y} for s in lines],
        "n_edges": list(curve.n_edges),
        "n_edges_total": curve.n_edges_total,
        "cmd": curve.cmd,
        "cpr": curve.cpr,
        "ablation": curve.ablation,
        "complete": curve.complete,
    }
