"""The Circuits page: ask for a circuit, watch it being found, look at it, switch parts off, take it away."""

from __future__ import annotations

import time
from typing import Literal

import streamlit as st

from workbench import jobs
from workbench.app import ask, compare, detail, links, opened, own_prompts, state, switched
from workbench.app.background import LOOK_EVERY
from workbench.app.figure import show
from workbench.app.layout import beside
from workbench.app.run_words import MARKS, asked_of, title_of, titles_of, when
from workbench.runs import Run, RunStore
from workbench.views import circuit_view

_RUNS_SHOWN = 8
# What of the address belongs to one run's view.
_VIEW = ("node", "off", "by", "with", "prompt")


def page() -> None:
    """The whole page."""
    store = state.store()
    opened.follow(store)
    with st.sidebar:
        asked = ask.ask()
        pressed = st.button(
            "Discover", type="primary", width="stretch", help="Score every edge, keep the best, check them."
        )
        if pressed:
            _begin(asked, store)
        beside_button, ready = st.container(), st.container()
        _runs(store)
    run = _main(asked, store)
    words = opened.said(asked.request, run)
    if run is not None:
        beside_button.caption(words or "A new search; the opened run stays as it is.")
    if words is None and (run is None or run.info.status != "running"):  # a search under way needs the cores
        with ready:
            # Loading the model draws the page again, which would wipe out why the search was refused.
            ask.say_readiness(asked, wait=run is None and not pressed)


def _main(asked: ask.Asked, store: RunStore) -> Run | None:
    """The run of the address, if it names one."""
    which = state.parameter("run")
    if asked.is_own:
        with st.expander("Your own prompts", expanded=which is None):
            own_prompts.edit()
    if which is None:
        if not asked.is_own:
            _welcome()
        return None
    try:
        # The address comes from anywhere: only runs of this store, never a path.
        run = store.open(store.folder_of(which).name)
    except ValueError as error:
        st.error(str(error))
        return None
    if (other := state.parameter("with")) is not None and compare.show(run, other, store):
        return run
    _header(run, store)
    if run.info.status == "running":
        _watch(run.id, store, run.info.scores is not None)
    _result(run, store)
    return run


def _begin(asked: ask.Asked, store: RunStore) -> None:
    """Start the search in a thread of its own and turn to its run."""
    if asked.instead_of is not None:
        st.warning(f"{asked.refusal} Press Discover again to search with the task that is shown now.")
        return
    try:
        jobs.check(asked.request, own=asked.is_own)
        store.check_writable()
        model, request = state.model(asked.request.model), asked.request
        if request.edges == jobs.Request.edges:  # nobody wrote another number
            request = jobs.with_default_size(request, model)
        found = jobs.start(model, request, store, task=ask.own_task(asked, model))
    except ValueError as error:
        st.error(str(error))
        return
    opened.keep_form(found)
    _turn_to(found)


def _turn_to(run: str) -> None:
    for name in _VIEW:
        state.set_parameter(name, None)
    state.set_parameter("run", run)
    st.rerun()


def _go_on(run: Run, store: RunStore) -> None:
    """Go on with a run that ended before it was done."""
    try:
        request = jobs.request_of(run)
        model = state.model(request.model)
        jobs.check_same_model(run, model)
        jobs.start(model, request, store, task=jobs.task_of(run, model))
    except ValueError as error:
        st.error(str(error))
        return
    st.rerun()


def _runs(store: RunStore) -> None:
    """The newest runs; a click opens one."""
    found, broken = store.scan()
    if not found and not broken:
        return
    st.divider()
    st.markdown("**Runs**")
    listed = st.container(key="runs-list")
    for info, title in zip(found[:_RUNS_SHOWN], titles_of(found[:_RUNS_SHOWN]), strict=True):
        kind: Literal["secondary", "tertiary"] = "secondary" if info.id == state.parameter("run") else "tertiary"
        label = f"{MARKS.get(info.status, '?')} {title}"
        if listed.button(label, key=f"run-{info.id}", type=kind, width="stretch", help=when(info)):
            _turn_to(info.id)
    more = len(found) - _RUNS_SHOWN
    links.link(f"All runs ({more} more)" if more > 0 else "All runs", "runs", help="Search, compare, rename, delete.")
    for sentence in broken:
        st.warning(sentence)


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
    left, middle, right = st.columns([5, 1, 1], vertical_alignment="center")
    left.subheader(title_of(run.info))
    st.caption(asked_of(run.info))
    if (source := run.info.scores_from) is not None:
        st.caption(f"Scores taken over from run `{source}`, which is the same search.")
    with middle.popover("Compare", width="stretch", disabled=run.info.scores is None):
        _choose_other(run, store)
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
        sure = st.checkbox("Delete for good", key=f"sure-{run.id}", disabled=run.info.status == "running")
        if st.button("Delete this run", disabled=not sure):
            try:
                store.delete(run.id)
            except ValueError as error:
                st.error(str(error))
            else:
                state.set_parameter("run", None)
                st.rerun()


def _choose_other(run: Run, store: RunStore) -> None:
    """The runs that this one can be compared with."""
    others = {info.id: info for info in store.list() if info.id != run.id and info.graph == run.info.graph}
    if not others:
        st.caption("There is no other run of this model. Try another method or task, then compare.")
        return
    chosen = st.selectbox("With", list(others), key=f"other-{run.id}", format_func=lambda i: title_of(others[i], False))
    if st.button("Compare the two", type="primary"):
        for name in _VIEW:
            state.set_parameter(name, None)
        state.set_parameter("with", chosen)
        st.rerun()


@st.fragment(run_every=LOOK_EVERY)
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


def _unfinished(run: Run, store: RunStore, hopeless: bool) -> None:
    """What became of a run that ended before it was done, and how to go on unless it would only fail again."""
    info = run.info
    if info.status == "failed":
        st.error(f"This run failed: {info.error}")
    else:
        kept = "what it had finished is shown" if info.scores else "no edge was scored by then"
        if info.scores is None and run.can_go_on:
            kept = "the scores found so far are kept"
        st.warning(f"This run was {info.status}; {kept}.")
    if hopeless or info.method == "imported":
        return
    label = "Go on where it ended" if run.can_go_on else "Start it again"
    if st.button(label, key="go-on"):
        _go_on(run, store)


def _result(run: Run, store: RunStore) -> None:
    """The circuit in the middle; what is selected, how faithful it is, and the files beside it."""
    info, view, wrong = run.info, None, ""
    if info.scores is not None:
        try:
            view = circuit_view(run)
        except ValueError as error:
            wrong = jobs.sentence(error)
    # Scores of which no circuit can be chosen: the same request would end there again.
    hopeless = info.status == "failed" and bool(wrong) and str(info.error).startswith(wrong.rstrip("."))
    if info.is_unfinished:
        _unfinished(run, store, hopeless)
    if info.note:
        st.warning(info.note)
    if view is None:
        if wrong and not hopeless:
            st.error(wrong)
        _others(run, store)
        return
    if view.circuit is not None and not view.circuit.n_edges:
        st.warning(f"Of {info.size} none lies on a path from the input to the logits; ask for more edges.")
    picture, side = beside("circuit")
    assert view.figure is not None
    assert view.circuit is not None
    node = state.selected(f"graph-{run.id}", "node")
    # Its own column is drawn first, so that a part put back there is back in the picture too.
    with side:
        off = switched.parts(run)
        detail.show(run, view, node, off)
    with picture:
        show(view.figure, f"graph-{run.id}", node, off)
        shown = state.shown(f"graph-{run.id}")
        _others(run, store, shown if shown is not None and shown < view.circuit.n_edges else None)


def _others(run: Run, store: RunStore, shown: int | None = None) -> None:
    """Other circuits of the run's scores, where it has them."""
    try:
        found = opened.others(run, store, shown)
    except ValueError:
        return  # damaged scores: said above
    if found is not None:
        _turn_to(found)
