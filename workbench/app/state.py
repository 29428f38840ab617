"""What the pages share: the store, the loaded models, and the view in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from workbench.models import Transformer, load, registry
from workbench.runs import RunStore

LONGEST = 1500
"""Letters of a text that an address may hold: browsers and servers cut long ones off."""


def store() -> RunStore:
    """The user's run store."""
    return RunStore()


@st.cache_resource(max_entries=2, show_spinner=False)
def _loaded(name: str) -> Transformer:
    return load(name)


def model(name: str) -> Transformer:
    """A model, loaded once for all sessions; the page says what is going on meanwhile.

    Raises:
        ValueError: there is no such model, or it cannot be read; one sentence.
    """
    if name in registry.names() and not registry.installed(name):
        bar = st.progress(0.0, f"Getting {name} ...")
        registry.get(name, progress=lambda done, total, what: bar.progress(min(1.0, done / max(total, 1)), what))
        bar.empty()
    with st.spinner(f"Loading {name} ..."):
        found = _loaded(name)
    st.session_state["loaded-models"] = {*st.session_state.get("loaded-models", ()), name}
    return found


def model_name() -> str:
    """What a person calls the model; on every page that asks for one, it is the same."""
    chosen = st.selectbox(
        "Model",
        registry.names(),
        key="look-at",
        bind="query-params",
        accept_new_options=True,
        help="A name from the list, a local folder in Hugging Face's layout, or a hub id such as owner/name.",
    )
    return str(chosen or registry.names()[0])


def chosen_model() -> tuple[str, Transformer]:
    """A model that a person names, and its name.

    Raises:
        ValueError: there is no such model, or it cannot be read; one sentence.
    """
    name = model_name()
    return name, model(name)


def at_hand(name: str, wait: bool = True) -> Transformer | None:
    """A model that can be loaded without getting it from elsewhere; None for all others.

    So that a page can say something of a model before anybody asked for work.

    Args:
        name: of the model.
        wait: load it if need be; otherwise only one that this session used already is given.
    """
    if not wait and name not in st.session_state.get("loaded-models", ()):
        return None
    try:
        here = registry.installed(name) if name in registry.names() else Path(name).expanduser().is_dir()
        return model(name) if here else None
    except (ValueError, OSError):
        return None


def clicked(figure: str) -> str | None:
    """Id of what was clicked last in a figure, by the figure's key; None after a click on the ground."""
    found: Any = st.session_state.get(figure) or {}
    selected: Any = found.get("selected") or {}
    return str(selected["id"]) if selected.get("id") else None


def shown(figure: str) -> int | None:
    """How many of the strongest edges the slider of a figure leaves; None for all, or where it was not moved."""
    found: Any = st.session_state.get(figure) or {}
    edges: Any = (found.get("shown") or {}).get("edges")
    return edges if isinstance(edges, int) else None


def selected(figure: str, name: str) -> str | None:
    """What is selected: what was just clicked in a figure, else what the address says under ``name``.

    Read before the figure is drawn, so that it lifts what was clicked now and not before.
    """
    click = clicked(figure)
    if click != st.session_state.get(f"seen-{figure}"):
        st.session_state[f"seen-{figure}"] = click
        set_parameter(name, click)
    return parameter(name)


def parameter(name: str) -> str | None:
    """A value in the page's address."""
    value: Any = st.query_params.get(name)
    return str(value) if value else None


def set_parameter(name: str, value: str | None) -> None:
    """Write a value into the page's address, or take it out, so that the view can be sent to a colleague."""
    if value is None:
        if name in st.query_params:
            del st.query_params[name]
    elif st.query_params.get(name) != value:
        st.query_params[name] = value


def choice(label: str, titles: Mapping[str, str], key: str, help: str | None = None) -> str:
    """A list to choose from whose key, not its title, stands in the address.

    Args:
        label: of the widget.
        titles: what to show for each key; the first is the default.
        key: of the widget and of the address.
        help: one sentence behind the question mark.
    """
    # What was chosen before may be no choice any more, such as a task when the model is another; and Streamlit
    # forgets a widget that is on another page, but not what is kept under a name of its own.
    if st.session_state.get(key) not in titles:
        known = (parameter(key), st.session_state.get(f"kept-{key}"))
        st.session_state[key] = next((one for one in known if one in titles), next(iter(titles)))
    chosen: str = st.selectbox(label, list(titles), key=key, format_func=lambda option: titles[option], help=help)
    st.session_state[f"kept-{key}"] = chosen
    set_parameter(key, chosen)
    return chosen


def refused(key: str, titles: Mapping[str, str]) -> str | None:
    """What the address asks for under ``key`` that is no choice; to be read before :func:`choice` writes its own."""
    given = parameter(key)
    return given if given is not None and given not in titles else None


def numbered(label: str, texts: Sequence[str], key: str, help: str | None = None) -> int:
    """One of several texts, whose number stands in the address; the first where the address names none of them.

    Args:
        label: of the widget.
        texts: at least one.
        key: of the widget and of the address.
        help: one sentence behind the question mark.
    """
    if st.session_state.get(key) not in range(len(texts)):
        st.session_state.pop(key, None)
        given = number(key)
        st.session_state[key] = given if given < len(texts) else 0
    chosen: int = st.selectbox(label, range(len(texts)), key=key, format_func=lambda i: f"{i}: {texts[i]}", help=help)
    set_parameter(key, str(chosen) if chosen else None)
    return chosen


def number(key: str) -> int:
    """The whole number of a widget that may come later on the page, else of the address, else 0."""
    chosen = st.session_state.get(key)
    if isinstance(chosen, int):
        return chosen
    given = parameter(key) or ""
    return int(given) if given.isdecimal() and len(given) < 9 else 0


def names(key: str) -> list[str]:
    """Several names in the address, such as the parts that are switched off, each once."""
    return list(dict.fromkeys(name for name in (parameter(key) or "").split(",") if name))


def set_names(key: str, chosen: Sequence[str]) -> None:
    """Write several names into the address, or take them out."""
    set_parameter(key, ",".join(chosen) or None)


def whole_number(label: str, most: int, key: str, *, default: int = 0, help: str | None = None) -> int:
    """A whole number from 0 to ``most`` that stands in the address; a slider where there are few.

    Args:
        label: of the widget.
        most: the greatest; where it is 0 there is nothing to choose and no widget.
        key: of the address.
        default: where the address says nothing.
        help: one sentence behind the question mark.
    """
    if most <= 0:
        return 0
    widget = f"{key}-{most}"  # another range is another widget: Streamlit refuses a value outside
    if widget not in st.session_state:
        given = parameter(key) or ""
        st.session_state[widget] = min(int(given) if given.isdecimal() and len(given) < 9 else default, most)
    make: Any = st.slider if most < 100 else st.number_input
    chosen = int(make(label, min_value=0, max_value=most, step=1, key=widget, help=help))
    set_parameter(key, None if chosen == default else str(chosen))
    return chosen


def written(label: str, example: str, key: str, help: str | None = None) -> str:
    """A text that stands in the address; it starts as an example, and follows the example until somebody writes.

    Args:
        label: of the widget.
        example: what stands there at first.
        key: of the widget and of the address.
        help: one sentence behind the question mark.
    """
    before = st.session_state.get(f"{key}-example")
    if key not in st.session_state:
        st.session_state[key] = parameter(key) or example
    elif before is not None and st.session_state[key] == before:
        st.session_state[key] = example
    st.session_state[f"{key}-example"] = example
    text: str = st.text_area(label, key=key, help=help)
    set_parameter(key, text if text != example and len(text) <= LONGEST else None)
    return text


def view(titles: Mapping[str, str], key: str) -> str:
    """Which view is shown; it stands in the address as ``view``, and the first is the usual one.

    Args:
        titles: by key.
        key: of the widget, one for each page.
    """
    if st.session_state.get(key) not in titles:
        given = parameter("view")
        st.session_state[key] = given if given in titles else next(iter(titles))
    found: str | None = st.segmented_control(
        "View",
        list(titles),
        format_func=lambda one: titles[one],
        key=key,
        required=True,
        label_visibility="collapsed",
    )
    found = found or next(iter(titles))
    set_parameter("view", None if found == next(iter(titles)) else found)
    return found
