"""Two runs beside each other, and the difference of their circuits: ``?run=a&with=b``."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from workbench.app import state
from workbench.app.downloads import downloads
from workbench.app.figure import show as show_figure
from workbench.app.layout import beside
from workbench.app.model_detail import escaped
from workbench.app.run_words import begun, title_of
from workbench.comparing import Compared, check_comparable, compare, difference, names_of, side_by_side
from workbench.export import Exportable
from workbench.runs import Run, RunInfo, RunStore

_VIEWS = {"sides": "Side by side", "difference": "Difference"}


def show(run: Run, other_id: str, store: RunStore) -> bool:
    """The comparison of a run with another of the store; False where the other is the run itself."""
    try:
        other = store.open(store.folder_of(other_id).name)
    except ValueError as error:
        st.error(str(error))
        _back()
        return True
    if other.id == run.id:
        st.info("A run is not compared with itself; choose another under Compare.")
        state.set_parameter("with", None)
        return False
    _both(run, other)
    return True


def _both(run: Run, other: Run) -> None:
    names = names_of(run, other)
    left, way, middle, right = st.columns([4, 2, 1, 1], vertical_alignment="bottom")
    left.subheader(escaped(f"{names[0]} and {names[1]}"))
    if middle.button("Swap", width="stretch"):
        state.set_parameter("run", other.id)
        state.set_parameter("with", run.id)
        st.rerun()
    with right:
        _back()
    try:
        check_comparable(run, other)
        found = compare(run, other)
    except ValueError as error:
        st.warning(str(error))
        _facts(run, other, names)
        return
    with way:
        view = state.choice("View", _VIEWS, "view")
    if view == "sides":
        files, about = _sides(run, other), st.container()
    else:
        picture, about = beside("difference")
        with picture:
            files = _difference(run, other)
    with about:
        _shared(found)
        _facts(run, other, names)
        downloads(files, f"{run.id}-{other.id}", "compare")


def _back() -> None:
    if st.button("Close", width="stretch", help="Back to the one run."):
        state.set_parameter("with", None)
        st.rerun()


def _sides(run: Run, other: Run) -> dict[str, Exportable]:
    made = side_by_side(run, other)
    node = state.selected(f"compare-{run.id}", "node")
    files = {}
    for column, view, one in zip(beside("sides", halves=True), made, (run, other), strict=True):
        assert view.figure is not None
        with column:
            show_figure(view.figure, f"compare-{one.id}", node)
        files[view.figure.title] = view
    return files


def _difference(run: Run, other: Run) -> dict[str, Exportable]:
    view = difference(run, other)
    assert view.figure is not None
    show_figure(view.figure, f"difference-{run.id}", state.selected(f"difference-{run.id}", "node"))
    return {"Difference": view, **dict(zip(names_of(run, other), side_by_side(run, other), strict=True))}


def _shared(found: Compared) -> None:
    """How much the two have in common."""
    row = st.container(horizontal=True)
    row.metric(
        "shared edges",
        f"{found.jaccard:.0%}",
        border=True,
        help=f"Of the edges in either circuit: {found.shared:,} in both, {found.first:,} only in "
        f"{escaped(found.names[0])}, {found.second:,} only in {escaped(found.names[1])}.",
        width="content",
    )
    row.metric(
        "shared heads",
        found.heads_shared,
        border=True,
        help=f"{found.heads_first} only in {escaped(found.names[0])}, {found.heads_second} only in "
        f"{escaped(found.names[1])}.",
        width="content",
    )
    row.metric(
        "rank correlation",
        "–" if math.isnan(found.spearman) else f"{found.spearman:.2f}",
        border=True,
        help="Spearman's, over every edge of the graph. Most edges do nothing and their order is noise.",
        width="content",
    )


def _facts(run: Run, other: Run, names: tuple[str, str]) -> None:
    """What was asked, and how faithful each is, line by line."""
    rows = [
        {"": "run", names[0]: title_of(run.info, False), names[1]: title_of(other.info, False)},
        *({"": key, names[0]: a, names[1]: b} for key, a, b in _lines(run, other)),
    ]
    st.dataframe(rows, hide_index=True, width="stretch", height="content")


def _lines(run: Run, other: Run) -> list[tuple[str, str, str]]:
    one, two = _numbers(run), _numbers(other)
    return [(key, one[key], two[key]) for key in one]


def _scoring(info: RunInfo) -> str:
    if info.scores_from is not None:
        return f"nothing: taken over from {info.scores_from}"
    seconds = info.timings.get("discover")
    return "–" if seconds is None else f"{seconds:.1f} s"


def _numbers(run: Run) -> dict[str, str]:
    info, report, curve = run.info, run.info.report or {}, run.info.curve or {}
    options = ", ".join(f"{key} {value}" for key, value in info.settings.get("options", {}).items())

    def number(value: Any, form: str) -> str:
        return format(value, form) if isinstance(value, int | float) and math.isfinite(value) else "–"

    return {
        "model": str(info.model.get("name", "")),
        "task": f"{info.task.get('name')}, {info.task.get('n')} pairs, seed {info.seed}",
        "method": f"{info.method} ({options})" if options else info.method,
        "circuit": f"{info.size}, {info.settings.get('ranking', 'absolute')} ranking",
        "edges after pruning": number(report.get("n_edges"), ",d"),
        "faithfulness": number(report.get("faithfulness"), ".2f"),
        "CMD (0 is best)": number(curve.get("cmd"), ".3f"),
        "CPR (higher is better)": number(curve.get("cpr"), ".2f"),
        "scoring took": _scoring(info),
        "begun": begun(info),
    }
