"""Mechanisms whose weights can be exactly zero: the alpha-entmax family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.models.mechanisms.record import Call, Pattern, Scores, Visible, opened, row_max

# Nearer to 1 the powers lose digits, beyond 2 the derivatives are unbounded.
ALPHAS = (1.01, 2.0)
# Ten reached float64's precision on every row of up to 8192 keys that was tried, whatever alpha.
STEPS = 12


class Implicit(torch.autograd.Function):
    """Hands a solved pattern on, and gives it the derivatives of alpha-entmax.

    With ``u = p^(2 - alpha)`` where p > 0 and 0 elsewhere, ``q = u / sum u`` and ``h = -p log p`` (Correia et al.
    2019, arXiv 1909.00015, proposition 1): ``dp/ds = diag(u) - u u^T / sum u`` and
    ``dp/dalpha = (p - q) / (alpha - 1)^2 + (h - q sum h) / (alpha - 1)``.
    """

    @staticmethod
    def forward(s: Tensor, alpha: Tensor, pattern: Tensor) -> Tensor:  # noqa: ARG004
        """``pattern`` [..., key], which the caller has solved for scores ``s`` of that shape and ``alpha``."""
        return pattern.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep what the derivatives need: the pattern says it all."""
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients at the scores and at alpha."""
        (gradient,) = gradients
        alpha, p = ctx.saved_tensors
        inside = p > 0
        log_p = p.masked_fill(~inside, 1).log()
        u = ((2 - alpha) * log_p).exp().masked_fill(~inside, 0)
        # A row without any visible key has no u at all.
        q = u / u.sum(-1, keepdim=True).masked_fill(~inside.any(-1, keepdim=True), 1)
        at_scores = u * (gradient - (q * gradient).sum(-1, keepdim=True)) if ctx.needs_input_grad[0] else None
        at_alpha = None
        if ctx.needs_input_grad[1]:
            h = -p * log_p
            slope = (p - q) / (alpha - 1) ** 2 + (h - q * h.sum(-1, keepdim=True)) / (alpha - 1)
            at_alpha = (gradient * slope).sum_to_size(alpha.shape)
        return at_scores, at_alpha, None


def below_top(s: Scores, visible: Visible, alpha: Tensor | float) -> Tensor:
    """``x = (alpha - 1) (s - max s)`` cut off at -1: a key that far below the highest never gets weight.

    Follows from ``p = [x - tau]_+^(1 / (alpha - 1))`` summing to 1: the highest key, at x = 0, may have at most 1,
    so tau >= -1.
    """
    return ((alpha - 1) * (s - row_max(s, visible))).clamp(min=-1).masked_fill(~visible, -1)


@torch.no_grad()
def solve(x: Tensor, alpha: Tensor | float, steps: int) -> Tensor:
    """``[x - tau]_+^c`` with ``c = 1 / (alpha - 1) >= 1`` and sum 1 along the last axis, for ``x`` [..., key].

    Newton's method on ``N(tau) = |[x - tau]_+|_c - 1``, the c-norm. N is convex and falls, so from tau = -1, where
    it is not below 0, every step stays at or below the root: no bracket is needed. And a norm is nearly straight
    where the sum of powers is not, so a few steps do. Nothing is sorted and no squares are subtracted, which costs
    the closed forms for alpha = 1.5 and 2 three digits on long flat rows.
    """
    c = 1 / (alpha - 1)
    tau = torch.full_like(x[..., :1], -1)
    b = step = tau
    for _ in range(steps):
        b = (x - tau).clamp(min=0)
        powers = b.pow(c - 1).masked_fill(b == 0, 0)
        total, slope = (powers * b).sum(-1, keepdim=True), powers.sum(-1, keepdim=True)
        step = (total - total.pow(1 - 1 / c)) / slope.masked_fill(slope == 0, 1)
        tau = tau + step
    # The last step goes into b and not through tau, whose own rounding would weigh on small entries.
    return (b - step).clamp(min=0).masked_fill(b == 0, 0).pow(c)


def normalise(s: Scores, visible: Visible, alpha: Tensor, steps: int = STEPS) -> Pattern:
    """alpha-entmax of the visible scores, for ``alpha`` of one entry or [head 1 1]; differentiable in both."""
    power = float(alpha) if alpha.ndim == 0 else alpha  # plain numbers have faster powers
    p = solve(below_top(s, visible, power), power, steps).masked_fill(~visible, 0)
    p = p / p.sum(-1, keepdim=True).masked_fill(~visible.any(-1, keepdim=True), 1)
    out: Pattern = Implicit.apply(s, alpha, p)  # type: ignore[no-untyped-call]
    return out


def sparsemax(scores: Scores, _call: Call) -> Pattern:
    """``[s - tau]_+``, the nearest point of the simplex (Martins and Astudillo 2016, arXiv 1602.02068)."""
    s, visible = opened(scores)
    return normalise(s, visible, torch.tensor(2.0)).to(scores.dtype)


def entmax15(scores: Scores, _call: Call) -> Pattern:
    """``[s / 2 - tau]_+^2``, half way between softmax and sparsemax (Peters et al. 2019, arXiv 1905.05702)."""
    s, visible = opened(scores)
    return normalise(s, visible, torch.tensor(1.5)).to(scores.dtype)


def entmax(scores: Scores, call: Call) -> Pattern:
    """``[(alpha - 1) s - tau]_+^(1 / (alpha - 1))``, alpha learnable per head (Correia et al. 2019, arXiv 1909.00015).

    alpha counts as at least 1.01 (nearly softmax) and at most 2 (sparsemax): above 2 the derivative is unbounded
    where a weight nears zero.
    """
    s, visible = opened(scores)
    alpha = call.per_head("alpha", s).clamp(*ALPHAS)
    return normalise(s, visible, alpha, int(call.options["iterations"])).to(scores.dtype)
