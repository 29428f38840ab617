"""What the Attention page asks: the model and the input, the view, and the head; all of it stands in the address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st
from torch import Tensor

from workbench import inspection
from workbench.app import state
from workbench.app.image import ask_image
from workbench.inspection import Given
from workbench.models import Transformer, registry

TEXT = (
    "The night watchman Edmund Harrow opened the old iron gate. Nobody in the village knew why. A week later, "
    "the night watchman Edmund Harrow opened the old iron gate again, and the night watchman Edmund"
)
"""Twice the same phrase and a third time its beginning, so that induction shows."""

PASSAGE = """The river comes down from the hills in three streams that meet behind the mill. In spring, when the snow \
melts, it carries branches, fence posts and once, as the miller likes to tell, a whole door with the key still in the \
lock. In summer it is so low that children walk across it with dry knees. The village lives by it: there is the mill, \
there are two tanners, and a woman called Agnes Pell who washes wool for half the county. "A river," she says, "is a \
clock that you can drink from." Nobody knows what she means, but everybody repeats it.

Last year the council decided to build a bridge. There were to be three arches of stone, one for each stream, and a \
wall on either side so that carts would not slip. An engineer came from the city, measured for eleven days, ate eleven \
dinners at the inn, and wrote a report of forty pages. The report said that the ground would not bear stone. It would \
bear wood, but wood would rot; it would bear iron, but iron was dear. The council read the report in a single evening \
and argued about it for nine months. Some wanted wood, because their grandfathers had built in wood. Some wanted iron, \
because their grandchildren would travel on it. The miller wanted no bridge at all, since he owned the ferry.

In the end it was Agnes Pell who settled the matter. She walked into the meeting with wet sleeves, put a basket on the \
table, and said that she had counted everyone who crossed the river between one Sunday and the next. There had been \
four hundred and twelve people, sixty carts, and a bear on a chain with its keeper. Each had paid the miller a penny, \
the bear included. "Build it of pennies," she said. They built it of iron. The river, which had carried away a door, \
did not carry away the bridge; and every spring, when the three streams meet behind the mill, the children stand on it \
and wait for another door."""
"""For attention against the length of the context, where the asked text is short."""

_VIEWS = {
    "heads": "All heads",
    "map": "Map",
    "curves": "Curves",
    "census": "Census",
}
_CURVES = {
    "position": "Entropy by position",
    "layers": "Entropy by layer, beside its bound",
    "distance": "Attention by distance",
    "length": "Entropy and largest weight by length of the context",
    "sinks": "Sinks by position",
}
_OF = {"passage": "a longer passage", "own": "the text at the left"}
_ABOUT_OF = "Attention is read at more and more of it; of a model with little room, its beginning."
_FEWEST = 6  # words of it that are worth following
_HEAD = re.compile(r"a(\d{1,4})\.h(\d{1,4})")
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
_TURN = "attention-turn"
PATTERN = "attention-pattern"
"""Key of the figure of one head."""


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        name: of the model, as it was asked for.
        model: the model.
        given: the input as the model reads it.
        shown: the input as another page's address names it; empty where it cannot.
        weights: whether the kinds of heads that are read from weights are asked for too.
    """

    name: str
    model: Transformer
    given: Given
    shown: Mapping[str, str]
    weights: bool = False


def ask() -> Asked:
    """Draw the form.

    Raises:
        ValueError: the model or the input cannot be used; one sentence.
    """
    name, model = state.chosen_model()
    if model.images is not None:
        given, number = ask_image(model, "attention-upload")
        return Asked(name, model, given, {} if number is None else {"sample": str(number)})
    if model.tokenizer is None:
        numbers = state.written("Token numbers", "0 1 2", "tokens")
        return Asked(name, model, inspection.read(model, numbers), _short("tokens", numbers))
    text = state.written("Text", _example(name, model), "text", "A phrase that comes twice shows induction heads.")
    given = inspection.read(model, text)
    return Asked(name, model, given, _short("text", text), _weights(model))


def _weights(model: Transformer) -> bool:
    """Whether kinds that take longer, and depend on no text, are asked for."""
    if not model.cfg.causal or model.cfg.head == "none":
        return False
    help = "Successor heads, copying and copy suppression: read from weights, whatever the text. It can take a minute."
    return bool(st.toggle("Kinds from weights too", key="weights", bind="query-params", help=help))


def _short(key: str, text: str) -> dict[str, str]:
    return {key: text} if len(text) <= state.LONGEST else {}


def _example(name: str, model: Transformer) -> str:
    """A text with a repeated phrase; a model of a language of its own, or with little room, has another."""
    known = registry.find(name) if name in registry.names() else None
    if known is not None and known.bundled and known.example:
        return known.example
    shorter = known.example if known is not None and known.example else registry.MODELS[0].example
    return TEXT if _fits(model, TEXT) else shorter


def _fits(model: Transformer, text: str) -> bool:
    try:
        model.to_tokens(text)
    except ValueError:
        return False
    return True


# -- the view --------------------------------------------------------------------------------------------------


def view() -> str:
    """Which view is shown; it stands in the address."""
    return state.view(_VIEWS, "attention-view")


def curve(model: Transformer) -> str:
    """Which curve is shown; an image has no context that grows."""
    titles = {key: title for key, title in _CURVES.items() if key != "length" or model.images is None}
    return state.choice("Curve", titles, "curve")


def long_text(asked: Asked) -> Tensor:
    """Tokens of the text whose length grows; the input itself for a model of a language of its own."""
    passage = None if asked.model.tokenizer is None else _passage(asked.model)
    if passage is None or state.choice("Text that grows", _OF, "of", _ABOUT_OF) == "own":
        return asked.given.tensor
    return asked.model.to_tokens(passage)


def _passage(model: Transformer) -> str | None:
    """As much of the passage as the model has room for; None where it reads no such words."""
    words = PASSAGE.split(" ")
    while len(words) >= _FEWEST:
        if _fits(model, " ".join(words)):
            return " ".join(words)
        words = words[: 3 * len(words) // 4]
    return None


def query(given: Given) -> int:
    """The position of an image from which heads are asked: what was just clicked in a head's picture, else the address.

    Read before anything is drawn, so that every picture shows what was clicked now.
    """
    asked = (state.selected(PATTERN, "query") or "").removeprefix("q") if given.image is not None else ""
    return int(asked) if asked.isdecimal() and len(asked) < 9 and int(asked) < len(given.names) else 0


def from_where(given: Given, at: int) -> None:
    """A list of the positions of an image, for those who have no head to click in yet."""
    key = f"attention-from-{len(given.names)}"
    if st.session_state.get(key) != at:
        st.session_state[key] = at

    def named(position: int) -> str:
        name = given.names[position]
        return f"patch ({name.replace(',', ', ')})" if "," in name else name

    def chosen() -> None:
        state.set_parameter("query", f"q{st.session_state[key]}")

    help = "Where the heads look from; with a head selected, click a patch of its picture instead."
    st.selectbox("From", range(len(given.names)), key=key, format_func=named, on_change=chosen, help=help)


def zoom(n: int) -> tuple[int, int]:
    """Which tokens of a long text are seen one by one, the last one included; all of them at first."""
    key = f"zoom-{n}"
    if key not in st.session_state:
        found = _RANGE.fullmatch(state.parameter("zoom") or "")
        first, last = (int(found[1]), int(found[2])) if found else (0, n - 1)
        st.session_state[key] = (first, last) if first < last < n else (0, n - 1)
    help = "Over 64 tokens the cells are blocks of tokens; of fewer, every token has a row and a column."
    shown: Any = st.slider("Tokens shown", 0, n - 1, key=key, help=help)
    last = max(shown[1], min(shown[0] + 1, n - 1))
    first = min(shown[0], last - 1)
    state.set_parameter("zoom", None if (first, last) == (0, n - 1) else f"{first}-{last}")
    return first, last


# -- the head --------------------------------------------------------------------------------------------------


def key_of(figure: str) -> str:
    """Key of a figure; another one after a head was chosen elsewhere, so that a click on the old one counts again."""
    return f"attention-{figure}-{st.session_state.get(_TURN, 0)}"


def selected(figure: str, model: Transformer) -> tuple[int, int] | None:
    """The selected head: what was just clicked in the figure of a key, else what the address says."""
    click = state.clicked(figure)
    # A figure that was not on the page has no click, which is no click on the ground.
    if figure in st.session_state and click != st.session_state.get(f"seen-{figure}"):
        state.set_parameter("head", click)
    st.session_state[f"seen-{figure}"] = click
    return place_of(state.parameter("head"), model)


def place_of(name: str | None, model: Transformer) -> tuple[int, int] | None:
    """Layer and head of ``a9.h6``; None where this model has no such head: the address comes from anywhere."""
    found = _HEAD.fullmatch(name or "")
    if found is None:
        return None
    layer, head = int(found[1]), int(found[2])
    return (layer, head) if layer < model.cfg.n_layers and head < model.cfg.n_heads else None


def name_of(place: tuple[int, int] | None) -> str | None:
    """The head as circuits and figures name it."""
    return None if place is None else f"a{place[0]}.h{place[1]}"


def choose(name: str | None) -> None:
    """Select a head, or none; for callbacks of buttons and tables."""
    state.set_parameter("head", name)
    st.session_state[_TURN] = st.session_state.get(_TURN, 0) + 1
