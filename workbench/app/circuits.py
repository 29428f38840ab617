"""The Circuits page: ask for a circuit, watch it being found, look at it, take it away."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal, cast, get_args

import streamlit as st

from workbench import jobs
from workbench.app import detail, state
from workbench.app.figure import show
from workbench.circuits import methods, tasks
from workbench.circuits.activations import Ablation
from workbench.circuits.graph import Ranking
from workbench.models import registry
from workbench.runs import Run, RunInfo, RunStore
from workbench.views import circuit_view

_MARKS = {"done": "✓", "running": "…", "stopped": "◐", "interrupted": "◐", "failed": "✗"}
_RUNS_SHOWN = 12


def page() -> None:
    """The whole page."""
    store = state.store()
    with st.sidebar:
        request = _ask()
        if st.button("Discover", type="primary", width="stretch", help="Score every edge, keep the best, check them."):
            _begin(request, store)
        _runs(store)
    which = state.parameter("run")
    if which is None:
        _welcome()
        return
    try:
        # The address comes from anywhere: only runs of this store, never a path.
        run = store.open(store.folder_of(which).name)
    except ValueError as error:
        st.error(str(error))
        return
    _header(run, store)
    if run.info.status == "running":
        _watch(run.id, store, run.info.scores is not None)
    _result(run)


def _ask() -> jobs.Request:
    """What is asked, in the order in which a person thinks of it; every choice lives in the address."""
    model = st.selectbox(
        "Model",
        registry.names("decoder"),  # what the tasks ask: which word comes next
        key="model",
        bind="query-params",
        accept_new_options=True,
        help="A name from the list, a local folder in Hugging Face's layout, or a hub id such as owner/name.",
    )
    task = state.choice("Task", {record.key: record.title for record in tasks.records()}, "task")
    st.caption(tasks.get(task).description)
    known = {record.key: record for record in methods()}
    method = state.choice(
        "Method",
        {key: record.title for key, record in known.items()},
        "method",
        "How edges are scored. " + "; ".join(f"{m.title}: {m.cost} ({m.reference})" for m in known.values()) + ".",
    )
    edges = st.number_input(
        "Edges",
        min_value=1,
        value=500,
        step=100,
        key="edges",
        bind="query-params",
        help="How many of the best edges make the circuit; edges that lead nowhere are then pruned.",
    )
    with st.expander("Settings"):
        n = st.number_input("Prompt pairs", min_value=1, value=32, key="n", bind="query-params")
        seed = st.number_input("Seed of the prompts", min_value=0, value=0, key="seed", bind="query-params")
        options = {}
        if "steps" in known[method].options:
            options["steps"] = st.number_input(
                "Integration steps",
                min_value=1,
                value=known[method].options["steps"],
                key="steps",
                bind="query-params",
                help="Points between the corrupted and the clean embedding at which gradients are taken.",
            )
        ablation = st.selectbox(
            "Ablation",
            get_args(Ablation),
            key="ablation",
            bind="query-params",
            help="What an edge outside the circuit carries: its value on the corrupted prompt, a mean, or zero.",
        )
        ranking = st.selectbox(
            "Ranking",
            get_args(Ranking),
            key="ranking",
            bind="query-params",
            help="Best by absolute score, or by signed score, which leaves out edges that work against the behaviour.",
        )
    return jobs.Request(
        model=model or registry.names()[0],
        task=task,
        n=int(n),
        seed=int(seed),
        method=method,
        options={key: int(value) for key, value in options.items()},
        edges=int(edges),
        ranking=cast(Ranking, ranking),
        ablation=cast(Ablation, ablation),
    )


def _begin(request: jobs.Request, store: RunStore) -> None:
    """Start the search in a thread of its own and turn to its run."""
    try:
        jobs.check(request)
        store.check_writable()
        found = jobs.start(state.model(request.model), request, store)
    except ValueError as error:
        st.error(str(error))
        return
    state.set_parameter("run", found)
    state.set_parameter("node", None)
    st.rerun()


def _runs(store: RunStore) -> None:
    """The earlier runs, newest first; a click opens one."""
    found, broken = store.scan()
    if not found and not broken:
        return
    st.divider()
    st.markdown("**Runs**")
    for info in found[:_RUNS_SHOWN]:
        label = f"{_MARKS.get(info.status, '?')} {_title(info)}"
        kind: Literal["secondary", "tertiary"] = "secondary" if info.id == state.parameter("run") else "tertiary"
        if st.button(label, key=f"run-{info.id}", type=kind, width="stretch", help=_when(info)):
            state.set_parameter("run", info.id)
            state.set_parameter("node", None)
            st.rerun()
    if len(found) > _RUNS_SHOWN:
        st.caption(f"and {len(found) - _RUNS_SHOWN} older ones: `workbench runs`")
    for sentence in broken:
        st.warning(sentence)


def _title(info: RunInfo) -> str:
    """What a run is called: its own title, else what it asked; escaped, for the label is Markdown."""
    if info.title != info.id:
        text = info.title
    else:
        text = f"{info.task.get('name')} · {info.method} · {info.n_edges} edges"
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-.!|<>$:~" else c for c in text)


def _when(info: RunInfo) -> str:
    begun = datetime.fromisoformat(info.created).astimezone().strftime("%d %B %Y, %H:%M")
    return f"{info.status} · {info.model.get('name')} · {begun} · `{info.id}`"


def _welcome() -> None:
    st.title("Find the circuit")
    st.markdown(
        "A transformer answers through a few of its attention heads and MLPs. Choose a model and a task on the left "
        "and press **Discover**: every edge between heads is scored, the best are kept, and the circuit is checked "
        "by running it alone.\n\n"
        "To begin with, leave everything as it is: *SmolLM2-135M* on *Indirect object* takes about a minute."
    )


def _header(run: Run, store: RunStore) -> None:
    """Title of the run, and what can be done with it."""
    left, right = st.columns([6, 1], vertical_alignment="center")
    if run.info.title != run.id:
        left.subheader(_title(run.info))
    with right.popover("Run", width="stretch"):
        st.caption(f"`{run.id}`")
        title = st.text_input("Title", value=run.info.title, key=f"title-{run.id}")
        if title != run.info.title and st.button("Rename"):
            try:
                store.rename(run.id, title)
            except ValueError as error:
                st.error(str(error))
            else:
                st.rerun()
        if st.button("Delete this run", disabled=run.info.status == "running"):
            try:
                store.delete(run.id)
            except ValueError as error:
                st.error(str(error))
            else:
                state.set_parameter("run", None)
                st.rerun()


@st.fragment(run_every=0.5)
def _watch(which: str, store: RunStore, has_scores: bool) -> None:
    """How far the search is, how long it will take, and a stop; turns to the circuit as soon as there is one."""
    try:
        info = store.open(which).info
    except ValueError as error:
        st.error(str(error))
        return
    if info.status != "running" or (info.scores is not None) != has_scores:
        st.rerun()
    done, total = int(info.progress.get("done", 0)), int(info.progress.get("total", 0))
    what = str(info.progress.get("what", "working"))
    share = min(1.0, done / total) if total else 0.0
    st.progress(share, f"{what}: {done} of {total}{_remaining(which, what, share)}" if total else f"{what} ...")
    if st.button("Stop", help="What is finished by then is kept."):
        store.request_cancel(which)
        st.toast("Stopping after this step; what is finished is kept.")


def _remaining(which: str, what: str, share: float) -> str:
    """Time left for this step, from the pace since the page first saw it."""
    key, now = f"pace-{which}-{what}", time.monotonic()
    begin, at = st.session_state.setdefault(key, (now, share))
    if share <= at or now - begin < 1:
        return ""
    return f", about {max(1, round((1 - share) * (now - begin) / (share - at)))} s left"


def _result(run: Run) -> None:
    """The circuit in the middle; what is selected, how faithful it is, and the files beside it."""
    info = run.info
    if info.status == "failed":
        st.error(f"This run failed: {info.error}")
        return
    if info.note:
        st.warning(info.note)
    if info.status in ("stopped", "interrupted"):
        kept = "what it had finished is shown" if info.scores else "no edge was scored by then"
        st.warning(f"This run was {info.status}; {kept}. Press Discover to run it again.")
    if info.scores is None:
        return
    try:
        view = circuit_view(run)
    except ValueError as error:
        st.error(str(error))
        return
    if view.circuit is not None and not view.circuit.n_edges:
        st.warning(
            f"None of the best {info.n_edges:,} edges lies on a path from the input to the logits; ask for more edges."
        )
    picture, side = st.columns([3, 2], gap="medium")
    assert view.figure is not None
    assert view.circuit is not None
    node = state.selected(f"graph-{run.id}", "node")
    with picture:
        show(view.figure, f"graph-{run.id}", node)
    with side:
        detail.show(run, view, node)
