"""A model with random weights, to be trained or to compare a trained one with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.models import mechanisms
from workbench.models.config import ModelConfig
from workbench.models.linear import leading
from workbench.models.transformer import Transformer


def fresh(cfg: ModelConfig, *, seed: int = 0, tokenizer: Any = None, name: str = "fresh") -> Transformer:
    """A model with random weights.

    Matrices are normal with a standard deviation of ``1 / sqrt(inputs)``, those that write into the residual stream
    divided by ``sqrt(2 * n_layers)`` besides (Radford et al. 2019), embeddings normal with 0.02 (positions too), or
    ``1 / sqrt(d_model)`` where there is no norm to scale them; norms start as the identity, biases at 0, a mechanism's
    own parameters where it says. Weights are frozen, as in every model: ``model.requires_grad_(True)`` thaws them.

    Args:
        cfg: sizes and choices.
        seed: of the random numbers; the same seed gives the same weights.
        tokenizer: or image processor; as in :class:`Transformer`.
        name: how results call the model.
    """
    generator = torch.Generator().manual_seed(seed)
    skeleton = Transformer(cfg, None, tokenizer, name)
    learned = {parameter.name: parameter.initial for parameter in mechanisms.find(cfg.attention).parameters}
    weights: dict[str, Tensor] = {}
    for key, tensor in skeleton.state_dict().items():
        if key == "unembedding.weight" and cfg.tied:
            continue
        weights[key] = _initial(key, tuple(tensor.shape), cfg, learned, generator)
    if cfg.linear == "sigma":
        _settle(weights)
    if cfg.tied:
        weights["unembedding.weight"] = weights["embed.weight"]
    if cfg.positions == "rotary":
        turned = cfg.rotary_dim or cfg.d_head
        frequencies = cfg.rotary_base ** (-torch.arange(0, turned, 2).float() / turned)
        weights["inverse_frequencies"] = frequencies.expand(1 + max(cfg.rotary_kinds or (0,)), -1).squeeze(0)
    return Transformer(cfg, weights, tokenizer, name)


def _initial(
    key: str, shape: tuple[int, ...], cfg: ModelConfig, learned: dict[str, float], generator: torch.Generator
) -> Tensor:
    *_, parent, last = ["", *key.split(".")]
    if parent == "learned":
        return torch.full(shape, learned[last])
    if last == "scale":
        return torch.ones(shape)
    if "ln" in parent or "norm" in parent:
        return torch.ones(shape) if last == "weight" else torch.zeros(shape)
    if last == "bias" or len(shape) < 2:
        return torch.zeros(shape)
    if parent in ("embed", "pos_embed", "type_embed", "prefix"):
        spread = cfg.d_model**-0.5 if cfg.norm == "none" else 0.02
    else:
        spread = shape[1] ** -0.5
        if parent in ("o", "out"):
            spread /= max(1, 2 * cfg.n_layers) ** 0.5
    return torch.randn(shape, generator=generator) * spread


def _settle(weights: dict[str, Tensor]) -> None:
    """Spectral norms and leading directions of sigma-reparametrised layers, as they follow from their raw weights."""
    for key in [key for key in weights if key.endswith(".raw")]:
        start = key.removesuffix("raw")
        weights[f"{start}u"], weights[f"{start}gamma"], weights[f"{start}v"] = leading(weights[key])
