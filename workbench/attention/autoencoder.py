"""A small convolutional autoencoder over maps, beside principal components of the same width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.circuits.progress import ProgressFn, Reporter, Stopped

_CHANNELS, _HIDDEN = 8, 64
_RATE, _BATCH = 3e-3, 256
_REPORTS = 10
_HELD_OUT = 5  # one map of so many
_ENOUGH = 20  # maps or groups of them, of which some can be spared


@dataclass(frozen=True)
class Codes:
    """What an autoencoder makes of maps.

    Attributes:
        codes: of every map.
        explained: share of variance that the code keeps, on maps held out from training: ``1 - sum |x - x'|^2 /
            sum |x - mean|^2``, with the mean of the maps that were trained on. NaN where none was held out: a network
            learns a few maps by heart, which says nothing.
        explained_pca: the same of as many principal components of the maps that were trained on.
        held_out: how many maps those are; 0 where there were fewer than 20, and all were trained on.
        losses: mean squared error of standardised maps at each report.
    """

    codes: Float[Tensor, "n code"]
    explained: float
    explained_pca: float
    held_out: int
    losses: tuple[float, ...]


class _Net(nn.Module):
    """Two convolutions, ``width`` numbers, and back."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        super().__init__()
        size = _CHANNELS * rows * columns
        self.encoder = nn.Sequential(
            nn.Conv2d(1, _CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(size, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, width),
        )
        self.decoder = nn.Sequential(
            nn.Linear(width, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, size),
            nn.GELU(),
            nn.Unflatten(1, (_CHANNELS, rows, columns)),
            nn.Conv2d(_CHANNELS, 1, 3, padding=1),
        )


def encode(
    maps: Float[Tensor, "n row column"],
    width: int,
    steps: int,
    seed: int,
    progress: ProgressFn | None = None,
    group: Int[Tensor, " n"] | None = None,
) -> Codes:
    """Train on four fifths of the maps, measure on the rest, encode all. The same seed gives the same codes.

    Adam (Kingma and Ba 2015) with a rate that falls to nothing, batches of 256, squared error. Maps of one ``group``
    (those of one example) are held out together.

    Raises:
        Stopped: ``progress`` asked for it.
    """
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(len(maps)) if group is None else group
    groups = int(group.max()) + 1
    spared = torch.randperm(groups, generator=generator)[: groups // _HELD_OUT if groups >= _ENOUGH else 0]
    held_out = torch.isin(group, spared)
    train, test = maps[~held_out], maps[held_out]
    mean, scale = train.mean(0), train.std().clamp(min=1e-12)

    def standard(x: Tensor) -> Tensor:
        return ((x - mean) / scale).float()[:, None]

    # The generator of all torch is put back to where it was.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = _Net(maps.shape[1], maps.shape[2], width)
        losses = _trained(net, standard(train), steps, generator, progress)
    with torch.no_grad():
        codes = net.encoder(standard(maps)).double()
        back = net.decoder(net.encoder(standard(test)))[:, 0].double() * scale + mean
    variance = (test - mean).square().sum()  # 0 / 0 is NaN where nothing was held out
    return Codes(
        codes,
        float(1 - (test - back).square().sum() / variance),
        float(1 - (test - _principal(train, test, width)).square().sum() / variance),
        len(test),
        losses,
    )


def _trained(
    net: _Net, x: Tensor, steps: int, generator: torch.Generator, progress: ProgressFn | None
) -> tuple[float, ...]:
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    often = max(1, steps // _REPORTS)
    report = Reporter(progress, steps // often, "training the map of patterns")
    losses = []
    for step in range(1, steps + 1):
        some = x if len(x) <= _BATCH else x[torch.randint(len(x), (_BATCH,), generator=generator)]
        loss = (net.decoder(net.encoder(some)) - some).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % often == 0:
            losses.append(float(loss.detach()))
            report.step()
            if not report.going:
                raise Stopped("Stopped before the map of patterns was trained.")
    return tuple(losses)


def _principal(
    train: Float[Tensor, "n row column"], test: Float[Tensor, "m row column"], width: int
) -> Float[Tensor, "m row column"]:
    """``test`` from ``width`` principal components of ``train``."""
    mean = train.mean(0)
    _, _, directions = torch.linalg.svd((train - mean).flatten(1), full_matrices=False)
    kept = directions[:width]
    back: Tensor = ((test - mean).flatten(1) @ kept.T @ kept).view_as(test) + mean
    return back
