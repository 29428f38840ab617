"""LLaMA and its kin (SmolLM among them): rotary positions, RMSNorm, SwiGLU, grouped key-value heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig

_LINEARS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
}
# These change their angles with the length of the prompt, which a fixed table of frequencies cannot do.
_VARYING_ROTARY = ("dynamic", "longrope")


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``LlamaForCausalLM``.

    Raises:
        ValueError: the rotary scaling depends on the prompt's length.
    """
    c, rotary = hf.config, hf.model.rotary_emb
    if rotary.rope_type in _VARYING_ROTARY:
        raise ValueError(
            f"Rotary positions of the type '{rotary.rope_type}' are not supported; use a model with a fixed one."
        )
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    cfg = ModelConfig(
        family="llama",
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads,
        d_model=c.hidden_size,
        d_head=d_head,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        norm="rms",
        norm_eps=c.rms_norm_eps,
        act_fn=c.hidden_act,
        gated_mlp=True,
        positions="rotary",
        rotary_base=float(c.rope_parameters["rope_theta"]),
        rotary_scale=float(rotary.attention_scaling),
        attn_scale=d_head**-0.5,
        attn_bias=c.attention_bias,
        out_bias=c.attention_bias,
        mlp_bias=c.mlp_bias,
        tied=hf.lm_head.weight is hf.model.embed_tokens.weight,
    )
    weights = {
        "embed.weight": hf.model.embed_tokens.weight,
        "ln_final.weight": hf.model.norm.weight,
        "unembedding.weight": hf.lm_head.weight,
        "inverse_frequencies": rotary.inv_freq,
    }
    for layer, block in enumerate(hf.model.layers):
        for ours, theirs in _LINEARS.items():
            for kind, tensor in block.get_submodule(theirs).named_parameters():
                weights[f"blocks.{layer}.{ours}.{kind}"] = tensor
    return cfg, weights
