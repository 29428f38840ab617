"""Beside the circuit: the selected head, how faithful the circuit is, and the files to take away."""

from __future__ import annotations

import math

import streamlit as st

from workbench import jobs
from workbench.app import links, state, switched
from workbench.app.downloads import downloads
from workbench.app.figure import show as show_figure
from workbench.circuits import Circuit
from workbench.circuits.graph import head_of, node_of
from workbench.export import Exportable
from workbench.figures import faithfulness_plot
from workbench.models import Transformer
from workbench.runs import Run
from workbench.views import attention_view, curve_view

_MOST_EDGES = 12


def show(run: Run, view: Exportable, node: str | None, off: list[str]) -> None:
    """The column beside the circuit graph.

    Args:
        run: what is shown.
        view: its circuit.
        node: the selected node or edge.
        off: what is switched off.
    """
    assert view.circuit is not None
    files = {"Circuit": view}
    switched.panel(run, off)
    if node is not None and node in [*view.circuit.nodes, *view.circuit.edges]:
        if attention := _selected(run, view.circuit, node, off):
            files["Attention"] = attention
    elif not off:
        st.info("Click a head to see what it attends to, or an edge to see its score.", icon=":material/ads_click:")
    _faithfulness(run)
    if run.curve is not None:
        files["Faithfulness curve"] = curve_view(run)
    downloads(files, run.id)


def _selected(run: Run, circuit: Circuit, node: str, off: list[str]) -> Exportable | None:
    """What is known of the selected node or edge; the attention picture if it is a head."""
    if "->" in node:
        st.subheader(node.replace("->", " → "))
        st.metric(f"Score ({run.info.prompts.get('metric', 'metric')})", f"{circuit.score(node):.3g}", border=True)
        switched.switch(node, off)
        return None
    place, attention = head_of(node), None
    st.subheader(f"Head {place[0]}.{place[1]}" if place else node)
    with st.container(horizontal=True, vertical_alignment="center"):
        if node != "logits":
            switched.switch(node, off)
        if place:
            asked = {"run": run.id, "layer": str(place[0]), "head": str(place[1])}
            if (prompt := state.parameter("prompt")) is not None:
                asked["prompt"] = prompt
            links.link("Open this head", "head", icon=":material/center_focus_strong:", **asked)
    if place:
        attention = _attention(run, *place)
    into = [edge for edge in circuit.edges if node_of(edge.split("->")[1]) == node]
    out = [edge for edge in circuit.edges if edge.split("->")[0] == node]
    for title, edges, end in (("reads from", into, 0), ("is read by", out, 1)):
        if edges:
            _edges(title, circuit, edges, end)
    return attention


def _edges(title: str, circuit: Circuit, edges: list[str], end: int) -> None:
    """The strongest of some edges, by the other end."""
    strongest = sorted(edges, key=lambda edge: -abs(circuit.score(edge)))[:_MOST_EDGES]
    more = f" (strongest {_MOST_EDGES} of {len(edges)})" if len(edges) > _MOST_EDGES else ""
    st.markdown(f"**{title}**{more}")
    rows = [{"from" if end == 0 else "into": e.split("->")[end], "score": circuit.score(e)} for e in strongest]
    if end == 0:
        for row, edge in zip(rows, strongest, strict=True):
            row["as"] = edge.split("->")[1].partition("<")[2].rstrip(">") or "input"
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height="content",
        column_config={"score": st.column_config.NumberColumn(format="%.3g")},
    )


def _attention(run: Run, layer: int, head: int) -> Exportable | None:
    """What a head attends to on one of the run's prompts."""
    texts: list[str] = run.info.prompts.get("clean", [])
    if not texts:
        return None
    row = st.columns([5, 2], vertical_alignment="bottom")
    with row[0]:
        prompt = state.numbered("Prompt", texts, "prompt")
    side = row[1].selectbox("Side", ("clean", "corrupted"), key="side", bind="query-params")
    mute = st.toggle(
        "Mute the first token",
        key="mute",
        bind="query-params",
        help="Many heads park attention that they do not need on the first token; this takes it out of the scale.",
    )
    try:
        model = state.model(run.info.load_name)
        jobs.check_same_model(run, model)
        view = _pattern(run, model, layer, head, int(prompt), str(side), bool(mute))
    except ValueError as error:
        st.warning(str(error))
        return None
    assert view.figure is not None
    show_figure(view.figure, "attention", widest=640)
    if model.cfg.causal and model.tokenizer is not None:  # other inputs are more than their text
        sides = run.info.prompts.get(str(side), texts)
        links.what_feeds(run.info.load_name, layer, head, text=sides[int(prompt)])
    return view


@st.cache_data(
    max_entries=32, show_spinner=False, hash_funcs={Run: lambda run: run.id, Transformer: lambda m: m.fingerprint}
)
def _pattern(run: Run, model: Transformer, layer: int, head: int, prompt: int, side: str, mute: bool) -> Exportable:
    return attention_view(run, model, layer, head, prompt=prompt, side=side, mute_first=mute)


def _faithfulness(run: Run) -> None:
    """How much of the behaviour the circuit keeps, alone and over sizes."""
    report, curve, check = run.report, run.curve, run.info.check or {}
    st.subheader("Faithfulness")
    if report is None:
        running = run.info.status == "running"
        st.caption("The circuit is being run ..." if running else "The circuit was not run: it was stopped before.")
        return
    share = report.n_edges / report.n_edges_total
    facts = st.container(horizontal=True)
    facts.metric(
        "kept by the circuit",
        f"{report.faithfulness:.0%}",
        border=True,
        help=(
            f"Faithfulness {_number(report.faithfulness)}: 100 % is the model itself, 0 % the ablated run "
            f"({report.ablation}). Mean {run.info.prompts.get('metric', 'metric')}: {_number(report.metric)} in the "
            f"circuit, {_number(report.metric_full)} in the model, {_number(report.metric_empty)} ablated."
        ),
        width="content",
    )
    facts.metric(
        "of all edges",
        f"{share:.2%}",
        border=True,
        help=f"{report.n_edges:,} of {report.n_edges_total:,} edges, {report.n_nodes} nodes.",
        width="content",
    )
    if report.accuracy is not None:
        st.caption(
            f"On {report.n_examples} pairs the model has the right answer above the wrong one in "
            f"{check.get('accuracy', math.nan):.0%}, the circuit in {report.accuracy:.0%}."
        )
    if curve is not None:
        st.plotly_chart(faithfulness_plot(curve), width="stretch", config={"displaylogo": False}, key="curve")
        st.caption(
            f"CMD {_number(curve.cmd)} (distance of the curve from 1; lower is better) · CPR {_number(curve.cpr)} "
            "(area under the signed curve; higher is better)"
        )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
