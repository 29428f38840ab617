"""Micro models: the real Hugging Face classes with random weights, small enough to be patched by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from workbench.circuits.tasks import words
from workbench.circuits.tasks.ioi import TEMPLATES

KINDS = ("llama-grouped", "llama-ungrouped", "llama-biased", "gpt2")
"""What the brute-force reference can run."""

_COMMON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 40}
_GROUPED = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 16, "final_logit_softcapping": 5.0}
OTHERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mistral": (MistralForCausalLM, MistralConfig, {**_GROUPED, "sliding_window": 5}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**_GROUPED, "head_dim": 12}),
    "gpt-neo": (
        GPTNeoForCausalLM,
        GPTNeoConfig,
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": 40,
            "window_size": 5,
            "attention_types": [[["global", "local"], 2]],
        },
    ),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {**_COMMON, "intermediate_size": 48, "rotary_pct": 0.25}),
    "gpt-neox-serial": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig,
        {**_COMMON, "intermediate_size": 48, "use_parallel_residual": False},
    ),
    "phi": (PhiForCausalLM, PhiConfig, {**_COMMON, "intermediate_size": 48}),
    "opt": (OPTForCausalLM, OPTConfig, {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**_GEMMA, "attn_logit_softcapping": 2.0}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {**_GEMMA, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
}
"""Every other family, compared with Hugging Face."""
POST_NORMS = ("gemma2", "gemma3")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the tasks' words as single tokens and splits numbers into digits."""
    known = [*words.NAMES, *words.PLACES, *words.OBJECTS, *words.THINGS, *words.PERIODS]
    corpus = [f" {word}" * 50 for word in known] + list(TEMPLATES) * 20
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<pad>")


def hugging_face(kind: str, *, vocab: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """A Hugging Face model with random weights; norms and biases too, so that nothing is trivially 1 or 0."""
    torch.manual_seed(seed)
    if kind in OTHERS:
        made, configure, options = OTHERS[kind]
        model: Any = made(configure(vocab_size=vocab, **options))
    elif kind == "gpt2":
        config = GPT2Config(vocab_size=vocab, n_embd=24, n_layer=layers, n_head=3, n_positions=40, n_inner=56)
        model = GPT2LMHeadModel(config)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=4 if kind == "llama-ungrouped" else 2,
                max_position_embeddings=40,
                attention_bias=kind == "llama-biased",
                mlp_bias=kind == "llama-biased",
                tie_word_embeddings=kind == "llama-grouped",
            )
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = ("norm" in name or ".ln_" in name) and name.endswith("weight")
            centre = 1.0 if is_norm and kind not in POST_NORMS else 0.0  # Gemma keeps them less one
            parameter.copy_(centre + 0.25 * torch.randn_like(parameter))
    return model.eval()


def save(folder: Path, kind: str = "llama-grouped", layers: int = 2) -> Path:
    """A whole model folder, with the micro tokenizer."""
    text = tokenizer()
    hugging_face(kind, vocab=len(text), layers=layers).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder
