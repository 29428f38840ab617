"""Every measure from patterns that Hugging Face makes, in float64 and by its definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


def pair(kind: str, **sizes: int) -> tuple[Any, Transformer]:
    """(Hugging Face's model with open attention, ours), both in float64."""
    hf = find(kind).model(dtype=torch.float64, weights="wild", **sizes)
    hf.set_attn_implementation("eager")
    return hf, from_hf(hf)


def given(model: Transformer, batch: int = 2, n: int = 24) -> Tensor:
    """Random tokens, or random images."""
    generator = torch.Generator().manual_seed(3)
    image = model.cfg.image
    if image is None:
        return torch.randint(3, 60, (batch, n), generator=generator)
    return torch.randn(batch, image.channels, image.height, image.width, generator=generator, dtype=torch.float64)


def patterns(hf: Any, tokens: Tensor) -> Tensor:
    """[layer, head, batch, query, key]; Hugging Face rounds some of them to float32."""
    with torch.no_grad():
        found = hf(tokens, output_attentions=True).attentions
    return torch.stack([p.double() for p in found]).transpose(1, 2)


def sight(model: Transformer, layer: int, n: int) -> Tensor:
    """[query, key], who sees whom."""
    window = None if model.cfg.windows is None else model.cfg.windows[layer]
    far = torch.arange(n)[:, None] - torch.arange(n)
    seen = far >= 0 if model.cfg.causal else torch.ones(n, n, dtype=torch.bool)
    return seen & (far < window) if window is not None else seen


def measures(model: Transformer, tokens: Tensor, p: Tensor, sinks: list[int], recent: int) -> dict[str, Tensor]:
    """Measures [layer, head, batch, position] of patterns ``p``."""
    n = p.shape[-1]
    seen = torch.stack([sight(model, layer, n) for layer in range(model.cfg.n_layers)])[:, None, None]
    visible = seen.sum(-1)
    far = (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
    entropy = -torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0).sum(-1)
    distance = (p * far).sum(-1)
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith(("hook_v", "hook_attn_scores")))
    layers = range(model.cfg.n_layers)
    v = torch.stack([cache["v", layer] for layer in layers]).permute(0, 3, 1, 2, 4)  # l g b p e
    v = v.repeat_interleave(model.cfg.group_size, 1)
    scores = torch.stack([cache["attn_scores", layer] for layer in layers]).transpose(1, 2)
    mean = torch.where(seen, scores, 0).sum(-1) / visible
    return {
        "entropy": entropy,
        "normalised_entropy": torch.where(visible > 1, entropy / visible.double().log(), torch.nan),
        "largest": p.amax(-1),
        "effective_keys": 1 / (p * p).sum(-1),
        "sink_mass": p[..., sinks].sum(-1),
        "recent_mass": torch.where(far < recent, p, 0).sum(-1),
        "distance": distance,
        "distance_spread": (p * (far - distance[..., None]) ** 2).sum(-1).clamp(min=0).sqrt(),
        "logit_mean": mean,
        "logit_spread": (torch.where(seen, (scores - mean[..., None]) ** 2, 0).sum(-1) / visible).sqrt(),
        "logit_range": scores.masked_fill(~seen, -torch.inf).amax(-1) - scores.masked_fill(~seen, torch.inf).amin(-1),
        "value_weighted_norm": (p * v.norm(dim=-1)[..., None, :]).sum(-1),
        "output_norm": (p @ v).norm(dim=-1),
    }
