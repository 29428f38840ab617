"""Gemma 2 and 3: LLaMA's block with a norm after each sublayer, scaled embeddings, soft caps and sliding windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families import llama

_NORMS = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``Gemma2ForCausalLM`` or a text-only ``Gemma3ForCausalLM``.

    Raises:
        ValueError: attention looks both ways, or the rotary scaling depends on the prompt's length or differs between
            kinds of layers.
    """
    c, rotary = hf.config, hf.model.rotary_emb
    if getattr(c, "use_bidirectional_attention", False):
        raise ValueError("Gemma models with use_bidirectional_attention=True (EmbeddingGemma) are not supported.")
    # Gemma 3 turns sliding and full layers by tables of their own; Gemma 2 has one.
    kinds = sorted(set(c.layer_types)) if hasattr(rotary, f"{c.layer_types[0]}_inv_freq") else [""]
    prefix = {kind: f"{kind}_" if kind else "" for kind in kinds}
    for kind in kinds:
        llama.refuse_varying_rotary(rotary.rope_type[kind] if kind else rotary.rope_type)
    scales = {float(getattr(rotary, f"{prefix[kind]}attention_scaling")) for kind in kinds}
    if len(scales) > 1:
        raise ValueError("Rotary scalings that differ between layers are not supported; use a model with one.")
    cfg = ModelConfig(
        **llama.sizes(hf),
        act_fn=c.hidden_activation,
        rotary_scale=scales.pop(),
        rotary_kinds=tuple(kinds.index(kind) for kind in c.layer_types) if len(kinds) > 1 else None,
        post_norms=True,
        exact_norms=True,
        attn_softcap=c.attn_logit_softcapping,
        logit_softcap=c.final_logit_softcapping,
        embed_scale=c.hidden_size**0.5,
    )
    # Gemma keeps the weights of its norms less one.
    found = llama.weights(hf, _NORMS, shift=1.0)
    tables = [getattr(rotary, f"{prefix[kind]}inv_freq") for kind in kinds]
    return cfg, found | {"inverse_frequencies": torch.stack(tables)}
