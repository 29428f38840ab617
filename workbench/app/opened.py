"""The run that is opened, on the Circuits page: the form follows it, and other circuits are made of its scores."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, cast

import streamlit as st

from workbench import jobs
from workbench.app import ask, own_prompts, state
from workbench.app.model_detail import escaped
from workbench.circuits import methods, tasks
from workbench.circuits.graph import Ranking
from workbench.circuits.methods import Method
from workbench.options import Option, options_of
from workbench.runs import Construction, Run, RunStore
from workbench.runs.choose import CONSTRUCTIONS

_FOLLOWED = "form-of"  # id of the run that the form was filled from


def follow(store: RunStore) -> None:
    """Fill the form with what the run in the address was asked, once; to be called before the form is drawn.

    What is changed then is a new request; the run stays as it is.
    """
    which = state.parameter("run")
    if which == st.session_state.get(_FOLLOWED):
        return
    st.session_state[_FOLLOWED] = which
    if which is None:
        return
    # What is wrong with the run is said by the page; a record that does not fit leaves the form as it was.
    with contextlib.suppress(ValueError, TypeError, KeyError):
        _fill(store.open(store.folder_of(which).name))


def keep_form(which: str) -> None:
    """The form is what a run was just asked by: leave it."""
    st.session_state[_FOLLOWED] = which


def _fill(run: Run) -> None:
    request, chosen = jobs.request_of(run), st.session_state
    chosen["model"] = request.model
    _fill_task(run)
    record = next((one for one in methods() if one.key == request.method), None)
    if record is not None:  # imported scores have no method
        chosen["method"] = record.key
        for option in options_of(record):
            chosen[f"{record.key}-{option.name}"] = _fitting(option, request.options.get(option.name, option.default))
        _fill_ablation(record, request)
    chosen["construction"] = request.construction if request.construction in CONSTRUCTIONS else "top"
    if request.threshold is not None:
        chosen["threshold"] = max(request.threshold, ask.LEAST_THRESHOLD)
    else:
        chosen["edges"] = max(request.edges, 1)
    chosen["ranking"] = request.ranking


def _fill_task(run: Run) -> None:
    """The task and its prompts; somebody's own come back into the table."""
    request, chosen, kept = jobs.request_of(run), st.session_state, run.info.prompts
    if request.task in tasks.names():
        chosen["task"], chosen["n"], chosen["seed"] = request.task, max(request.n, 1), max(request.seed, 0)
        chosen["only-done"] = request.only_done
    elif kept.get("right"):
        chosen["task"] = ask.OWN
        sides = [kept["clean"], kept["corrupted"], *([("|".join(row)) for row in kept[s]] for s in ("right", "wrong"))]
        own_prompts.begin_with([dict(zip(own_prompts.COLUMNS, row, strict=True)) for row in zip(*sides, strict=True)])


def _fill_ablation(record: Method, request: jobs.Request) -> None:
    own = ask.own_ablation(record)
    if own is None:
        st.session_state["ablation"] = request.ablation
    else:
        as_it_does = request.ablation == jobs.Request.ablation and request.options.get("ablation", own) == own
        st.session_state["own-ablation"] = ask.AS_THE_METHOD if as_it_does else request.ablation


def _fitting(option: Option, value: Any) -> Any:
    """A kept value as the option's widget takes it; its default where it does not fit."""
    if option.kind == "choice":
        return value if value in option.choices else option.default
    if option.kind == "whole":
        return value if value is None or (isinstance(value, int) and value >= 0) else option.default
    if option.kind == "number":
        return None if value is None else float(value)
    return bool(value) if option.kind == "switch" else str(value)


# -- another circuit of the same scores ------------------------------------------------------------------------


def others(run: Run, store: RunStore, shown: int | None) -> str | None:
    """Ask for another circuit of a run's scores, which takes no search; the id of its run once it is asked for.

    Args:
        run: with all its scores.
        store: where runs are kept.
        shown: how many of the strongest edges the picture shows; None for all of them.
    """
    info = run.info
    if info.scores is None or not info.scores.get("complete", False) or info.status == "running":
        return None
    if info.method == "imported":
        return None  # what was read from a file is judged as it is; `workbench evaluate` tries other sizes
    request = jobs.request_of(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        found = None
        if shown is not None:
            label = f"Judge the best {shown:,} edges"
            if st.button(label, key="judge-shown", help="The scores are there: only the circuit is run."):
                found = _judge(run, store, replace(request, construction="top", edges=shown, threshold=None))
        with st.popover("Another circuit", icon=":material/tune:", help="Of the same scores: nothing is scored again."):
            asked = _other(run, request)
            if st.button("Judge it", type="primary", key="judge-other"):
                found = _judge(run, store, asked)
    return found


def _other(run: Run, request: jobs.Request) -> jobs.Request:
    """How to choose it."""
    how = cast(
        Construction,
        st.selectbox(
            "Circuit",
            list(CONSTRUCTIONS),
            index=list(CONSTRUCTIONS).index(request.construction),
            format_func=lambda key: CONSTRUCTIONS[key],
            key=f"other-construction-{run.id}",
        ),
    )
    ranking = cast(
        Ranking,
        st.selectbox(
            "Ranking",
            ("absolute", "signed"),
            index=int(request.ranking == "signed"),
            key=f"other-ranking-{run.id}",
        ),
    )
    if how == "threshold":
        key = run.scores.ranked(ranking)[run.graph.mask]
        st.caption(escaped(f"The scores lie between {key.min():.3g} and {key.max():.3g}."))
        # By default that of the last edge of the present circuit, and never all edges.
        size = request.n_edges or (run.report.n_edges if run.report else jobs.Request.edges)
        default = float(key.sort(descending=True).values[max(1, min(size, len(key) // 2)) - 1])
        value = st.number_input(
            "From a score of", value=default, format="%g", step=max(abs(default) / 10, 1e-9), key=f"other-from-{run.id}"
        )
        return replace(request, construction=how, threshold=float(value), ranking=ranking)
    total = run.graph.n_edges
    size = request.n_edges or jobs.Request.edges
    edges = st.number_input(
        "Edges", min_value=1, max_value=total, value=min(max(size, 1), total), step=1, key=f"other-edges-{run.id}"
    )
    return replace(request, construction=how, edges=int(edges), threshold=None, ranking=ranking)


def _judge(run: Run, store: RunStore, request: jobs.Request) -> str | None:
    """Begin it; the id of its run, or None where it was refused."""
    try:
        model = state.model(request.model)
        jobs.check_same_model(run, model)
        return jobs.start(model, request, store, task=jobs.task_of(run, model))
    except ValueError as error:
        st.error(escaped(str(error)))
        return None


# -- what the form asks beside what is opened ------------------------------------------------------------------


def said(request: jobs.Request, run: Run | None) -> str | None:
    """What pressing Discover would do while a run is opened, in a sentence; None where it would search anew."""
    if run is None or request.task == ask.OWN:
        return None
    then = jobs.request_of(run)
    try:
        options = jobs.check(request)
    except ValueError:
        return None
    search = ("model", "task", "n", "seed", "method", "only_done")
    if options != then.options or any(getattr(request, name) != getattr(then, name) for name in search):
        return None
    circuit = ("n_edges", "construction", "threshold", "ranking", "ablation")
    if any(getattr(request, name) != getattr(then, name) for name in circuit):
        return "Another circuit of the opened run's scores: nothing is scored again."
    return "This is what the opened run was asked."
