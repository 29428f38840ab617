"""Masks, calls and scores on which the mechanisms are tried."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench.models.mechanisms import MECHANISMS, Call, find, options_of, parameter_shapes

HEADS, D_HEAD = 3, 4
KEYS = [mechanism.key for mechanism in MECHANISMS]
WHOLE = ["sinkhorn", "selective"]
ROWWISE = [key for key in KEYS if key not in WHOLE]
MASKS = ["all", "causal", "padded left", "padded right", "window", "holes"]


def masks(kind: str, batch: int, n: int, generator: torch.Generator) -> Tensor:
    """Visible [batch, 1, n, n] or [batch, HEADS, n, n]."""
    everything = torch.ones(batch, 1, n, n, dtype=torch.bool)
    if kind == "all":
        return everything
    if kind == "holes":
        return torch.rand(batch, HEADS, n, n, generator=generator) > 0.4
    visible = everything.tril()
    if kind in ("causal", "window"):
        return visible if kind == "causal" else visible.triu(-1)
    pads = torch.arange(n).expand(batch, n)
    if kind == "padded left":
        return visible & (pads >= torch.arange(batch)[:, None])[:, None, None]
    return visible & (pads < n - torch.arange(batch)[:, None])[:, None, None]


def made(
    key: str, seed: int = 0, dtype: torch.dtype = torch.float64, layer: int = 1, n: int = 5, **options: float
) -> Call:
    """A call with random queries and keys, and parameters moved a little from where they start."""
    mechanism, generator = find(key), torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, n, HEADS, D_HEAD, generator=generator, dtype=torch.float64) for _ in range(2))
    shapes = parameter_shapes(mechanism, HEADS, D_HEAD, HEADS * D_HEAD)
    start = {parameter.name: parameter.initial for parameter in mechanism.parameters}
    parameters = {
        name: (start[name] + 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for name, shape in shapes.items()
    }
    return Call(q.to(dtype), k.to(dtype), 0.5, parameters, options_of(mechanism, options), layer)


def scored(call: Call, key: str, spread: float, generator: torch.Generator) -> Tensor:
    """Random scores such as the mechanism may meet."""
    batch, n = call.q.shape[:2]
    maps = HEADS * (2 if key == "differential" else 1)
    scores = spread * torch.randn(batch, maps, n, n, generator=generator, dtype=call.q.dtype)
    return scores.abs() if key == "linear" else scores


def masked(scores: Tensor, visible: Tensor, knock: bool = False) -> Tensor:
    visible = visible.expand(-1, HEADS, -1, -1)
    visible = visible.repeat(1, scores.shape[1] // HEADS, 1, 1)
    return scores.masked_fill(~visible, -math.inf if knock else torch.finfo(scores.dtype).min)


SETTINGS: dict[str, dict[str, float]] = {
    "temperature": {"temperature": 2.5},
    "clipped": {"gamma": -0.13, "zeta": 1.1},
    "sigmoid": {"bias": 0.3, "log_n": 0.5},
    "sinkhorn": {"iterations": 4},
}
