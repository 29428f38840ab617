"""What the Paths page waits for: lengths, kinds, queries, the strongest paths, and runs with components weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

from workbench import lens, pathways
from workbench.app.background import Work, result_of
from workbench.app.paths_ask import Asked
from workbench.circuits.progress import ProgressFn
from workbench.inspection import Given
from workbench.lens import DirectAttribution
from workbench.models import Transformer
from workbench.paths import Ensemble, QueryResult, TopPaths
from workbench.paths.written import Level, components_of, weighted_taps
from workbench.pathways import Request

T = TypeVar("T")


def _digest(given: Given) -> tuple[str, bytes]:
    return given.subject, given.tensor.cpu().numpy().tobytes()


def _identity(model: Transformer) -> tuple[str, int]:
    return model.name, id(model)


HASHES: dict[str | type[Any], Any] = {Transformer: _identity, Given: _digest, Request: repr}
"""How models and inputs are told apart by what is kept of them."""


def request(asked: Asked, **more: Any) -> Request:
    """What is asked, as the command line asks it."""
    return Request(asked.name, text=asked.subject, target=asked.right, against=asked.wrong, **more)


# -- parts of the answer -----------------------------------------------------------------------------------------


def lengths(asked: Asked, keep: int, *, by_kind: bool = False) -> Ensemble | None:
    """What paths of each length carry, or of each kind; None until it is there, and where it was refused."""
    what = "Adding up paths by kind ..." if by_kind else "Adding up paths by length ..."
    return result_of(_lengths, (asked.model, request(asked, keep=keep, top=0), asked.given, by_kind), what, "lengths")


def query(asked: Asked, pattern: str) -> QueryResult | None:
    """What the paths of a pattern carry. The pattern is one that parses."""
    one = request(asked, queries=(pattern,), top=0)
    found: tuple[QueryResult, ...] | None = result_of(_query, (asked.model, one, asked.given), "Adding up ...", pattern)
    return None if found is None else found[0]


def strongest(asked: Asked, k: int, longest: int | None, budget: int) -> TopPaths | None:
    """The single paths that carry most."""
    one = request(asked, top=k, longest=longest, budget=budget)
    return result_of(_strongest, (asked.model, one, asked.given), "Following paths ...", "top")


def direct(asked: Asked) -> DirectAttribution | None:
    """What each component writes into the answer."""
    return result_of(_direct, (asked.model, asked.given, asked.right, asked.wrong), "Splitting the logit ...", "direct")


def weighted(asked: Asked, level: Level, weights: Mapping[str, float]) -> Float[Tensor, " n_out"] | None:
    """Logits of the answer with components weighted in the input of the final norm."""
    given = tuple(sorted((name, weight) for name, weight in weights.items() if weight != 1))
    return result_of(_weighted, (asked.model, asked.given, level, given), "Running the model ...", "weights")


def components(model: Transformer, level: Level) -> tuple[str, ...]:
    """What can be weighted.

    Raises:
        ValueError: nothing in this model; one sentence.
    """
    return components_of(model, level)


def _with(request: Request, model: Transformer, given: Given, do: Callable[[pathways.Asked], T]) -> Work[T]:
    # The check runs the model once, so that it is part of the work.
    return Work(lambda _: do(pathways.take(request, model, given)))


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs=HASHES)
def _lengths(model: Transformer, request: Request, given: Given, by_kind: bool) -> Work[Ensemble]:
    part = pathways.kinds if by_kind else pathways.lengths
    return _with(request, model, given, lambda asked: part(asked, model))


@st.cache_resource(max_entries=64, show_spinner=False, hash_funcs=HASHES)
def _query(model: Transformer, request: Request, given: Given) -> Work[tuple[QueryResult, ...]]:
    return _with(request, model, given, lambda asked: pathways.ask(asked, model))


@st.cache_resource(max_entries=16, show_spinner=False, hash_funcs=HASHES)
def _strongest(model: Transformer, request: Request, given: Given) -> Work[TopPaths]:
    def do(progress: ProgressFn) -> TopPaths:
        return pathways.follow(pathways.take(request, model, given), model, progress)

    return Work(do)


@st.cache_resource(max_entries=16, show_spinner=False, hash_funcs=HASHES)
def _direct(model: Transformer, given: Given, right: str, wrong: str) -> Work[DirectAttribution]:
    return Work(lambda _: lens.direct_attribution(model, given.tensor, right or None, against=wrong or None))


@st.cache_resource(max_entries=64, show_spinner=False, hash_funcs=HASHES)
def _weighted(
    model: Transformer, given: Given, level: Level, weights: tuple[tuple[str, float], ...]
) -> Work[Float[Tensor, " n_out"]]:
    def do(_: ProgressFn) -> Float[Tensor, " n_out"]:
        told, names = dict(weights), components_of(model, level)
        factors = torch.tensor([told.get(name, 1.0) for name in names], device=model.device)
        with torch.no_grad():
            out: Tensor = model(given.tensor, weighted_taps(model, level, factors))
        return (out[0] if model.cfg.pooling != "none" else out[0, -1]).float().cpu()

    return Work(do)
