"""Mechanisms that are a softmax, or two, of adjusted scores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.models.mechanisms.record import Call, Pattern, Scores, Visible, opened, visible_keys

# Fitted by Velickovic et al. to the best temperature for each entropy, highest power first.
SHARPENING = (-0.037, 0.481, -2.3, 4.917, -1.791)
# Of logits: no cosine counts for more than this factor (Liu et al. 2022).
LARGEST_COSINE_FACTOR = 100.0


def visible_softmax(s: Scores, visible: Visible) -> Pattern:
    """``e^s_j / sum_i e^s_i`` over the visible keys; zeros where there is none."""
    # The lowest finite number, not -inf: a row with no visible key then stays free of NaN, and so does its gradient.
    return s.masked_fill(~visible, torch.finfo(s.dtype).min).softmax(-1).masked_fill(~visible, 0)


def softmax(scores: Scores, _call: Call) -> Pattern:
    """``softmax(s)`` (Vaswani et al. 2017, arXiv 1706.03762)."""
    s, visible = opened(scores)
    return visible_softmax(s, visible).to(scores.dtype)


def temperature(scores: Scores, call: Call) -> Pattern:
    """``softmax(s / temperature)``: flatter above 1, sharper below (Hinton et al. 2015, arXiv 1503.02531)."""
    s, visible = opened(scores)
    return visible_softmax(s / call.options["temperature"], visible).to(scores.dtype)


def sharpness(entropy: Tensor) -> Tensor:
    """``max(polynomial(H), 1)`` where the entropy H (in nats) is above 0.5, else 1; of the shape of ``entropy``.

    Above 1 only for H between 0.85 and 5.94 (382 equal keys): the polynomial falls again on longer rows.
    """
    fitted = torch.zeros_like(entropy)
    for coefficient in SHARPENING:
        fitted = fitted * entropy + coefficient
    return fitted.clamp(min=1).where(entropy > 0.5, 1)


def adaptive_temperature(scores: Scores, _call: Call) -> Pattern:
    """``softmax(beta s)`` with beta from the entropy of ``softmax(s)`` (Velickovic et al. 2024, arXiv 2410.01104)."""
    s, visible = opened(scores)
    p = visible_softmax(s, visible)
    # What all but underflows adds nothing, and its logarithm has no finite gradient.
    entropy = -(p * p.masked_fill(p < torch.finfo(p.dtype).tiny, 1).log()).sum(-1, keepdim=True)
    return visible_softmax(sharpness(entropy) * s, visible).to(scores.dtype)


def ssmax(scores: Scores, call: Call) -> Pattern:
    """``softmax(c log(n) s)``, n visible keys, c learnable per head (Nakanishi 2025, arXiv 2501.19399).

    With one visible key log n = 0 wipes its score out, and the weight is 1 all the same.
    """
    s, visible = opened(scores)
    factor = call.per_head("c", s) * visible_keys(visible).to(s.dtype).log()
    return visible_softmax(factor * s, visible).to(scores.dtype)


def clipped(scores: Scores, call: Call) -> Pattern:
    """``clip((zeta - gamma) softmax(s) + gamma, 0, 1)`` (Bondarenko et al. 2023, arXiv 2306.12929)."""
    s, visible = opened(scores)
    gamma, zeta = call.options["gamma"], call.options["zeta"]
    stretched = (zeta - gamma) * visible_softmax(s, visible) + gamma
    return stretched.clamp(0, 1).masked_fill(~visible, 0).to(scores.dtype)


def cosine_scores(call: Call) -> Scores:
    """``exp(log_scale) q . k / (|q| |k|)``, the factor at most 100 (Henry et al. 2020; Liu et al. 2022).

    The model's own scale plays no part.
    """
    exact = torch.promote_types(call.q.dtype, torch.float32)
    q, k = F.normalize(call.q.to(exact), dim=-1, eps=1e-6), F.normalize(call.k.to(exact), dim=-1, eps=1e-6)
    factor = call.per_head("log_scale", q).clamp(max=math.log(LARGEST_COSINE_FACTOR)).exp()
    return (torch.einsum("bqhe,bkhe->bhqk", q, k) * factor).to(call.q.dtype)


def selective(scores: Scores, _call: Call) -> Pattern:
    """``softmax(s - F)``, where head 0 says what later queries shall forget (Leviathan et al. 2024, arXiv 2410.02703).

    ``S = relu(scores of head 0)``, zero for the first token and for a token's own key; F at a query is the sum of S
    over all earlier queries, the same in every head. The first token is the first at which another one may look, so
    padding on the left changes nothing.
    """
    s, visible = opened(scores)
    queries, keys = s.shape[-2:]
    own = torch.ones(queries, keys, dtype=torch.bool, device=s.device).tril(keys - queries).triu(keys - queries)
    seen = (visible & ~own).any(dim=(1, 2))  # batch key
    first = seen & (seen.cumsum(-1) == 1)
    asked = s[:, 0].relu().masked_fill(first[:, None] | own, 0)  # batch query key
    forgotten = F.pad(asked[:, :-1].cumsum(-2), (0, 0, 1, 0))
    return visible_softmax(s - forgotten[:, None], visible).to(scores.dtype)


def lambda_start(layer: int) -> float:
    """``0.8 - 0.6 exp(-0.3 layer)``, layers counted from 0: what lambda is around (Ye et al. 2024)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


def differential_scores(call: Call) -> Float[Tensor, "batch two_heads query key"]:
    """Two score maps per head: of the first halves of q and k for all heads, then of the second halves.

    The model's scale is for d_head numbers; half as many take ``sqrt(2)`` times that.
    """
    q, k = (torch.cat(x.chunk(2, dim=-1), dim=2) for x in (call.q, call.k))
    return torch.einsum("bqhe,bkhe->bhqk", q, k) * (call.scale * math.sqrt(2))


def differential(scores: Float[Tensor, "batch two_heads query key"], call: Call) -> Pattern:
    """``softmax(map 1) - lambda softmax(map 2)``, a pattern with negative entries (Ye et al. 2024, arXiv 2410.05258).

    ``lambda = exp(q1 . k1) - exp(q2 . k2) + lambda_start``, with four learnable vectors per head (the paper shares
    them between the heads of a layer).
    """
    s, visible = opened(scores)
    first, second = visible_softmax(s, visible).chunk(2, dim=1)
    q1, k1, q2, k2 = (call.parameters[name].to(s.dtype) for name in ("q1", "k1", "q2", "k2"))
    weight = (q1 * k1).sum(-1).exp() - (q2 * k2).sum(-1).exp() + lambda_start(call.layer)  # head
    return (first - weight[:, None, None] * second).to(scores.dtype)
