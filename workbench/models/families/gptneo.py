"""GPT-Neo: GPT-2's block with separate projections, unscaled scores, and windows on every other layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.parts import of_blocks

_PARTS = {
    "ln1": "ln_1",
    "ln2": "ln_2",
    "attn.q": "attn.attention.q_proj",
    "attn.k": "attn.attention.k_proj",
    "attn.v": "attn.attention.v_proj",
    "attn.o": "attn.attention.out_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.out": "mlp.c_proj",
}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``GPTNeoForCausalLM``."""
    c, body = hf.config, hf.transformer
    cfg = ModelConfig(
        family="gpt_neo",
        n_layers=c.num_layers,
        n_heads=c.num_heads,
        n_key_value_heads=c.num_heads,
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_heads,
        d_mlp=c.intermediate_size or 4 * c.hidden_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        norm="layer",
        norm_eps=c.layer_norm_epsilon,
        act_fn=c.activation_function,
        gated_mlp=False,
        positions="learned",
        attn_scale=1.0,
        attn_rounding="nothing",
        attn_bias=False,
        out_bias=True,
        mlp_bias=True,
        tied=hf.lm_head.weight is body.wte.weight,
        windows=tuple(c.window_size if kind == "local" else None for kind in c.attention_layers),
    )
    weights = {
        "embed.weight": body.wte.weight,
        "pos_embed.weight": body.wpe.weight,
        "ln_final.weight": body.ln_f.weight,
        "ln_final.bias": body.ln_f.bias,
        "unembedding.weight": hf.lm_head.weight,
    }
    return cfg, weights | of_blocks(body.h, _PARTS)
