"""The Runs page: search, sort, reopen, compare, rename and delete what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from workbench.app import links, state
from workbench.app.model_detail import escaped
from workbench.app.run_words import MARKS, begun, title_of
from workbench.runs import RunInfo, RunStore

_PER_PAGE = 20
_SORTS: dict[str, tuple[str, Callable[[RunInfo], Any]]] = {
    "newest": ("Newest first", lambda info: _reverse(info.created)),
    "oldest": ("Oldest first", lambda info: info.created),
    "faithful": ("Most faithful first", lambda info: -_number(info.report, "faithfulness")),
    "cmd": ("Lowest CMD first", lambda info: -_number(info.curve, "cmd", -1.0)),
    "title": ("By name", lambda info: title_of(info, False).lower()),
}
_ANY = "any"


def page() -> None:
    """The whole page."""
    store = state.store()
    st.title("Runs")
    try:
        found, broken = store.read_all()
    except ValueError as error:
        st.error(str(error))
        return
    if not found and not broken:
        st.markdown("Nothing was found yet. Ask for a circuit first; it is kept here.")
        links.link("Find a circuit", "circuits")
        return
    shown = _chosen(found)
    _summary(store, found, broken, len(shown))
    chosen = [info.id for info in found if st.session_state.get(f"pick-{info.id}")]
    _compare(chosen)
    page_of = state.whole_number("Page", max(0, (len(shown) - 1) // _PER_PAGE), "page")
    on_page = shown[page_of * _PER_PAGE : (page_of + 1) * _PER_PAGE]
    for info in on_page:
        _row(info, store)
    if found and not shown:
        st.info("No run is like that. Take a word or a choice out.")
    _broken(broken, store)


# -- which ones ------------------------------------------------------------------------------------------------


def _chosen(found: list[RunInfo]) -> list[RunInfo]:
    """Those with every word that is searched for and with the choices made, in the order that is asked for."""
    top = st.columns([3, 1], vertical_alignment="bottom")
    words = top[0].text_input("Search", key="q", bind="query-params", placeholder="title, id, model, task, method")
    kept = [info for info in found if all(word in _text(info) for word in str(words or "").lower().split())]
    ways: list[tuple[str, Callable[[RunInfo], str]]] = [
        ("Model", lambda info: str(info.model.get("name"))),
        ("Task", lambda info: str(info.task.get("name"))),
        ("Method", lambda info: info.method),
        ("Status", lambda info: info.status),
    ]
    for column, (label, of) in zip(st.columns(4), ways, strict=True):
        values = {_ANY: "any"} | {value: value for value in sorted({of(info) for info in found})}
        with column:
            value = state.choice(label, values, f"only-{label.lower()}")
        kept = [info for info in kept if value in (_ANY, of(info))]
    with top[1]:
        order = state.choice("Order", {key: title for key, (title, _) in _SORTS.items()}, "order")
    return sorted(kept, key=_SORTS[order][1])


def _text(info: RunInfo) -> str:
    """What a search looks in."""
    options = info.settings.get("options", {})
    parts = [info.id, info.title, info.method, info.status, info.model.get("name"), info.task.get("name"), options]
    return " ".join(map(str, parts)).lower()


def _reverse(text: str) -> tuple[int, ...]:
    """Orders texts the other way round."""
    return tuple(-ord(c) for c in text)


def _number(data: Mapping[str, Any] | None, name: str, sign: float = 1.0) -> float:
    """A number to sort by; what was not measured comes last."""
    value = (data or {}).get(name)
    return float("-inf") if value is None else sign * float(value)


# -- what is shown ---------------------------------------------------------------------------------------------


def _summary(store: RunStore, found: list[RunInfo], broken: Mapping[str, str], shown: int) -> None:
    total = sum(_size(store, name) for name in [*(info.id for info in found), *broken])
    of = f"{shown} of {len(found)}" if shown < len(found) else f"{len(found)}"
    st.caption(escaped(f"{of} runs, {_bytes(total)} in {store.root}"))


def _size(store: RunStore, name: str) -> int:
    try:
        return store.disk_use(name)
    except (ValueError, OSError):  # deleted meanwhile
        return 0


def _bytes(n: int) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.0f} kB"


def _compare(chosen: list[str]) -> None:
    if len(chosen) == 2:
        links.link("Compare the two", "circuits", icon=":material/compare:", run=chosen[0], **{"with": chosen[1]})
    elif chosen:
        more = "Choose one more to compare." if len(chosen) == 1 else f"{len(chosen)} are chosen; two can be compared."
        st.caption(more)


def _row(info: RunInfo, store: RunStore) -> None:
    """One run: what it was asked, how it went, and what can be done with it."""
    row = st.columns([0.4, 4, 2.6, 2, 2, 1], vertical_alignment="center")
    row[0].checkbox("Choose", key=f"pick-{info.id}", label_visibility="collapsed", help="Choose two to compare.")
    with row[1]:
        links.link(f"{MARKS.get(info.status, '?')} {title_of(info)}", "circuits", help="Open it.", run=info.id)
    about = f"{info.model.get('name')} · {info.task.get('n')} pairs, seed {info.seed}"
    row[2].caption(escaped(about))
    report, curve = info.report or {}, info.curve or {}
    facts = [f"{report['faithfulness']:.0%} faithful"] if report.get("faithfulness") is not None else [info.status]
    facts += [f"CMD {curve['cmd']:.3f}"] if curve.get("cmd") is not None else []
    row[3].caption(escaped(" · ".join(facts)))
    row[4].caption(begun(info))
    with row[5].popover("", icon=":material/more_vert:", help="Rename or delete"):
        _actions(info, store)
    if info.error:
        st.caption(f":red[{escaped(info.error)}]")


def _actions(info: RunInfo, store: RunStore) -> None:
    st.caption(f"`{info.id}`, {_bytes(_size(store, info.id))}")
    title = st.text_input("Title", value=info.title, key=f"runs-title-{info.id}")
    if st.button("Rename", key=f"rename-{info.id}", disabled=title == info.title):
        try:
            store.rename(info.id, title)
        except ValueError as error:
            st.error(str(error))
        else:
            st.rerun()
    if info.is_unfinished:
        st.caption("Open it to go on where it ended.")
    _delete(info.id, store, disabled=info.status == "running")


def _delete(name: str, store: RunStore, disabled: bool = False) -> None:
    """Delete, once it was said twice."""
    sure = st.checkbox("Delete for good", key=f"runs-sure-{name}", disabled=disabled)
    if st.button("Delete", key=f"delete-{name}", disabled=disabled or not sure):
        try:
            store.delete(name)
        except ValueError as error:
            st.error(str(error))
        else:
            st.rerun()


def _broken(broken: Mapping[str, str], store: RunStore) -> None:
    """Folders that cannot be read, each with its sentence."""
    if not broken:
        return
    st.subheader("Damaged")
    for name, sentence in broken.items():
        row = st.columns([9, 1], vertical_alignment="center")
        row[0].warning(escaped(sentence))
        with row[1].popover("", icon=":material/more_vert:", help="Delete"):
            _delete(name, store)
