"""Beside a head's pattern: what it writes, where it looks, its edges, and the answer without it."""

from __future__ import annotations

import math

import streamlit as st

from workbench.app.model_detail import escaped
from workbench.app.switched import moved, say
from workbench.circuits.graph import node_of, part_of
from workbench.figures import show_token
from workbench.figures.svg import number
from workbench.head import HeadLook
from workbench.live import Effect
from workbench.runs import Run

# A bar has no room beside its number in these narrow columns.
_SHARE = st.column_config.NumberColumn(format="percent", width="small")
_LOGIT = st.column_config.NumberColumn(format="%+.2f", width="small")
_PARTS = {"q": "queries", "k": "keys", "v": "values"}
_STRONGEST = 4


def looks(found: HeadLook) -> None:
    """Where it looks from the position, and what it carries from there."""
    st.subheader(f"From {escaped(show_token(found.names[found.position]))} it looks at", divider="gray")
    rows = []
    for source in found.sources[:6]:
        row: dict[str, object] = {"token": show_token(source.token), "at": source.position, "attention": source.share}
        if not math.isnan(source.own):
            row |= {
                "moves its logit": source.own,
                "rank": source.rank,
                "raises most": "  ".join(show_token(word) for word in source.raised),
            }
        rows.append(row)
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        column_config={
            "attention": _SHARE,
            "moves its logit": st.column_config.NumberColumn(
                format="%+.2f",
                help="How far what the head carries from that token, at full attention, moves the token's own logit.",
            ),
            "rank": st.column_config.NumberColumn(help="The token's place among all that it raises; 1 is the first."),
        },
    )


def writes(found: HeadLook, copying: float | None, over: str) -> None:
    """The tokens that its output raises and lowers."""
    st.subheader("What it writes")
    if found.unclear:
        st.caption(escaped(found.unclear))
        return
    if copying is not None:
        row = st.container(horizontal=True)
        row.metric(
            "copy score",
            f"{copying:.0%}",
            border=True,
            help=f"How often it raises the token that it looks at to the first five (Wang et al. 2022). Over {over}.",
            width="content",
        )
        row.metric(
            "of the residual stream",
            f"{found.norm:.1%}",
            border=True,
            help="Length of what it writes at this position.",
            width="content",
        )
    columns = st.columns(2)
    for column, title, tokens in ((columns[0], "raises", found.raised), (columns[1], "lowers", found.lowered)):
        column.dataframe(
            [{title: show_token(one.token), "logit": one.logit} for one in tokens],
            hide_index=True,
            width="stretch",
            column_config={"logit": _LOGIT},
        )
    st.caption("Directly, through the final norm and the unembedding, above the mean of all tokens.")


def edges(run: Run, layer: int, head: int) -> None:
    """The strongest edges into its queries, keys and values, and out of it, by the run's scores."""
    if run.info.scores is None:
        return
    try:
        scores, circuit = run.scores, run.circuit()
    except ValueError as error:
        st.warning(str(error))
        return
    graph, name = scores.graph, f"a{layer}.h{head}"
    st.subheader("Its edges")
    rows = []
    for part, word in _PARTS.items():
        column = graph.reader_index[f"{name}<{part}>"]
        values = scores.values[:, column]
        for writer in values.abs().topk(min(_STRONGEST, len(values))).indices.tolist():
            if graph.mask[writer, column]:
                rows.append(_edge(f"reads into {word}", graph.writers[writer], float(values[writer])))
                rows[-1]["in"] = bool(circuit.mask[writer, column])
    row = scores.values[graph.writer_index[name]]
    for reader in row.abs().topk(min(2 * _STRONGEST, len(row))).indices.tolist():
        if graph.mask[graph.writer_index[name], reader]:
            node, feeds = node_of(graph.readers[reader]), _PARTS.get(part_of(graph.readers[reader]))
            rows.append(_edge("is read by", f"{feeds} of {node}" if feeds else node, float(row[reader])))
            rows[-1]["in"] = bool(circuit.mask[graph.writer_index[name], reader])
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "score": st.column_config.NumberColumn(format="%.3g", help=str(run.info.prompts.get("metric", "metric"))),
            "in": st.column_config.CheckboxColumn("in circuit", width="small"),
        },
    )


def _edge(way: str, other: str, score: float) -> dict[str, object]:
    return {"": way, "node": other, "score": score}


def effect(found: Effect, prompt: int | None) -> None:
    """The metric and the top answers with the head and without.

    Args:
        found: what switching it off does.
        prompt: number of the run's prompt; None where the input is no run's.
    """
    if prompt is not None:
        say(found, prompt)
        return
    row = st.container(horizontal=True)
    best = max(found.answers, key=lambda one: one.before, default=None)
    if best is not None:
        row.metric(
            f"probability of {escaped(show_token(best.text))}",
            f"{best.after or 0.0:.1%}",
            moved(100 * ((best.after or 0.0) - best.before), "points"),
            border=True,
            help=f"{best.before:.1%} with the head.",
            width="content",
        )
        row.metric(
            "its logit",
            number(found.after),
            moved(found.after - found.before),
            border=True,
            help=f"{number(found.before)} with the head.",
            width="content",
        )
    rows = [{"answer": show_token(one.text), "before": one.before, "after": one.after or 0.0} for one in found.answers]
    st.dataframe(rows, hide_index=True, width="stretch", column_config={"before": _SHARE, "after": _SHARE})
