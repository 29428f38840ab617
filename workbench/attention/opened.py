"""The same statistics from a pattern that is there: for mechanisms that tiles of softmax do not do."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.layers import LayerAttention
from workbench.kernels import AttentionStatistics


def row_statistics(layer: LayerAttention, sinks: Bool[Tensor, "batch pos"], recent: int) -> AttentionStatistics:
    """Statistics of every row of ``layer.pattern``. ``lse`` is NaN: such rows need not be exponentials.

    Raises:
        ValueError: a pattern that is not finite; the sentence names layer and head.
    """
    assert layer.pattern is not None
    assert layer.scores is not None
    assert layer.visible is not None
    p, seen, scores = _exact(layer.pattern), layer.visible, _exact(layer.scores)
    if not bool(p.isfinite().all()):
        batch, head, query = (~p.isfinite()).any(-1).nonzero()[0].tolist()
        raise ValueError(
            f"The attention pattern of layer {layer.layer}, head {head} is not finite (example {batch}, position "
            f"{query}): look for infinite or huge weights there."
        )
    n = p.shape[-1]
    position = torch.arange(n, device=p.device)
    far = (position[:, None] - position).abs().to(p)
    count = seen.sum(-1)
    shared = count.clamp(min=1)
    open_scores = scores.masked_fill(~seen, 0)
    mean = open_scores.sum(-1) / shared
    distance = (p * far).sum(-1)
    lengths, output = _values(layer, p)
    return AttentionStatistics(
        lse=torch.full_like(mean, torch.nan),
        entropy=-torch.special.xlogy(p, p).sum(-1),
        largest=p.amax(-1),
        largest_at=p.argmax(-1),
        effective_keys=1 / p.square().sum(-1).clamp(min=torch.finfo(p.dtype).tiny),
        distance=distance,
        distance_spread=(p * (far - distance[..., None]).square()).sum(-1).clamp(min=0).sqrt(),
        sink_mass=torch.einsum("bhqk,bk->bhq", p, sinks.to(p)),
        recent_mass=(p * (far < recent)).sum(-1),
        logit_mean=mean,
        logit_variance=((open_scores - mean[..., None]).square() * seen).sum(-1) / shared,
        logit_min=scores.masked_fill(~seen, torch.inf).amin(-1).masked_fill(count == 0, 0),
        logit_max=scores.masked_fill(~seen, -torch.inf).amax(-1).masked_fill(count == 0, 0),
        visible=count.expand(p.shape[:3]),
        norm_of_sum=None if output is None else output.norm(dim=-1),
        sum_of_norms=lengths,
    )


def column_sums(
    layer: LayerAttention, real: Bool[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch head pos"], Int[Tensor, "batch pos"]]:
    """Weight that each key gets from real queries, and how many of them see it."""
    assert layer.pattern is not None
    assert layer.visible is not None
    p = _exact(layer.pattern) * real[:, None, :, None]
    return p.sum(2), (layer.visible[:, 0] & real[:, :, None]).sum(1)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _values(layer: LayerAttention, p: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """``sum p ||v||`` and ``sum p v``; None where the mechanism mixes values."""
    if layer.v is None:
        return None, None
    v = _exact(layer.v).repeat_interleave(p.shape[1] // layer.v.shape[1], 1)
    return torch.einsum("bhqk,bhk->bhq", p, v.norm(dim=-1)), p @ v
