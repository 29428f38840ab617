"""The Paths page: which lengths and which paths carry an answer, and what it is without some of them."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from workbench import pathways
from workbench.app import paths_ask as ask
from workbench.app import paths_detail as detail
from workbench.app import paths_work as work
from workbench.app import state
from workbench.app.downloads import downloads
from workbench.app.layout import beside
from workbench.app.model_detail import escaped, escaped_name
from workbench.app.paths_search import query, strongest
from workbench.app.paths_shown import Shown
from workbench.app.paths_weights import weights
from workbench.paths import Alphabet

_VIEWS = {
    "lengths": "Lengths",
    "positions": "Positions",
    "query": "Query",
    "top": "Top paths",
    "weights": "Prune and re-weight",
}
_KEEP = 8
_MOST_KINDS = 8  # hops of each kind: rows grow with the square
_LENGTHS, _KINDS, _POSITIONS = "paths-lengths", "paths-kinds", "paths-positions"


def page() -> None:
    """The whole page."""
    st.title("Which paths carry the answer")
    st.caption(
        "A transformer is the sum over all paths through its heads and MLPs. Attention patterns, norm scales and gates "
        "are held as they are in this run; then the paths add up to the answer exactly."
    )
    with st.sidebar:
        try:
            asked = ask.ask()
        except ValueError as error:
            st.error(escaped(str(error)))
            return
    if not asked.model.cfg.n_layers:
        st.info(f"{escaped(asked.model.name)} has no layers, so its only path is the direct one.")
        return
    # A model that answers once has no answers along the positions.
    once = asked.model.cfg.pooling != "none"
    titles = {key: title for key, title in _VIEWS.items() if key != "positions" or not once}
    view = state.view(titles, "paths-view")
    picture, side = beside("paths")
    shown = Shown(asked, picture, side)
    with picture:
        _DRAW[view](shown)
    if shown.files:
        with side:
            downloads(shown.files, f"{escaped_name(asked.model.name)}-paths", "paths-download")


# -- lengths ---------------------------------------------------------------------------------------------------


def _keep(most: int) -> int:
    return state.whole_number(
        "Lengths by themselves up to",
        most,
        "keep",
        default=min(_KEEP, most),
        help="All longer paths are one bar. A length costs about half a run of the model.",
    )


def _lengths(shown: Shown) -> None:
    """Bars by length, or a map by kind."""
    depth = Alphabet.of(shown.asked.model).depth
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        help = "Lengths split by the number of attentions and of MLPs on the way."
        by_kind = bool(st.toggle("By kind", key="kinds", bind="query-params", help=help))
        keep = _keep(min(depth, _MOST_KINDS) if by_kind else depth)
    ensemble = work.lengths(shown.asked, keep, by_kind=by_kind)
    if ensemble is None:
        return
    if by_kind:
        chosen = state.selected(_KINDS, "kind")
        shown.draw("By kind", pathways.kinds_picture(ensemble), _KINDS, ensemble.to_dict(), chosen)
        st.caption("Click a cell for its paths.")
    else:
        chosen = state.selected(_LENGTHS, "length")
        figure = pathways.lengths_picture(ensemble)
        shown.draw("Lengths", figure, _LENGTHS, ensemble.to_dict(), chosen)
        st.caption("Click a bar for its paths.")
    with shown.side:
        detail.answer(ensemble)
        if by_kind:
            detail.kind(ensemble, chosen)
        else:
            detail.length(ensemble, chosen)
            detail.table(ensemble)


def _positions(shown: Shown) -> None:
    """The same answer read at every position, by length."""
    depth = Alphabet.of(shown.asked.model).depth
    ensemble = work.lengths(shown.asked, _keep(depth))
    if ensemble is None:
        return
    names = shown.asked.given.names
    chosen = state.selected(_POSITIONS, "cell")
    shown.draw("Positions", pathways.positions_picture(ensemble, names), _POSITIONS, ensemble.to_dict(), chosen)
    st.caption("The same logits read after every word. Click a cell for all lengths there.")
    with shown.side:
        detail.answer(ensemble)
        detail.position(ensemble, names, chosen)


_DRAW: dict[str, Callable[[Shown], None]] = {
    "lengths": _lengths,
    "positions": _positions,
    "query": query,
    "top": strongest,
    "weights": weights,
}
