"""What is asked of the Circuits page: model, task, method, size, settings; every choice lives in the address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, get_args

import streamlit as st

from workbench import jobs
from workbench.app import own_prompts, state
from workbench.app.model_detail import escaped
from workbench.circuits import Method, Task, methods, tasks
from workbench.circuits.activations import Ablation
from workbench.circuits.graph import Ranking
from workbench.circuits.tasks import TaskRecord
from workbench.models import Transformer, registry
from workbench.options import (
    CHECKED,
    Option,
    Readiness,
    check_seconds,
    cost_of,
    duration,
    learning_cost,
    options_of,
    readiness,
)
from workbench.runs import Construction
from workbench.runs.choose import CONSTRUCTIONS

OWN = "own"  # the key of somebody's own prompts among the tasks

LEAST_THRESHOLD = 1e-9
_MOST_WHOLE = 2**53  # beyond it a browser's numbers are not whole
AS_THE_METHOD = "method"  # the choice of an ablation that leaves a method its own

_ABLATED = {
    "resample": "its value on the corrupted prompt",
    "mean": "a mean over prompts and tokens",
    "positional-mean": "a mean over prompts at its position",
    "zero": "nothing",
    "optimal": "the constant that keeps most of the behaviour",
}


@dataclass(frozen=True)
class Asked:
    """A request, the method's record, and what was shown before where that had to give way.

    Attributes:
        request: what to search for.
        method: its record.
        instead_of: the task that the page showed so far and that the model cannot be asked; None where there is none.
    """

    request: jobs.Request
    method: Method
    instead_of: str | None = None

    @property
    def refusal(self) -> str:
        """Why another task is shown than before, in a sentence; escaped."""
        return escaped(f"{self.request.model} cannot be asked the task '{self.instead_of}'.")

    @property
    def is_own(self) -> bool:
        """Whether the prompts are somebody's own."""
        return self.request.task == OWN


def ask() -> Asked:
    """The widgets, in the order in which a person thinks of it."""
    names, given = registry.names(), st.session_state.get("model")
    model = st.selectbox(
        "Model",
        names if given in (None, *names) else [*names, str(given)],
        key="model",
        bind="query-params",
        accept_new_options=True,
        help="A name from the list, a local folder in Hugging Face's layout, or a hub id such as owner/name.",
    )
    name = str(model or names[0])
    before: str | None = st.session_state.get("task")  # what the browser shows while this runs
    task = _task(name)
    record = _method()
    construction, edges, threshold = _size(name)
    with st.expander("Settings"):
        options = _options(record)
        ablation, own, ranking = _judging(record)
        options |= own
        chosen: dict[str, Any] = {} if task == OWN else _prompts()
    request = jobs.Request(
        model=name,
        task=task,
        method=record.key,
        options=options,
        edges=edges,
        ranking=ranking,
        ablation=ablation,
        construction=construction,
        threshold=threshold,
        **chosen,
    )
    return Asked(request, record, before if before not in (None, task) else None)


# -- the parts -------------------------------------------------------------------------------------------------


def _task(model: str) -> str:
    records = {record.key: record for record in _tasks_for(model)}
    titles = {key: record.title for key, record in records.items()} | {OWN: "Your own prompts"}
    _say_refused("task", titles, f"{model} cannot be asked the task '{{}}'.")
    task = state.choice("Task", titles, "task")
    st.caption(records[task].description if task in records else own_prompts.DESCRIPTION)
    return task


def _say_refused(key: str, titles: dict[str, str], sentence: str) -> None:
    """What the address asked for and cannot have, once."""
    if (given := state.refused(key, titles)) is not None and key not in st.session_state:
        st.warning(escaped(sentence.format(given[:80])))


def _tasks_for(name: str) -> list[TaskRecord]:
    """The tasks that a model can be asked; all of its kind where it is not here yet."""
    model = state.at_hand(name, wait=False)  # the page stands before the model is loaded
    if model is not None:
        return _fitting(model)
    if name in registry.names():
        return [record for record in tasks.records() if registry.find(name).kind in record.kinds]
    return tasks.records()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs={Transformer: _identity})
def _fitting(model: Transformer) -> list[TaskRecord]:
    return tasks.for_model(model)


def _method() -> Method:
    known = {record.key: record for record in methods()}
    _say_refused("method", {key: record.title for key, record in known.items()}, "There is no method '{}'.")
    key = state.choice(
        "Method", {key: record.title for key, record in known.items()}, "method", "How edges are scored."
    )
    record = known[key]
    st.caption(escaped(f"{record.cost[:1].upper()}{record.cost[1:]} · {record.reference}"))
    return record


def _size(model: str) -> tuple[Construction, int, float | None]:
    """Which edges make the circuit."""
    how = state.choice("Circuit", CONSTRUCTIONS, "construction", "How edges are chosen once all are scored.")
    if how == "threshold":
        value = st.number_input(
            "From a score of",
            min_value=LEAST_THRESHOLD,
            value=0.05,
            step=0.01,
            format="%g",
            key="threshold",
            bind="query-params",
            help="In units of the task's metric; edges that lead nowhere are then pruned.",
        )
        return "threshold", jobs.Request.edges, float(value)
    _follow_model(model)
    edges = st.number_input(
        "Edges",
        min_value=1,
        value=500,
        step=100,
        key="edges",
        bind="query-params",
        help="How many edges make the circuit; those that lead nowhere are then pruned.",
    )
    return cast(Construction, how), int(edges), None


def _follow_model(name: str) -> None:
    """The default number of edges, which is all of them where the model has fewer; what somebody wrote stays."""
    model = state.at_hand(name, wait=False)
    chosen, before = st.session_state, st.session_state.get("edges-default", jobs.Request.edges)
    if model is None or chosen.get("edges", before) != before or state.parameter("edges") not in (None, str(before)):
        return
    try:
        default = jobs.with_default_size(jobs.Request(name, ""), model).edges
    except ValueError:  # a model without a graph: said when the search is asked for
        return
    if default != chosen.get("edges", jobs.Request.edges):
        chosen["edges"] = default
    chosen["edges-default"] = default


def _options(record: Method) -> dict[str, Any]:
    """The method's own settings; those left at their default are left out."""
    chosen = {}
    for option in options_of(record):
        value = _widget(record, option)
        if value != option.default:
            chosen[option.name] = value
    return chosen


def _widget(record: Method, option: Option) -> Any:
    about: dict[str, Any] = {
        "key": f"{record.key}-{option.name}",  # other methods have other defaults
        "bind": "query-params",
        "help": option.help or None,
    }
    if option.kind == "switch":
        return bool(st.toggle(option.title, value=bool(option.default), **about))
    if option.kind == "choice":
        return str(st.selectbox(option.title, option.choices, index=option.choices.index(str(option.default)), **about))
    if option.kind == "whole":
        least, most = _limits(option)
        about |= {"min_value": None if least is None else int(least), "max_value": None if most is None else int(most)}
        whole = st.number_input(option.title, value=option.default, step=1, **about)
        return option.default if whole is None else int(whole)
    if option.kind == "number":
        step = abs(option.default) / 10 if option.default else 0.1
        least, most = _limits(option)
        about |= {"min_value": least, "max_value": most}
        number = st.number_input(option.title, value=option.default, step=step, format="%g", **about)
        return option.default if number is None else float(number)
    return str(st.text_input(option.title, value=str(option.default), **about))


def _limits(option: Option) -> tuple[float | None, float | None]:
    """The least and the largest number that its field takes; None for no limit."""
    if option.range is None:
        return None, None
    inside = LEAST_THRESHOLD if option.range.open else 0.0
    least, most = option.range.low + inside, option.range.high - inside
    return (least if least > -_MOST_WHOLE else None), (most if most < _MOST_WHOLE else None)


def own_ablation(record: Method) -> str | None:
    """What a method replaces edges by where nothing else is said, if that is not what it is by default for others."""
    own = record.options.get("ablation", jobs.Request.ablation)
    return None if own == jobs.Request.ablation else str(own)


def _judging(record: Method) -> tuple[Ablation, dict[str, Any], Ranking]:
    """What edges are replaced by, the method's option where that is its own, and the order that they are taken in."""
    kinds = record.ablations if "ablation" in record.options and record.ablations else get_args(Ablation)
    titles = {str(kind): str(kind) for kind in kinds}
    help = "What an edge outside the circuit carries, while edges are scored and while the circuit is judged."
    own, usual = own_ablation(record), jobs.Request.ablation
    if own is None:
        ablation = state.choice("Ablation", titles, "ablation", help)
    else:
        ablation = state.choice("Ablation", {AS_THE_METHOD: f"its own: {own}"} | titles, "own-ablation", help)
    option = {"ablation": ablation} if own is not None and ablation in titles else {}
    state.set_parameter("ablation" if own is not None else "own-ablation", None)
    if ablation == AS_THE_METHOD:
        st.caption(f"{record.key} scores edges by {own} ablation; the circuit is judged by {usual}.")
        ablation = usual
    else:
        st.caption(f"An edge outside the circuit carries {_ABLATED.get(ablation, ablation)}.")
    ranking = st.selectbox(
        "Ranking",
        get_args(Ranking),
        key="ranking",
        bind="query-params",
        help="Best by absolute score, or by signed score, which leaves out edges that work against the behaviour.",
    )
    return cast(Ablation, ablation), option, cast(Ranking, ranking)


def _prompts() -> dict[str, Any]:
    n = st.number_input("Prompt pairs", min_value=1, value=32, key="n", bind="query-params")
    seed = st.number_input("Seed of the prompts", min_value=0, value=0, key="seed", bind="query-params")
    done = st.toggle(
        "Only prompts that the model does",
        key="only-done",
        bind="query-params",
        help="Where the right answer is not above the wrong one there is no behaviour to explain; others are drawn.",
    )
    return {"n": int(n), "seed": int(seed), "only_done": bool(done)}


# -- before anything long starts -------------------------------------------------------------------------------


def say_readiness(asked: Asked, wait: bool = True) -> None:
    """How well the model does the task, and what the search will cost; nothing where the model is not here yet.

    Args:
        asked: what is asked.
        wait: load the model for it; otherwise something is said only where it is loaded.
    """
    request = asked.request
    is_new = state.at_hand(request.model, wait=False) is None
    model = state.at_hand(request.model, wait=wait)
    if model is None:
        if wait:
            st.caption("The model is fetched when you press Discover.")
        return
    if is_new:
        st.rerun()  # the tasks above are of the model's kind; only now it is known which fit the model itself
    try:
        with st.spinner("Trying the task ..."):
            if request.edges == jobs.Request.edges:  # nobody wrote another number
                request = jobs.with_default_size(request, model)
            options = jobs.check(request, model, own=asked.is_own)
            found = _ready(model, request, own_prompts.rows() if asked.is_own else None)
            measured = (found.seconds, found.check.n_examples, found.at_once)
            cost = cost_of(asked.method, model, options, *measured)
    except ValueError as error:
        st.caption(f":orange[{escaped(str(error))}]")
        return
    check, judged = found.check, check_seconds(found.seconds)
    if request.ablation == "optimal" != options.get("ablation"):  # its constants are learned for the check alone
        judged += learning_cost(*measured).seconds
    means = f"mean metric {check.metric_clean:.3g}, corrupted {check.metric_corrupted:.3g}"
    words = (
        f"{model.name} has the right answer on {check.accuracy:.0%} of {check.n_examples} pairs ({means}). "
        f"{found.n_edges:,} edges to score"
    )
    scoring = f": scoring takes {cost.words}" if cost is not None else ""
    judging = f"the check runs about {CHECKED} circuits, roughly {duration(judged)}"
    st.caption(escaped(f"{words}{scoring}; {judging}."))
    if check.warning:
        st.warning(escaped(check.warning))


@st.cache_data(
    max_entries=32,
    show_spinner=False,
    hash_funcs={Transformer: _identity, jobs.Request: lambda r: (r.task, r.n, r.seed, r.only_done)},
)
def _ready(model: Transformer, request: jobs.Request, rows: list[dict[str, str]] | None) -> Readiness:
    task = jobs.prompts_of(model, request) if rows is None else own_prompts.task_from(model, rows)
    return readiness(model, task)


def own_task(asked: Asked, model: Transformer) -> Task | None:
    """Somebody's own prompts, if they are what is asked.

    Raises:
        ValueError: they cannot be made into a task; the line is named.
    """
    return own_prompts.task_from(model, own_prompts.rows()) if asked.is_own else None
