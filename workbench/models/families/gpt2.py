"""GPT-2: learned positions, LayerNorm, GELU, biases, one matrix for queries, keys and values."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``GPT2LMHeadModel``; its Conv1D matrices are taken as transposed views.

    Raises:
        ValueError: the configuration asks for something that the hooked block does not do.
    """
    c = hf.config
    for option in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if getattr(c, option, False):
            raise ValueError(f"GPT-2 models with {option}=True are not supported; set it to False.")
    d, d_head = c.n_embd, c.n_embd // c.n_head
    cfg = ModelConfig(
        family="gpt2",
        n_layers=c.n_layer,
        n_heads=c.n_head,
        n_key_value_heads=c.n_head,
        d_model=d,
        d_head=d_head,
        d_mlp=c.n_inner or 4 * d,
        d_vocab=c.vocab_size,
        n_ctx=c.n_positions,
        norm="layer",
        norm_eps=c.layer_norm_epsilon,
        act_fn=c.activation_function,
        gated_mlp=False,
        positions="learned",
        attn_scale=d_head**-0.5 if c.scale_attn_weights else 1.0,
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=hf.lm_head.weight is hf.transformer.wte.weight,
    )
    body = hf.transformer
    weights = {
        "embed.weight": body.wte.weight,
        "pos_embed.weight": body.wpe.weight,
        "ln_final.weight": body.ln_f.weight,
        "ln_final.bias": body.ln_f.bias,
        "unembedding.weight": hf.lm_head.weight,
    }
    for layer, block in enumerate(body.h):
        fused, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        for i, part in enumerate("qkv"):
            columns = slice(i * d, (i + 1) * d)
            weights[f"blocks.{layer}.attn.{part}.weight"] = fused[:, columns].T
            weights[f"blocks.{layer}.attn.{part}.bias"] = bias[columns]
        for ours, theirs in (("attn.o", block.attn.c_proj), ("mlp.up", block.mlp.c_fc), ("mlp.out", block.mlp.c_proj)):
            weights[f"blocks.{layer}.{ours}.weight"] = theirs.weight.T
            weights[f"blocks.{layer}.{ours}.bias"] = theirs.bias
        for ours, theirs in (("ln1", block.ln_1), ("ln2", block.ln_2)):
            weights[f"blocks.{layer}.{ours}.weight"] = theirs.weight
            weights[f"blocks.{layer}.{ours}.bias"] = theirs.bias
    return cfg, weights
