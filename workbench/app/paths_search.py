"""Two views of the Paths page: what the paths of a pattern carry, and which single paths carry most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench import pathways
from workbench.app import links, state
from workbench.app import paths_work as work
from workbench.app.model_detail import escaped
from workbench.app.paths_detail import count, to_query
from workbench.app.paths_shown import Shown
from workbench.circuits.graph import head_of
from workbench.export import Exportable
from workbench.figures.svg import number
from workbench.models import Transformer
from workbench.paths import Alphabet, PatternError, QueryResult, TopPaths, compile_pattern

_QUERIES, _FLOW, _TABLE = "paths-queries", "paths-flow", "paths-table"
_KEPT = 8  # patterns side by side
_AT_FIRST = 3  # examples to compare with
_LONGEST = 200  # letters of a pattern
_APART = ";"  # between patterns in the address; none has it
_HELP = (
    "A path is `embed` or `bias`, then its components in order: `a9.h6` a head, `m3` an MLP. `a`, `m` and `.` are any "
    "head, MLP or component, `a3-7` those of some layers; `x*`, `x+`, `x?`, `x{2,4}` repeat, `|` chooses, `( )` groups."
)
_BUDGETS = {"400": "usual: 400 steps", "100": "quick: 100 steps", "1600": "thorough: 1600 steps"}


# -- patterns ----------------------------------------------------------------------------------------------------


def query(shown: Shown) -> None:
    """A pattern, what its paths carry, and the patterns before it for comparison."""
    model = shown.asked.model
    examples = _examples(model)
    _follow_click()
    if "pattern" not in st.session_state:
        st.session_state["pattern"] = state.parameter("pattern") or next(iter(examples))
    pattern = str(st.text_input("Pattern", key="pattern", help=_HELP, max_chars=_LONGEST)).strip()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Examples", width="content")
        for one, about in examples.items():
            st.button(f"`{one}`", key=f"example-{one}", help=about, on_click=_take, args=(one,))
    state.set_parameter("pattern", pattern if pattern != next(iter(examples)) else None)
    if not pattern:
        st.info("Write a pattern, or take one of the examples.")
        return
    if not _parses(pattern, model):
        return
    found = _asked(shown, pattern)
    if not found:
        return
    figure = pathways.queries_picture(found)
    marks = pattern if len(found) > 1 else None
    shown.draw("Query", figure, _QUERIES, {"queries": [one.to_dict() for one in found]}, marks)
    with shown.side:
        _answer(found[0])
        _table(found)


def _take(pattern: str) -> None:
    st.session_state["pattern"] = pattern


def _follow_click() -> None:
    """A click on a bar takes its pattern."""
    click = state.clicked(_QUERIES)
    if click is not None and click != st.session_state.get(f"seen-{_QUERIES}"):
        st.session_state["pattern"] = click
    st.session_state[f"seen-{_QUERIES}"] = click


def _examples(model: Transformer) -> dict[str, str]:
    """Patterns that this model can be asked, and what they mean."""
    layers, late = model.cfg.n_layers, 2 * model.cfg.n_layers // 3
    mlps = any(block.mlp is not None for block in model.blocks)
    found = {"embed .* a .*": "Paths through at least one head."}
    if mlps:
        found["embed m*"] = "Paths through MLPs alone."
        found["embed m* a m*"] = "Paths through one head, and MLPs before and after it."
    found[f"embed .* a{late}-{layers - 1} .*" if layers > 1 else "embed a"] = "Paths through a head of a late layer."
    found[f"embed (a|m){{0,2}} a{late}.h0 m*" if mlps else f"embed a* a{late}.h0"] = "Few components before one head."
    alphabet = Alphabet.of(model)
    if alphabet.readout_bias or any(sublayer.starts for stage in alphabet.stages for sublayer in stage):
        found["bias .*"] = "Paths that begin at a bias."
    found["embed"] = "The direct path."
    found[".*"] = "Everything: the forward pass."
    return found


def _parses(pattern: str, model: Transformer) -> bool:
    """Whether it does; where not, the reason with a caret under the place."""
    try:
        compile_pattern(pattern, model)
    except PatternError as error:
        st.error(escaped(error.reason))
        st.code(f"{error.pattern}\n{' ' * error.place}^", language=None)
        return False
    return True


def _asked(shown: Shown, pattern: str) -> list[QueryResult]:
    """Results of this pattern and of those asked before it; none while one of them is under way."""
    before = st.session_state.get("paths-asked")
    if before is None:
        given = state.parameter("patterns")
        before = [*_examples(shown.asked.model)][:_AT_FIRST] if given is None else given.split(_APART)
    kept = [one for one in dict.fromkeys(before) if one != pattern and _known(one, shown.asked.model)][: _KEPT - 1]
    st.session_state["paths-asked"] = [pattern, *kept]
    state.set_parameter("patterns", _APART.join(kept) or None)
    found = []
    for one in (pattern, *kept):
        result = work.query(shown.asked, one)
        if result is None:
            return []
        found.append(result)
    return found


def _known(pattern: str, model: Transformer) -> bool:
    """Whether a pattern from another model or from the address can be asked here."""
    try:
        compile_pattern(pattern[:_LONGEST], model)
    except PatternError:
        return False
    return len(pattern) <= _LONGEST


def _answer(found: QueryResult) -> None:
    st.subheader("These paths")
    row = st.container(horizontal=True)
    row.metric("carry", number(float(found.contribution[0])), border=True, width="content", help=f"In {found.unit}.")
    share = float(found.share[0])
    row.metric(f"of {escaped(found.target)}", _percent(share), border=True, width="content", help=_of(found))
    row.metric(
        "paths",
        count(sum(found.counts)),
        border=True,
        width="content",
        help="Single paths that match, heads told apart.",
    )
    st.caption(f"One sweep with {found.n_rows} {'row' if found.n_rows == 1 else 'rows'}, however many paths.")


def _of(found: QueryResult) -> str:
    said = f"Of {number(float(found.value[0]))} {found.unit} that the model says."
    return f"{said} Where it is more than all or less than nothing, other paths take it back."


def _percent(share: float) -> str:
    return f"{share:.1%}" if abs(share) < 0.1 else f"{share:.0%}"


def _table(found: Sequence[QueryResult]) -> None:
    """All patterns that were asked, by number."""
    rows = [
        {
            "pattern": one.pattern,
            one.unit: float(one.contribution[0]),
            "share": float(one.share[0]),
            "paths": count(sum(one.counts)),
        }
        for one in found
    ]
    st.subheader("Asked so far")
    columns: dict[str, Any] = {
        found[0].unit: st.column_config.NumberColumn(format="%+.3g"),
        "share": st.column_config.NumberColumn(format="percent"),
    }
    st.dataframe(rows, hide_index=True, width="stretch", height="content", column_config=columns)
    if len(found) > 1:
        st.button("Forget the others", key="forget", type="tertiary", on_click=_forget)


def _forget() -> None:
    st.session_state["paths-asked"] = []
    state.set_parameter("patterns", None)


# -- single paths ------------------------------------------------------------------------------------------------


def strongest(shown: Shown) -> None:
    """The single paths that carry most, as a flow and as a table."""
    depth = Alphabet.of(shown.asked.model).depth
    row = st.columns(3, vertical_alignment="bottom")
    with row[0]:
        k = state.whole_number("Paths", 50, "k", default=20, help="How many of the strongest.")
    with row[1]:
        about = "Heads and MLPs on a path. The search proves its answer for short paths or shallow models."
        longest = state.whole_number("Longest", depth, "longest", default=depth, help=about)
    with row[2]:
        budget = int(state.choice("Search", _BUDGETS, "budget", "A step takes up one end of paths, the best first."))
    top = work.strongest(shown.asked, max(1, k), None if longest == depth else longest, budget)
    if top is None:
        return
    if not top.paths:
        st.info("No path carries anything to this answer.")
        return
    chosen = state.selected(_FLOW, "path")
    cfg = shown.asked.model.cfg
    flow = pathways.flow_picture(top, (cfg.n_layers, cfg.n_heads))
    shown.draw("Top paths", flow, _FLOW, top.to_dict(), lifted=chosen)
    shown.files["One a row"] = Exportable(None, pathways.top_picture(top), top.to_dict())
    st.caption("Click a head, an MLP or a path.")
    with shown.side:
        _found(top)
        _selected(shown, top, chosen)
        _listed(top)


def _found(top: TopPaths) -> None:
    st.subheader("The answer")
    row = st.container(horizontal=True)
    value = number(float(top.value.mean()))
    row.metric(escaped(top.target), value, border=True, width="content", help=f"In {top.unit}.")
    carried = sum(path.mean for path in top.paths)
    help = f"The sum of these {len(top.paths)} paths, with their signs."
    row.metric("these paths", number(carried), border=True, width="content", help=help)
    row.metric("share", _percent(top.share), border=True, width="content")
    if top.proven:
        st.caption(f"Proven: no other path of at most {top.longest} components carries more.")
    else:
        st.caption(
            f"The best of {top.expanded} steps of the search; there may be stronger paths among those not looked at."
        )


def _selected(shown: Shown, top: TopPaths, chosen: str | None) -> None:
    """A path or a component that was clicked."""
    if chosen is None:
        return
    at = chosen.removeprefix("path ")
    if chosen.startswith("path ") and at.isdecimal() and int(at) < len(top.paths):
        path = top.paths[int(at)]
        st.subheader("This path")
        st.code(path.name, language=None, wrap_lines=True)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.metric("carries", number(path.mean), border=True, width="content", help=f"In {top.unit}.")
            about = {"icon": ":material/search:", "help": "To compare it with wider patterns."}
            st.button("As a query", key="path-query", on_click=to_query, args=(path.name,), **about)  # type: ignore[arg-type]
        return
    through = [path for path in top.paths if chosen in path.word]
    if through and chosen not in ("embed", "bias"):
        st.subheader(f"Through {escaped(chosen)}")
        carried = sum(path.mean for path in through)
        with st.container(horizontal=True, vertical_alignment="center"):
            help = f"{len(through)} of the {len(top.paths)} paths; in {top.unit}."
            st.metric("paths through it", number(carried), border=True, width="content", help=help)
            st.button("All such paths", key="node-query", on_click=to_query, args=(f".* {chosen} .*",))
        head_links(shown, chosen)


def head_links(shown: Shown, name: str) -> None:
    """From a head to the pages that look at it."""
    place = head_of(name)
    if place is None or not shown.asked.shown:
        return
    layer, head = place
    with st.container(horizontal=True):
        about = {"look-at": shown.asked.name, "layer": str(layer), "head": str(head), **shown.asked.shown}
        links.link("Open this head", "head", icon=":material/center_focus_strong:", **about)
        at = "-1" if shown.asked.model.cfg.causal else "0"
        links.what_feeds(shown.asked.name, layer, head, at, **shown.asked.shown)


def _listed(top: TopPaths) -> None:
    """Every path by number; a click at the left of a row takes it."""
    whole = float(top.value.mean())

    def taken() -> None:
        picked: Any = st.session_state[_TABLE]
        row = next(iter(picked["selection"]["rows"]), None)
        state.set_parameter("path", None if row is None else f"path {row}")

    st.subheader("By number")
    st.dataframe(
        [{"path": path.name, top.unit: path.mean, "share": path.mean / whole} for path in top.paths],
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(top.paths), 420),
        column_config={
            top.unit: st.column_config.NumberColumn(format="%+.3g"),
            "share": st.column_config.NumberColumn(format="percent"),
        },
        on_select=taken,
        selection_mode="single-row",
        key=_TABLE,
    )
