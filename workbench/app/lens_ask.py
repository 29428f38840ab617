"""What the Lens page asks beside the input: which lens, what the colours say, which tokens and which cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import streamlit as st

from workbench.app import lens_work as work
from workbench.app import state
from workbench.app.lens_work import Training
from workbench.app.model_detail import escaped
from workbench.lens import LogitLens, TunedLens
from workbench.models import Transformer

_LOGIT, _FILE = "logit", "file"
_TRAINING = "lens-training"
_AT_ONCE = 10  # tokens beside each other whose words can be read
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")
_RANKS = {"full": "full", "64": "64", "16": "16", "4": "4"}
_HELP = (
    "The logit lens reads the stream of every layer with the model's own final norm and unembedding. A tuned lens "
    "first applies a linear map of that layer, trained to say what the model will say."
)
_ABOUT_TRAINING = (
    "It learns from the model's own answers on a text: yours, or descriptions of data sets that are on every machine. "
    "Forty steps on SmolLM2 take about three minutes; a stop keeps what is trained by then."
)
SHOWS = {
    "prob": "probability of the first answer",
    "rank": "rank of the target",
    "entropy": "entropy of the answer",
    "kl": "KL from the model's own answer",
}
CURVES = {"rank": "rank", "prob": "probability", "logit": "logit"}


def which(model: Transformer) -> TunedLens | None:
    """The lens; None for the logit lens.

    Raises:
        ValueError: a file that is none, or another model's; one sentence.
    """
    files = work.saved(model)
    chosen = st.session_state.pop("lens-chosen", None)
    if chosen in files:
        st.session_state["lens"] = chosen
    titles = {_LOGIT: "logit lens"} | {name: f"tuned lens, {name.replace('-', ' ')}" for name in files}
    key = state.choice("Lens", titles | {_FILE: "a tuned lens from a file"}, "lens", _HELP)
    _ask_training(model)
    if key == _FILE:
        path: str | None = st.text_input("File", key="lens-file", bind="query-params", placeholder="mine.safetensors")
        if not (path or "").strip():
            st.caption("The file that `TunedLens.save` wrote.")
            return None
        return work.load(model, Path((path or "").strip()).expanduser())
    return work.load(model, files[key]) if key in files else None


def _ask_training(model: Transformer) -> None:
    with st.expander("Train a tuned lens"):
        st.caption(_ABOUT_TRAINING)
        text = ""
        if model.images is None:
            given: Any = st.file_uploader("Your own text", type=["txt", "md"], key="lens-text", max_upload_size=5)
            text = "" if given is None else given.getvalue().decode("utf-8", "replace")
        row = st.columns(2)
        steps = int(row[0].number_input("Steps", 5, 2000, 40, 5, key="lens-steps"))
        help = "Of each layer's map; a low rank has less to learn."
        rank = row[1].selectbox("Rank", list(_RANKS), key="lens-rank", help=help)
        training = Training(model.name, steps, None if rank == "full" else int(rank), text)

        def start() -> None:
            st.session_state[_TRAINING] = training

        st.button("Train", key="lens-train", on_click=start, width="stretch")


def training(model: Transformer) -> bool:
    """Wait for a training that was asked for, keep what comes of it and choose it; False while it goes on."""
    asked: Training | None = st.session_state.get(_TRAINING)
    if asked is None or asked.name != model.name:
        return True
    tuned = work.train(model, asked)
    if tuned is None:
        st.button("Go on without it", key="lens-no-training", on_click=st.session_state.pop, args=(_TRAINING, None))
        return False
    del st.session_state[_TRAINING]
    try:
        st.session_state["lens-chosen"] = work.keep(model, tuned)
    except OSError as error:
        st.error(escaped(f"The lens was trained, but cannot be written to {work.folder()} ({error.strerror})."))
        return True
    st.rerun()


# -- of the grid -------------------------------------------------------------------------------------------------


def tokens(n: int) -> tuple[int, int]:
    """Which positions the grid shows, the last one included; the last ones of a long text at first."""
    if n <= _AT_ONCE:
        return 0, n - 1
    key = f"lens-tokens-{n}"
    usual = (n - _AT_ONCE, n - 1)
    if key not in st.session_state:
        found = _RANGE.fullmatch(state.parameter("tokens-shown") or "")
        first, last = (int(found[1]), int(found[2])) if found else usual
        st.session_state[key] = (first, last) if first <= last < n else usual
    shown: Any = st.slider("Tokens shown", 0, n - 1, key=key, help="Words can be read while they are few.")
    first, last = int(shown[0]), int(shown[1])
    state.set_parameter("tokens-shown", None if (first, last) == usual else f"{first}-{last}")
    return first, last


def cell(name: str | None, found: LogitLens) -> tuple[str, int] | None:
    """Place and position of ``m3,5``; None where this reading has no such cell: the address comes from anywhere."""
    place, _, at = (name or "").rpartition(",")
    if place not in found.places or not at.isdecimal() or len(at) > 6 or int(at) >= found.entropy.shape[2]:
        return None
    return place, int(at)
