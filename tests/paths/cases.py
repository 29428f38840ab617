"""Models whose paths are enumerated, each with one prompt, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.paths.reference import Run, run
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

ENUMERATED = ("gpt2", "llama-grouped", "llama-biased", "gpt-neox", "bert-masked", "vit-classes")
"""Pre-norm and post-norm, serial and parallel, with biases and without, decoder, encoder and vision."""

TOLERANCE = 1e-5
"""In float64 Hugging Face's LLaMA still norms in float32, and others weigh so."""


@dataclass(frozen=True)
class Case:
    hf: Any
    model: Transformer
    inputs: Tensor
    run: Run
    words: dict[tuple[str, ...], Tensor]

    @property
    def once(self) -> bool:
        return self.model.cfg.pooling != "none"

    @property
    def n_out(self) -> int:
        return self.model.cfg.n_out

    @property
    def width(self) -> int:
        return self.run.start.shape[0]


@cache
def case(key: str) -> Case:
    """Two layers; every path's contribution to every logit. In float64, so that nothing is laid to rounding."""
    hf = find(key).model(layers=2, seed=1, dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    if hasattr(hf.config, "image_size"):
        height, width = hf.config.image_size
        inputs = torch.randn(1, hf.config.num_channels, height, width, generator=g, dtype=torch.float64)
        given = {"pixel_values": inputs}
    else:
        inputs = torch.randint(3, hf.config.vocab_size, (1, 5), generator=g)
        given = {"input_ids": inputs}
    with torch.no_grad():
        found = run(hf, given)
        return Case(hf, from_hf(hf), inputs, found, found.contributions())


def said(words: dict[tuple[str, ...], Tensor], token: int, at: int | None) -> dict[tuple[str, ...], float]:
    """What each path says for one token."""
    return {word: float(x[token] if at is None else x[at, token]) for word, x in words.items()}


def length(word: tuple[str, ...]) -> int:
    """Sublayers that a path passes."""
    return len(word) - 1
