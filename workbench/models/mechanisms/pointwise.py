"""Mechanisms that weigh each key by a function of its own score, normalised or not."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.models.mechanisms.record import Call, Pattern, Scores, opened, row_max, visible_keys


def softpick(scores: Scores, call: Call) -> Pattern:
    """``relu(e^s_j - 1) / (sum_i |e^s_i - 1| + eps)`` (Zuhri et al. 2025, arXiv 2504.20966).

    Both sides are divided by e^m with m = max(0, highest score). Hidden keys stay out of the denominator, where a
    score of -inf would count |0 - 1| = 1.
    """
    s, visible = opened(scores)
    m = row_max(s, visible).clamp(min=0)
    up, down = s.relu(), (-s).relu()
    # e^-m (e^s - 1) written so that neither factor overflows and nothing cancels near s = 0.
    above = (up - m).exp() * -torch.expm1(-up)
    below = (-m).exp() * -torch.expm1(-down)
    floor = (call.options["eps"] * (-m).exp()).masked_fill(~visible.any(-1, keepdim=True), 1)
    return (above / ((above + below).sum(-1, keepdim=True) + floor)).to(scores.dtype)


def sigmoid(scores: Scores, call: Call) -> Pattern:
    """``sigmoid(s + bias - log_n log n)``, n visible keys (Ramapuram et al. 2024, arXiv 2409.04431)."""
    s, visible = opened(scores)
    shift = call.options["bias"] - call.options["log_n"] * visible_keys(visible).to(s.dtype).log()
    return (s + shift).sigmoid().masked_fill(~visible, 0).to(scores.dtype)


def relu(scores: Scores, _call: Call) -> Pattern:
    """``relu(s) / n``, n visible keys (Wortsman et al. 2023, arXiv 2309.08586)."""
    s, visible = opened(scores)
    return (s.relu() / visible_keys(visible)).to(scores.dtype)


def feature(x: Tensor) -> Tensor:
    """``elu(x) + 1``, of the shape of ``x``: x + 1 above 0, e^x below."""
    # torch's elu plus one rounds e^x away for x below about -17.
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def linear_scores(call: Call) -> Scores:
    """``phi(q) . phi(k)`` with phi = elu + 1: never negative. The model's scale would cancel and is left out."""
    exact = torch.promote_types(call.q.dtype, torch.float32)
    q, k = feature(call.q.to(exact)), feature(call.k.to(exact))
    return torch.einsum("bqhe,bkhe->bhqk", q, k).clamp(max=torch.finfo(call.q.dtype).max).to(call.q.dtype)


def linear(scores: Scores, _call: Call) -> Pattern:
    """``s_j / sum_i s_i``, scores below 0 counting as 0 (Katharopoulos et al. 2020, arXiv 2006.16236)."""
    s, visible = opened(scores)
    s = s.relu()
    top = row_max(s, visible)
    s = s / top.masked_fill(top == 0, 1)  # the sum of many large products would overflow
    total = s.sum(-1, keepdim=True)
    return (s / total.masked_fill(total == 0, 1)).to(scores.dtype)


def log_domain_step(s: Scores, hidden: Tensor, axis: int) -> Scores:
    """``s - logsumexp(s)`` along an axis: every sum of ``e^s`` along it becomes 1. Hidden entries stay hidden."""
    low = torch.finfo(s.dtype).min
    return (s - s.logsumexp(axis, keepdim=True)).masked_fill(hidden, low)


def sinkhorn(scores: Scores, call: Call) -> Pattern:
    """Rows and columns of ``e^s`` normalised in turn, the rows last (Sander et al. 2022, arXiv 2110.11773).

    First the rows, then ``iterations`` times columns and rows; 0 iterations are softmax. Where every query sees every
    key, the pattern tends to a doubly stochastic matrix. A causal mask admits no doubly stochastic matrix but the
    identity, so there columns approach 1 only as far as the mask allows, ever more slowly, by driving the pattern
    towards the diagonal; and a column's sum runs over all queries, so early tokens feel later ones.
    """
    s, visible = opened(scores)
    blind = ~visible
    s = log_domain_step(s.masked_fill(blind, torch.finfo(s.dtype).min), blind, -1)
    for _ in range(int(call.options["iterations"])):
        s = log_domain_step(log_domain_step(s, blind, -2), blind, -1)
    return s.exp().masked_fill(blind, 0).to(scores.dtype)
