"""Beside hits and misses: the numbers, what a node reads and writes, and the program with a box to try it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import streamlit as st

from workbench import known_view
from workbench.app import state
from workbench.app.model_detail import escaped
from workbench.circuits.graph import head_of, node_of
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.examine import Examination
from workbench.circuits.known.registry import KnownModel
from workbench.figures.svg import number, plural
from workbench.known_view import Tried

_WORDS = {"found": "✓ found", "missed": "✗ missed", "false": "○ not true"}
_MOST_VALUES = 10


def numbers(found: Examination, verdicts: Mapping[str, str], faint: int) -> None:
    """How well the method did, beside the controls.

    Args:
        found: the examination.
        verdicts: of the edges that are compared.
        faint: how many of the chosen edges have next to no score.
    """
    hits = sum(verdict == "found" for verdict in verdicts.values())
    row = st.container(horizontal=True)
    row.metric(
        "true edges found",
        f"{hits} of {found.truth.n_true}",
        border=True,
        help="Among the best edges that are compared; edges with a score of 0 are not counted as chosen.",
        width="content",
    )
    row.metric(
        "true circuit alone",
        "–" if math.isnan(found.faithfulness) else f"{found.faithfulness:.0%}",
        border=True,
        help="Faithfulness of the true edges run without all others: 100 % is the model's own answer. It checks the "
        "truth, not the method.",
        width="content",
    )
    if faint:
        st.warning(
            f"{plural(faint, 'edge')} of those chosen: score below a millionth of the largest. There the ranking rests "
            "on almost nothing."
        )
    truth, control = found.truth, found.untrained
    rows = {
        "AUROC": (truth.auroc, control.auroc, found.random_auroc),
        "Average precision": (truth.average_precision, control.average_precision, found.random_average_precision),
        "AUROC of nodes": (truth.node_auroc, control.node_auroc, found.random_node_auroc),
    }
    names = (found.method, "random weights", "random scores")
    shown = [{"": name} | {n: _told(v) for n, v in zip(names, values, strict=True)} for name, values in rows.items()]
    st.table(shown, border="horizontal", hide_index=True)
    if math.isnan(truth.node_auroc):
        st.caption("Every head and MLP is part of this circuit, so there is no other to rank it above.")


def _told(value: float) -> str:
    return "–" if math.isnan(value) else number(value)


def left_out(made: Any) -> None:
    """Say which true edges no pair of inputs can show."""
    if made.length_edges:
        edges = ", ".join(f"`{edge}`" for edge in sorted(made.length_edges))
        st.caption(
            f"Left out of the truth: {plural(len(made.length_edges), 'edge')} that carry only what depends on the "
            f"length of the input ({edges}). Both inputs of a pair have the same length, so no method can see them."
        )


def node(made: Any, found: Examination, verdicts: Mapping[str, str], selected: str) -> None:
    """What the selected node reads and writes, or what the selected edge carries."""
    high = known_view.compiled_of(made)
    if "->" in selected:
        st.subheader(escaped(selected.replace("->", " → ")))
        _edges("", {selected: verdicts[selected]}, found, high, lambda edge: edge)
    else:
        place = head_of(selected)
        st.subheader(f"Head {place[0]}.{place[1]}" if place else escaped(selected))
        into = {edge: side for edge, side in verdicts.items() if node_of(edge.split("->")[1]) == selected}
        out = {edge: side for edge, side in verdicts.items() if edge.split("->")[0] == selected}
        _edges("reads", into, found, high, _source)
        _edges("writes", out, found, high, lambda edge: f"to {edge.split('->')[1]}")
    if high is not None and not isinstance(made, Compiled):
        st.caption("What is carried is said of the compiled model whose circuit this model was trained to have.")


def _source(edge: str) -> str:
    writer, _, reader = edge.partition("->")
    part = reader.partition("<")[2].rstrip(">")
    return f"{writer} as {part}" if part else writer


def _edges(
    title: str, edges: Mapping[str, str], found: Examination, high: Compiled | None, name: Callable[[str], str]
) -> None:
    """Edges with what became of them, their score, and what they carry."""
    if not edges:
        return
    if title:
        st.markdown(f"**{title}**")
    rows = []
    for edge, side in edges.items():
        score = float(found.scores.values[found.scores.graph.edge(edge)])
        row: dict[str, Any] = {"edge": name(edge), "": _WORDS[side], "score": score}
        rows.append(row | ({"carries": _carried(high, edge)} if high is not None else {}))
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "score": st.column_config.NumberColumn(format="%.3g", width="small"),
            "carries": st.column_config.TextColumn(help="Dimensions that the writer writes and the reader reads."),
        },
    )


def _carried(high: Compiled, edge: str) -> str:
    parts = []
    for variable, values in known_view.carried(high, edge).items():
        listed = " ".join(values[:_MOST_VALUES]) + (" …" if len(values) > _MOST_VALUES else "")
        parts.append(f"{variable}: {listed}" if values else f"{variable} (a number)")
    return "; ".join(parts) or "nothing"


# -- the program, and trying it ------------------------------------------------------------------------------


def heading(record: KnownModel, made: Any) -> None:
    """What the model computes, and its sizes."""
    st.subheader(escaped(f"{record.key}: {record.title}"))
    cfg, high = made.model.cfg, known_view.compiled_of(made)
    told = [f"{plural(cfg.n_layers, 'layer')} of {plural(cfg.n_heads, 'head')}, {cfg.d_model} dimensions"]
    if high is not None:
        told.append(f"tokens {' '.join(map(str, high.vocab))}")
        told.append(f"inputs of at most {high.max_len} tokens")
    st.caption(escaped(" · ".join([*told, *(["causal attention"] if cfg.causal else [])])))
    if card := getattr(made, "card", None):
        _card(card)


def program(record: KnownModel, made: Any) -> None:
    """The program that the model was made from, and a box to try the model."""
    high = known_view.compiled_of(made)
    if high is None:
        return
    st.subheader("Program")
    st.code(known_view.listing(high.program), language=None)
    try_it(record.key, known_view.example(made), lambda text: known_view.try_words(record.key, made, text))


def _card(card: Mapping[str, Any]) -> None:
    """What a trained model's card says of its training."""
    figures: Mapping[str, Any] = card.get("figures") or card.get("measured") or {}
    told = [f"{name.replace('_', ' ')} {value:.2%}" for name, value in figures.items() if isinstance(value, float)]
    if told:
        st.caption(escaped(f"Trained to have this program's circuit: {', '.join(told)}."))


def try_it(key: str, example: str, run: Callable[[str], Tried]) -> None:
    """A box for an input, and what comes out beside what should.

    Args:
        key: of the model.
        example: what stands in the box at first.
        run: from the input to the answers; raises ValueError with a sentence.
    """
    st.subheader("Try it")
    widget = f"try-{key}"
    if widget not in st.session_state:
        st.session_state[widget] = state.parameter("try") or example
    text = st.text_input("Input: tokens with spaces between them", key=widget, max_chars=400)
    state.set_parameter("try", text if text != example else None)
    try:
        tried = run(text)
    except ValueError as error:
        st.error(escaped(str(error)))
        return
    rows = [{"": "input", **_columns(tried.words)}, {"": "model", **_columns(map(_shown, tried.answers))}]
    if tried.right is not None:
        # A learned program is asked nothing at some positions; None is an answer of a compiled one.
        asked = ["" if one is None and key.startswith("learned-") else _shown(one) for one in tried.right]
        rows.append({"": "should be", **_columns(asked)})
    st.dataframe(rows, hide_index=True, width="content", height="content")
    if tried.note:
        st.caption(tried.note)
    elif tried.errors:
        asked_at = len(tried.answers) if tried.right is None else sum(one is not None for one in tried.right)
        verb, what = ("differs", "it") if tried.errors == 1 else ("differ", "they")
        st.warning(f"{plural(tried.errors, 'answer')} of {asked_at} {verb} from what {what} should be.")
    else:
        st.caption("Every answer is as it should be.")


def _columns(values: Iterable[str]) -> dict[str, str]:
    """Values by position."""
    return {str(i): value for i, value in enumerate(values)}


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
