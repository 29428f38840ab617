"""The weights of a model in TransformerLens's shapes, and the fingerprint that tells models apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.models.config import ModelConfig

if TYPE_CHECKING:
    from workbench.models.blocks import Block


class Weights(nn.Module):
    """The parameters of a :class:`workbench.models.transformer.Transformer`; what stacks all layers is a copy."""

    cfg: ModelConfig
    embed: nn.Embedding
    pos_embed: nn.Embedding | None
    unembedding: nn.Linear
    blocks: Sequence[Block]
    inverse_frequencies: Tensor | None

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        return self.embed.weight

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position embedding.

        Raises:
            ValueError: positions are rotary.
        """
        if self.pos_embed is None:
            raise ValueError("This model turns queries and keys by their positions; it has no position embedding.")
        return self.pos_embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding."""
        return self.unembedding.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Bias of the logits; zeros where there is none."""
        bias = self.unembedding.bias
        return self.unembedding.weight.new_zeros(self.cfg.n_out) if bias is None else bias

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights."""
        return torch.stack([block.attn.heads_of(block.attn.q).transpose(1, 2) for block in self.blocks])

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights as each query head sees them."""
        return torch.stack([block.attn.heads_of(block.attn.k).transpose(1, 2) for block in self.blocks])

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights as each query head sees them."""
        return torch.stack([block.attn.heads_of(block.attn.v).transpose(1, 2) for block in self.blocks])

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of each head."""
        return torch.stack([block.attn.W_O for block in self.blocks])

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases; zeros where there are none."""
        return self._head_biases("q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases as each query head sees them; zeros where there are none."""
        return self._head_biases("k")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases as each query head sees them; zeros where there are none."""
        return self._head_biases("v")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """What attention adds beside its heads; zeros where that is nothing."""
        biases = [block.attn.b_O for block in self.blocks]
        return torch.stack(
            [self.blocks[0].attn.o.weight.new_zeros(self.cfg.d_model) if bias is None else bias for bias in biases]
        )

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """Weights into the MLPs' neurons (the factor that is not gated)."""
        return torch.stack([block.mlp.up.weight.T for block in self.blocks if block.mlp is not None])

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """Weights out of the MLPs' neurons."""
        mlps = [block.mlp for block in self.blocks if block.mlp is not None]
        return torch.stack([m.out.weight.T if m.scale is None else m.out.weight.T * m.scale for m in mlps])

    def _head_biases(self, part: str) -> Tensor:
        found = []
        for block in self.blocks:
            linear = getattr(block.attn, part)
            bias = block.attn.bias_of(linear)
            like = block.attn.heads_of(linear)
            found.append(like.new_zeros(like.shape[:2]) if bias is None else bias)
        return torch.stack(found)

    def weights(self) -> dict[str, Tensor]:
        """Every tensor that makes the model, by name, not copied: what ``Transformer(cfg, weights)`` takes."""
        found = {name: tensor.detach() for name, tensor in self.state_dict(keep_vars=True).items()}
        if self.inverse_frequencies is not None:
            found["inverse_frequencies"] = self.inverse_frequencies
        return found

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of configuration and weights: the same model gives the same."""
        cfg = self.cfg
        # Only what differs from the defaults: a field that a later version adds leaves old fingerprints as they are.
        told = {f.name: getattr(cfg, f.name) for f in fields(cfg) if getattr(cfg, f.name) != f.default}
        told |= {"image": asdict(cfg.image)} if cfg.image is not None else {}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name, parameter in sorted(self.named_parameters()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]
