"""LLaMA and its kin: Mistral, Qwen2, Qwen3 and SmolLM. Rotary positions, RMSNorm, gated MLP, grouped key heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.parts import of_blocks

LINEARS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
QK_NORMS = {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
# These change their angles with the length of the prompt, which a fixed table of frequencies cannot do.
_VARYING_ROTARY = ("dynamic", "longrope")


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``LlamaForCausalLM`` and its kin.

    Raises:
        ValueError: the rotary scaling depends on the prompt's length.
    """
    rotary = hf.model.rotary_emb
    refuse_varying_rotary(rotary.rope_type)
    cfg = ModelConfig(
        **sizes(hf),
        act_fn=hf.config.hidden_act,
        rotary_base=float(hf.config.rope_parameters["rope_theta"]),
        rotary_scale=float(rotary.attention_scaling),
    )
    return cfg, weights(hf, NORMS) | {"inverse_frequencies": rotary.inv_freq}


def sizes(hf: Any) -> dict[str, Any]:
    """What the configurations of this kind call alike, as arguments of :class:`ModelConfig`."""
    c, attention = hf.config, hf.model.layers[0].self_attn
    return {
        "family": c.model_type,
        "n_layers": c.num_hidden_layers,
        "n_heads": c.num_attention_heads,
        "n_key_value_heads": c.num_key_value_heads,
        "d_model": c.hidden_size,
        "d_head": attention.head_dim,
        "d_mlp": c.intermediate_size,
        "d_vocab": c.vocab_size,
        "n_ctx": c.max_position_embeddings,
        "norm": "rms",
        "norm_eps": c.rms_norm_eps,
        "gated_mlp": True,
        "positions": "rotary",
        "attn_scale": float(attention.scaling),
        "attn_bias": attention.q_proj.bias is not None,
        "out_bias": attention.o_proj.bias is not None,
        "mlp_bias": bool(getattr(c, "mlp_bias", False)),
        "tied": hf.lm_head.weight is hf.model.embed_tokens.weight,
        "windows": windows(c),
        "qk_norm": hasattr(attention, "q_norm"),
    }


def windows(config: Any) -> tuple[int | None, ...] | None:
    """Each layer's sliding window; None where no layer has one."""
    size, n = getattr(config, "sliding_window", None), config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * n
    found = tuple(size if kind == "sliding_attention" else None for kind in kinds)
    return found if any(found) else None


def refuse_varying_rotary(kind: str) -> None:
    """Raise ValueError for angles that depend on the prompt's length."""
    if kind in _VARYING_ROTARY:
        raise ValueError(f"Rotary positions of the type '{kind}' are not supported; use a model with fixed ones.")


def weights(hf: Any, norms: Mapping[str, str], shift: float = 0.0) -> dict[str, Tensor]:
    """Weights by our names; ``shift`` is added to those of the norms, for models that keep them less one.

    Shifted ones are in float32 where the others are in half precision, which has fewer digits near 1 than near 0.
    """

    def gain(weight: Tensor) -> Tensor:
        return weight.to(torch.promote_types(weight.dtype, torch.float32)) + shift if shift else weight

    found = {
        "embed.weight": hf.model.embed_tokens.weight,
        "ln_final.weight": gain(hf.model.norm.weight),
        "unembedding.weight": hf.lm_head.weight,
    }
    for layer, block in enumerate(hf.model.layers):
        qk_norms = QK_NORMS if hasattr(block.self_attn, "q_norm") else {}
        for ours, theirs in {**norms, **qk_norms}.items():
            found[f"blocks.{layer}.{ours}.weight"] = gain(block.get_submodule(theirs).weight)
    return found | of_blocks(hf.model.layers, LINEARS)
