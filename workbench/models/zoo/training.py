"""The one training loop of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from workbench.models.fresh import fresh
from workbench.models.transformer import Transformer
from workbench.models.zoo.record import Schedule, ZooModel

Progress = Callable[[int, int, float], object]
"""``progress(step, steps, loss)``, after every step."""

_BETAS = 0.9, 0.98  # a shorter memory of squared gradients than Adam's 0.999: these runs have few steps
_LONGEST_GRADIENT = 1.0


def train(record: ZooModel, *, stop_after: int | None = None, progress: Progress | None = None) -> Transformer:
    """A model trained from nothing.

    One thread works, because sums over several come out in another order: so the seed alone decides the weights, on
    one kind of processor and one release of PyTorch.

    Args:
        record: what to train.
        stop_after: break off after so many steps of the schedule; None for all.
        progress: told the loss [nats] of every step.

    Returns:
        The model with frozen weights, with its tokenizer or image processor.
    """
    schedule = record.schedule
    generator = torch.Generator().manual_seed(record.seed)
    model = fresh(record.config, seed=record.seed, tokenizer=record.reader(), name=record.key)
    with _one_thread(), torch.enable_grad():
        model.requires_grad_(True)
        weights = list(model.parameters())
        optimiser = torch.optim.AdamW(weights, lr=schedule.rate, betas=_BETAS, weight_decay=schedule.decay)
        batches = record.batches(schedule.batch, generator)
        for step in range(1, min(schedule.steps, stop_after or schedule.steps) + 1):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(step, schedule)
            loss = record.loss(model, next(batches))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, _LONGEST_GRADIENT)
            optimiser.step()
            if progress is not None:
                progress(step, schedule.steps, float(loss.detach()))
    for weight in weights:
        weight.grad = None
    return model.requires_grad_(False)


def rate_at(step: int, schedule: Schedule) -> float:
    """The learning rate of a step, counted from 1."""
    falling = 0.02 + 0.98 * (1 + math.cos(math.pi * step / schedule.steps)) / 2
    return schedule.rate * min(1.0, step / schedule.warmup) * falling


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
