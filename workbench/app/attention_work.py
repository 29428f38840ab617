"""What the Attention page waits for: the model's run, its statistics and census, dispersion, pairs of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import streamlit as st
from torch import Tensor

from workbench import attention, inspection, observing
from workbench.app.attention_ask import Asked
from workbench.app.background import Work, result_of
from workbench.attention import Dispersion, TokenPair
from workbench.attention.hops import HopProfile, hop_profile
from workbench.circuits.progress import Progress, ProgressFn, Stopped
from workbench.inspection import Comparison, Given
from workbench.models import Transformer
from workbench.observing import Observation

T = TypeVar("T")

_MOST_TOKENS = 48  # of a text, for pairs
_BEST = 3  # pairs of each


@dataclass(frozen=True)
class Pair:
    """One token in a head's circuits.

    Attributes:
        token: id of the token.
        looks_at: keys that it scores highest as a query.
        raises: tokens whose logits rise most where it is attended to.
    """

    token: int
    looks_at: tuple[int, ...]
    raises: tuple[int, ...]


@dataclass(frozen=True)
class Pairs:
    """Pairs of one head.

    Attributes:
        rows: a record for each token of the text.
        unclear: why there is nothing to say of what it raises, or of anything; empty where there is.
    """

    rows: tuple[Pair, ...]
    unclear: str = ""


def _digest(given: Given) -> str:
    return given.subject + _bytes(given.tensor)


def _bytes(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


HASHES: dict[str | type[Any], Any] = {Transformer: _identity, Given: _digest, Tensor: _bytes}
"""How models and inputs are told apart by what is kept of them."""


# -- at once ---------------------------------------------------------------------------------------------------


def patterns(asked: Asked) -> Comparison:
    """One run of the model with all patterns.

    Raises:
        ValueError: the input does not fit the model.
    """
    with st.spinner(f"Running {asked.model.name} ..."):
        return _patterns(asked.model, asked.given)


@st.cache_resource(max_entries=4, show_spinner=False, hash_funcs=HASHES)
def _patterns(model: Transformer, given: Given) -> Comparison:
    return inspection.compare(model, given)


# -- with progress and a stop ----------------------------------------------------------------------------------


def observation(asked: Asked) -> Observation | None:
    """Statistics and census of the input, once they are there; None meanwhile, and where they were refused."""
    return result_of(
        _observing, (asked.model, asked.given, asked.weights), "Reading what every head does ...", "observation"
    )


def dispersion(asked: Asked, tokens: Tensor, adaptive: bool) -> Dispersion | None:
    """Entropy and largest weight at growing lengths, once they are there."""
    return result_of(_dispersing, (asked.model, tokens, adaptive), "Reading longer and longer texts ...", "dispersion")


def hops(asked: Asked) -> HopProfile | None:
    """Weight by distance from query to key, once it is there."""
    return result_of(_hopping, (asked.model, asked.given), "Measuring distances ...", "hops")


def pairs(asked: Asked, place: tuple[int, int]) -> Pairs | None:
    """Pairs of tokens of a head, for the tokens of the text."""
    ids = tuple(dict.fromkeys(asked.given.tensor[0].tolist()))[:_MOST_TOKENS]
    return result_of(_pairing, (asked.model, *place, ids), "Multiplying weights ...", "pairs")


@st.cache_resource(max_entries=16, show_spinner=False, hash_funcs=HASHES)
def _observing(model: Transformer, given: Given, weights: bool) -> Work[Observation]:
    def do(progress: ProgressFn) -> Observation:
        # The page has the patterns already.
        return observing.observe(model, given.tensor, weights=weights, patterns=False, progress=progress)

    return Work(do)


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs=HASHES)
def _dispersing(model: Transformer, tokens: Tensor, adaptive: bool) -> Work[Dispersion]:
    def do(progress: ProgressFn) -> Dispersion:
        return attention.dispersion(model, tokens, adaptive=adaptive, progress=progress)

    return Work(do)


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs=HASHES)
def _hopping(model: Transformer, given: Given) -> Work[HopProfile]:
    def do(progress: ProgressFn) -> HopProfile:
        return hop_profile(model, given.tensor, progress=progress)

    return Work(do)


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=HASHES)
def _pairing(model: Transformer, layer: int, head: int, ids: tuple[int, ...]) -> Work[Pairs]:
    def do(progress: ProgressFn) -> Pairs:
        looks = _by_token(attention.qk_pairs(model, layer, head, list(ids), _BEST))
        if progress(Progress(1, 2, "reading its weights")) is False:
            raise Stopped("Stopped before the pairs were there.")
        raises, unclear = _tried(lambda: attention.ov_pairs(model, layer, head, list(ids), _BEST))
        return Pairs(tuple(Pair(i, looks.get(i, ()), raises.get(i, ())) for i in ids), unclear)

    return Work(do)


def _tried(make: Callable[[], list[TokenPair]]) -> tuple[dict[int, tuple[int, ...]], str]:
    """Targets of each token; or why there are none."""
    try:
        return _by_token(make()), ""
    except ValueError as error:
        return {}, str(error)


def _by_token(found: list[TokenPair]) -> dict[int, tuple[int, ...]]:
    targets: dict[int, list[int]] = {}
    for pair in found:
        targets.setdefault(pair.source, []).append(pair.target)
    return {source: tuple(some) for source, some in targets.items()}
