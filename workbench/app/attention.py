"""The Attention page: what every head of a model attends to, at a glance and one by one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from workbench import figures, observing
from workbench.app import attention_ask as ask
from workbench.app import attention_detail as detail
from workbench.app import attention_work as work
from workbench.app import state
from workbench.app.downloads import downloads
from workbench.app.figure import show
from workbench.app.layout import beside
from workbench.app.model_detail import escaped, escaped_name
from workbench.attention import DETECTORS, MEASURES
from workbench.export import Exportable
from workbench.figures import Figure, Picture
from workbench.inspection import Comparison, Given
from workbench.models import Transformer
from workbench.observing import Observation

_WIDEST, _LARGER = 900, 1.2  # px; and times its own width
_READ = {
    "text": "Read on the input.",
    "repeated": "Read on random tokens that repeat.",
    "weights": "Read from weights.",
}
_IN_CENSUS = ("entropy", "normalised_entropy", "effective_keys", "sink_mass", "distance")

# The picture of a deep model is taller than the window: what a click in it brings up stays beside it, or, where the
# window is narrow, below a part of it.
_STYLE = """
<style>
@media (min-width: 1281px) {
  [data-testid=stLayoutWrapper]:has(> .st-key-attention-side) { position: sticky; top: 3.75rem; }
  .st-key-attention-side {
    max-height: calc(100vh - 4.5rem); overflow-y: auto; overflow-x: hidden; padding-right: 0.5rem;
  }
}
@media (max-width: 1280px) {
  .st-key-attention-tall { max-height: 68vh; overflow-y: auto; overflow-x: hidden; }
}
</style>
"""


@dataclass
class Shown:
    """What one drawing of the page has come to.

    Attributes:
        place: layer and head that are selected.
        query: for an image, the position from which heads are asked.
        found: the model's run.
        observation: statistics and census; None while they are not there.
        waits: work is under way, or was refused; nothing else is begun meanwhile.
        files: what can be downloaded, by title.
    """

    place: tuple[int, int] | None
    query: int
    found: Comparison
    observation: Observation | None = None
    waits: bool = False
    files: dict[str, Exportable] = field(default_factory=dict)

    def observe(self, asked: ask.Asked) -> Observation | None:
        """Statistics and census, waited for once."""
        if self.observation is None and not self.waits:
            self.observation = work.observation(asked)
            self.waits = self.observation is None
        return self.observation


def page() -> None:
    """The whole page."""
    st.html(_STYLE)
    st.title("What every head attends to")
    st.caption("All heads of a model on one input: their patterns, how sharp they are, and what kind each one is.")
    with st.sidebar:
        try:
            asked = ask.ask()
        except ValueError as error:
            st.error(escaped(str(error)))
            return
    if not asked.model.cfg.n_layers:
        st.info(f"{escaped(asked.model.name)} has no layers, so it has no heads.")
        return
    view = ask.view()
    figure = ask.key_of(view)
    picture, side = beside("attention", halves=True)
    with picture:
        try:
            found = work.patterns(asked)
        except ValueError as error:
            st.error(escaped(str(error)))
            return
        place = ask.selected(figure, asked.model)
        shown = Shown(place, ask.query(asked.given), found)
        _DRAW[view](asked, shown, figure)
    with side, st.container(key="attention-side"):
        _side(asked, shown, view)


# -- the views -------------------------------------------------------------------------------------------------


def _drawn(
    asked: ask.Asked, shown: Shown, title: str, figure: Figure, key: str, data: Any = None, *, outline: bool = False
) -> None:
    """Show a figure, with the selected head outlined where it is a map, and offer it as a file."""
    show(figure, key, slider=False, widest=_widest(figure), chosen=_names(shown) if outline else [])
    shown.files[title] = Exportable(None, figure, data or {"model": asked.model.name, "input": asked.given.subject})


def _widest(figure: Figure) -> int:
    """A little more than its own width: letters much larger than the page's are no gain."""
    own = re.search(r'viewBox="0 0 (\d+)', figure.svg)
    return _WIDEST if own is None else min(_WIDEST, round(_LARGER * int(own[1])))


def _heads(asked: ask.Asked, shown: Shown, key: str) -> None:
    """Every pattern as a small multiple; of an image, what one patch sees."""
    found, whole = shown.found, True
    with st.container(horizontal=True, gap="medium"):
        mute = detail.mute_switch(found)
        if found.image is not None:
            help = "All patches as queries and keys; otherwise, on the image, where one of them looks."
            whole = bool(st.toggle("Whole patterns", key="whole", bind="query-params", help=help))
    if not whole:
        ask.from_where(asked.given, shown.query)
    figure = _all_heads(asked.model, asked.given, None if whole else shown.query, mute, found)
    with st.container(key="attention-tall"):
        _drawn(asked, shown, "All heads", figure, key, outline=True)


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs=work.HASHES)
def _all_heads(model: Transformer, given: Given, query: int | None, mute: bool, _found: Comparison) -> Figure:
    """Every head at a glance: whole patterns, or where one query of an image looks."""
    look, title, caption = _found.before, None, f"{model.name} · {_subject(_found)}."
    if given.image is not None and given.grid is not None:
        if query is not None:
            picture = Picture(given.image, given.grid, _found.prefix)
            return figures.patch_heads(picture, look.patterns, query=query, caption=caption, mute_prefix=mute)
        title = f"What {look.patterns.shape[0] * look.patterns.shape[1]} heads attend to"
        caption += f" Positions: {', '.join([*_found.prefix, 'patches row by row'])}."
    return figures.all_heads(
        look.patterns, given.names, title=title, caption=caption, mute_first=mute, causal=look.causal
    )


def _map(asked: ask.Asked, shown: Shown, key: str) -> None:
    """One number of every head."""
    observation = shown.observe(asked)
    if observation is None:
        return
    kinds = {kind.key for kind in DETECTORS}
    titles = {
        name: f"Kind of head: {title.lower()}" if name in kinds else title
        for name, title in observing.measure_names(observation).items()
    }
    measure = state.choice("What is shown of every head", titles, "measure")
    figure = observing.measure_map(observation, measure)
    _drawn(asked, shown, titles[measure], figure, key, observation.to_json(), outline=True)
    if measure in kinds:
        st.caption(_READ[next(kind.reads for kind in DETECTORS if kind.key == measure)])


def _curves(asked: ask.Asked, shown: Shown, key: str) -> None:
    """Entropy, distance or sinks as lines."""
    curve = ask.curve(asked.model)
    if curve == "length":
        _length(asked, shown, key)
        return
    if curve == "distance":
        profile = work.hops(asked)
        shown.waits = profile is None
        if profile is not None:
            figure = observing.by_distance(profile, _names(shown))
            _drawn(asked, shown, "Attention by distance", figure, key, profile.to_dict())
        return
    observation = shown.observe(asked)
    if observation is None:
        return
    try:
        figure = _curve(observation, curve, _names(shown))
    except ValueError as error:
        st.info(escaped(str(error)))
        return
    _drawn(asked, shown, curve.capitalize(), figure, key, observation.to_json())


def _curve(observation: Observation, curve: str, heads: list[str]) -> Figure:
    if curve == "layers":
        return observing.entropy_by_layer(observation)
    if curve == "sinks":
        return observing.sinks_by_position(observation)
    return observing.entropy_by_position(observation, heads)


def _length(asked: ask.Asked, shown: Shown, key: str) -> None:
    """Entropy and largest weight as the context grows."""
    tokens = ask.long_text(asked)
    help = "Every row is sharpened by a temperature that follows from its own entropy (Veličković et al. 2024)."
    adaptive = bool(st.toggle("Adaptive temperature", key="adaptive", bind="query-params", help=help))
    found = work.dispersion(asked, tokens, adaptive)
    shown.waits = found is None
    if found is None:
        return
    draw = {"Entropy by length": observing.entropy_by_context, "Largest weight by length": observing.largest_by_context}
    for title, make in draw.items():
        figure = make(found, _names(shown))
        _drawn(asked, shown, title, figure, f"{key}-{title}", {"model": found.model, **figure.data})


def _census(asked: ask.Asked, shown: Shown, key: str) -> None:
    """A row for every head."""
    observation = shown.observe(asked)
    if observation is None:
        return
    layers, heads, _, _ = observation.statistics.shape
    columns: dict[str, Any] = {"head": st.column_config.TextColumn(pinned=True)}
    rows: list[dict[str, Any]] = [{"head": f"{at}.{head}"} for at in range(layers) for head in range(heads)]
    for kind in DETECTORS:
        score = observation.census.scores.get(kind.key)
        if score is not None:
            columns[kind.title] = st.column_config.NumberColumn(format="%.2f", help=kind.formula)
            _column(rows, kind.title, score.flatten().tolist())
    for measure in MEASURES:
        if measure.key in _IN_CENSUS:
            title = measure.title if measure.unit == "share" else f"{measure.title} ({measure.unit})"
            columns[title] = st.column_config.NumberColumn(format="%.2f", help=measure.formula)
            _column(rows, title, observation.statistics.value(measure.key).flatten().tolist())

    def chosen() -> None:
        picked: Any = st.session_state[key]
        row = next(iter(picked["selection"]["rows"]), None)
        state.set_parameter("head", None if row is None else f"a{row // heads}.h{row % heads}")

    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height=min(38 + 35 * len(rows), 560),
        column_config=columns,
        on_select=chosen,
        selection_mode="single-row",
        key=key,
    )
    st.caption("A click on a column's name sorts; a click at the left of a row takes the head.")
    for name, figure in observing.pictures(observation).items():
        shown.files[name] = Exportable(None, figure, observation.to_json())
    if shown.place is not None:
        detail.stands_out(observation, ask.choose)


def _column(rows: list[dict[str, Any]], title: str, values: list[float]) -> None:
    for row, value in zip(rows, values, strict=True):
        row[title] = None if math.isnan(value) else value


_DRAW: dict[str, Callable[[ask.Asked, Shown, str], None]] = {
    "heads": _heads,
    "map": _map,
    "curves": _curves,
    "census": _census,
}


# -- beside them -----------------------------------------------------------------------------------------------


def _side(asked: ask.Asked, shown: Shown, view: str) -> None:
    """The selected head, or the heads that stand out."""
    if shown.place is None:
        observation = shown.observe(asked)
        if observation is not None:
            detail.stands_out(observation, ask.choose, clickable=view in ("heads", "map"))
            detail.notes(observation)
    else:
        detail.heading(asked, shown.place, lambda: ask.choose(None))
        mute = bool(st.session_state.get("mute")) if view == "heads" else detail.mute_switch(shown.found)
        layer, head = shown.place
        shown.files[f"Head {layer}.{head}"] = detail.pattern(shown.found, shown.place, mute, shown.query)
        observation = shown.observe(asked)
        if observation is not None:
            detail.kinds(observation, shown.place)
            detail.numbers(observation, shown.place)
            detail.pairs(asked, shown.place)
    if shown.files:
        downloads(shown.files, f"{escaped_name(asked.model.name)}-attention", "attention-download")


def _names(shown: Shown) -> list[str]:
    name = ask.name_of(shown.place)
    return [] if name is None else [name]


def _subject(found: Comparison) -> str:
    subject = found.subject if len(found.subject) <= 120 else f"{found.subject[:119]}…"
    return subject if found.image is not None else f"“{subject}”"
