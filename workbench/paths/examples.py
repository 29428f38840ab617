"""Examples that a model is judged on: in batches with what is right, and in parts for what is chosen and reported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.attention.asked import Asked, asked
from workbench.attention.layers import Given, taken
from workbench.models import Transformer

Data = Sequence[str] | Tensor
"""Texts; or rows of tokens [example, pos]; or images [example, channel, height, width]."""


def ask(model: Transformer, data: Data, labels: Tensor | Sequence[int] | None, size: int) -> list[Asked]:
    """Data in batches with what is right, all checked before anything runs.

    Raises:
        ValueError: nothing to judge, no data, labels that are missing or do not fit.
    """
    cfg = model.cfg
    if cfg.head == "none" or cfg.n_out < 2:
        raise ValueError(f"{model.name} has no answers to be right or wrong; take a classifier or a language model.")
    if cfg.pooling == "none" and not cfg.causal:
        raise ValueError(f"{model.name} fills masks; take a classifier, or a causal language model.")
    if isinstance(data, str):
        raise ValueError("Give a list of texts; intervals are over texts. One text goes into a list: [text].")
    if not len(data):
        raise ValueError("There is no data: give at least one text, row of tokens or image.")
    if size < 1:
        raise ValueError(f"A batch holds at least one example; got batch_size={size}.")
    right = _labels(model, labels, len(data))
    found = []
    for start in range(0, len(data), size):
        given: Given = taken(model, data[start : start + size])
        found.append(asked(model, given, None if right is None else right[start : start + size]))
    return found


def _labels(model: Transformer, labels: Tensor | Sequence[int] | None, n: int) -> Tensor | None:
    if model.cfg.pooling == "none":
        if labels is not None:
            raise ValueError(f"{model.name} is judged on the next tokens of the texts; leave labels out.")
        return None
    if labels is None:
        raise ValueError(f"{model.name} is a classifier: give labels, the right class of each example.")
    right = torch.as_tensor(labels)
    if tuple(right.shape) != (n,):
        raise ValueError(f"labels are one class for each of the {n} examples; got {list(right.shape)}.")
    return right


def split(
    n: int, shares: Sequence[float], seed: int | None, parts: Tensor | Sequence[int] | None = None
) -> list[Bool[Tensor, " example"]]:
    """Which examples each purpose has: drawn at random, in the order of the data without a seed, or as ``parts`` says.

    Args:
        n: examples.
        shares: of each purpose; they sum to 1.
        seed: of the draw; None for the order of the data.
        parts: [example] the purpose of each, from 0; it overrides the others. Negative leaves an example out.

    Raises:
        ValueError: shares that are none, or a purpose with fewer than two examples.
    """
    if parts is not None:
        given = torch.as_tensor(parts)
        if tuple(given.shape) != (n,) or given.is_floating_point() or int(given.max()) >= len(shares):
            raise ValueError(f"parts are {n} whole numbers below {len(shares)}, one for each example.")
    else:
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"The shares of the data are above 0 and sum to 1; got {tuple(shares)}.")
        order = torch.arange(n) if seed is None else torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        ends = (torch.tensor(shares, dtype=torch.float64).cumsum(0) * n).round().long()
        given = torch.empty(n, dtype=torch.long)
        given[order] = torch.bucketize(torch.arange(n), ends, right=True).clamp(max=len(shares) - 1)
    found = [given == purpose for purpose in range(len(shares))]
    least = min(int(one.sum()) for one in found)
    if least < 2:
        raise ValueError(
            f"A part of the data has {least} of {n} examples; every part needs two, and more for an interval that says "
            "something. Give more examples (a long text in several windows)."
        )
    return found
