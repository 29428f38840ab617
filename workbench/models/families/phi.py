"""Phi-1 to Phi-2: parallel blocks that read through one norm, partly turned heads, a bias on the logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.llama import refuse_varying_rotary
from workbench.models.families.parts import of_blocks

_PARTS = {
    "ln1": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.dense",
    "mlp.up": "mlp.fc1",
    "mlp.out": "mlp.fc2",
}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``PhiForCausalLM``.

    Raises:
        ValueError: queries and keys are normalised, or the rotary scaling depends on the prompt's length.
    """
    c, body = hf.config, hf.model
    refuse_varying_rotary(body.rotary_emb.rope_type)
    if c.qk_layernorm:
        raise ValueError("Phi models with qk_layernorm=True are not supported; use one without.")
    d_head = c.hidden_size // c.num_attention_heads
    cfg = ModelConfig(
        family="phi",
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads or c.num_attention_heads,
        d_model=c.hidden_size,
        d_head=d_head,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        norm="layer",
        norm_eps=c.layer_norm_eps,
        act_fn=c.hidden_act,
        gated_mlp=False,
        positions="rotary",
        attn_scale=d_head**-0.5,
        rotary_base=float(c.rope_parameters["rope_theta"]),
        rotary_scale=float(body.rotary_emb.attention_scaling),
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=hf.lm_head.weight is body.embed_tokens.weight,
        parallel=True,
        rotary_dim=None if 2 * len(body.rotary_emb.inv_freq) == d_head else 2 * len(body.rotary_emb.inv_freq),
        shared_norm=True,
        unembed_bias=True,
    )
    weights = {
        "embed.weight": body.embed_tokens.weight,
        "ln_final.weight": body.final_layernorm.weight,
        "ln_final.bias": body.final_layernorm.bias,
        "unembedding.weight": hf.lm_head.weight,
        "unembedding.bias": hf.lm_head.bias,
        "inverse_frequencies": body.rotary_emb.inv_freq,
    }
    return cfg, weights | of_blocks(body.layers, _PARTS)
