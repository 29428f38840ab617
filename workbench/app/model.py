"""The Model page: pick a model, give it a text or an image, swap its attention, see what becomes of it."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import streamlit as st

from workbench import inspection
from workbench.app import model_detail, state
from workbench.app.figure import show
from workbench.app.image import ask_image
from workbench.app.layout import beside
from workbench.inspection import Comparison, Given
from workbench.models import Transformer, mechanisms, registry
from workbench.views import layer_view, swap_view

HEADS, PATTERN = "model-heads", "model-pattern"  # keys of the two figures

_PLACES = {"all": "all heads", "layer": "one layer", "head": "the selected head"}
_EXAMPLE = registry.MODELS[0].example


@dataclass(frozen=True)
class Ask:
    """What is asked of a model.

    Attributes:
        attention: key of the mechanism.
        options: its settings.
        heads: (layer, head) pairs that use it; None for all.
    """

    attention: str
    options: tuple[tuple[str, float], ...] = ()
    heads: tuple[tuple[int, int], ...] | None = None


def page() -> None:
    """The whole page."""
    with st.sidebar:
        name = state.model_name()
    try:
        model = state.model(name)
    except ValueError as error:
        st.error(str(error))
        return
    selected = _head(model, state.selected(HEADS, "head"))
    st.title("Inside a model")
    st.caption("What its heads attend to, what it answers, and what another attention mechanism does to both.")
    picture, side = beside("model")
    given, found = None, None
    with st.sidebar:
        try:
            given = _input(model, name)
        except ValueError as error:
            picture.error(str(error))
        ask = _mechanism(model, selected)
    if given is not None:
        try:
            with picture, st.spinner(f"Running {model.name} ..."):
                found = _run(model, given, ask)
        except ValueError as error:
            picture.error(str(error))
    files = {}
    if found is not None:
        with picture:
            files = _figures(model, found, selected)
    with side:
        model_detail.show(model, name, found, selected, files)


def _head(model: Transformer, clicked: str | None) -> tuple[int, int] | None:
    """The selected head, if this model has it."""
    # The address comes from anywhere.
    found = re.fullmatch(r"a(\d{1,4})\.h(\d{1,4})", clicked or "")
    if found is None:
        return None
    layer, head = int(found[1]), int(found[2])
    return (layer, head) if layer < model.cfg.n_layers and head < model.cfg.n_heads else None


# -- what is asked -------------------------------------------------------------------------------------------


def _input(model: Transformer, name: str) -> Given:
    """The text or the image.

    Raises:
        ValueError: the model cannot read it; one sentence.
    """
    if model.images is not None:
        return ask_image(model, "look-upload")[0]
    example = registry.find(name).example if name in registry.names() else _EXAMPLE
    if model.tokenizer is None:
        return inspection.read(model, state.written("Token numbers", "0 1 2", "tokens"))
    return inspection.read(model, state.written("Text", example or _EXAMPLE, "text"))


def _mechanism(model: Transformer, selected: tuple[int, int] | None) -> Ask:
    """The attention mechanism, its settings, and the heads that get it."""
    known = {m.key: m for m in mechanisms.MECHANISMS}
    own = model.cfg.attention
    titles = {own: f"{known[own].title} (as it is)"} | {key: m.title for key, m in known.items() if key != own}
    key = state.choice(
        "Attention",
        titles,
        "attention",
        "How scores become a pattern. The weights stay as they were trained, so the answer need not be a good one.",
    )
    chosen = known[key]
    st.caption(f"{model_detail.escaped(chosen.formula)} · {chosen.reference}")
    if chosen.parameters:
        learned = ", ".join(f"{p.name} = {p.initial:g}" for p in chosen.parameters)
        st.caption(f"What it would learn stays where it starts: {learned}.")
    options = tuple((name, _option(chosen, name)) for name in chosen.options)
    if key == own and not options:
        return Ask(key)
    where = state.choice("Which heads", _PLACES, "where")
    if where == "all":
        return Ask(key, options)
    if where == "layer":
        layer = state.whole_number("Layer to change", model.cfg.n_layers - 1, "change-layer")
        return Ask(key, options, tuple((layer, head) for head in range(model.cfg.n_heads)))
    if selected is None:
        st.info("Click a head in the figure: it is the one that changes.", icon=":material/ads_click:")
        return Ask(own)
    return Ask(key, options, (selected,))


def _option(mechanism: mechanisms.Mechanism, name: str) -> float:
    """One setting; its default does not stand in the address."""
    default = float(mechanism.options[name])
    least, most = mechanism.ranges.get(name, (-math.inf, math.inf))
    whole = name == "iterations"
    value = st.number_input(
        name,
        min_value=least if math.isfinite(least) else None,
        max_value=most if math.isfinite(most) else None,
        value=default,
        step=1.0 if whole else abs(default) / 10 or 0.1,
        format="%g",
        key=f"{mechanism.key}-{name}",
        bind="query-params",
    )
    return default if value is None else float(value)


# -- what comes of it ----------------------------------------------------------------------------------------


def _run(model: Transformer, given: Given, ask: Ask) -> Comparison:
    """The model, and the changed one, on the input.

    Raises:
        ValueError: the mechanism does not suit the model.
    """
    position = None
    at = inspection.interesting(model, given)
    if model.cfg.pooling == "none" and model.cfg.head != "none":
        asked = state.parameter("position") or ""
        position = int(asked) if asked.isdecimal() and len(asked) < 9 and int(asked) < len(given.names) else at
    return _compared(model, given, ask, position)


def _digest(given: Given) -> str:
    return given.subject + hashlib.sha256(given.tensor.cpu().numpy().tobytes()).hexdigest()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


@st.cache_resource(max_entries=4, show_spinner=False, hash_funcs={Transformer: _identity, Given: _digest})
def _compared(model: Transformer, given: Given, ask: Ask, position: int | None) -> Comparison:
    changed = inspection.swapped(model, ask.attention, ask.heads, dict(ask.options))
    return inspection.compare(model, given, changed, position=position)


def _figures(model: Transformer, found: Comparison, selected: tuple[int, int] | None) -> dict[str, Any]:
    """The figures; what can be downloaded of them, by title."""
    if not model.cfg.n_layers:
        return {}
    row = st.columns([3, 3, 2], vertical_alignment="bottom")
    with row[0]:
        layer = state.whole_number("Layer", model.cfg.n_layers - 1, "layer", default=2 * model.cfg.n_layers // 3)
    first = "the first token" if found.image is None else ", ".join(found.prefix)
    mute = False
    if first:
        mute = row[1].toggle(
            f"Mute {first}",
            key="mute-sink",
            bind="query-params",
            help="Many heads park attention that they do not need there; this takes it out of the colour scale.",
        )
    after = True
    if found.after is not None:
        after = row[2].toggle(
            "Swapped", value=True, key="show-after", bind="query-params", help="Patterns after the swap, or before."
        )
    draw = _vision if found.image is not None else _text
    return draw(found, layer, selected, bool(mute), bool(after))


def _text(found: Comparison, layer: int, selected: tuple[int, int] | None, mute: bool, after: bool) -> dict[str, Any]:
    """All heads of the layer; below, the selected one before and after."""
    inside = selected[1] if selected and selected[0] == layer else None
    heads = layer_view(found, layer, selected=inside, mute_first=mute, after=after)
    assert heads.figure is not None
    show(heads.figure, HEADS, f"a{layer}.h{inside}" if inside is not None else None)
    files = {f"Layer {layer}": heads}
    if selected is None:
        st.info("Click a head to see it large, before and after a swap.", icon=":material/ads_click:")
        return files
    large = swap_view(found, *selected, mute_first=mute)
    assert large.figure is not None
    show(large.figure, PATTERN)
    return {f"Head {selected[0]}.{selected[1]}": large} | files


def _vision(found: Comparison, layer: int, selected: tuple[int, int] | None, mute: bool, after: bool) -> dict[str, Any]:
    """The image with the attention of one position; below, all heads of the layer."""
    asked = (state.selected(PATTERN, "query") or "").removeprefix("q")
    query = int(asked) if asked.isdecimal() and len(asked) < 9 and int(asked) < len(found.before.names) else 0
    place = selected if selected is not None else (layer, None)
    large = swap_view(found, *place, query=query, mute_first=mute)
    inside = selected[1] if selected and selected[0] == layer else None
    heads = layer_view(found, layer, selected=inside, query=query, mute_first=mute, after=after)
    assert large.figure is not None
    assert heads.figure is not None
    show(large.figure, PATTERN, f"q{query}")
    st.caption("Click a patch to see where it looks, a head below to see that head alone.")
    show(heads.figure, HEADS, f"a{layer}.h{inside}" if inside is not None else None)
    title = f"Head {selected[0]}.{selected[1]}" if selected else f"Patches in layer {layer}"
    return {title: large, f"Layer {layer}": heads}
