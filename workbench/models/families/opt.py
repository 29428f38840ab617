"""OPT: learned positions, LayerNorm, ReLU, biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.parts import of_blocks

_PARTS = {
    "ln1": "self_attn_layer_norm",
    "ln2": "final_layer_norm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.out_proj",
    "mlp.up": "fc1",
    "mlp.out": "fc2",
}
# The first rows of OPT's position table are never used.
_UNUSED_POSITIONS = 2


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of an ``OPTForCausalLM``.

    Raises:
        ValueError: the model normalises after its sublayers, or projects its embeddings (OPT-350m does both).
    """
    c, body = hf.config, hf.model.decoder
    if not c.do_layer_norm_before or c.word_embed_proj_dim != c.hidden_size:
        raise ValueError("OPT models with norms after the sublayers or projected embeddings (350m) are not supported.")
    if body.final_layer_norm is None or not c.layer_norm_elementwise_affine:
        raise ValueError("OPT models without a final norm, or whose norms have no weights, are not supported.")
    cfg = ModelConfig(
        family="opt",
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_attention_heads,
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_attention_heads,
        d_mlp=c.ffn_dim,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        norm="layer",
        norm_eps=body.final_layer_norm.eps,
        act_fn=c.activation_function,
        gated_mlp=False,
        positions="learned",
        attn_scale=(c.hidden_size // c.num_attention_heads) ** -0.5,
        attn_rounding="queries",
        attn_bias=c.enable_bias,
        out_bias=c.enable_bias,
        mlp_bias=c.enable_bias,
        tied=hf.lm_head.weight is body.embed_tokens.weight,
    )
    weights = {
        "embed.weight": body.embed_tokens.weight,
        "pos_embed.weight": body.embed_positions.weight[_UNUSED_POSITIONS:],
        "ln_final.weight": body.final_layer_norm.weight,
        "ln_final.bias": body.final_layer_norm.bias,
        "unembedding.weight": hf.lm_head.weight,
    }
    return cfg, weights | of_blocks(body.layers, _PARTS)
