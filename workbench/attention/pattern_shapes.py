"""Attention patterns brought to one size, so that they can be compared: means over examples, strip by strip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.census_rows import strips
from workbench.attention.hops import BATCH
from workbench.attention.layers import Given, LayerAttention, Text, require_rows_of_one, taken, watch
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.embedding import patches_of

SIDE = 16
"""Rows and columns of a head's pattern."""

Per = Literal["head", "query"]


@dataclass(frozen=True)
class Shapes:
    """Patterns of one size.

    Attributes:
        patterns: weights, each a mean over the examples, or one example's.
        names: ``a3.h5`` or ``a3.h5@q17``; of one example ``a3.h5#0`` or ``a3.h5@q17#0``.
        per: what a pattern is of.
        examples: how many examples there are.
        example: which example each pattern is of; None for means.
    """

    patterns: Float[Tensor, "n row column"]
    names: tuple[str, ...]
    per: Per
    examples: int
    example: Int[Tensor, " n"] | None = None


def shapes_of(
    model: Transformer,
    tokens: Tensor | Text,
    per: Per | None = None,
    each: bool = False,
    attention_mask: Tensor | None = None,
    side: int = SIDE,
    progress: ProgressFn | None = None,
) -> Shapes:
    """Patterns of every head, or of every query of every head; see :func:`workbench.attention.pattern_map`.

    A head's pattern is cut into ``side`` equal parts of the queries and of the keys: an entry is the weight that a
    query of its row gives to all keys of its column, mean over those queries, so that rows still sum to 1. Of a query
    there is the grid of patches, or for a text the weight at distances back of 0, 1, 2 to 3, 4 to 7, ... (and where a
    model looks both ways, to the left of those the distances ahead).

    Raises:
        ValueError: input or ``per`` that do not fit.
        Stopped: ``progress`` asked for it.
    """
    require_rows_of_one(model)
    if per not in (None, "head", "query"):
        raise ValueError(f"per is 'head' or 'query', not '{per}'.")
    given = taken(model, tokens, attention_mask)
    grid = None if model.cfg.image is None else patches_of(model, given.tokens[:1])[1]
    per = per or ("head" if grid is None else "query")
    if per == "query" and given.real is not None:
        raise ValueError("Texts of unlike length have no common queries; give equal lengths, or per='head'.")
    starts = range(0, len(given.tokens), BATCH)
    report = Reporter(progress, len(starts) * model.cfg.n_layers, "reading patterns")
    parts: list[list[Tensor]] = [[] for _ in range(model.cfg.n_layers)]
    prefix = 0 if model.cfg.image is None else len(model.cfg.image.prefix)

    def see(layer: LayerAttention) -> None:
        if per == "head":
            x = _of_heads(layer, side, prefix, not each)
        else:
            x = _on_the_grid(layer, prefix, grid, not each) if grid is not None else _by_distance(layer, not each)
        here = parts[layer.layer]
        here[:] = [*here, x.cpu()] if each or not here else [here[0] + x.cpu()]
        report.step()
        if not report.going:
            raise Stopped("Stopped before all patterns were read.")

    for start in starts:
        watch(model, given.rows(start, start + BATCH), see)
    examples, names = len(given.tokens), _names(model, given, per)
    whole = torch.stack([torch.cat(some) for some in parts], 1)  # example, layer, head, and then the query where it is
    if not each:
        return Shapes(whole.flatten(0, -3) / examples, tuple(names), per, examples)
    example = torch.arange(examples).repeat_interleave(len(names))
    return Shapes(
        whole.flatten(0, -3), tuple(f"{name}#{at}" for at in range(examples) for name in names), per, examples, example
    )


def _names(model: Transformer, given: Given, per: Per) -> list[str]:
    heads = [f"a{layer}.h{head}" for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    return heads if per == "head" else [f"{head}@q{at}" for head in heads for at in range(given.n)]


def _of_heads(layer: LayerAttention, side: int, prefix: int, add: bool) -> Float[Tensor, "example head side side"]:
    """Each head's pattern in equal parts, of an image of its patches; as one sum over the examples with ``add``."""
    batch, heads, n = layer.q.shape[:3]
    real = torch.ones(batch, n, dtype=torch.bool, device=layer.q.device) if layer.real is None else layer.real.clone()
    real[:, :prefix] = False
    length = real.sum(-1, keepdim=True)
    side = min(side, n - prefix)
    part = (real.long().cumsum(-1) - 1) * side // length
    # Of a text of fewer tokens than parts, some parts are empty.
    member = (torch.nn.functional.one_hot(part.clamp(0, side - 1), side) * real[..., None]).double()
    share = member / member.sum(1, keepdim=True).clamp(min=1)
    kept = "" if add else "b"
    out = torch.zeros(*([] if add else [batch]), heads, side, side, dtype=torch.float64, device=layer.q.device)
    start = 0
    for strip in strips(layer):
        end = start + strip.p.shape[2]
        out += torch.einsum(f"bhqk,bqs,bkt->{kept}hst", strip.p.double(), share[:, start:end], member)
        start = end
    return out.reshape(-1, heads, side, side)


def _on_the_grid(
    layer: LayerAttention, prefix: int, grid: tuple[int, int], add: bool
) -> Float[Tensor, "example head query row column"]:
    """What each query, those before the patches too, gives to the patches."""
    rows = [_summed(strip.p[..., prefix:], add) for strip in strips(layer)]
    whole = torch.cat(rows, 2)
    return whole.reshape(*whole.shape[:3], *grid)


def _summed(p: Float[Tensor, "example head query key"], add: bool) -> Float[Tensor, "example head query key"]:
    return p.double().sum(0, keepdim=True) if add else p.double()


def _by_distance(layer: LayerAttention, add: bool) -> Float[Tensor, "example head query 1 bin"]:
    """What each query gives to doubling distances."""
    n = layer.q.shape[2]
    at = torch.arange(n, device=layer.q.device)
    bins, out, start = n.bit_length() + 1, [], 0
    for strip in strips(layer):
        queries = strip.p.shape[2]
        back = at[start : start + queries, None] - at
        # Bin 0 is the query itself, b holds the distances from 2^(b - 1) below 2^b.
        bin_of = (back.abs().clamp(min=1).double().log2().floor().long() + 1) * (back != 0)
        which = bins - 1 + bin_of * back.sign() if not layer.causal else bin_of
        width = 2 * bins - 1 if not layer.causal else bins
        p = _summed(strip.p, add)
        sums = p.new_zeros(*p.shape[:3], width).scatter_add_(-1, which.expand_as(p), p)
        out.append(sums)
        start += queries
    return torch.cat(out, 2)[:, :, :, None]
