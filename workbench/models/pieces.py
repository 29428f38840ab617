"""Tokens as a person reads them: the text that each stands for."""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

_SPACE = "▁"  # what SentencePiece writes for a space


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; joined they are the whole text, but for tokenizers that drop spaces (BERT).

    Byte-level tokens are turned back into bytes. A character whose bytes are spread over several tokens stands at
    the first of them and the others are empty; bytes that make no character are shown as the replacement sign.
    """
    names = tokenizer.convert_ids_to_tokens(list(ids))
    # Added tokens stand for their own text, whatever the others are made of.
    special = {*getattr(tokenizer, "all_special_ids", ()), *tokenizer.get_added_vocab().values()}
    kind = _kind(tokenizer)
    out: list[str] = []
    chunk: list[bytes] = []

    def close() -> None:
        out.extend(_characters(chunk))
        chunk.clear()

    for token, name in zip(ids, names, strict=True):
        raw = None if token in special or name is None else _bytes(name, kind)
        if raw is None:
            close()
            out.append(_plain(tokenizer, token, name, kind, token in special))
        else:
            chunk.append(raw)
    close()
    return out


def _kind(tokenizer: Any) -> str:
    """``bytes`` for byte-level tokenizers, ``pieces`` for SentencePiece's, ``other`` for the rest."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = repr(getattr(backend, "decoder", None))
    if "ByteLevel" in described:
        return "bytes"
    return "pieces" if _SPACE in described or "Metaspace" in described or "ByteFallback" in described else "other"


def _bytes(name: str, kind: str) -> bytes | None:
    """The bytes that a token's name stands for; None where it stands for text of its own."""
    if kind == "bytes":
        table = _byte_of()
        return bytes(table[c] for c in name) if all(c in table for c in name) else None
    if kind == "pieces":
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return name.replace(_SPACE, " ").encode()
    return None


def _plain(tokenizer: Any, token: int, name: str | None, kind: str, special: bool) -> str:
    if special or kind == "other":
        return name if name is not None else str(token)
    return str(tokenizer.decode([token]))


def _characters(chunk: Sequence[bytes]) -> list[str]:
    """The characters that begin in each run of bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out: list[str] = []
    waiting: int | None = None  # the token in which the unfinished character began
    for i, raw in enumerate(chunk):
        text = decoder.decode(raw, i == len(chunk) - 1)
        if waiting is not None and text:
            out[waiting] += text[0]
            text, waiting = text[1:], None
        out.append(text)
        if waiting is None and decoder.getstate()[0]:
            waiting = i
    return out


@cache
def _byte_of() -> dict[str, int]:
    """Which byte each character of a byte-level token's name stands for (GPT-2's table)."""
    # Not by ``from transformers import convert_slow_tokenizer``: that name is the module or the function in it,
    # whichever transformers happened to load first.
    slow: Any = importlib.import_module("transformers.convert_slow_tokenizer")
    table: dict[int, str] = slow.bytes_to_unicode()
    return {character: byte for byte, character in table.items()}
