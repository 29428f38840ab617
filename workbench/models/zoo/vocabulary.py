"""Tokenizers for small closed vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNKNOWN = "[UNK]"


def words_tokenizer(words: Sequence[str], *, start: str | None = None, silent: str | None = None) -> Any:
    """A Hugging Face tokenizer of words between spaces; each word's token is its place in the list.

    A word that is not in the list gets the token after the last, which no model has a row for, so that the model
    refuses it in one sentence.

    Args:
        words: the vocabulary.
        start: the word that is put before every text.
        silent: a sign that is read as a space.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: i for i, word in enumerate([*words, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    if silent is not None:
        tokenizer.normalizer = normalizers.Replace(silent, " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, ids[start])]
        )
    return _for_transformers(tokenizer, bos_token=start, unk_token=UNKNOWN)


def characters_tokenizer(characters: str) -> Any:
    """A Hugging Face tokenizer that takes every character alone and passes over spaces.

    Args:
        characters: the vocabulary; the token of each is its place. Others are refused as in :func:`words_tokenizer`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ids = {character: i for i, character in enumerate([*characters, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _for_transformers(tokenizer, unk_token=UNKNOWN)


def _for_transformers(tokenizer: Any, **special: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    made: Any = PreTrainedTokenizerFast
    said = {name: word for name, word in special.items() if word is not None}
    return made(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **said)
