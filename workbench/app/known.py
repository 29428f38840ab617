"""The Known circuits page: run a method on a model whose circuit is known, and see what it found and missed."""

from __future__ import annotations

from typing import Any, get_args

import streamlit as st

from workbench import known_view
from workbench.app import known_detail, known_program, state
from workbench.app.downloads import downloads
from workbench.app.figure import show
from workbench.app.layout import beside
from workbench.app.model_detail import escaped
from workbench.circuits import methods
from workbench.circuits.graph import Ranking
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import Examination, examine_made
from workbench.circuits.known.registry import KnownModel
from workbench.export import Exportable
from workbench.models.lookup import pick

GRAPH = "known-graph"  # key of the figure

_KINDS = {
    "compiled": "Compiled from a RASP program",
    "trained": "Trained to have a circuit (SIIT)",
    "program": "Learned programs",
}
_FIRST = {"compiled": "sort"}  # the first record has no pairs to compare
_MOST_PAIRS, _MOST_SEED = 1024, 10**9


def page() -> None:
    """The whole page."""
    refused = _refusals()
    with st.sidebar:
        record = _which()
        asked = _ask() if record.examinable else None
        if asked is not None and st.button("Examine", type="primary", width="stretch", help="Score every edge."):
            state.set_parameter("examined", _signature(record, asked))
            state.set_parameter("part", None)
    _say(refused, _signature(record, asked or {}))
    try:
        made = _made(record.key)
    except (ValueError, OSError) as error:
        st.error(str(error))
        return
    if asked is None:
        known_program.show(record, made)
        return
    if state.parameter("examined") != _signature(record, asked):
        _welcome(record, made)
        return
    try:
        with st.spinner(f"Examining {asked['method']} on {record.key} ..."):
            found = _examined(record.key, **asked)
    except ValueError as error:
        st.error(str(error))
        known_detail.heading(record, made)
        known_detail.program(record, made)
        return
    _result(record, made, found, int(asked["seed"]))


# -- what is asked -------------------------------------------------------------------------------------------


def _which() -> KnownModel:
    """The model, of one kind; the address has its key."""
    records = {record.key: record for record in known_models()}
    given = records.get(state.parameter("known") or "")
    kinds = list(dict.fromkeys(record.kind for record in records.values()))
    if "known-kind" not in st.session_state:
        st.session_state["known-kind"] = given.kind if given is not None else kinds[0]
    kind = st.selectbox(
        "Kind",
        kinds,
        key="known-kind",
        format_func=lambda key: _KINDS.get(key, key),
        help="Compiled: weights made from a program by hand. Trained: an ordinary model that was made to compute as a "
        "compiled one does. Learned: a discrete model, found by training, that is its own program.",
    )
    titles = {key: f"{key}: {record.title}" for key, record in records.items() if record.kind == kind}
    widget = f"known-{kind}"
    if st.session_state.get(widget) not in titles:
        first = given.key if given is not None and given.key in titles else _FIRST.get(kind, next(iter(titles)))
        st.session_state[widget] = first
    key = st.selectbox("Model", list(titles), key=widget, format_func=lambda key: titles[key])
    state.set_parameter("known", key)
    return records[key]


def _ask() -> dict[str, Any]:
    """The method and its settings; every choice lives in the address."""
    known = {record.key: record for record in methods()}
    method = state.choice(
        "Method",
        {key: record.title for key, record in known.items()},
        "known-method",
        "How edges are scored. " + "; ".join(f"{m.title}: {m.cost} ({m.reference})" for m in known.values()) + ".",
    )
    with st.expander("Settings"):
        n = st.number_input(
            "Input pairs", min_value=1, max_value=_MOST_PAIRS, value=64, key="known-n", bind="query-params"
        )
        seed = st.number_input(
            "Seed of pairs and controls",
            min_value=0,
            max_value=_MOST_SEED,
            value=0,
            key="known-seed",
            bind="query-params",
        )
        ranking = st.selectbox(
            "Ranking",
            get_args(Ranking),
            key="known-ranking",
            bind="query-params",
            help="Best by absolute score, or by signed score, which puts edges that work against the answer last.",
        )
    return {"method": method, "n": int(n), "seed": int(seed), "ranking": ranking}


def _signature(record: KnownModel, asked: dict[str, Any]) -> str:
    """What the address says was examined; another choice is another signature, so no result is shown under it."""
    return " ".join(map(str, (record.key, *asked.values())))


def _refusals() -> list[str]:
    """What the address asks for and there is not, in a sentence each; to be read before the widgets write it."""
    refused = []
    for name, known, what in (("known", known_models(), "known model"), ("known-method", methods(), "method")):
        try:
            pick(known, state.parameter(name) or known[0].key, what)
        except ValueError as error:
            refused.append(str(error))
    return refused


def _say(refused: list[str], chosen: str) -> None:
    """Show them, until something else is chosen."""
    if refused:
        st.session_state["known-refused"] = refused, chosen
    said, when = st.session_state.get("known-refused", ([], ""))
    for sentence in said if when == chosen else []:
        st.error(escaped(sentence))


# -- what comes of it ----------------------------------------------------------------------------------------


@st.cache_resource(max_entries=16, show_spinner=False)
def _made(key: str) -> Any:
    return pick(known_models(), key, "known model").load()


@st.cache_data(max_entries=64, show_spinner=False)
def _examined(key: str, method: str, n: int, seed: int, ranking: Ranking) -> Examination:
    return examine_made(_made(key), method, n=n, seed=seed, ranking=ranking)


def _welcome(record: KnownModel, made: Any) -> None:
    st.title("How far to trust a method")
    st.markdown(
        "These models were made so that their circuit is known: which edges between heads and MLPs carry the answer, "
        "and which do not. Choose one on the left and press **Examine**: the method scores every edge, and you see "
        "which of the true edges it found, which it missed, and how that compares with chance.\n\n"
        f"Begin with *{record.key}* as it is; it takes a second or two. Then try *shuffle-dyck*, whose answers sit on "
        "plateaus where gradients say nothing."
    )
    st.divider()
    known_detail.heading(record, made)
    known_detail.program(record, made)


def _result(record: KnownModel, made: Any, found: Examination, seed: int) -> None:
    """Hits and misses in the middle; the numbers, the curves and the files beside them."""
    picture, side = beside("known")
    with picture:
        known_detail.heading(record, made)
        n = _compared(record, found)
        graph = known_view.hits(record.key, found, n, seed=seed)
        assert graph.figure is not None
        verdicts = known_view.verdicts(found, n)
        node = state.selected(GRAPH, "part")
        ends = {end.partition("<")[0] for edge in verdicts for end in edge.split("->")}
        node = node if node in verdicts or node in ends else None
        show(graph.figure, GRAPH, node, slider=False)
        known_detail.left_out(made)
    curves = known_view.curves(record.key, found, seed=seed)
    with side:
        if node is None:
            st.info("Click a node or an edge to see what it carries.", icon=":material/ads_click:")
        else:
            known_detail.node(made, found, verdicts, node)
        known_detail.numbers(found, verdicts, known_view.faint(found, n))
        files: dict[str, Exportable] = {"Hits and misses": graph, **curves}
        downloads(files, f"{record.key}-{found.method}", "known-download")
    for place, (title, curve) in zip(beside("curves", halves=True), curves.items(), strict=True):
        assert curve.figure is not None
        with place:
            show(curve.figure, f"known-{title}", slider=False, widest=600)
    known_detail.program(record, made)


def _compared(record: KnownModel, found: Examination) -> int:
    """How many of the method's best edges are compared; by default as many as are true."""
    most, default = found.truth.n_edges, found.truth.n_true
    widget = f"best-{record.key}"
    if widget not in st.session_state:
        given = state.parameter("best") or ""
        st.session_state[widget] = min(int(given), most) if given.isdecimal() and len(given) < 9 else default
    n = int(
        st.slider(
            f"Best edges compared (the circuit has {default})",
            min_value=0,
            max_value=most if most <= 60 else min(most, max(60, 4 * default, st.session_state[widget])),
            key=widget,
            help="Of the edges with the highest scores, how many count as chosen by the method.",
        )
    )
    state.set_parameter("best", None if n == default else str(n))
    return n
