"""What a model that this repository trains itself is made of, in one frozen record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.transformer import Transformer

Batch = tuple[Tensor, ...]
"""What the model reads, and what it should answer, or what that is worked out from."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast AdamW works.

    Attributes:
        steps: updates of the weights.
        batch: examples of an update.
        rate: the highest learning rate; it rises to it for ``warmup`` steps and falls along a cosine to a fiftieth.
        decay: weight decay, on every weight.
        warmup: steps.
    """

    steps: int
    batch: int
    rate: float
    decay: float
    warmup: int = 100


@dataclass(frozen=True)
class ZooModel:
    """A small model with all that it takes to train it again.

    Attributes:
        key: its name in the registry, and of its folder.
        title: how people call it.
        config: sizes and choices.
        seed: of the first weights and of everything that training draws.
        schedule: see :class:`Schedule`.
        reader: makes its tokenizer, or image processor.
        batches: ``(batch, generator) -> batches``, without end.
        loss: ``(model, batch) -> loss``, in nats.
        evaluate: figures between 0 and 1, on what training never saw; more is better.
        least: what each figure must reach before weights are written.
        inside: what is known to be in the model, such as which heads do what; goes onto its card.
    """

    key: str
    title: str
    config: ModelConfig
    seed: int
    schedule: Schedule
    reader: Callable[[], Any]
    batches: Callable[[int, torch.Generator], Iterator[Batch]]
    loss: Callable[[Transformer, Batch], Tensor]
    evaluate: Callable[[Transformer], dict[str, float]]
    least: Mapping[str, float]
    inside: Callable[[Transformer], dict[str, Any]] = lambda _model: {}

    def missed(self, figures: Mapping[str, float]) -> list[str]:
        """The figures that are below the bar, each with the bar; empty for a good model."""
        return [
            f"{name} is {figures[name]:.4f} and must be {bar}"
            for name, bar in self.least.items()
            if figures[name] < bar
        ]
