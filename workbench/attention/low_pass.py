"""Low-pass behaviour of attention: how much of a stream is the same at all positions, and what attention adds to that.

Along positions, a stream ``x`` [n, d_model] is its mean, the constant component ``DC[x] = 1 1^T x / n``, and the rest,
``HC[x] = x - DC[x]``. Attention averages, and so loses ``HC`` with depth: Wang et al. 2022 (arXiv 2203.05962,
"Anti-oversmoothing in deep vision transformers via the Fourier domain analysis"), who follow ``||HC|| / ||DC||``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.attention.census_rows import strips
from workbench.attention.hops import BATCH
from workbench.attention.layers import Given, LayerAttention, Text, require_rows_of_one, taken, watch
from workbench.attention.observed import ByHead, plain
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.embedding import patches_of
from workbench.models.taps import Tap

ITERATIONS = 20
WHOLE = 256
"""Positions up to which the largest factor is a singular value of the pattern; beyond, it is iterated."""

_PARTS = ("resid", "attn", "mlp")


@dataclass(frozen=True)
class LowPass:
    """What is constant along positions, by depth; means over examples.

    ``share`` and ``ratio`` have an entry for ``resid``, the stream before every layer and after the last, and for
    ``attn`` and ``mlp``, what a layer adds to it (the latter missing where a model has none).

    Attributes:
        model: name of the model.
        share: ``||DC[x]||^2 / ||x||^2``, between 0 and 1: energy of the constant component.
        ratio: ``||HC[x]|| / ||DC[x]||`` (Frobenius): what is left beside it. Inf where the mean is exactly 0.
        rings: share of the energy of each ring of spatial frequencies, in whole cycles for each image: ring 0 is the
            constant, and all sum to 1. None for a text.
        white: factor by which a head's pattern shrinks random high frequencies, ``||HC A||_F / sqrt(n - 1)``, root mean
            square over directions.
        worst: the same for the direction that it shrinks least, ``||HC A HC||_2``: above 1 where it makes one longer.
            None unless asked.
        measured: what happens to the head's own values, ``||HC[A v]|| / ||HC[v]||``; NaN where values are mixed.
        skip: first positions that were left out of ``share`` and ``ratio``.
        grid: rows and columns of patches; None for a text.
    """

    model: str
    share: dict[str, Float[Tensor, " depth"]]
    ratio: dict[str, Float[Tensor, " depth"]]
    rings: dict[str, Float[Tensor, "depth ring"]] | None
    white: ByHead
    worst: ByHead | None
    measured: ByHead
    skip: int
    grid: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "skip": self.skip,
            "grid": None if self.grid is None else list(self.grid),
            "share": {part: plain(x) for part, x in self.share.items()},
            "ratio": {part: plain(x.nan_to_num(posinf=torch.nan)) for part, x in self.ratio.items()},
            "rings": None if self.rings is None else {part: plain(x) for part, x in self.rings.items()},
            "white": plain(self.white),
            "worst": None if self.worst is None else plain(self.worst),
            "measured": plain(self.measured),
        }


def low_pass(
    model: Transformer,
    tokens: Tensor | Text,
    *,
    attention_mask: Tensor | None = None,
    token_types: Tensor | None = None,
    skip: int = 0,
    worst: bool = False,
    iterations: int = ITERATIONS,
    batch: int = BATCH,
    seed: int = 0,
    progress: ProgressFn | None = None,
) -> LowPass:
    """How constant the stream is at every depth, and by how much each head's pattern smooths.

    Of an image, streams are read at the patches alone, whose grid has a spectrum; patterns at all positions, for only
    whole rows sum to 1. Then ``A DC[x] = DC[x]``, and what is left of high frequencies is ``HC A HC[x]``. Patterns are
    read a few queries at a time.

    Cost: one forward without the head and each layer's scores once more; with ``worst``, beyond 256 positions once
    more for each iteration.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: text, several texts, token ids; images for a vision model. Padding counts nowhere.
        attention_mask: 1 for real tokens, as in :func:`workbench.attention.statistics`.
        token_types: segments (BERT).
        skip: first real positions to leave out of the streams: in many decoders the first token is so long that it
            alone decides. No such position of an image can be left out.
        worst: also find the direction that shrinks least; by power iteration from a random start where the pattern is
            large, which comes from below.
        iterations: of that.
        batch: examples that run at once.
        seed: of the random start.
        progress: called after every layer of every batch; returning False stops.

    Raises:
        ValueError: input that does not fit, an example of fewer than two positions that count, scores that are not
            finite, or a mechanism whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    if batch < 1 or iterations < 1 or skip < 0:
        raise ValueError(f"batch and iterations are at least 1, skip 0; got {batch}, {iterations} and {skip}.")
    require_rows_of_one(model)
    given = taken(model, tokens, attention_mask, token_types)
    grid = None if model.cfg.image is None else patches_of(model, given.tokens[:1])[1]
    counted = _counted(model, given, skip)
    found: dict[str, list[Tensor]] = {}
    starts = range(0, len(given.tokens), batch)
    report = Reporter(progress, len(starts) * model.cfg.n_layers, "measuring low-pass behaviour")

    def keep(name: str, x: Tensor) -> None:
        found.setdefault(name, []).append(x.double().cpu())

    for start in starts:
        some, here = given.rows(start, start + batch), counted[start : start + batch]

        def see(layer: LayerAttention) -> None:
            white, measured = _factors(layer)
            keep(f"white{layer.layer}", white)
            keep(f"measured{layer.layer}", measured)
            if worst:
                keep(f"worst{layer.layer}", _worst(layer, iterations, seed))
            report.step()
            if not report.going:
                raise Stopped("Stopped before all layers were measured.")

        watch(model, some, see, _taps(model, here, grid, keep))
    return _result(model, {name: torch.cat(parts) for name, parts in found.items()}, skip, grid)


def _counted(model: Transformer, given: Given, skip: int) -> Bool[Tensor, "batch pos"]:
    """Positions of the stream that are measured."""
    real = given.real if given.real is not None else torch.ones(len(given.tokens), given.n, dtype=torch.bool)
    real = real.to(model.device)
    if model.cfg.image is not None:
        if skip:
            raise ValueError("skip leaves out the first tokens of a text; of an image all patches count, so give 0.")
        real[:, : len(model.cfg.image.prefix)] = False
    counted = real & (real.cumsum(-1) > skip)
    if int(counted.sum(-1).min()) < 2:
        row = int(counted.sum(-1).argmin())
        raise ValueError(f"Example {row} has fewer than 2 positions that count; give a longer text or a smaller skip.")
    return counted


def _taps(
    model: Transformer, counted: Tensor, grid: tuple[int, int] | None, keep: Callable[[str, Tensor], None]
) -> dict[str, Tap]:
    """Read the streams where they pass."""

    def read(name: str) -> Tap:
        def tap(x: Tensor) -> None:
            share, ratio = constant_share(x, counted)
            keep(f"share.{name}", share)
            keep(f"ratio.{name}", ratio)
            if grid is not None:
                patches = x[:, -grid[0] * grid[1] :]
                keep(f"rings.{name}", ring_shares(patches.reshape(len(x), *grid, -1)))

        return tap

    taps = {}
    for layer in range(model.cfg.n_layers):
        taps[f"blocks.{layer}.hook_resid_pre"] = read(f"resid.{layer}")
        taps[f"blocks.{layer}.hook_attn_out"] = read(f"attn.{layer}")
        if not model.cfg.attn_only:
            taps[f"blocks.{layer}.hook_mlp_out"] = read(f"mlp.{layer}")
    last = model.cfg.n_layers
    return taps | {f"blocks.{last - 1}.hook_resid_post": read(f"resid.{last}")}


def constant_share(
    x: Float[Tensor, "batch pos d_model"], counted: Bool[Tensor, "batch pos"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """``||DC||^2 / ||x||^2`` and ``||HC|| / ||DC||`` of every example, over the positions that count."""
    here = counted[..., None].double()
    n = here.sum(1, keepdim=True)
    mean = (x.double() * here).sum(1, keepdim=True) / n
    low = n[:, 0, 0] * mean.square().sum((1, 2))
    high = ((x.double() - mean) * here).square().sum((1, 2))
    return low / (low + high), (high / low).sqrt()


def ring_shares(x: Float[Tensor, "batch row column d_model"]) -> Float[Tensor, "batch ring"]:
    """Share of energy by spatial frequency: the 2-D Fourier spectrum, summed over the width and over rings.

    A frequency's ring is its length in whole cycles for each image, rounded.
    """
    rows, columns = x.shape[1:3]
    power = torch.fft.fft2(x.double(), dim=(1, 2)).abs().square().sum(-1).flatten(1)
    along = [torch.fft.fftfreq(side, 1 / side, dtype=torch.float64) for side in (rows, columns)]
    ring = (along[0][:, None].square() + along[1].square()).sqrt().round().long().flatten().to(x.device)
    rings = power.new_zeros(len(x), int(ring.max()) + 1).index_add_(1, ring, power)
    shares: Tensor = rings / power.sum(1, keepdim=True)
    return shares


def _real(layer: LayerAttention) -> Float[Tensor, "batch pos"]:
    real = layer.real
    return layer.q.new_ones(len(layer.q), layer.q.shape[2]).double() if real is None else real.double()


def _factors(layer: LayerAttention) -> tuple[Float[Tensor, "batch head"], Float[Tensor, "batch head"]]:
    """(white, measured) of every example; ``||HC A||^2 = sum_ij A_ij^2 - sum_j (sum_i A_ij)^2 / n``."""
    real = _real(layer)
    n = real.sum(-1)[:, None]
    batch, heads, length = layer.q.shape[:3]
    squares, columns = real.new_zeros(batch, heads), real.new_zeros(batch, heads, length)
    out = []
    v = None if layer.v is None else layer.v.repeat_interleave(heads // layer.v.shape[1], 1).double()
    for strip in strips(layer):
        p = strip.p.double()
        squares += p.square().sum((-1, -2))
        columns += p.sum(-2)
        if v is not None:
            out.append(p @ v)
    white = ((squares - columns.square().sum(-1) / n).clamp(min=0) / (n - 1)).sqrt()
    if v is None:
        return white, torch.full_like(white, torch.nan)
    return white, _high(torch.cat(out, 2), real) / _high(v, real)


def _high(x: Float[Tensor, "batch head pos d_head"], real: Tensor) -> Float[Tensor, "batch head"]:
    """``||HC[x]||`` over real positions."""
    return _centred(x, real).square().sum((-1, -2)).sqrt()


def _centred(x: Float[Tensor, "batch head pos d_head"], real: Tensor) -> Float[Tensor, "batch head pos d_head"]:
    here = real[:, None, :, None]
    return (x - (x * here).sum(2, keepdim=True) / here.sum(2, keepdim=True)) * here


def _worst(layer: LayerAttention, iterations: int, seed: int) -> Float[Tensor, "batch head"]:
    """``||HC A HC||_2`` of every example."""
    real = _real(layer)
    batch, heads, n = layer.q.shape[:3]
    if n <= WHOLE:
        p = torch.cat([strip.p for strip in strips(layer)], 2).double()
        largest: Tensor = torch.linalg.matrix_norm(_centred(p, real), 2)
        return largest
    start = torch.randn(1, 1, n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = _centred(start.to(real.device).expand(batch, heads, n, 1), real)
    for _ in range(iterations):
        x = x / x.norm(dim=2, keepdim=True).clamp(min=1e-300)
        x = _centred(_round(layer, x, real), real)
    # x is HC A^T HC A of a unit vector: its length is the largest eigenvalue when that vector is its direction.
    found: Tensor = x.norm(dim=2)[..., 0].sqrt()
    return found


def _round(layer: LayerAttention, x: Tensor, real: Tensor) -> Tensor:
    """``A^T HC A x`` in one sweep, with HC's mean taken away at the end."""
    back, columns, total = torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(*x.shape[:2], 1, 1)
    for strip in strips(layer):
        p = strip.p.double()
        y = p @ x
        back += p.transpose(-1, -2) @ y
        columns += p.sum(2)[..., None]
        total += y.sum(2, keepdim=True)
    return back - columns * total / real.sum(-1)[:, None, None, None]


def _result(model: Transformer, found: dict[str, Tensor], skip: int, grid: tuple[int, int] | None) -> LowPass:
    def by_depth(kind: str) -> dict[str, Tensor]:
        parts = {
            part: [
                found[f"{kind}.{part}.{at}"].mean(0)
                for at in range(model.cfg.n_layers + 1)
                if f"{kind}.{part}.{at}" in found
            ]
            for part in _PARTS
        }
        return {part: torch.stack(means) for part, means in parts.items() if means}

    def by_head(kind: str) -> Tensor:
        return torch.stack([found[f"{kind}{layer}"].nanmean(0) for layer in range(model.cfg.n_layers)])

    return LowPass(
        model.name,
        by_depth("share"),
        by_depth("ratio"),
        None if grid is None else by_depth("rings"),
        by_head("white"),
        by_head("worst") if "worst0" in found else None,
        by_head("measured"),
        skip,
        grid,
    )
