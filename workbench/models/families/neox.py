"""GPT-NeoX and Pythia: parallel blocks with two norms, positions that turn a part of each head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.llama import refuse_varying_rotary
from workbench.models.families.parts import of_blocks

_PARTS = {
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn.o": "attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.out": "mlp.dense_4h_to_h",
}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``GPTNeoXForCausalLM``; its fused query-key-value matrix is copied apart.

    Raises:
        ValueError: the rotary scaling depends on the prompt's length.
    """
    c, body = hf.config, hf.gpt_neox
    refuse_varying_rotary(body.rotary_emb.rope_type)
    heads, d = c.num_attention_heads, c.hidden_size
    cfg = ModelConfig(
        family="gpt_neox",
        n_layers=c.num_hidden_layers,
        n_heads=heads,
        n_key_value_heads=heads,
        d_model=d,
        d_head=d // heads,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=c.max_position_embeddings,
        norm="layer",
        norm_eps=c.layer_norm_eps,
        act_fn=c.hidden_act,
        gated_mlp=False,
        positions="rotary",
        attn_scale=(d // heads) ** -0.5,
        rotary_base=float(c.rope_parameters["rope_theta"]),
        rotary_scale=float(body.rotary_emb.attention_scaling),
        attn_bias=c.attention_bias,
        out_bias=c.attention_bias,
        mlp_bias=True,
        tied=hf.lm_head.weight is body.embed_in.weight,
        parallel=c.use_parallel_residual,
        rotary_dim=None if 2 * len(body.rotary_emb.inv_freq) == d // heads else 2 * len(body.rotary_emb.inv_freq),
    )
    weights = {
        "embed.weight": body.embed_in.weight,
        "ln_final.weight": body.final_layer_norm.weight,
        "ln_final.bias": body.final_layer_norm.bias,
        "unembedding.weight": hf.lm_head.weight,
        "inverse_frequencies": body.rotary_emb.inv_freq,
    }
    for layer, block in enumerate(body.layers):
        for kind, tensor in block.attention.query_key_value.named_parameters():
            # Rows run head by head, and in a head query, key, value.
            apart = tensor.view(heads, 3, d // heads, *tensor.shape[1:])
            for i, part in enumerate("qkv"):
                weights[f"blocks.{layer}.attn.{part}.{kind}"] = apart[:, i].reshape(d, *tensor.shape[1:])
    return cfg, weights | of_blocks(body.layers, _PARTS)
