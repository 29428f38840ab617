"""What a deep head reads of a token when it attends to nothing but that token: its effective embedding.

The first layers turn embeddings into what later ones read, the first MLP most of all. So Gould et al. 2023 (arXiv
2312.09230) and McDougall et al. 2023 (arXiv 2310.04625) feed the OV circuit of a head with ``MLP_0(W_E)``, the output
of the first MLP on embeddings alone, in place of ``W_E``.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models import Transformer

Reads = Literal["mlp0", "layer0", "embedding"]
"""What of a token heads behind the first layer read: see :func:`effective`."""


@torch.no_grad()
def effective(model: Transformer, ids: Int[Tensor, " token"], reads: Reads = "mlp0") -> Float[Tensor, "token d_model"]:
    """What stands for each token in the residual stream, without a position.

    ``embedding`` is the token's embedding as it enters the first layer. ``mlp0`` is what the first MLP writes when it
    reads that through its norm and attention writes nothing. ``layer0`` is the whole stream after the first layer when
    the token attends to itself alone. A model without MLPs has its embedding for ``mlp0``.

    Raises:
        ValueError: there is no such choice.
    """
    if reads not in get_args(Reads):
        raise ValueError(f"Heads read {', '.join(get_args(Reads))}; there is no '{reads}'.")
    x = model.W_E[ids] * model.cfg.embed_scale
    if model.embed_norm is not None:
        x = model.embed_norm(x)
    if reads == "embedding" or (reads == "mlp0" and model.cfg.attn_only):
        return x
    stream = x.to(model.dtype)[:, None]
    if reads == "layer0":
        after: Tensor = model(stream, stop_at_layer=1)
        return after[:, 0]
    found: dict[str, Tensor] = {}

    def keep(written: Tensor) -> None:
        found["mlp"] = written

    model(stream, {"blocks.0.hook_attn_out": torch.zeros_like, "blocks.0.hook_mlp_out": keep}, stop_at_layer=1)
    return found["mlp"][:, 0]


def read_by(model: Transformer, layer: int, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """The stream ``x`` as heads of a layer read it, before the weight of their norm; float64."""
    x = x.double()
    if model.cfg.norm == "none" or model.cfg.norm_place == "post":
        return x
    return model.blocks[layer].ln1.standardise(x)[0]


__all__ = ["Reads", "effective", "read_by"]
