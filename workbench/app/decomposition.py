"""The Decomposition page: what words, patches, heads and MLPs give to an answer, a similarity or a later head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from workbench import decomposing
from workbench.app import decomposition_ask as ask
from workbench.app import decomposition_detail as detail
from workbench.app import state
from workbench.app.background import Work, result_of
from workbench.app.downloads import downloads
from workbench.app.figure import show
from workbench.app.layout import beside
from workbench.app.model_detail import escaped, escaped_name
from workbench.circuits.decomposition.contributions import bytes_of
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET
from workbench.decomposing import Request, Result
from workbench.export import Exportable
from workbench.inspection import Given
from workbench.models import Transformer

_CLEARED = "decomposition-cleared"  # how often sources were taken back: a figure then forgets its last click
_FILES = {"words": "Words", "patches": "Patches", "map": "Heads and MLPs", "tree": "Tree"}
_WIDEST = 900
_AT_ONCE = 12  # sources: progress is said, and a stop heard, only between batches


@dataclass(frozen=True)
class View:
    """One way to look at it.

    Attributes:
        title: on its button.
        picture: which of :func:`workbench.decomposing.pictures` is shown.
        sources: what is asked for.
        tree: whether the tree is built.
        hint: what a click does.
    """

    title: str
    picture: str
    sources: str
    tree: bool = False
    hint: str = ""


def views_of(given: Given) -> dict[str, View]:
    """The views of an input, by their key in the address."""
    image = given.image is not None
    what = "patches" if image else "words"
    hint = f"Click {what} to take them as one source, with heads and MLPs if you like."
    tree = f"From single {what} to all of them: neighbours that do something together are joined."
    return {
        "input": View(what.capitalize(), what, what, hint=hint),
        "map": View("Heads and MLPs", "map", "nodes", hint="Click heads or MLPs to take them as one source."),
        "tree": View(f"Tree of {'patches' if image else 'phrases'}", "tree", what, tree=True, hint=tree),
    }


def page() -> None:
    """The whole page."""
    st.title("What gives the answer")
    st.caption(
        "Every activation in two parts: what comes from a source, and the rest. What arrives at the target is the "
        "source's contribution."
    )
    with st.sidebar:
        try:
            asked = ask.ask()
        except ValueError as error:
            st.error(escaped(str(error)))
            return
    views = views_of(asked.given)
    view = views[state.view({key: one.title for key, one in views.items()}, "view")]
    picture, side = beside("decomposition")
    request = replace(asked.request, sources=view.sources, tree=view.tree)
    with picture:
        result = answer(asked, request, f"Asking what {view.title.lower()} give ...")
    if result is None:
        return
    figures = decomposing.pictures(result)
    figure = figures.get(view.picture) or next(iter(figures.values()), None)
    key = f"decomposition-{view.picture}-{st.session_state.get(_CLEARED, 0)}"
    chosen = _chosen(asked, key, result)
    if figure is not None:
        marks = [mark for mark, places in _marked(result).items() if places and set(places) <= set(chosen)]
        with picture:
            show(figure, key, slider=False, widest=_WIDEST, chosen=marks)
            st.caption(view.hint)
    with side:
        detail.about(result)
        if view.picture == "map":
            detail.strongest(result)
        shown = dict(sorted(figures.items(), key=lambda one: one[0] != view.picture))
        files = {_FILES.get(name, name): Exportable(None, one, result.to_json()) for name, one in shown.items()}
        if files:
            downloads(files, f"{escaped_name(asked.model.name)}-decomposition", "decomposition-download")
    with picture:
        detail.chosen(asked, result, chosen, _take_back)


# -- what comes of it ------------------------------------------------------------------------------------------


def answer(asked: ask.Asked, request: Request, what: str) -> Result | None:
    """The answer to a request, once it is there; meanwhile progress and a stop.

    Refusals and failures are said here; None stands for them too.

    Args:
        asked: the model and the input.
        request: what is asked of them.
        what: is being done, in words.
    """
    model, given = asked.model, asked.uploaded
    budget = min(BUDGET, _AT_ONCE * bytes_of(model, len(asked.given.names)))
    try:
        decomposing.check(request, model, given)
    except ValueError as error:
        st.error(escaped(str(error)))
        return None
    return result_of(_work, (model, request, given, budget), what, f"{request.sources}-{request.tree}")


def _digest(given: Given) -> str:
    return hashlib.sha256(given.tensor.cpu().numpy().tobytes()).hexdigest()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


_HASHES: dict[str | type[Any], Any] = {Transformer: _identity, Given: _digest, Request: repr}


@st.cache_resource(max_entries=64, show_spinner=False, hash_funcs=_HASHES)
def _work(model: Transformer, request: Request, given: Given | None, budget: int) -> Work[Result]:
    def do(progress: ProgressFn) -> Result:
        return decomposing.run(request, model, progress, given=given, budget=budget)

    return Work(do)


# -- sources that were clicked ---------------------------------------------------------------------------------


def _chosen(asked: ask.Asked, figure: str, result: Result) -> list[str]:
    """The places that are taken together, in the address; what was just clicked in a figure comes in."""
    places = [place for place in state.names("chosen") if detail.known(place, asked.model, asked.given)]
    about = asked.given.subject
    if st.session_state.setdefault("chosen-in", about) != about:  # another text has other words at these positions
        st.session_state["chosen-in"] = about
        places = [place for place in places if not place.startswith("input")]
    click = state.clicked(figure)
    if click is not None and click != st.session_state.get(f"seen-{figure}"):
        places += [place for place in _marked(result).get(click, ()) if place not in places]
    st.session_state[f"seen-{figure}"] = click
    state.set_names("chosen", places)
    return places


def _marked(result: Result) -> dict[str, tuple[str, ...]]:
    """For the id of each mark in the figures the places that it stands for: words and patches are numbered."""
    places: dict[str, tuple[str, ...]] = {}
    for i, (name, own) in enumerate(zip(result.names, result.places, strict=True)):
        places[name] = places[f"s{i}"] = own
    for k, merge in enumerate(result.tree):
        members = [place for i in merge.members for place in result.places[i]]
        places[f"g{len(result.names) + k}"] = tuple(members)
    return places


def _take_back(places: list[str]) -> None:
    """Leave out some of the chosen, before the page is drawn again."""
    state.set_names("chosen", [place for place in state.names("chosen") if place not in places])
    st.session_state[_CLEARED] = st.session_state.get(_CLEARED, 0) + 1
