"""Micro models: the real Hugging Face classes with random weights, small enough to be patched by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workbench.circuits.tasks import words
from workbench.circuits.tasks.ioi import TEMPLATES
from workbench.models.families.samples import find

KINDS = ("llama-grouped", "llama-ungrouped", "llama-biased", "gpt2")
"""What the brute-force reference can run."""

OTHERS = (
    "mistral",
    "qwen2",
    "qwen3",
    "gpt-neo",
    "gpt-neox",
    "gpt-neox-serial",
    "phi",
    "opt",
    "gemma2",
    "gemma3",
)
"""Decoders of every other family."""
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
    """A Hugging Face model with random weights; norms and biases too, so that nothing is trivially 1 or 0.

    ``layers`` holds for the kinds that the reference can run.
    """
    depth = {"layers": layers} if kind in KINDS else {}
    return find(kind).model(vocab=vocab, seed=seed, **depth)


def save(folder: Path, kind: str = "llama-grouped", layers: int = 2) -> Path:
    """A whole model folder, with the micro tokenizer."""
    text = tokenizer()
    hugging_face(kind, vocab=len(text), layers=layers).save_pretrained(folder)
    text.save_pretrained(folder)
    return folder
