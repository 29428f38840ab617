"""Hard-concrete masks: random numbers in [0, 1] that are exactly 0 or 1 with some chance, yet have gradients.

Louizos, Welling and Kingma 2018 (arXiv 1712.01312), section 2.2 and equations 10 to 13. With u uniform in (0, 1),

    s = sigmoid((log u - log(1 - u) + log_alpha) / TEMPERATURE)
    z = clamp(s * (HIGH - LOW) + LOW, 0, 1),          LOW = -0.1, HIGH = 1.1, TEMPERATURE = 2/3

so that P(z > t) = sigmoid(log_alpha - TEMPERATURE * logit((t - LOW) / (HIGH - LOW))) for t in [0, 1).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3


def sample(log_alpha: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
    """One mask; differentiable with respect to ``log_alpha`` where it is neither 0 nor 1."""
    u = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(log_alpha)
    return stretched((u.log() - (-u).log1p() + log_alpha) / TEMPERATURE)


def stretched(logit: Tensor) -> Tensor:
    """The sigmoid stretched to (LOW, HIGH) and clamped to [0, 1]."""
    return (torch.sigmoid(logit) * (HIGH - LOW) + LOW).clamp(0, 1)


def keep_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0): the chance that the mask lets anything through."""
    return exceeds(log_alpha, 0.0)


def exceeds(log_alpha: Tensor, t: float) -> Tensor:
    """P(z > t) for t in [0, 1); from below 1 it tends to P(z = 1)."""
    share = (t - LOW) / (HIGH - LOW)
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(share / (1 - share)))


def expected(log_alpha: Tensor, points: int = 64) -> Tensor:
    """E[z], the integral of P(z > t) over t in [0, 1] by the midpoint rule.

    It grows with ``log_alpha``, as :func:`keep_probability` does: both give the same ranking.
    """
    return torch.stack([exceeds(log_alpha, (i + 0.5) / points) for i in range(points)]).mean(0)
