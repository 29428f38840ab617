"""Attention strength by hop distance: how far from its query a head's weight lies, for every head.

In a text a hop is a token: the distance is ``|i - j|``. In an image it is a step of a king on the grid of patches:
``max(|row_i - row_j|, |column_i - column_j|)`` (Chebyshev). A profile by hop distance and its trend over layers is what
Li et al. 2023 (arXiv 2303.13731, "How does attention work in vision transformers?") show of vision transformers; the
mean distance in a layer is Raghu et al. 2021 (arXiv 2108.08810) and Dosovitskiy et al. 2021 (arXiv 2010.11929).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.census_rows import Strip, strips
from workbench.attention.layers import LayerAttention, Text, require_rows_of_one, taken, watch
from workbench.attention.observed import ByHead, plain
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.embedding import patches_of

BATCH = 32
"""Examples of one forward."""

Metric = Literal["tokens", "patches"]


@dataclass(frozen=True)
class HopProfile:
    """Weight by distance from query to key.

    Attributes:
        model: name of the model.
        metric: ``tokens`` along a text, ``patches`` on the grid of an image.
        strength: total weight at each hop, mean over queries: ``s(k) = mean_i sum_{j: |i - j| = k} p_ij``. Over the
            hops it sums to 1 less ``apart``.
        per_key: mean weight on *one* key at that hop, over all pairs of query and key that far apart; NaN where there
            is no such pair.
        uniform: ``strength`` of a head that gives every key it may see the same (images: every patch the same, nothing
            to the tokens before them). What a profile is to be compared with: it knows how many keys there are.
        apart: weight on the class and register tokens, which have no place on the grid; 0 for a text.
        rows: queries behind each number; of an image the patches alone.
        grid: rows and columns of patches; None for a text.
    """

    model: str
    metric: Metric
    strength: Float[Tensor, "layer head hop"]
    per_key: Float[Tensor, "layer head hop"]
    uniform: Float[Tensor, "layer hop"]
    apart: ByHead
    rows: int
    grid: tuple[int, int] | None = None

    @property
    def hops(self) -> Int[Tensor, " hop"]:
        """The distances, from 0."""
        return torch.arange(self.strength.shape[-1])

    @property
    def non_locality(self) -> ByHead:
        """``sum_k k s(k)`` in hops. Weight that stands apart counts as no way at all; see :attr:`reach`."""
        return (self.strength * self.hops).sum(-1)

    @property
    def reach(self) -> ByHead:
        """The mean hop of the weight that has a place: ``sum k s(k) / sum s(k)``; NaN where all weight is apart."""
        placed = self.strength.sum(-1)
        return (self.non_locality / placed.clamp(min=1e-30)).masked_fill(placed <= 1e-12, torch.nan)

    @property
    def uniform_non_locality(self) -> Float[Tensor, " layer"]:
        """Non-locality of a head that gives every visible key the same."""
        return (self.uniform * self.hops).sum(-1)

    def by_layer(self) -> Float[Tensor, " layer"]:
        """The trend: mean non-locality over the heads of each layer."""
        return self.non_locality.mean(-1)

    def slope(self) -> float:
        """Hops of non-locality for each layer, by least squares over the layers' means; NaN for a single layer."""
        y = self.by_layer()
        x = torch.arange(len(y), dtype=y.dtype)
        x = x - x.mean()
        return float((x * y).sum() / x.square().sum()) if len(y) > 1 else float("nan")

    def binned(self) -> tuple[list[tuple[int, int]], Float[Tensor, "layer head bin"]]:
        """Strength in bins that double: hops 0, 1, 2 to 3, 4 to 7, ...

        Returns:
            First and last hop of each bin, and the weight in it; over the bins it sums to what ``strength`` does.
        """
        n = self.strength.shape[-1]
        first = [0, *(2**i for i in range(n.bit_length()) if 2**i < n)]
        ends = [*first[1:], n]
        bins = [(a, b - 1) for a, b in zip(first, ends, strict=True)]
        return bins, torch.stack([self.strength[..., a : b + 1].sum(-1) for a, b in bins], -1)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "metric": self.metric,
            "rows": self.rows,
            "grid": None if self.grid is None else list(self.grid),
            "strength": plain(self.strength),
            "per_key": plain(self.per_key),
            "uniform": plain(self.uniform),
            "apart": plain(self.apart),
            "non_locality": plain(self.non_locality),
            "reach": plain(self.reach),
        }


def hop_profile(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | Text,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    token_types: Int[Tensor, "batch pos"] | None = None,
    batch: int = BATCH,
    progress: ProgressFn | None = None,
) -> HopProfile:
    """Weight at every hop distance of every head, over all real queries of all examples.

    The pattern is read a few queries at a time and dropped; a profile is all that is kept. Cost: one forward without
    the head of the model, and the scores once more.

    Args:
        model: decoder, encoder or vision transformer. Of an image, patches ask and are asked; what they give the
            class and register tokens is ``apart``, and what those ask is left out, for they stand nowhere.
        tokens: text, several texts, token ids; images for a vision model.
        attention_mask: 1 for real tokens, as in :func:`workbench.attention.statistics`.
        token_types: segments (BERT).
        batch: examples that run at once.
        progress: called after every layer of every batch; returning False stops.

    Raises:
        ValueError: input that does not fit, scores that are not finite, or a mechanism whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    if batch < 1:
        raise ValueError(f"batch is at least 1; got {batch}.")
    require_rows_of_one(model)
    given = taken(model, tokens, attention_mask, token_types)
    grid = None if model.cfg.image is None else patches_of(model, given.tokens[:1])[1]
    prefix = 0 if model.cfg.image is None else len(model.cfg.image.prefix)
    ruler: _Ruler = _Line(given.n) if grid is None else _Grid(grid, prefix)
    starts = range(0, len(given.tokens), batch)
    report = Reporter(progress, len(starts) * model.cfg.n_layers, "measuring hops")
    sums = [_Sums(model.cfg.n_heads, ruler.hops) for _ in range(model.cfg.n_layers)]

    def see(layer: LayerAttention) -> None:
        start = 0
        for strip in strips(layer):
            sums[layer.layer].add(strip, ruler, start)
            start += strip.p.shape[2]
        report.step()
        if not report.going:
            raise Stopped("Stopped before all layers were measured.")

    for first in starts:
        watch(model, given.rows(first, first + batch), see)
    rows = max(sums[0].rows, 1) if sums else 0
    pairs = torch.stack([s.pairs for s in sums])[:, None]
    weight = torch.stack([s.weight for s in sums])
    return HopProfile(
        model.name,
        "tokens" if grid is None else "patches",
        weight / rows,
        (weight / pairs.clamp(min=1)).masked_fill(pairs == 0, torch.nan),
        torch.stack([s.uniform for s in sums]) / rows,
        torch.stack([s.apart for s in sums]) / rows,
        rows,
        grid,
    )


class _Sums:
    """What one layer's strips add up to, in float64."""

    def __init__(self, heads: int, hops: int) -> None:
        self.weight = torch.zeros(heads, hops, dtype=torch.float64)
        self.uniform = torch.zeros(hops, dtype=torch.float64)
        self.pairs = torch.zeros(hops, dtype=torch.float64)
        self.apart = torch.zeros(heads, dtype=torch.float64)
        self.rows = 0

    def add(self, strip: Strip, ruler: _Ruler, start: int) -> None:
        """Take in some queries, of which the first stands at position ``start``."""
        p, seen, apart = ruler.placed(strip, start)
        seen = seen.double()
        self.weight += ruler.by_hop(p.double().sum(0), start).cpu()
        self.uniform += ruler.by_hop((seen / seen.sum(-1, keepdim=True).clamp(min=1)).sum(0), start).cpu()
        self.pairs += ruler.by_hop(seen.sum(0), start).cpu()
        self.apart += apart.double().cpu()
        self.rows += int((seen.sum(-1) > 0).sum())


class _Line:
    """Distances along a text."""

    def __init__(self, n: int) -> None:
        self.hops = n

    def placed(self, strip: Strip, _start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and visibility of what has a place, and the weight [head] that has none."""
        return strip.p, strip.seen, strip.p.new_zeros(strip.p.shape[1])

    def by_hop(self, x: Float[Tensor, "... query key"], start: int) -> Float[Tensor, "... hop"]:
        """Sums over each distance. Padding stands at an end, so that distances between real tokens are those here."""
        queries, keys = x.shape[-2:]
        # Each query's row is moved one place further to the right than the next one's; columns are then distances.
        # A row written into rows that are one shorter moves by itself.
        wide = torch.nn.functional.pad(x.flip(-2), (0, queries))
        width = keys + queries - 1
        moved = wide.flatten(-2)[..., : queries * width].reshape(*x.shape[:-1], width).sum(-2)
        distance = (start + queries - 1 - torch.arange(width, device=x.device)).abs()
        return x.new_zeros(*x.shape[:-2], self.hops).index_add_(-1, distance, moved)


class _Grid:
    """Distances on a grid of patches."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        rows, columns = grid
        place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).flatten(0, 1)
        self.between = (place[:, None] - place).abs().amax(-1)
        self.hops, self.prefix = max(rows, columns), prefix

    def placed(self, strip: Strip, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """As for a line; the tokens before the patches have no place."""
        first = max(self.prefix - start, 0)
        p, seen = strip.p[:, :, first:], strip.seen[:, first:]
        return p[..., self.prefix :], seen[..., self.prefix :], p[..., : self.prefix].double().sum((0, 2, 3))

    def by_hop(self, x: Float[Tensor, "... query key"], start: int) -> Float[Tensor, "... hop"]:
        """Sums over each distance."""
        first = max(start - self.prefix, 0)
        between = self.between[first : first + x.shape[-2]].to(x.device)
        return torch.stack([(x * (between == hop)).sum((-1, -2)) for hop in range(self.hops)], -1)


_Ruler = _Line | _Grid
