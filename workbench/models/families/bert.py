"""BERT and RoBERTa, MiniLM among them: encoders whose norms come after the sublayers, with segments of text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families.parts import labels_of, named, of_blocks

_PARTS = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.o": "attention.output.dense",
    "ln1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.out": "output.dense",
    "ln2": "output.LayerNorm",
}
# Our part of the head -> theirs.
_BERT = {
    "ForMaskedLM": {
        "head.dense": "cls.predictions.transform.dense",
        "head.ln": "cls.predictions.transform.LayerNorm",
        "unembedding": "cls.predictions.decoder",
    },
    "ForSequenceClassification": {"head.dense": "bert.pooler.dense", "unembedding": "classifier"},
}
_ROBERTA = {
    "ForMaskedLM": {
        "head.dense": "lm_head.dense",
        "head.ln": "lm_head.layer_norm",
        "unembedding": "lm_head.decoder",
    },
    "ForSequenceClassification": {"head.dense": "classifier.dense", "unembedding": "classifier.out_proj"},
}


def adapt(hf: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights of a ``BertModel``, ``RobertaModel`` or one with a head for masks or for classes.

    Raises:
        ValueError: the model is a decoder with cross-attention.
    """
    c = hf.config
    body = getattr(hf, hf.base_model_prefix, hf)
    if c.add_cross_attention:
        raise ValueError("BERT models with add_cross_attention=True are not supported; set it to False.")
    roberta = c.model_type != "bert"
    masked, classes = (type(hf).__name__.endswith(kind) for kind in _BERT)
    heads = _ROBERTA if roberta else _BERT
    head = heads["ForMaskedLM"] if masked else heads["ForSequenceClassification"] if classes else {}
    # RoBERTa keeps the rows up to its padding token's for padding; the positions of real tokens come after.
    pad = c.pad_token_id if roberta else None
    first = pad if pad is not None else 0
    table = body.embeddings.position_embeddings.weight[first:]
    cfg = ModelConfig(
        family=c.model_type,
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_attention_heads,
        d_model=c.hidden_size,
        d_head=c.hidden_size // c.num_attention_heads,
        d_mlp=c.intermediate_size,
        d_vocab=c.vocab_size,
        n_ctx=len(table) - roberta,
        norm="layer",
        norm_eps=c.layer_norm_eps,
        act_fn=c.hidden_act,
        gated_mlp=False,
        positions="learned",
        attn_scale=(c.hidden_size // c.num_attention_heads) ** -0.5,
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=masked and hf.get_output_embeddings().weight is body.embeddings.word_embeddings.weight,
        causal=bool(c.is_decoder),
        unembed_bias=True,
        norm_place="post",
        embed_norm=True,
        n_token_types=c.type_vocab_size,
        pad_token=pad,
        pooling="first" if classes else "none",
        head="unembed" if head else "none",
        head_act=("gelu" if roberta else c.hidden_act) if masked else "tanh" if classes else None,
        head_norm=masked,
        d_vocab_out=c.num_labels if classes else None,
        labels=labels_of(c) if classes else None,
    )
    weights = {
        "embed.weight": body.embeddings.word_embeddings.weight,
        "pos_embed.weight": table,
        "type_embed.weight": body.embeddings.token_type_embeddings.weight,
        **named(body, {"embed_norm": "embeddings.LayerNorm"}),
        **named(hf, head),
    }
    return cfg, weights | of_blocks(body.encoder.layer, _PARTS)
