"""Spectra along positions: how much of a stream, and of what is added to it, changes fast from place to place.

:func:`workbench.attention.low_pass.low_pass` measures the constant component and what each head's pattern does to the
rest; here is the whole spectrum, of texts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.attention.layers import Given
from workbench.attention.low_pass import ring_shares
from workbench.attention.observed import plain
from workbench.attention.running import Mean, Running
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.lens.depth import LEVEL, check_level
from workbench.lens.places import given_texts, masks_of
from workbench.models import Transformer
from workbench.models.embedding import patches_of
from workbench.models.taps import Tap

Part = Literal["resid", "attn", "mlp"]
BINS = 16
CUT = 0.25


@dataclass(frozen=True)
class Spectra:
    """Shares of energy by frequency; means over texts or images, each of which counts once.

    Attributes:
        model: name of the model.
        bands: by part (``resid``: the stream before every layer and after the last; ``attn``, ``mlp``: what a layer
            adds), shares [depth, band] that sum to 1. Band 0 is the constant component.
        edges: frequency up to which each band reaches, in ``unit``; 0 for the constant.
        unit: ``cycles per position``; of images ``cycles per image``, rings of the two-dimensional spectrum.
        cut: frequency, in cycles per position, up to which a band counts as low.
        low: by part [depth, 3], shares of the constant, the low and the high bands.
        skip: first positions that were left out.
        n: texts or images.
        complete: False where it was stopped before the last.
    """

    model: str
    bands: dict[Part, Mean]
    edges: tuple[float, ...]
    unit: str
    cut: float
    low: dict[Part, Mean]
    skip: int
    n: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Means and half their intervals, as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "edges": list(self.edges),
            "unit": self.unit,
            "cut": self.cut,
            "skip": self.skip,
            "n": self.n,
            "complete": self.complete,
            "level": next(iter(self.bands.values())).level,
            "bands": {part: plain(found.mean) for part, found in self.bands.items()},
            "bands_half_widths": {part: plain(found.half_width) for part, found in self.bands.items()},
            "low": {part: plain(found.mean) for part, found in self.low.items()},
            "low_half_widths": {part: plain(found.half_width) for part, found in self.low.items()},
        }


@torch.no_grad()
def spectra(
    model: Transformer,
    data: Sequence[str] | Sequence[Tensor] | Tensor,
    *,
    skip: int = 0,
    bins: int = BINS,
    cut: float = CUT,
    level: float = LEVEL,
    batch_size: int = 8,
    progress: ProgressFn | None = None,
) -> Spectra:
    """Energy of the residual stream, of attention outputs and of MLP outputs by frequency, layer by layer.

    The squared Fourier coefficients along positions are summed over channels and divided by their total, which is the
    energy of the activation (Parseval). Of an image the transform is over rows and columns of patches, the model's own
    tokens left out, and frequencies of like length share a ring (Park and Kim 2022, arXiv 2202.06709, section 3, read
    Fourier-transformed feature maps of vision transformers by depth; Wang et al. 2022, arXiv 2203.05962, call all but
    the constant high-frequency). A text is no circle: where its ends differ, that jump counts as well.

    Cost: one forward without the head, and a transform of every activation.

    Args:
        model: any model.
        data: texts, batches of tokens, or images.
        skip: first real positions of a text to leave out. In many decoders the first token is so long that its spike,
            which has all frequencies alike, is all that there is to see.
        bins: bands of a text's frequencies above 0, of equal width up to half a cycle per position.
        cut: frequency up to which a band counts as low, in cycles per position, above 0 and below 0.5.
        level: of the intervals.
        batch_size: texts at a time.
        progress: called after every batch; returning False stops and keeps what is finished.

    Raises:
        ValueError: options out of range, ``skip`` for images, or a text with fewer than two positions beyond ``skip``.
    """
    check_level(level)
    if bins < 2 or skip < 0 or not 0 < cut < 0.5:
        raise ValueError(f"bins is at least 2, skip at least 0, cut between 0 and 0.5; got {bins}, {skip} and {cut}.")
    if skip and model.cfg.image is not None:
        raise ValueError("skip leaves out the first tokens of a text; of an image all patches count, so give 0.")
    batches = given_texts(model, data, batch_size)
    counted = [_counted(model, given, skip) for given in batches]
    if model.cfg.image is not None and len({given.n for given in batches}) > 1:
        raise ValueError("Images of one size have rings of the same frequencies; give images of one size.")
    edges, measure = _measure(model, batches[0], bins)
    grid = None if model.cfg.image is None else patches_of(model, batches[0].tokens[:1])[1]
    places = torch.tensor(edges) <= cut * (1 if grid is None else min(grid)) + 1e-9
    places[0] = False
    found: dict[str, tuple[Running, Running]] = {}
    report = Reporter(progress, len(batches), "measuring spectra")
    for given, here in zip(batches, counted, strict=True):
        _watch(model, given, here, measure, lambda name, share: _add(found, name, share, places))
        report.step()
        if not report.going:
            break
    n = int(next(iter(found.values()))[0].n.flatten()[0])
    bands, low = (_by_part(found, which, level) for which in (0, 1))
    unit = "cycles per position" if grid is None else "cycles per image"
    return Spectra(model.name, bands, edges, unit, cut, low, skip, n, report.done == report.total)


def band_shares(x: Float[Tensor, "pos d_model"], bins: int) -> Float[Tensor, " band"]:
    """Share of energy by frequency along positions: the constant, then ``bins`` bands up to half a cycle per position.

    Band i has the frequencies above (i - 1) / (2 bins) and up to i / (2 bins), none where there are few positions. NaN
    where everything is 0.
    """
    n = len(x)
    power = torch.fft.rfft(x.double(), dim=0).abs().square().sum(-1)
    # Every frequency but the constant and, of an even number, the highest stands for its negative as well.
    both = torch.full_like(power, 2.0)
    both[0] = 1.0
    if n % 2 == 0:
        both[-1] = 1.0
    power = power * both
    # In whole numbers, so that a frequency on an edge falls where it should.
    band = -(-2 * bins * torch.arange(len(power), device=x.device) // n)
    bands: Tensor = power.new_zeros(bins + 1).index_add_(0, band, power)
    shares: Tensor = bands / power.sum()
    return shares


Measure = Callable[[Tensor, Tensor], Tensor]


def _measure(model: Transformer, given: Given, bins: int) -> tuple[tuple[float, ...], Measure]:
    """Edges of the bands, and what gives shares [batch, band] of an activation and its counted positions."""
    if model.cfg.image is None:

        def along(x: Tensor, counted: Tensor) -> Tensor:
            return torch.stack([band_shares(row[where], bins) for row, where in zip(x, counted, strict=True)])

        return tuple(i / (2 * bins) for i in range(bins + 1)), along

    grid = patches_of(model, given.tokens[:1])[1]

    def over(x: Tensor, _: Tensor) -> Tensor:
        patches = x[:, -grid[0] * grid[1] :]
        return ring_shares(patches.reshape(len(x), *grid, -1))

    rings = ring_shares(torch.ones(1, *grid, 1)).shape[1]
    return tuple(float(ring) for ring in range(rings)), over


def _counted(model: Transformer, given: Given, skip: int) -> Bool[Tensor, "batch pos"]:
    real = given.real
    if real is None:
        real = torch.ones(len(given.tokens), given.n, dtype=torch.bool, device=model.device)
    counted = real & (real.cumsum(-1) > skip)
    if int(counted.sum(-1).min()) < 2:
        raise ValueError(
            f"A text has fewer than 2 positions beyond the first {skip}, and so no spectrum; leave it out, or give a "
            "smaller skip."
        )
    return counted


def _watch(
    model: Transformer, given: Given, counted: Tensor, measure: Measure, see: Callable[[str, Tensor], None]
) -> None:
    """One forward that shows the shares of every activation."""
    n = model.cfg.n_layers

    def reader(name: str) -> Tap:
        def tap(x: Tensor) -> None:
            see(name, measure(x, counted).cpu())

        return tap

    taps: dict[str, Tap] = {}
    for layer in range(n):
        taps[f"blocks.{layer}.hook_resid_pre"] = reader(f"resid.{layer}")
        taps[f"blocks.{layer}.hook_attn_out"] = reader(f"attn.{layer}")
        if not model.cfg.attn_only:
            taps[f"blocks.{layer}.hook_mlp_out"] = reader(f"mlp.{layer}")
    taps[f"blocks.{n - 1}.hook_resid_post"] = reader(f"resid.{n}")
    model(given.tokens, taps, stop_at_layer=n, **masks_of(given))


def _add(found: dict[str, tuple[Running, Running]], name: str, share: Tensor, low: Tensor) -> None:
    bands, three = found.setdefault(name, (Running(), Running()))
    high = ~low
    high[0] = False
    bands.add(share.T)
    three.add(torch.stack([share[:, 0], share[:, low].sum(1), share[:, high].sum(1)]))


def _by_part(found: dict[str, tuple[Running, Running]], which: int, level: float) -> dict[Part, Mean]:
    parts: tuple[Part, ...] = ("resid", "attn", "mlp")
    out: dict[Part, Mean] = {}
    for part in parts:
        depth = sorted((int(name.split(".")[1]), name) for name in found if name.startswith(f"{part}."))
        if not depth:
            continue
        means = [found[name][which].result(level) for _, name in depth]
        mean, spread, n = (
            torch.stack(parts) for parts in zip(*((one.mean, one.spread, one.n) for one in means), strict=True)
        )
        out[part] = Mean(mean, spread, n, level)
    return out
