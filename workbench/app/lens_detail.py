"""Beside the lens: the answers in a cell, how much depth an answer needs, and what one part writes."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from workbench.app.model_detail import escaped
from workbench.app.paths_detail import one_line, word
from workbench.app.paths_search import head_links
from workbench.app.paths_shown import Shown
from workbench.figures.svg import number
from workbench.lens import DirectAttribution, ExitDepth, LogitLens, TunedLens

_SHARE = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)


def said(place: str) -> str:
    """A place in words."""
    if place == "embed":
        return "behind the embedding"
    return f"behind layer {place[1:]}" if place[0] == "m" else f"behind the attention of layer {place[1:]}"


def cell(lens: LogitLens, at: tuple[str, int]) -> None:
    """The first answers at a place and a position."""
    place, where = at
    depth = lens.places.index(place)
    st.subheader(f"First answers {said(place)}")
    if lens.positions:
        before = word(lens.names[0][lens.positions[where]])
        own = " This is the model's own answer." if depth == len(lens.places) - 1 else ""
        st.caption(escaped(f"After “{before}”, position {lens.positions[where]}.{own}"))
    ids, shares = lens.top[depth, 0, where].tolist(), lens.top_probs[depth, 0, where].tolist()
    rows = [
        {"answer": word(lens.top_words[i]), "probability": share}
        for i, share in zip(ids, shares, strict=True)
        if i >= 0
    ]
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config={"probability": _SHARE})
    row = st.container(horizontal=True)
    entropy, apart = float(lens.entropy[depth, 0, where]), float(lens.kl[depth, 0, where])
    if not math.isnan(entropy):
        row.metric("entropy", f"{number(entropy)} nats", border=True, width="content")
        help = "KL divergence from the model's own answer to what is read here."
        row.metric("KL", f"{number(apart)} nats", border=True, width="content", help=help)
    rank = int(lens.ranks[depth, 0, where, 0])
    if rank:
        help = f"Its probability here is {float(lens.probs[depth, 0, where, 0]):.2g}."
        row.metric("rank of the target", str(rank), border=True, width="content", help=help)


def depth(found: ExitDepth, lens: LogitLens, where: int) -> None:
    """From which place the first answer stays at a position, and at all of them."""
    st.subheader("How deep it must go")
    settled, sure = int(found.settled[0, where]), int(found.sure[0, where])
    row = st.container(horizontal=True)
    help = "From there on the first answer is the model's own and changes no more."
    row.metric("settled", _place(found, settled), border=True, width="content", help=help)
    help = (
        f"The first place whose first answer has a probability of {found.confidence:.0%}; it need not be the last one."
    )
    row.metric("sure", _place(found, sure), border=True, width="content", help=help)
    if len(lens.positions) < 2:
        return
    rows: list[dict[str, Any]] = [
        {
            "after": word(lens.names[0][position]),
            "answer": word(lens.top_words.get(int(lens.top[-1, 0, i, 0]), "")),
            "settled": _place(found, int(found.settled[0, i])),
            "sure": _place(found, int(found.sure[0, i])),
        }
        for i, position in enumerate(lens.positions)
    ]
    with st.expander("At every position"):
        st.dataframe(rows, hide_index=True, width="stretch", height=min(38 + 35 * len(rows), 420))


def _place(found: ExitDepth, at: int) -> str:
    return found.places[at] if 0 <= at < len(found.places) else "never"


def trained(tuned: TunedLens | None) -> None:
    """How good a tuned lens is, on what it was not trained on."""
    if tuned is None or not tuned.held_out:
        return
    rows = [
        {
            "behind": one.place,
            "logit lens": one.before[0],
            "tuned lens": one.after[0],
            "gain": f"{number(one.gain[1])} to {number(one.gain[2])}",
        }
        for one in tuned.held_out
    ]
    with st.expander(f"The tuned lens: {tuned.steps} steps"):
        st.caption("KL from the model's own answer on held-out texts, in nats; the gain with its 95 % interval.")
        columns = {name: st.column_config.NumberColumn(format="%.2f") for name in ("logit lens", "tuned lens")}
        st.dataframe(
            rows, hide_index=True, width="stretch", height=min(38 + 35 * len(rows), 420), column_config=columns
        )


def direct(shown: Shown, found: DirectAttribution, name: str | None) -> None:
    """The logit, and the selected part of it."""
    st.subheader("The answer")
    row = st.container(horizontal=True)
    whole = float(found.whole[0])
    row.metric(
        escaped(one_line(found.target)),
        number(whole),
        border=True,
        width="content",
        help="In logits; its parts sum to it.",
    )
    if name in found.components:
        value = float(found.values[found.components.index(name), 0])
        row.metric(escaped(name), number(value), border=True, width="content", help="What it writes, in logits.")
        head_links(shown, name)
