"""Observing an input: one pass after the other, the quick and general ones first."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention import (
    Dispersion,
    EntropyBound,
    Statistics,
    census,
    dispersion,
    entropy_bound,
    find_sinks,
    statistics,
)
from workbench.attention.census_rows import strips
from workbench.attention.layers import Given, LayerAttention, Text, require_rows_of_one, taken, watch
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.observing.records import PATTERNS, Observation

_SHORTEST = 16  # tokens from which on a context has lengths to compare


def check(model: Transformer, tokens: Tensor | Text, attention_mask: Int[Tensor, "batch pos"] | None = None) -> Given:
    """The input in the model's own form, or a refusal before any work.

    Raises:
        ValueError: one sentence that names the input and the remedy.
    """
    require_rows_of_one(model)
    given = taken(model, tokens, attention_mask)
    if given.n < 2:
        raise ValueError("The text is one token, which can only attend to itself; give at least two.")
    return given


def observe(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | Text,
    *,
    seed: int = 0,
    weights: bool = True,
    patterns: bool = True,
    progress: ProgressFn | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> Observation:
    """Statistics, census, bound, sinks and dispersion of one input; short ones with every head's pattern.

    Cost: about five forwards of the input, and one of the census's random series. After the statistics and the census a
    stop keeps what there is.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: text, several texts, token ids; images for a vision model.
        seed: of the census's random tokens.
        weights: whether the census reads the kinds that stand in the weights: several times as long as all else.
        patterns: whether to keep every head's pattern of a short input.
        progress: called after every layer of every pass; returning False stops.
        attention_mask: 1 for real tokens, as in :func:`workbench.attention.statistics`.

    Raises:
        ValueError: an input that is empty, too long or does not fit; scores that are not finite.
        Stopped: stopped before there was anything to keep.
    """
    given = check(model, tokens, attention_mask)
    mask = None if given.real is None else given.real.long()
    found = statistics(
        model, given.tokens, attention_mask=mask, token_types=given.token_types, columns=True, progress=progress
    )
    kinds = census(model, given.tokens, attention_mask=mask, seed=seed, weights=weights, progress=progress)
    notes = [*dict.fromkeys((*found.notes, *kinds.notes))]
    if patterns and given.n > PATTERNS:
        notes.append(f"{given.n:,} positions: the patterns of all heads are kept for up to {PATTERNS} only.")
    # The bound and the lengths are those of softmax; other mechanisms leave a note.
    softmax = not found.notes
    bound: EntropyBound | None = None
    spread: Dispersion | None = None
    kept: Tensor | None = None
    complete = True
    try:
        if patterns and given.n <= PATTERNS:
            kept = _patterns(model, given, progress)
        if softmax:
            bound = entropy_bound(model, given.tokens, found, attention_mask=mask)
        if softmax and given.ids is not None and given.real is None and given.n >= _SHORTEST:
            spread = dispersion(model, given.tokens, progress=progress)
    except Stopped:
        complete = False
    return Observation(
        found,
        kinds,
        bound,
        find_sinks(found),
        spread,
        _words(model, found),
        kept,
        model.cfg.causal,
        complete,
        tuple(notes),
    )


def _words(model: Transformer, found: Statistics) -> list[str] | None:
    """The first example's tokens as text."""
    if found.tokens is None or model.tokenizer is None:
        return None
    return model.to_str_tokens(found.tokens[0][found.real[0]])


def _patterns(model: Transformer, given: Given, progress: ProgressFn | None) -> Float[Tensor, "layer head query key"]:
    """The first example's pattern in every head, without padding."""
    layers: list[Tensor] = []
    first = given.rows(0, 1)
    real = torch.ones(given.n, dtype=torch.bool) if first.real is None else first.real[0].cpu()
    report = Reporter(progress, model.cfg.n_layers, "keeping patterns")

    def see(layer: LayerAttention) -> None:
        whole = torch.cat([strip.p[0].cpu() for strip in strips(layer)], 1)
        layers.append(whole[:, real][:, :, real])
        report.step()
        if not report.going:
            raise Stopped("Stopped before all patterns were there.")

    watch(model, first, see)
    return torch.stack(layers)
