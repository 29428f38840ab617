"""The Head page: where one head looks, what it reads and writes, and what becomes of the answer without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import streamlit as st
import torch

from workbench import inspection, jobs
from workbench.app import head_detail, links, state
from workbench.app.downloads import downloads
from workbench.app.figure import show
from workbench.app.layout import beside
from workbench.app.model_detail import escaped
from workbench.app.run_words import title_of
from workbench.circuits import Task
from workbench.circuits.activations import Ablation
from workbench.figures import show_token
from workbench.head import HeadLook, answer_places, copy_score, look_at_head, why_not_direct
from workbench.inspection import Given
from workbench.live import Effect, one_prompt, switch_off
from workbench.models import Transformer, registry
from workbench.runs import Run
from workbench.views import given_of, head_view

_EXAMPLE = registry.MODELS[0].example


@dataclass(frozen=True)
class Place:
    """What is looked at.

    Attributes:
        model: the model.
        run: whose prompt it is; None for any text.
        given: the input.
        prompt: number of the run's prompt.
        layer, head: from 0.
        at: position that is asked.
    """

    model: Transformer
    run: Run | None
    given: Given
    prompt: int
    layer: int
    head: int
    at: int

    @property
    def name(self) -> str:
        """The head as a node of the graph."""
        return f"a{self.layer}.h{self.head}"


def page() -> None:
    """The whole page."""
    with st.sidebar:
        try:
            place = _ask()
        except ValueError as error:
            st.error(escaped(str(error)))
            return
    if place is None:
        return
    found = _looked(place.model, place.given, place.layer, place.head, place.at)
    _heading(place)
    picture, side = beside("head")
    with picture:
        mute = st.toggle(
            "Mute the first token",
            key="mute",
            bind="query-params",
            help="Many heads park attention that they do not need on the first token; this takes it out of the scale.",
        )
        view = head_view(found, place.model.name, place.given.subject, mute_first=bool(mute))
        assert view.figure is not None
        show(view.figure, "head-pattern", widest=900)
        head_detail.looks(found)
    with side:
        _without(place)
        head_detail.writes(found, *_copying(place))
        if place.run is not None:
            head_detail.edges(place.run, place.layer, place.head)
        downloads({"Head": view}, f"{place.name.replace('.', '-')}", "head-download")


# -- what is asked ---------------------------------------------------------------------------------------------


def _ask() -> Place | None:
    """Model and input, of a run or any; then the head.

    Raises:
        ValueError: the run, the model or the input cannot be used.
    """
    which = state.parameter("run")
    run = None
    if which is not None:
        store = state.store()
        run = store.open(store.folder_of(which).name)
    model, given, prompt = _any() if run is None else _of_run(run)
    if not model.cfg.n_layers:
        st.info(f"{escaped(model.name)} has no layers, so it has no heads.")
        return None
    layer = state.whole_number("Layer", model.cfg.n_layers - 1, "layer", default=2 * model.cfg.n_layers // 3)
    head = state.whole_number("Head", model.cfg.n_heads - 1, "head")
    at = _position(model, given)
    return Place(model, run, given, prompt, layer, head, at)


def _of_run(run: Run) -> tuple[Transformer, Given, int]:
    """A prompt of a run."""
    st.markdown(f"Prompts of **{title_of(run.info)}**")
    if st.button("Take any text instead", type="tertiary"):
        state.set_parameter("run", None)
        st.rerun()
    model = state.model(run.info.load_name)
    jobs.check_same_model(run, model)
    texts: list[str] = run.info.prompts.get("clean", [])
    if not texts:
        raise ValueError(f"Run '{run.id}' kept no prompts: it is {run.info.status}.")
    prompt = state.numbered("Prompt", texts, "prompt")
    side = state.choice("Side", {"clean": "clean", "corrupted": "corrupted"}, "side")
    return model, given_of(run, model, prompt, side), prompt


def _any() -> tuple[Transformer, Given, int]:
    """Any input of any model."""
    name, model = state.chosen_model()
    if model.images is not None:
        number = state.whole_number("Sample", inspection.n_samples(model) - 1, "sample")
        pixels, title = inspection.sample(model, number)
        return model, inspection.see(model, pixels, f"sample {number}: {title}"), 0
    if model.tokenizer is None:
        return model, inspection.read(model, state.written("Token numbers", "0 1 2", "tokens")), 0
    example = registry.find(name).example if name in registry.names() else _EXAMPLE
    return model, inspection.read(model, state.written("Text", example or _EXAMPLE, "text")), 0


def _position(model: Transformer, given: Given) -> int:
    """Where the head is asked what it writes; by default where the answer is read."""
    default, n = inspection.interesting(model, given), len(given.names)
    asked = state.parameter("at") or ""
    key = f"at-{n}-{default}"
    if st.session_state.get(key) not in range(n):
        known = asked.isdecimal() and len(asked) < 9 and int(asked) < n
        st.session_state[key] = int(asked) if known else default
    at: int = st.selectbox(
        "Position",
        range(n),
        key=key,
        format_func=lambda i: f"{i}: {show_token(given.names[i])}",
        help="Where to ask what the head writes, and where it looks from.",
    )
    state.set_parameter("at", None if at == default else str(at))
    return at


# -- what comes of it ------------------------------------------------------------------------------------------


def _digest(given: Given) -> tuple[str, bytes]:
    return given.subject, given.tensor.cpu().numpy().tobytes()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


_HASHES: dict[str | type[Any], Any] = {Transformer: _identity, Given: _digest, Run: lambda run: run.id}


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=_HASHES)
def _looked(model: Transformer, given: Given, layer: int, head: int, at: int) -> HeadLook:
    return look_at_head(model, given, layer, head, position=at)


def _heading(place: Place) -> None:
    row = st.columns([5, 2], vertical_alignment="center")
    row[0].title(f"Head {place.layer}.{place.head}")
    with row[1]:
        if place.run is not None:
            links.link("In its circuit", "circuits", icon=":material/hub:", run=place.run.id, node=place.name)
        shown = _in_address(place)
        if shown is not None:
            at = "-1" if place.at == len(place.given.names) - 1 else str(place.at)
            name = st.session_state["look-at"] if place.run is None else place.run.info.load_name
            links.what_feeds(str(name), place.layer, place.head, at, **shown)


def _in_address(place: Place) -> dict[str, str] | None:
    """The input as another page's address names it; None where it cannot."""
    model, given = place.model, place.given
    if model.images is not None:
        return None if place.run is not None else {"sample": state.parameter("sample") or "0"}
    if model.tokenizer is None:
        return {"tokens": " ".join(given.names)}
    if place.run is not None and not model.cfg.causal:
        return None  # more than its text
    return {"text": given.subject}


@st.cache_resource(max_entries=4, show_spinner=False, hash_funcs=_HASHES)
def _task(run: Run, model: Transformer) -> Task:
    return jobs.task_of(run, model)


def _copying(place: Place) -> tuple[float | None, str]:
    """The head's copy score, and over which tokens; None where it has none."""
    if why_not_direct(place.model) or place.given.tensor.ndim != 2:
        return None, ""
    return _copy_score(place.model, place.run, place.given, place.layer, place.head)


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=_HASHES)
def _copy_score(model: Transformer, run: Run | None, given: Given, layer: int, head: int) -> tuple[float | None, str]:
    tokens, where, over = given.tensor.cpu(), None, "the tokens of this text"
    if int(tokens.max()) >= model.cfg.n_out:
        return None, ""  # the answers have an alphabet of their own
    if run is not None:
        try:
            task = _task(run, model)
        except ValueError:
            task = None
        places = None if task is None else answer_places(task.clean, task.right, task.wrong)
        if task is not None and places is not None and bool(places.any()):
            tokens, where, over = task.clean, places, "the answers where they stand in the run's prompts"
    return copy_score(model, torch.as_tensor(tokens), layer, head, where=where), over


# -- without it ------------------------------------------------------------------------------------------------

_KINDS = {"resample": "the corrupted prompt's", "mean": "its mean", "zero": "nothing"}


def _without(place: Place) -> None:
    """The answer and the metric with the head and without."""
    st.subheader("Without it")
    kinds, other = dict(_KINDS), None
    try:
        if place.run is None:
            other = _other(place)
            if other is None:
                del kinds["resample"]
        kind = state.choice("It writes instead", kinds, "by", "What later layers get in place of its output.")
        with st.spinner("Running without it ..."):
            effect = _effect(place, kind, other)
    except ValueError as error:
        st.warning(escaped(str(error)))
        return
    head_detail.effect(effect, None if place.run is None else place.prompt)


def _other(place: Place) -> Given | None:
    """A second text whose output the head can be given."""
    if place.model.tokenizer is None or place.given.tensor.ndim != 2:
        return None
    with st.expander("Corrupted text"):
        text = st.text_input(
            "A text with equally many tokens, to take the head's output from", key="other", bind="query-params"
        )
    return inspection.read(place.model, text) if text and text.strip() else None


def _effect(place: Place, kind: str, other: Given | None) -> Effect:
    """Switch the head off, on the run's prompts or on the one input.

    Raises:
        ValueError: the prompts cannot be made again, or the texts are of unlike length.
    """
    from workbench.app.switched import effect_of

    if place.run is not None:
        return effect_of(place.run, (place.name,), kind, place.prompt)
    return _alone(place.model, place.given, other, (place.name,), kind, place.at)


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs=_HASHES)
def _alone(model: Transformer, given: Given, other: Given | None, off: Sequence[str], kind: str, at: int) -> Effect:
    return switch_off(model, one_prompt(model, given, other, at), list(off), cast(Ablation, kind))
