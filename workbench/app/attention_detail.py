"""Beside the maps: one head's pattern, its numbers among all heads, what kinds it scores on, its pairs of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
import torch
from torch import Tensor

from workbench import observing
from workbench.app import attention_ask as ask
from workbench.app import attention_work as work
from workbench.app import links
from workbench.app.figure import show
from workbench.app.model_detail import escaped
from workbench.attention import DETECTORS, MEASURES, HeadValue
from workbench.export import Exportable
from workbench.figures import attention_pattern, show_token
from workbench.figures.attention_pattern import MOST_CELLS
from workbench.figures.svg import number
from workbench.inspection import Comparison
from workbench.observing import Observation
from workbench.views import swap_view

_STANDS_OUT = 3  # heads of each kind that have a button
_ENDS = (
    ("Sharpest", "entropy", False, "Lowest entropy, in nats."),
    ("Most even", "entropy", True, "Highest entropy, in nats."),
    ("Farthest", "distance", True, "How far away the weight lies, in tokens."),
)
_CLEAR, _TENTH = 0.3, 10  # a head is called one of a kind from this score, and among the highest tenth
_SHORT = (
    "entropy",
    "normalised_entropy",
    "effective_keys",
    "largest",
    "sink_mass",
    "recent_mass",
    "distance",
    "output_norm",
)


def mute_switch(found: Comparison) -> bool:
    """Whether the first token is left out of the colour scales; for an image all that comes before the patches."""
    first = "the first token" if found.image is None else ", ".join(found.prefix)
    if not first:
        return False
    help = "Many heads park attention that they do not need there; this takes it out of the colour scale."
    return bool(st.toggle(f"Mute {first}", key="mute", bind="query-params", help=help))


# -- no head yet -----------------------------------------------------------------------------------------------


def stands_out(observation: Observation, take: Callable[[str], None], *, clickable: bool = False) -> None:
    """The strongest heads of each kind, as buttons; ``clickable`` where the picture has heads to click too."""
    st.subheader("Heads that stand out")
    how = "Click a head in the picture, or one of these." if clickable else "Click one to see it."
    st.caption(f"{how} The number is its score; the question mark says of what.")
    for detector in DETECTORS:
        if observation.census.scores.get(detector.key) is None or observing.trivial(observation, detector.key):
            continue
        best = observation.census.top(detector.key, _STANDS_OUT)
        _buttons(detector.title, f"{_plain(detector.formula)}.", detector.key, best, take)
    for title, key, highest, help in _ENDS:
        if key == "distance" and observation.statistics.tokens is None:
            continue  # patches have no order
        values = observation.statistics.value(key)
        there = [HeadValue(at, head, float(values[at, head])) for at, head in values.isfinite().nonzero().tolist()]
        there.sort(key=lambda one: -one.value if highest else one.value)
        _buttons(title, help, f"{key}-{highest}", there[:_STANDS_OUT], take)


def _buttons(title: str, help: str, key: str, heads: Sequence[HeadValue], take: Callable[[str], None]) -> None:
    """A kind of head, and the heads that are most of it."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{title}**", width=150, help=help)
        for head in heads:
            label = f"{head.layer}.{head.head}  ·  {_two(head.value)}"
            st.button(label, key=f"top-{key}-{head.name}", on_click=take, args=(head.name,))


def notes(observation: Observation) -> None:
    """What a reader should know of how the numbers were made."""
    said = dict.fromkeys([*observation.statistics.notes, *observation.census.notes])
    for note in said:
        st.caption(escaped(note))


# -- one head --------------------------------------------------------------------------------------------------


def heading(asked: ask.Asked, place: tuple[int, int], leave: Callable[[], None]) -> None:
    """The head's name, and ways to other pages."""
    layer, head = place
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(f"Head {layer}.{head}", width="content")
        if asked.shown:
            about = {"look-at": asked.name, "layer": str(layer), "head": str(head), **asked.shown}
            links.link("Open this head", "head", icon=":material/center_focus_strong:", **about)
            at = "-1" if asked.model.cfg.causal else "0"
            links.what_feeds(asked.name, layer, head, at, **asked.shown)
        st.button("Close", icon=":material/close:", type="tertiary", on_click=leave, help="Take no head.")


def pattern(found: Comparison, place: tuple[int, int], mute: bool, query: int) -> Exportable:
    """The head's pattern; for an image, where one of its patches looks."""
    layer, head = place
    n = len(found.before.names)
    first, last = ask.zoom(n) if found.image is None and n > MOST_CELLS else (0, n - 1)
    if (first, last) == (0, n - 1):
        view = swap_view(found, layer, head, query=query, mute_first=mute)
    else:
        view = _part(found, place, mute, first, last)
    assert view.figure is not None
    show(view.figure, ask.PATTERN, f"q{query}" if found.image is not None else None, slider=False, widest=820)
    if found.image is not None:
        st.caption("Click a patch to see where the head looks from there.")
    return view


def _part(found: Comparison, place: tuple[int, int], mute: bool, first: int, last: int) -> Exportable:
    """The pattern among some neighbouring tokens."""
    layer, head = place
    names, shares = found.before.names[first : last + 1], found.before.patterns[layer, head]
    shares = shares[first : last + 1, first : last + 1]
    figure = attention_pattern(
        shares,
        names,
        caption=f"{found.model} · tokens {first} to {last}; attention to all others is left out.",
        mute_first=mute and first == 0,
        layer=layer,
        head=head,
        causal=found.before.causal,
    )
    data = {"model": found.model, "input": found.subject, "layer": layer, "head": head, "first": first, "last": last}
    return Exportable(None, figure, data | {"pattern": shares.tolist()})


def kinds(observation: Observation, place: tuple[int, int]) -> None:
    """What kinds the head scores on, and its place among all heads there, the most particular first."""
    rows: list[tuple[int, bool, dict[str, object]]] = []
    for detector in DETECTORS:
        scores = observation.census.scores.get(detector.key)
        if scores is None or math.isnan(float(scores[place])) or observing.trivial(observation, detector.key):
            continue
        rank, of = _rank(scores, place)
        value = float(scores[place])
        clear = value >= _CLEAR and rank <= max(1, of // _TENTH)
        rows.append((rank, clear, {"kind": detector.title, "score": value, "place": f"{rank} of {of}"}))
    if not rows:
        return
    rows.sort(key=lambda row: row[0])
    named = ", ".join(str(row["kind"]).lower() for _, clear, row in rows if clear)
    st.markdown(f"**Kinds** · {escaped(named or 'none stands out')}")
    st.dataframe(
        [row for *_, row in rows],
        hide_index=True,
        width="stretch",
        height="content",
        column_config={
            "score": st.column_config.NumberColumn(format="%.2f", help="Share of attention; see the census."),
            "place": st.column_config.TextColumn("among all heads", help="1 is the highest score."),
        },
    )


def numbers(observation: Observation, place: tuple[int, int]) -> None:
    """The head's statistics beside the mean of all heads."""
    rows = []
    for measure in MEASURES:
        values = observation.statistics.value(measure.key)
        if measure.key not in _SHORT or math.isnan(float(values[place])):
            continue
        rank, of = _rank(values, place)
        unit = "" if measure.unit == "share" else f" ({measure.unit})"
        rows.append(
            {
                "statistic": f"{measure.title}{unit}",
                "head": number(float(values[place])),
                "mean of all": number(float(values.nanmean())),
                "among all heads": f"{rank} of {of}",
            }
        )
    st.markdown("**Statistics**")
    st.dataframe(rows, hide_index=True, width="stretch", height="content")


def pairs(asked: ask.Asked, place: tuple[int, int]) -> None:
    """Which tokens look at which, and what that writes, from the weights; on demand, for it takes a moment."""
    if asked.model.images is not None:
        return
    about = "Query and key weights, value and output weights, on bare token embeddings: no text, no positions."
    if not st.toggle("Pairs of tokens by its weights", key="pairs", bind="query-params", help=about):
        return
    found = work.pairs(asked, place)
    if found is None:
        return
    text = asked.model.text

    def words(ids: tuple[int, ...]) -> str:
        named = asked.model.tokenizer is not None
        return "   ".join(show_token(text.pieces([i])[0]) if named else str(i) for i in ids)

    rows: list[dict[str, Any]] = []
    for one in found.rows:
        row = {"token": words((one.token,)), "as a query looks at": words(one.looks_at)}
        rows.append(row if found.unclear else row | {"attended to, raises": words(one.raises)})
    st.dataframe(rows, hide_index=True, width="stretch", height=min(38 + 35 * len(rows), 320))
    deep = "" if place[0] == 0 else " Deeper layers read more than embeddings, which this leaves out."
    st.caption(escaped(f"The strongest of the whole vocabulary for each token of the text.{deep} {found.unclear}"))


def _rank(values: Tensor, place: tuple[int, int]) -> tuple[int, int]:
    """Place of a head among all that have a value, the highest first; and how many these are."""
    there = values[~values.isnan()]
    return 1 + int((there > values[place]).sum()), int(torch.numel(there))


def _two(value: float) -> str:
    return f"{value:.2f}"


def _plain(text: str) -> str:
    return escaped(text[:1].upper() + text[1:])
