"""Attention statistics the obvious way: the whole pattern in float64, one formula a line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def visible(
    n: int,
    m: int,
    *,
    causal: bool = True,
    window: int | None = None,
    key_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """[batch or 1, 1, query, key], True where a query sees a key: one loop, one question each."""
    batch = len(key_mask) if key_mask is not None else len(lengths) if lengths is not None else 1
    see = torch.zeros(batch, 1, n, m, dtype=torch.bool)
    for b in range(batch):
        for i in range(n):
            for j in range(m):
                back = i + m - n - j
                near = window is None or abs(back) < window
                there = (key_mask is None or key_mask[b, j]) and (lengths is None or j < lengths[b])
                see[b, 0, i, j] = bool((back >= 0 or not causal) and near and there)
    return see


def scores(q: Tensor, k: Tensor, *, scale: float | None = None, softcap: float | None = None, **_: Any) -> Tensor:
    """Logits [batch, head, query, key] in float64, differentiable."""
    k = k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    s = torch.einsum("bhqd,bhkd->bhqk", q.double(), k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return s if softcap is None else softcap * torch.tanh(s / softcap)


def log_weights(q: Tensor, k: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, log p (-inf where hidden) and what is visible, all [batch, head, query, key]."""
    s = scores(q, k, **options)
    see = visible(q.shape[2], k.shape[2], **options).expand(s.shape)
    empty = ~see.any(-1, keepdim=True)
    lse = s.masked_fill(~see, -torch.inf).masked_fill(empty, 0).logsumexp(-1, keepdim=True)
    return s, (s - lse).masked_fill(~see, -torch.inf), see


def brute(
    q: Tensor, k: Tensor, v: Tensor | None = None, *, sinks: Any = (0,), recent: int = 16, **options: Any
) -> dict[str, Tensor]:
    """Every field of AttentionStatistics."""
    s, log_p, see = log_weights(q, k, **options)
    p = log_p.exp()
    n, m = s.shape[-2:]
    away = (torch.arange(m - n, m)[:, None] - torch.arange(m)).abs().double()
    sink = sinks[:, None, None] if isinstance(sinks, Tensor) else torch.isin(torch.arange(m), torch.tensor([*sinks]))
    count = see.sum(-1)
    distance = (p * away).sum(-1)
    some = count.clamp(min=1)
    mean = (s * see).sum(-1) / some
    found = {
        "lse": s.masked_fill(~see, -torch.inf).logsumexp(-1),
        "entropy": -(p * log_p.masked_fill(~see, 0)).sum(-1),
        "largest": p.amax(-1),
        "largest_at": p.argmax(-1).masked_fill(count == 0, -1),
        "effective_keys": (1 / (p * p).sum(-1)).masked_fill(count == 0, 0),
        "distance": distance,
        "distance_spread": (p * (away - distance[..., None]) ** 2).sum(-1).sqrt(),
        "sink_mass": (p * sink).sum(-1),
        "recent_mass": (p * (away < recent)).sum(-1),
        "logit_mean": mean,
        "logit_variance": ((s - mean[..., None]) ** 2 * see).sum(-1) / some,
        "logit_min": s.masked_fill(~see, torch.inf).amin(-1).masked_fill(count == 0, 0),
        "logit_max": s.masked_fill(~see, -torch.inf).amax(-1).masked_fill(count == 0, 0),
        "visible": count,
    }
    if v is not None:
        v = v.double().repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        output = torch.einsum("bhqk,bhkd->bhqd", p, v)
        found |= {"norm_of_sum": output.norm(dim=-1), "output": output}
        found["sum_of_norms"] = torch.einsum("bhqk,bhk->bhq", p, v.norm(dim=-1))
    return found
