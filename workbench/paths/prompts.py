"""Prompts as a caller gives them, checked and run once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.checks import check_prompts
from workbench.circuits.decomposition.propagate import Prompts
from workbench.models import Transformer
from workbench.models.norm import HALF
from workbench.paths.held import Held


def ready(
    model: Transformer,
    tokens: Tensor | str | Sequence[str],
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    dtype: torch.dtype | None = None,
) -> Prompts:
    """Run prompts once, in the number type that the rows are to have.

    Args:
        model: any hooked model.
        tokens: token ids [batch, pos], pixels [batch, channel, height, width], or texts.
        attention_mask: 1 for real positions, where prompts are of unlike length; padding is on the right.
        dtype: number type of the computation. None: the model's own, float32 for one in half precision. Another one
            than the model's takes a copy of its weights.

    Raises:
        ValueError: the prompts are none that the model reads, the attention mechanism cannot be held, or an activation
            is not finite, which names the layer.
    """
    if not isinstance(tokens, Tensor):
        given = model.to_inputs(tokens)
        tokens, attention_mask = given["tokens"], given["attention_mask"]
    lengths, _ = check_prompts(model, tokens, attention_mask)
    flow.check_rule(Held(), model)
    if not model.cfg.n_layers:
        raise ValueError(f"{model.name} has no layers, so there are no paths to tell apart; choose a deeper model.")
    model = in_dtype(model, dtype)
    if tokens.is_floating_point():
        tokens = tokens.to(model.dtype)
    prompts = Prompts.run(model, tokens, attention_mask, lengths)
    check_finite(prompts)
    return prompts


def in_dtype(model: Transformer, dtype: torch.dtype | None) -> Transformer:
    """The model in this number type; itself where it is in it already."""
    if dtype is None:
        dtype = torch.float32 if model.dtype in HALF else model.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Contributions are sums of many large numbers; compute in float32 or float64, not {dtype}.")
    if dtype == model.dtype:
        return model
    weights = {name: tensor.to(dtype) for name, tensor in model.weights().items()}
    return Transformer(model.cfg, weights, model.tokenizer if model.images is None else None, model.name)


def check_finite(prompts: Prompts) -> None:
    """Refuse activations that are not finite.

    Raises:
        ValueError: naming the first layer that leaves such.
    """
    real = torch.arange(prompts.width, device=prompts.lengths.device) < prompts.lengths[:, None]
    for layer, stream in enumerate(prompts.resid):
        if not bool(stream[0][real].isfinite().all()):
            where = f"that leave layer {layer - 1}" if layer else "of the embedding"
            raise ValueError(
                f"The activations {where} of {prompts.model.name} are not finite (NaN or infinite), so that nothing "
                "can be told apart; check the weights, or run the model in float32."
            )
