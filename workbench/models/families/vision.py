"""ViT, DeiT and DINOv2: images cut into patches, with tokens of the model's own before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.models.config import ImageConfig, ModelConfig, Pooling
from workbench.models.families.parts import labels_of, of_blocks

_ATTENTION = {
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.o": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.out": "mlp.fc2",
}
_VIT = _ATTENTION | {"ln1": "layernorm_before", "ln2": "layernorm_after"}
_DINO = _ATTENTION | {"ln1": "norm1", "ln2": "norm2"}
_GATED = {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.out": "mlp.down_proj"}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``ViTModel`` or ``DeiTModel``, or of one that classifies images."""
    c, body = hf.config, getattr(hf, hf.base_model_prefix, hf)
    e = body.embeddings
    tokens = {"cls": e.cls_token} | ({"dist": e.distillation_token} if hasattr(e, "distillation_token") else {})
    cfg = ModelConfig(
        **_sizes(c),
        d_mlp=c.intermediate_size,
        image=_image(c, tuple(tokens), None),
        act_fn=c.hidden_act,
        gated_mlp=False,
        **_head(hf, "first-two" if hasattr(hf, "distillation_classifier") else "first"),
    )
    weights = _embedding(body, tokens, e.position_embeddings[0]) | _classifier(hf)
    return cfg, weights | of_blocks(body.layers, _VIT)


def adapt_dino(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``Dinov2Model``, with registers or without, or of one that classifies images."""
    c, body = hf.config, getattr(hf, hf.base_model_prefix, hf)
    e, layers = body.embeddings, body.encoder.layer
    registers = int(getattr(c, "num_register_tokens", 0))
    tokens, table = {"cls": e.cls_token}, e.position_embeddings[0]
    if registers:
        tokens |= {f"reg{i}": e.register_tokens[:, i : i + 1] for i in range(registers)}
        # Registers have no position.
        table = torch.cat((table[:1], table.new_zeros(registers, table.shape[1]), table[1:]))
    parts = {name: part for name, part in _DINO.items() if not (c.use_swiglu_ffn and name.startswith("mlp"))}
    parts |= _GATED if c.use_swiglu_ffn else {}
    found = of_blocks(layers, parts)
    for layer, block in enumerate(layers):
        found[f"blocks.{layer}.attn.scale"] = block.layer_scale1.lambda1
        found[f"blocks.{layer}.mlp.scale"] = block.layer_scale2.lambda1
    cfg = ModelConfig(
        **_sizes(c),
        d_mlp=found["blocks.0.mlp.out.weight"].shape[1],
        image=_image(c, tuple(tokens), "bicubic-antialias" if registers else "bicubic"),
        act_fn="silu" if c.use_swiglu_ffn else c.hidden_act,
        gated_mlp=c.use_swiglu_ffn,
        layer_scale=True,
        **_head(hf, "first-and-mean"),
    )
    return cfg, found | _embedding(body, tokens, table) | _classifier(hf)


def _sizes(c: Any) -> dict[str, Any]:
    """What the configurations of vision models call alike."""
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return {
        "family": c.model_type,
        "n_layers": c.num_hidden_layers,
        "n_heads": c.num_attention_heads,
        "n_key_value_heads": c.num_attention_heads,
        "d_model": c.hidden_size,
        "d_head": d_head,
        "d_vocab": 0,
        "norm": "layer",
        "norm_eps": c.layer_norm_eps,
        "positions": "learned",
        "attn_scale": d_head**-0.5,
        "attn_bias": c.qkv_bias,
        "out_bias": True,
        "mlp_bias": True,
        "tied": False,
        "causal": False,
        "unembed_bias": True,
    }


def _image(c: Any, prefix: tuple[str, ...], resize: Literal["bicubic", "bicubic-antialias"] | None) -> ImageConfig:
    height, width = _pair(c.image_size)
    patch_height, patch_width = _pair(c.patch_size)
    return ImageConfig(height, width, c.num_channels, patch_height, patch_width, prefix, resize)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _embedding(body: Any, tokens: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    convolution = body.embeddings.patch_embeddings.projection
    return {
        "patch_embed.weight": convolution.weight.flatten(1),
        "patch_embed.bias": convolution.bias,
        "prefix.weight": torch.cat([token[0] for token in tokens.values()]),
        "pos_embed.weight": table,
        "ln_final.weight": body.layernorm.weight,
        "ln_final.bias": body.layernorm.bias,
    }


def _head(hf: Any, pooling: Pooling) -> dict[str, Any]:
    has = bool(_classifier(hf))
    n = int(hf.config.num_labels) if has else None
    return {
        "n_ctx": _n_positions(hf),
        "d_vocab_out": n,
        "labels": labels_of(hf.config) if has else None,
        "pooling": pooling if has else "none",
        "head": "unembed" if has else "none",
    }


def _n_positions(hf: Any) -> int:
    body = getattr(hf, hf.base_model_prefix, hf)
    return int(body.embeddings.position_embeddings.shape[1]) + int(getattr(hf.config, "num_register_tokens", 0))


def _classifier(hf: Any) -> dict[str, Tensor]:
    """Weights of the classifier; of DeiT's two, side by side and halved, for their answers are averaged."""
    if hasattr(hf, "distillation_classifier") and hasattr(hf.cls_classifier, "weight"):
        both = (hf.cls_classifier, hf.distillation_classifier)
        return {
            "unembedding.weight": torch.cat([linear.weight for linear in both], 1) / 2,
            "unembedding.bias": (both[0].bias + both[1].bias) / 2,
        }
    if hasattr(getattr(hf, "classifier", None), "weight"):
        return {"unembedding.weight": hf.classifier.weight, "unembedding.bias": hf.classifier.bias}
    return {}
