"""Methods compared: CMD and CPR of each on every task, AUROC and average precision on known models, as dots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from workbench.figures.colours import theme
from workbench.figures.figure import BODY, BOLD, SMALL, Figure, frame, line
from workbench.figures.svg import Markup, cut, element, join, number, text_width

ROW, PANEL, GAP = 19.0, 220.0, 34.0  # height of a row, width of a panel, room between panels; px
RANDOM = "random order"
_LONGEST = 34  # letters of a label


class Cell(Protocol):
    """What is drawn of a cell; benchmarks stand above figures, which know only its shape."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def figures(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def reason(self) -> str | None: ...  # noqa: D102


class Table(Protocol):
    """What is drawn of a :class:`workbench.bench.BenchTable`."""

    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def cells(self) -> Sequence[Cell]: ...  # noqa: D102
    @property
    def complete(self) -> bool: ...  # noqa: D102

    def of(  # noqa: D102
        self, kind: Literal["task", "known"], name: str, figure: str
    ) -> dict[tuple[str, str, str], list[float]]: ...


@dataclass(frozen=True)
class Panel:
    """One axis: what is on it, and whether little or much of it is good."""

    figure: str
    title: str
    better: str


@dataclass
class Group:
    """Rows under one heading, with the values of each row and the baseline, panel by panel."""

    heading: str
    rows: list[tuple[str, list[list[float]]]] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)


CURVE = (Panel("cmd", "CMD", "0 is best"), Panel("cpr", "CPR", "more is better"))
TRUTH = (Panel("auroc", "edge AUROC", "1 is best"), Panel("average_precision", "average precision", "1 is best"))


def bench_figure(table: Table, *, title: str | None = None, caption: str = "") -> Figure:
    """Draw a benchmark: a row a method, a dot a seed or a known model, a bar at their mean or median.

    Args:
        table: with at least one cell that has figures.
        title: the finding; by default which method is best how often.
        caption: goes before what the marks mean and what was asked.

    Raises:
        ValueError: no cell has figures.
    """
    tasks, known = _task_groups(table), _known_groups(table)
    if not tasks and not known:
        raise ValueError("No cell of this benchmark has figures, so that there is nothing to draw.")
    widths = [text_width(cut(name, _LONGEST), BODY) + 8 for group in [*tasks, *known] for name, _ in group.rows]
    widths += [text_width(cut(group.heading, _LONGEST), BODY) * BOLD for group in [*tasks, *known]]
    left = max(widths) + 14
    marks: list[Markup] = []
    y = 0.0
    for groups, panels, middle in ((tasks, CURVE, statistics.fmean), (known, TRUTH, statistics.median)):
        if groups:
            drawn, y = _block(groups, panels, left, y, middle)
            marks += drawn
            y += 26
    asked = ", ".join(
        f"{key} {_said(table.settings[key])}" for key in ("n", "seeds", "ablation") if key in table.settings
    )
    notes = [caption, "Dots are seeds, or known models; the bar is their mean, or median."]
    notes.append("The dashed line is what edges in random order reach." + ("" if table.complete else " Not complete."))
    return frame(
        join(marks),
        left + 2 * PANEL + GAP + 8,
        y - 20,
        title=_finding(tasks, known) if title is None else title,
        caption=" ".join(part for part in (*notes, f"{asked}." if asked else "") if part),
        data={"tasks": [_data(group, CURVE) for group in tasks], "known": [_data(group, TRUTH) for group in known]},
    )


def _said(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _task_groups(table: Table) -> list[Group]:
    groups: dict[tuple[str, str], Group] = {}
    values = [table.of("task", "", panel.figure) for panel in CURVE]
    for key in values[0]:
        model, task, method = key
        group = groups.setdefault((model, task), Group(f"{task} · {model}"))
        found = [[value for value in one[key] if math.isfinite(value)] for one in values]
        if method == RANDOM:
            group.baseline = [statistics.fmean(one) if one else math.nan for one in found]
        else:
            group.rows.append((method, found))
    return [group for group in groups.values() if group.rows]


def _known_groups(table: Table) -> list[Group]:
    """One group: all known models together, a row a method."""
    cells = [cell for cell in table.cells if cell.kind == "known" and cell.reason is None]
    if not cells:
        return []
    models = sorted({cell.model for cell in cells})
    group = Group(models[0] if len(models) == 1 else f"{len(models)} known models")
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell.figures for cell in cells if cell.method == method]
        values = [[f[p.figure] for f in own if math.isfinite(f.get(p.figure, math.nan))] for p in TRUTH]
        group.rows.append((method, values))
    chance = [c.figures.get("chance_average_precision", math.nan) for c in cells]
    chance = [value for value in chance if math.isfinite(value)]
    group.baseline = [0.5, statistics.fmean(chance) if chance else math.nan]
    return [group]


def _block(
    groups: Sequence[Group], panels: Sequence[Panel], left: float, top: float, middle: Any
) -> tuple[list[Markup], float]:
    """The groups below each other on shared axes, and where they end."""
    marks: list[Markup] = []
    height = sum(ROW * (1 + len(group.rows)) for group in groups)
    axes = []
    for i, panel in enumerate(panels):
        shown = [v for g in groups for _, values in g.rows for v in values[i]] + [
            g.baseline[i] for g in groups if g.baseline
        ]
        axes.append(_axis([value for value in shown if math.isfinite(value)]))
        x = left + i * (PANEL + GAP)
        marks.append(line(panel.title, x, top + 10, BODY, font_weight="bold"))
        width = text_width(panel.title, BODY) * BOLD
        marks.append(line(panel.better, x + width + 8, top + 10, SMALL, fill=theme("muted")))
        marks += _grid(axes[i], x, top + 20, height)
    y = top + 20
    for group in groups:
        marks.append(line(cut(group.heading, _LONGEST), 0, y + 13, BODY, font_weight="bold"))
        y += ROW
        for i in range(len(panels)):
            x = left + i * (PANEL + GAP)
            marks += _baseline(group, i, axes[i], x, y)
        for name, values in group.rows:
            marks.append(line(cut(name, _LONGEST), 8, y + 13, BODY))
            for i, panel in enumerate(panels):
                x = left + i * (PANEL + GAP)
                marks.append(
                    _dots(f"{name}, {group.heading}: {panel.title}", values[i], axes[i], x, y + ROW / 2, middle)
                )
            y += ROW
    return marks, y + 20


def _axis(values: Sequence[float]) -> tuple[float, float, float]:
    """(lowest, highest, step of the ticks); 0 is always on it, and about four steps."""
    low, high = min([0.0, *values]), max([0.1, *values])
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _place(value: float, axis: tuple[float, float, float], x: float) -> float:
    return x + PANEL * (value - axis[0]) / (axis[1] - axis[0])


def _grid(axis: tuple[float, float, float], x: float, top: float, height: float) -> list[Markup]:
    marks = []
    for i in range(round((axis[1] - axis[0]) / axis[2]) + 1):
        value = axis[0] + i * axis[2]
        at = _place(value, axis, x)
        zero = abs(value) < 1e-9
        marks.append(
            element(
                "line",
                x1=at,
                x2=at,
                y1=top,
                y2=top + height,
                stroke=theme("muted" if zero else "faint"),
                stroke_width=0.8,
            )
        )
        label = number(0.0 if zero else round(value, 6))
        marks.append(line(label, at, top + height + 13, SMALL, text_anchor="middle", fill=theme("muted")))
    return marks


def _baseline(group: Group, i: int, axis: tuple[float, float, float], x: float, y: float) -> list[Markup]:
    if not group.baseline or not math.isfinite(group.baseline[i]):
        return []
    at = _place(group.baseline[i], axis, x)
    words = element("title", f"random order, {group.heading}: {number(group.baseline[i])}")
    bottom = y + ROW * len(group.rows)
    dash: dict[str, Any] = {"stroke": theme("muted"), "stroke_width": 1.4, "stroke_dasharray": "3 3"}
    return [element("line", words, x1=at, x2=at, y1=y, y2=bottom, class_="wb-baseline", **dash)]


def _dots(
    what: str, values: Sequence[float], axis: tuple[float, float, float], x: float, y: float, middle: Any
) -> Markup:
    """A dot a value, a thin line over their range, and a bar at the middle."""
    if not values:
        return line("–", x - 10, y + 4, SMALL, fill=theme("muted"))
    at = middle(values)
    places = [_place(value, axis, x) for value in values]
    blue = theme("q")
    marks = [
        element("title", f"{what} {number(at)}" + (f" ({len(values)} values)" if len(values) > 1 else "")),
        element("line", x1=min(places), x2=max(places), y1=y, y2=y, stroke=blue, stroke_width=1),
        *(element("circle", cx=place, cy=y, r=3.4, fill=blue, fill_opacity=0.55) for place in places),
    ]
    bar = _place(at, axis, x)
    marks.append(element("line", x1=bar, x2=bar, y1=y - 6.5, y2=y + 6.5, stroke=theme("text"), stroke_width=2))
    return element("g", *marks, class_="wb-dots", data_id=what)


def _finding(tasks: Sequence[Group], known: Sequence[Group]) -> str:
    """Which method is best how often: by CMD on tasks, by median AUROC on known models."""
    parts = []
    winners = [min(scored)[1] for group in tasks if (scored := _means(group, statistics.fmean))]
    if winners:
        best = statistics.mode(winners)
        many = len(winners)
        times = "" if many == 1 else f" on {winners.count(best)} of {many} tasks"
        parts.append(f"{best} has the lowest CMD{times}")
    for group in known:
        if scored := _means(group, statistics.median):
            value = max(scored)[0]
            best_of = [name for one, name in scored if one == value]
            who = f"{best_of[0]} has" if len(best_of) == 1 else f"{len(best_of)} methods share"
            parts.append(f"{who} the highest {'median ' if 'models' in group.heading else ''}AUROC ({number(value)})")
    return "; ".join(parts) or "No method gave a figure"


def _means(group: Group, middle: Any) -> list[tuple[float, str]]:
    return [(middle(values[0]), name) for name, values in group.rows if values[0]]


def _data(group: Group, panels: Sequence[Panel]) -> dict[str, Any]:
    return {
        "heading": group.heading,
        "rows": [
            {"method": name, **{panel.figure: values[i] for i, panel in enumerate(panels)}}
            for name, values in group.rows
        ],
        "random": {panel.figure: group.baseline[i] for i, panel in enumerate(panels)} if group.baseline else {},
    }
