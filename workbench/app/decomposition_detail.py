"""Beside the contributions: the target, the chosen sources together, and the strongest by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from workbench.app import decomposition_ask as ask
from workbench.app import links
from workbench.app.model_detail import escaped
from workbench.circuits.decomposition.sites import Site, parse
from workbench.decomposing import Result
from workbench.figures import show_token
from workbench.figures.svg import number
from workbench.inspection import Given
from workbench.models import Transformer

_MOST = 24  # chosen places in an address
_STRONGEST = 8
_PARTS = {"": "output", "<q>": "queries", "<k>": "keys", "<v>": "values"}


def about(result: Result) -> None:
    """What was read, and how much of it the sources carry together."""
    st.subheader("The target")
    row = st.container(horizontal=True)
    row.metric(
        escaped(result.target),
        number(result.whole),
        border=True,
        width="content",
        help=f"The target's own value, in {result.unit}.",
    )
    if not math.isnan(result.together):
        row.metric(
            "from all of these together",
            number(result.together),
            border=True,
            width="content",
            help="One source of them all; the rest is biases, other places, and what the rule leaves out.",
        )
    for note in result.notes:
        st.caption(escaped(note))


def known(place: str, model: Transformer, given: Given) -> bool:
    """Whether a place from the address is one that this model and this input have."""
    try:
        site = parse(place, model.cfg)
    except ValueError:
        return False
    return site.positions is None or all(0 <= first <= last < len(given.names) for first, last in site.positions)


def said(place: str, model: Transformer, given: Given) -> str:
    """A place as a person reads it: the words at the input's positions, a head by its numbers."""
    site = parse(place, model.cfg)
    if site.kind == "resid" and site.layer == 0 and site.positions is not None:
        names = [given.names[i] for first, last in site.positions for i in range(first, last + 1)]
        if given.grid is None:
            return plain("".join(names))
        return plain(" ".join(f"patch ({name.replace(',', ', ')})" if "," in name else name for name in names))
    if site.kind == "head":
        return f"head {site.layer}.{site.heads[0]}"
    return f"MLP {site.layer}" if site.kind == "mlp" else place


def plain(name: str) -> str:
    """A word, a phrase or a patch as a label: nothing invisible in it, and spaces as they are."""
    return show_token(name.strip() or name, 24).replace("·", " ")


def chosen(asked: ask.Asked, result: Result, places: list[str], take_back: Callable[[list[str]], None]) -> None:
    """The chosen sources: what each gives, what they give together, and what feeds a head among them.

    Args:
        asked: what is asked.
        result: of the view, whose target and rule are taken.
        places: of the sources.
        take_back: leaves some of them out; for callbacks.
    """
    st.subheader("Chosen sources")
    if not places:
        st.caption("None yet: click in the picture. What they give together shows whether they need each other.")
        return
    places = places[:_MOST]
    names = {place: said(place, asked.model, asked.given) for place in places}
    with st.container(horizontal=True):
        for place in places:
            label = escaped(names[place])
            about = {"key": f"chosen-{place}", "icon": ":material/close:", "help": "Take it out."}
            st.button(label, on_click=take_back, args=([place],), **about)  # type: ignore[arg-type]
        if len(places) > 1:
            st.button("Take all out", key="chosen-none", type="tertiary", on_click=take_back, args=(places,))
    _together(asked, result, places, names)
    _feeds(asked, places)


def _together(asked: ask.Asked, result: Result, places: list[str], names: dict[str, str]) -> None:
    from workbench.app.decomposition import answer

    used = result.request
    request = replace(
        used, sources=tuple(places), rule=used.rule, baseline=used.baseline, target=asked.request.target, tree=False
    )
    found = answer(asked, request, "Asking what these give ...")
    if found is None:
        return
    if len(places) > 1 and not math.isnan(found.together):
        alone = math.fsum(value for value in found.values if not math.isnan(value))
        row = st.container(horizontal=True)
        row.metric("together", number(found.together), border=True, width="content", help=found.unit)
        row.metric(
            "interaction",
            number(found.together - alone),
            border=True,
            width="content",
            help="What they give together, less the sum of what each gives.",
        )
    rows = [{"source": names[place], found.unit: value} for place, value in zip(places, found.values, strict=True)]
    _table(rows, found.unit)


def _feeds(asked: ask.Asked, places: list[str]) -> None:
    """For the head chosen last: make it the target."""
    sites = [parse(place, asked.model.cfg) for place in places]
    last: Site | None = next((site for site in reversed(sites) if site.kind == "head" and len(site.heads) == 1), None)
    if last is None:
        return
    name, model = f"a{last.layer}.h{last.heads[0]}", asked.model
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"What feeds head {last.layer}.{last.heads[0]}? Take as target its", width="content")
        for part, word in _PARTS.items():
            # The answer is read at the last position; keys and values are those of all.
            at = "@-1" if model.cfg.causal and part in ("", "<q>") else ""
            st.button(word, key=f"feeds-{part}", on_click=ask.explain, args=(f"{name}{part}{at}",))
        used = asked.request
        where = {"text": used.text} if used.text else {"sample": used.image}
        if asked.uploaded is None:
            about = {"look-at": used.model, "layer": str(last.layer), "head": str(last.heads[0]), **where}
            links.link("Open this head", "head", icon=":material/center_focus_strong:", **about)


def strongest(result: Result) -> None:
    """The sources that give most, either way."""
    there = [(name, value) for name, value in zip(result.names, result.values, strict=True) if not math.isnan(value)]
    best = sorted(there, key=lambda one: -abs(one[1]))[:_STRONGEST]
    if not best:
        return
    st.subheader("The strongest")
    _table([{"source": plain(name), result.unit: value} for name, value in best], result.unit)


def _table(rows: list[dict[str, object]], unit: str) -> None:
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height="content",
        column_config={unit: st.column_config.NumberColumn(format="%+.3g")},
    )
