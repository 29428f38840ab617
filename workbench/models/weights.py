"""The weights of a model in TransformerLens's shapes, and the fingerprint that tells models apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
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
        """Token embedding.

        Raises:
            ValueError: the model reads images.
        """
        if self.cfg.image is not None:
            raise ValueError("This model reads images; it has no token embedding.")
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
        """Unembedding; of a classifier [what its head reads, class].

        Raises:
            ValueError: the model has no head.
        """
        if self.cfg.head == "none":
            raise ValueError("This model gives its residual stream; it has no unembedding.")
        return self.unembedding.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Bias of the logits; zeros where there is none."""
        weight, bias = self.W_U, self.unembedding.bias if self.cfg.head != "none" else None
        return weight.new_zeros(self.cfg.n_out) if bias is None else bias

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights."""
        return _stacked([block.attn.heads_of(block.attn.q).transpose(1, 2) for block in self.blocks])

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights as each query head sees them."""
        return _stacked([block.attn.heads_of(block.attn.k).transpose(1, 2) for block in self.blocks])

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights as each query head sees them."""
        return _stacked([block.attn.heads_of(block.attn.v).transpose(1, 2) for block in self.blocks])

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of each head."""
        return _stacked([block.attn.W_O for block in self.blocks])

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
        return _stacked([block.mlp.up.weight.T for block in self.blocks if block.mlp is not None])

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """Weights out of the MLPs' neurons."""
        mlps = [block.mlp for block in self.blocks if block.mlp is not None]
        return _stacked([m.out.weight.T if m.scale is None else m.out.weight.T * m.scale for m in mlps])

    def _head_biases(self, part: str) -> Tensor:
        found = []
        for block in self.blocks:
            linear = getattr(block.attn, part)
            bias = block.attn.bias_of(linear)
            like = block.attn.heads_of(linear)
            found.append(like.new_zeros(like.shape[:2]) if bias is None else bias)
        return _stacked(found)

    def weights(self) -> dict[str, Tensor]:
        """Every tensor that makes the model, by name, not copied: what ``Transformer(cfg, weights)`` takes.

        Raises:
            ValueError: some are on disk, where :func:`workbench.models.memory.spread` laid them.
        """
        found = {name: tensor.detach() for name, tensor in self.state_dict(keep_vars=True).items()}
        if any(tensor.device.type == "meta" for tensor in found.values()):
            raise ValueError("Some weights of this model are not in memory; load it without a device map for this.")
        if self.inverse_frequencies is not None:
            found["inverse_frequencies"] = self.inverse_frequencies
        return found

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of configuration and weights: the same model gives the same.

        Raises:
            ValueError: as for :meth:`weights`.
        """
        weights = self.weights()
        # Weights may be changed in place, by training or through a model that shares them.
        state = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in weights.items())
        if self._known is None or self._known[0] != state:
            self._known = (state, _digest(self.cfg, weights))
        return self._known[1]

    _known: tuple[object, str] | None = None


def _stacked(parts: list[Tensor]) -> Tensor:
    """One tensor of what each layer has."""
    if not parts:
        raise ValueError("This model has no MLPs.")
    if any(part.device.type == "meta" for part in parts):
        raise ValueError("Some weights of this model are not in memory; load it without a device map for this.")
    return torch.stack(parts)


def _digest(cfg: ModelConfig, weights: dict[str, Tensor]) -> str:
    # Only what differs from the defaults: a field that a later version adds leaves old fingerprints as they are.
    told = {f.name: getattr(cfg, f.name) for f in fields(cfg) if getattr(cfg, f.name) != f.default}
    told |= {"image": asdict(cfg.image)} if cfg.image is not None else {}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        tied = name == "unembedding.weight" and cfg.tied
        if tied or (name == "inverse_frequencies" and _is_usual(tensor, cfg)):
            continue
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _is_usual(frequencies: Tensor, cfg: ModelConfig) -> bool:
    """Whether rotary frequencies are those that the configuration's base gives."""
    turned = cfg.rotary_dim or cfg.d_head
    usual = cfg.rotary_base ** (-torch.arange(0, turned, 2).float() / turned)
    return frequencies.ndim == 1 and torch.allclose(frequencies.cpu(), usual, rtol=1e-5, atol=0)
