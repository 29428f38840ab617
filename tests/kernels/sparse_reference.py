"""Sparse attention the slow, obvious way: the whole pattern in float64, differentiable by autograd."""

from __future__ import annotations

import torch


def visible(n, m, causal, window=None, key_mask=None):
    """[batch or 1, 1, query, key]; the last query stands beside the last key."""
    sight = torch.zeros(n, m, dtype=torch.bool)
    for i in range(n):
        for j in range(m):
            ahead = j - (i + m - n)
            near = window is None or abs(ahead) < window
            sight[i, j] = near and not (causal and ahead > 0)
    sight = sight[None, None]
    return sight if key_mask is None else sight & key_mask[:, None, None, :]


def attention(pattern, q, k, v, *, scale=None, causal=True, window=None, key_mask=None):
    """Output of ``pattern(scores, visible)``, keys repeated for the heads that share them."""
    shared = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(shared, 1), v.double().repeat_interleave(shared, 1)
    s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    sight = visible(q.shape[2], k.shape[2], causal, window, key_mask).expand_as(s)
    return pattern(s, sight) @ v


def entmax(alpha):
    """The pattern of alpha-entmax, alpha a number or [head]: sorted for 1.5 and 2, bisection otherwise."""

    def pattern(s, sight):
        # far below the highest key, and finite, so that gradients stay so
        low = s.detach().masked_fill(~sight, -torch.inf).amax(-1, keepdim=True)
        s = torch.where(sight, s, low.masked_fill(low == -torch.inf, 0) - 1e4)
        if isinstance(alpha, torch.Tensor):
            p = torch.stack([bisected(s[:, h], alpha[h].double()) for h in range(len(alpha))], 1)
        else:
            p = {2.0: sparsemax, 1.5: entmax15}.get(alpha, lambda x: bisected(x, torch.tensor(alpha).double()))(s)
        return torch.where(sight, p, 0)

    return pattern


def sparsemax(z):
    """Martins and Astudillo 2016, algorithm 1."""
    ordered = z.sort(-1, descending=True).values
    ranks = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    inside = 1 + ranks * ordered > ordered.cumsum(-1)
    size = inside.sum(-1, keepdim=True)
    tau = (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size
    return (z - tau).clamp(min=0)


def entmax15(z):
    """Peters et al. 2019, algorithm 2; sums are taken from the highest score down, so that they stay exact."""
    z = (z - z.amax(-1, keepdim=True)) / 2
    ordered = z.sort(-1, descending=True).values
    ranks = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    mean, square = ordered.cumsum(-1) / ranks, (ordered**2).cumsum(-1) / ranks
    room = (1 - ranks * (square - mean**2)) / ranks
    taus = mean - torch.where(room > 0, room, 1).sqrt() * (room > 0)
    size = ((taus <= ordered) & (room >= 0)).sum(-1, keepdim=True)
    return (z - taus.gather(-1, size - 1)).clamp(min=0) ** 2


def bisected(z, alpha):
    """Any alpha; the last step is Newton's, through which autograd finds the implicit derivatives."""
    x, c = (alpha - 1) * z, 1 / (alpha - 1)

    def powers(tau, exponent):
        b = x - tau
        return torch.where(b > 0, torch.where(b > 0, b, 1) ** exponent, 0)

    with torch.no_grad():
        high = x.amax(-1, keepdim=True)
        low = high - 1
        for _ in range(60):
            tau = (low + high) / 2
            enough = powers(tau, c).sum(-1, keepdim=True) >= 1
            low, high = torch.where(enough, tau, low), torch.where(enough, high, tau)
        slope = (c * powers(low, c - 1)).sum(-1, keepdim=True)
    return powers(low + (powers(low, c).sum(-1, keepdim=True) - 1) / slope, c)


def softpick(eps=1e-6):
    """The definition, for scores that float64 can exponentiate."""

    def pattern(s, sight):
        raised = torch.where(sight, torch.expm1(torch.where(sight, s, 0)), 0)
        return raised.relu() / (raised.abs().sum(-1, keepdim=True) + eps)

    return pattern


def sigmoid(bias=0.0, log_n=1.0):
    """The definition."""

    def pattern(s, sight):
        shift = bias - log_n * sight.sum(-1, keepdim=True).clamp(min=1).double().log()
        return torch.where(sight, (s + shift).sigmoid(), 0)

    return pattern
