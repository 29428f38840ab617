"""The Lens page: what a model would answer at every depth, and what each part writes into the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from workbench import reading
from workbench.app import lens_ask, lens_work, paths_ask, state
from workbench.app import lens_detail as detail
from workbench.app.downloads import downloads
from workbench.app.layout import beside
from workbench.app.model_detail import escaped, escaped_name
from workbench.app.paths_detail import word
from workbench.app.paths_shown import Shown
from workbench.lens import DirectAttribution, LogitLens, exit_depth
from workbench.reading import Found

_VIEWS = {"grid": "Grid", "curves": "By depth", "direct": "Direct attribution"}
_GRID, _MAP, _BARS = "lens-grid", "lens-map", "lens-bars"


def page() -> None:
    """The whole page."""
    st.title("What it would answer at every depth")
    st.caption(
        "The stream behind every layer, read as if the model ended there; and what each part writes into the answer."
    )
    with st.sidebar:
        try:
            asked = paths_ask.ask()
            tuned = lens_ask.which(asked.model)
        except ValueError as error:
            st.error(escaped(str(error)))
            return
    if not asked.model.cfg.n_layers:
        st.info(f"{escaped(asked.model.name)} has no layers, so there is no depth to read.")
        return
    view = state.view(_VIEWS, "lens-view")
    picture, side = beside("lens")
    shown = Shown(asked, picture, side)
    with picture:
        if not lens_ask.training(asked.model):
            return
        help = "Read behind each attention as well, not only behind each layer."
        sublayers = view != "direct" and bool(
            st.toggle("Attentions too", key="sublayers", bind="query-params", help=help)
        )
        found = lens_work.read(asked, tuned, sublayers=sublayers)
        if found is None:
            return
        _DRAW[view](shown, found)
    with side:
        if view != "direct":
            detail.trained(tuned)
        if shown.files:
            downloads(shown.files, f"{escaped_name(asked.model.name)}-lens", "lens-download")


def _read(found: Found) -> LogitLens:
    """The reading that is looked at."""
    return found.logit if found.tuned is None else found.tuned


def _grid(shown: Shown, found: Found) -> None:
    """Places by positions."""
    lens = _read(found)
    n = lens.entropy.shape[2]
    row = st.columns(2, vertical_alignment="bottom")
    with row[0]:
        show: Any = state.choice(
            "Colours", lens_ask.SHOWS, "show", "Cells hold the first answer, whatever their colour says."
        )
    with row[1]:
        first, last = lens_ask.tokens(n)
    key = f"{_GRID}-{first}-{last}"
    at = _cell(lens, key, first)
    inside = at is not None and first <= at[1] <= last
    mark = f"{at[0]},{at[1] - first}" if at is not None and inside else None
    figure = reading.grid_picture(window(lens, first, last), show)
    shown.draw("Grid", figure, key, lens.to_dict(), mark)
    st.caption("Click a cell for its first answers.")
    with shown.side:
        detail.cell(lens, at or (lens.places[-1], found.at))
        detail.depth(exit_depth(lens), lens, found.at if at is None else at[1])


def window(lens: LogitLens, first: int, last: int) -> LogitLens:
    """Some neighbouring positions of a reading, both ends included."""
    some = slice(first, last + 1)
    one_by_one = ("top", "top_probs", "logits", "probs", "ranks", "entropy", "kl")
    cut = {name: getattr(lens, name)[:, :, some] for name in one_by_one}
    return replace(lens, positions=lens.positions[some], targets=lens.targets[:, some], **cut)


def _cell(lens: LogitLens, key: str, first: int) -> tuple[str, int] | None:
    """The selected cell: what was just clicked, else what the address says; figures count from their first token."""
    click = state.clicked(key)
    if key in st.session_state and click != st.session_state.get(f"seen-{key}"):
        place, _, at = (click or "").rpartition(",")
        state.set_parameter("cell", f"{place},{int(at) + first}" if at.isdecimal() else None)
    st.session_state[f"seen-{key}"] = click
    return lens_ask.cell(state.parameter("cell"), lens)


def _curves(shown: Shown, found: Found) -> None:
    """The target by depth, at one position."""
    lens = _read(found)
    at = lens_ask.cell(state.parameter("cell"), lens)
    row = st.columns(2, vertical_alignment="bottom")
    with row[0]:
        of: Any = state.choice("Of the answers", lens_ask.CURVES, "of")
    n = lens.entropy.shape[2]
    where = found.at
    if n > 1:
        with row[1]:
            where = _where(lens, at, where)
    both = [found.logit] + ([found.tuned] if found.tuned is not None else [])
    figure = reading.curves_picture(both, at=lens.positions[where] if lens.positions else None, of=of)
    data = {"readings": [one.to_dict() for one in both], "position": where}
    shown.draw("By depth", figure, "lens-curves", data)
    with shown.side:
        detail.depth(exit_depth(lens), lens, where)


def _where(lens: LogitLens, at: tuple[str, int] | None, usual: int) -> int:
    """A position from a list; it follows the cell of the grid."""
    names = [word(lens.names[0][i]) for i in lens.positions]
    chosen = usual if at is None else at[1]
    key = f"lens-where-{len(names)}"
    if st.session_state.get(key) != chosen:
        st.session_state[key] = chosen

    def moved() -> None:
        place = lens.places[-1] if at is None else at[0]
        state.set_parameter("cell", f"{place},{st.session_state[key]}")

    picked: int = st.selectbox(
        "After", range(len(names)), key=key, format_func=lambda i: f"{i}: {names[i]}", on_change=moved
    )
    return picked


def _direct(shown: Shown, found: Found) -> None:
    """What heads and MLPs write into the answer, as a map and as bars."""
    split: DirectAttribution | None = found.direct
    if split is None:
        st.info("It was stopped before the answer was split; start again.")
        return
    name = _part()
    marks = [] if name is None else [name]
    shown.draw("Heads and MLPs", reading.heads_picture(split), _MAP, split.to_dict(), marks)
    st.caption("Click a head or an MLP, here or among the bars.")
    with shown.side:
        detail.direct(shown, split, name)
        shown.draw("Sorted", reading.direct_picture(split), _BARS, split.to_dict(), marks)


def _part() -> str | None:
    """The selected component, from whichever of the two figures was clicked last."""
    for key in (_MAP, _BARS):
        state.selected(key, "part")
    return state.parameter("part")


_DRAW: dict[str, Callable[[Shown, Found], None]] = {"grid": _grid, "curves": _curves, "direct": _direct}
