"""Beside the patterns: the answer, the numbers before and after, what the model is, parity, and the files."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from workbench import inspection
from workbench.app import state
from workbench.app.downloads import downloads
from workbench.export import Exportable
from workbench.figures import show_token
from workbench.figures.svg import number
from workbench.inspection import Comparison
from workbench.models import Transformer

_SHARE = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0, width="small")
_NARROW = st.column_config.TextColumn(width="small")
_HEAD_ROWS = {
    "entropy": "Entropy (nats)",
    "zeros": "Share of exact zeros",
    "first": "Weight on the first position",
}


def show(
    model: Transformer,
    name: str,
    found: Comparison | None,
    selected: tuple[int, int] | None,
    files: Mapping[str, Exportable],
) -> None:
    """The column beside the patterns.

    Args:
        model: the model.
        name: as it was asked for.
        found: its run; None where the input was refused.
        selected: (layer, head).
        files: what can be downloaded, by title.
    """
    if found is not None:
        _answer(found)
        if selected is not None:
            _numbers(found, *selected)
    _model(model, name)
    if files:
        downloads(files, escaped_name(model.name), "look-download")


def escaped(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>$:~^" else c for c in text)


def escaped_name(name: str) -> str:
    """A name for files."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "model"


def _answer(found: Comparison) -> None:
    """The most probable answers, and what the swap did to them."""
    swapped = found.after is not None
    if found.before.gives == "residual":
        st.subheader("Embedding")
        if swapped:
            help = "Of the mean residual streams: 1 is the same direction."
            st.metric(
                "Cosine with the embedding before", number(found.effects[-1].after or 0.0), help=help, border=True
            )
        else:
            st.caption(
                "This model gives no logits: its output is the residual stream, whose mean over the tokens is the "
                "sentence embedding. Choose another attention to see how far the embedding turns."
            )
        return
    st.subheader("Answer")
    if found.before.gives == "tokens":
        _position(found)
    rows = [
        {"answer": show_token(one.text, 24), "before" if swapped else "probability": one.before}
        | ({"after": one.after} if swapped else {})
        for one in found.answers
    ]
    columns = {"answer": _NARROW, "probability": _SHARE, "before": _SHARE, "after": _SHARE}
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=columns)
    _table(
        {
            f"{one.name}{_units(one.unit)}": (one.before, one.after)
            for one in found.effects
            if one.unit in ("nats per token", "nats", "logit")
        },
        swapped,
    )


def _table(rows: Mapping[str, tuple[float | None, float | None]], swapped: bool) -> None:
    """Numbers before and after, three digits each."""
    shown = []
    for name, (before, after) in rows.items():
        row = {"": escaped(name), "before" if swapped else "value": _told(before)}
        shown.append(row | {"after": _told(after)} if swapped else row)
    st.table(shown, border="horizontal", hide_index=True)


def _units(unit: str) -> str:
    return f" ({unit})" if unit.startswith("nats") else ""


def _told(value: float | None) -> str:
    return "–" if value is None else number(value)


def _position(found: Comparison) -> None:
    """Where the answer is read."""
    names = found.before.names
    key = f"position-{len(names)}"
    if st.session_state.get(key) != found.position:
        st.session_state[key] = found.position
    label = "Next token after" if found.before.causal else "Token in the place of"

    def chosen() -> None:
        state.set_parameter("position", str(st.session_state[key]))

    st.selectbox(
        label,
        range(len(names)),
        key=key,
        format_func=lambda i: f"{i}: {show_token(names[i], 24)}",
        on_change=chosen,
    )


def _numbers(found: Comparison, layer: int, head: int) -> None:
    """One head in numbers."""
    st.subheader(f"Head {layer}.{head}")
    numbers = found.head_numbers(layer, head)
    _table({title: numbers[key] for key, title in _HEAD_ROWS.items()}, found.after is not None)
    st.caption("Means over queries.")


def _model(model: Transformer, name: str) -> None:
    """Sizes and choices, and how closely Hugging Face agrees."""
    st.subheader(escaped(model.name))
    facts = [{"": key, "value": escaped(value)} for key, value in inspection.facts(model).items()]
    st.table(facts, border="horizontal", hide_index=True, hide_header=True)
    if inspection.is_native(name):
        st.caption(inspection.NO_COUNTERPART)
        return
    key = f"parity-{name}"
    if st.button("Check against Hugging Face", key="look-check", help="Loads the model a second time and compares."):
        try:
            with st.spinner(f"Loading {name} a second time and comparing ..."):
                st.session_state[key] = inspection.parity_words(inspection.parity(name))
        except ValueError as error:
            st.error(str(error))
    if said := st.session_state.get(key):
        st.caption(escaped(said))
