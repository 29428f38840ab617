"""Models, prompts and places that the tests of the decomposition draw from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

LENGTHS = (6, 4, 3)


@cache
def pair(key: str, double: bool = False, weights: str = "wild") -> tuple[Any, Transformer]:
    """Hugging Face's model of a sample, and ours, in float32 or float64; in both the same weights."""
    hf = find(key).model(dtype=torch.float64 if double else torch.float32, weights=weights)  # type: ignore[arg-type]
    return hf, from_hf(hf)


def model_of(key: str, **options: Any) -> Transformer:
    return pair(key, **options)[1]


@dataclass(frozen=True)
class Inputs:
    """Prompts, others of the same shape, and which positions are real."""

    tokens: Tensor
    others: Tensor
    mask: Tensor | None
    lengths: list[int]


def inputs_for(model: Transformer, seed: int = 0, padded: bool = True) -> Inputs:
    """Three random texts, of unlike length for an encoder, or three images."""
    g = torch.Generator().manual_seed(seed)
    image = model.cfg.image
    if image is not None:
        tokens, others = torch.randn(2, 3, image.channels, image.height, image.width, generator=g).to(model.dtype)
        return Inputs(tokens, others, None, [len(image.prefix) + image.n_patches] * 3)
    unlike = padded and not model.cfg.causal
    lengths = list(LENGTHS) if unlike else [max(LENGTHS)] * 3
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    draw = torch.randint(3, model.cfg.d_vocab, (2, 3, max(lengths)), generator=g)
    tokens, others = draw.masked_fill(~real, model.cfg.pad_token or 0)
    return Inputs(tokens, others, real.long() if unlike else None, lengths)


@dataclass(frozen=True)
class Place:
    """A place, as a test draws it: ``kind`` is ``resid``, ``head``, ``heads`` or ``mlp``."""

    kind: str
    layer: int
    head: int = 0
    first: int | None = None
    last: int = 0

    @property
    def name(self) -> str:
        place = {"resid": "resid{0}", "head": "a{0}.h{1}", "heads": "a{0}", "mlp": "m{0}"}[self.kind]
        at = (
            ""
            if self.first is None
            else f"@{self.first}-{self.last}"
            if self.last > self.first >= 0
            else f"@{self.first}"
        )
        return place.format(self.layer, self.head) + at

    def chosen(self, lengths: list[int], width: int) -> Tensor:
        """[batch, pos] True where it is meant, position by position."""
        out = torch.zeros(len(lengths), width, dtype=torch.bool)
        for row, n in enumerate(lengths):
            for at in range(n):
                wanted = self.first is None or self.first <= at <= self.last or at - n == self.first
                out[row, at] = wanted
        return out


def draw_place(
    rng: random.Random, model: Transformer, lengths: list[int], kinds: str = "resid head heads mlp"
) -> Place:
    """A random place of the model."""
    cfg = model.cfg
    chosen = [kind for kind in kinds.split() if not (kind == "mlp" and cfg.attn_only)]
    kind = rng.choice(chosen)
    layer = rng.randrange(cfg.n_layers + (kind == "resid"))
    shortest = min(lengths)
    where = rng.choice(["all", "first", "last", "range"])
    first = {"all": None, "first": rng.randrange(shortest), "last": -rng.randint(1, shortest), "range": 1}[where]
    last = rng.randint(2, shortest - 1) if where == "range" else (first or 0)
    return Place(kind, layer, rng.randrange(cfg.n_heads), first, last)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4, least: float = 0.0) -> None:
    """Equal, but for so many parts of the largest number (``least`` at least)."""
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    size = max(float(expected.abs().max()), least)
    torch.testing.assert_close(found, expected, atol=tolerance * size, rtol=0)
