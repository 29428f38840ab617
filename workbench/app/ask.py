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
from workbench.options import CHECKED, Option, Readiness, check_seconds, cost_of, duration, options_of, readiness
from workbench.runs import Construction
from workbench.runs.choose import CONSTRUCTIONS

OWN = "own"  # the key of somebody's own prompts among the tasks

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
    model = st.selectbox(
        "Model",
        registry.names(),
        key="model",
        bind="query-params",
        accept_new_options=True,
        help="A name from the list, a local folder in Hugging Face's layout, or a hub id such as owner/name.",
    )
    name = str(model or registry.names()[0])
    before: str | None = st.session_state.get("task")  # what the browser shows while this runs
    task = _task(name)
    record = _method()
    construction, edges, threshold = _size()
    with st.expander("Settings"):
        options = _options(record)
        ablation, ranking = _judging(record)
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


def _size() -> tuple[Construction, int, float | None]:
    """Which edges make the circuit."""
    how = state.choice("Circuit", CONSTRUCTIONS, "construction", "How edges are chosen once all are scored.")
    if how == "threshold":
        value = st.number_input(
            "From a score of",
            min_value=1e-9,
            value=0.05,
            step=0.01,
            format="%g",
            key="threshold",
            bind="query-params",
            help="In units of the task's metric; edges that lead nowhere are then pruned.",
        )
        return "threshold", jobs.Request.edges, float(value)
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
        whole = st.number_input(option.title, min_value=0, value=option.default, step=1, **about)
        return option.default if whole is None else int(whole)
    if option.kind == "number":
        step = abs(option.default) / 10 if option.default else 0.1
        number = st.number_input(option.title, value=option.default, step=step, format="%g", **about)
        return option.default if number is None else float(number)
    return str(st.text_input(option.title, value=str(option.default), **about))


def _judging(record: Method) -> tuple[Ablation, Ranking]:
    """What edges are replaced by, and the order that they are taken in."""
    kinds = record.ablations if "ablation" in record.options and record.ablations else get_args(Ablation)
    ablation = state.choice(
        "Ablation",
        {kind: f"{kind}: {_ABLATED[kind]}" if kind in _ABLATED else kind for kind in kinds},
        "ablation",
        "What an edge outside the circuit carries, while edges are scored and while the circuit is judged.",
    )
    ranking = st.selectbox(
        "Ranking",
        get_args(Ranking),
        key="ranking",
        bind="query-params",
        help="Best by absolute score, or by signed score, which leaves out edges that work against the behaviour.",
    )
    return cast(Ablation, ablation), cast(Ranking, ranking)


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
            found, cost = _ready(model, request, own_prompts.rows() if asked.is_own else None), None
            cost = cost_of(asked.method, model, request.options, found.seconds, found.check.n_examples)
    except ValueError as error:
        st.caption(f":orange[{escaped(str(error))}]")
        return
    check = found.check
    means = f"mean metric {check.metric_clean:.3g}, corrupted {check.metric_corrupted:.3g}"
    words = (
        f"{model.name} has the right answer on {check.accuracy:.0%} of {check.n_examples} pairs ({means}). "
        f"{found.n_edges:,} edges to score"
    )
    scoring = f": scoring takes {cost.words}" if cost is not None else ""
    judging = f"the check runs about {CHECKED} circuits, roughly {duration(check_seconds(found.seconds))}"
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
