"""Text to tokens and back, on top of a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.models.pieces import pieces_of


@dataclass(frozen=True)
class Tokens:
    """A tokenizer together with what a model allows.

    Attributes:
        tokenizer: a Hugging Face tokenizer, or None for models that have none.
        n_ctx: the most tokens a prompt may have.
        d_vocab: how many tokens the model knows; None for as many as the tokenizer.
    """

    tokenizer: Any
    n_ctx: int
    d_vocab: int | None = None

    def ids(self, text: str) -> list[int]:
        """Token ids of one text, with the special tokens that the tokenizer itself adds.

        Raises:
            ValueError: the text is empty or too long, or there is no tokenizer.
        """
        ids: list[int] = self._need().encode(text)
        self._check(text, ids)
        return ids

    def batch(
        self, texts: str | Sequence[str], side: str = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
        """Tokens [batch, pos], padded, and the length of each text."""
        rows = [self.ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if not rows:
            raise ValueError("There are no prompts: give at least one.")
        return padded(rows, self.pad, side), torch.tensor([len(row) for row in rows])

    @property
    def pad(self) -> int:
        """The id that padding is filled with."""
        for candidate in ("pad_token_id", "eos_token_id"):
            if (found := getattr(self.tokenizer, candidate, None)) is not None:
                return int(found)
        return 0

    def mask_of(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"] | None:
        """1 for real tokens, 0 for the tokenizer's padding on either side; None for no padding, or no way to tell."""
        if self.own_pad is None or tokens.ndim != 2:
            return None
        real = (tokens != self.own_pad).long()
        mask = ((real.cumsum(1) > 0) & (real.flip(1).cumsum(1).flip(1) > 0)).long()
        return None if bool(mask.all()) else mask

    @property
    def own_pad(self) -> int | None:
        """The token that means padding and nothing else; None where the tokenizer has none."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        others = ("eos_token_id", "bos_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
        return None if pad is None or pad in [getattr(self.tokenizer, other, None) for other in others] else int(pad)

    def single(self, word: str) -> int:
        """The one token of ``word``, without special tokens.

        Raises:
            ValueError: the word is no token or several; the message shows them.
        """
        ids = self._need().encode(word, add_special_tokens=False)
        if len(ids) != 1 or (self.d_vocab is not None and ids[0] >= self.d_vocab):
            pieces = " + ".join(repr(piece) for piece in self.pieces(ids)) or "nothing"
            raise ValueError(
                f"{word!r} is not one token for this model ({pieces}); choose a word that is, "
                "and mind the space before it."
            )
        return int(ids[0])

    def is_single(self, word: str) -> bool:
        """True if ``word`` is exactly one token."""
        ids = self._need().encode(word, add_special_tokens=False)
        return len(ids) == 1 and (self.d_vocab is None or ids[0] < self.d_vocab)

    def inputs(self, texts: str | Sequence[str | tuple[str, str]], side: str = "right") -> dict[str, Tensor]:
        """Tokens, attention mask and token types [batch, pos] of texts, or of pairs of texts.

        Raises:
            ValueError: as for :meth:`ids`.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise ValueError("There are no prompts: give at least one.")
        rows, types = [], []
        for text in given:
            pair = (text,) if isinstance(text, str) else text
            encoded = self._need()(*pair)
            self._check(" / ".join(pair) if all(pair) else "", encoded["input_ids"])
            rows.append(encoded["input_ids"])
            types.append(encoded.get("token_type_ids") or [0] * len(encoded["input_ids"]))
        return {
            "tokens": padded(rows, self.pad, side),
            "attention_mask": padded([[1] * len(row) for row in rows], 0, side),
            "token_types": padded(types, 0, side),
        }

    def _check(self, text: str, ids: Sequence[int]) -> None:
        if not ids or not text:
            raise ValueError("The prompt is empty: write at least one word.")
        if len(ids) > self.n_ctx:
            raise ValueError(
                f"The prompt '{shorten(text)}' has {len(ids)} tokens; the model reads at most {self.n_ctx}. Shorten it."
            )
        if self.d_vocab is not None and max(ids) >= self.d_vocab:
            raise ValueError(
                f"'{shorten(self._unknown(text, ids) or text)}' is not in the vocabulary of this model; it knows "
                f"{self.d_vocab:,} tokens."
            )

    def _unknown(self, text: str, ids: Sequence[int]) -> str | None:
        """The first piece of a text that the model has no token for."""
        try:
            spans = self._need()(text, return_offsets_mapping=True)["offset_mapping"]
        except (NotImplementedError, KeyError, ValueError):
            return None
        return next((text[a:b] for i, (a, b) in zip(ids, spans, strict=False) if i >= (self.d_vocab or 0)), None)

    def pieces(self, text: str | Tensor | Sequence[int]) -> list[str]:
        """Each token as the text it stands for.

        A character that is split into bytes is shown at the first of its tokens, and nothing at the others, so that the
        pieces joined are the text. Pieces that continue a word keep their mark where the tokenizer has one (``##ing``).
        """
        ids = self.ids(text) if isinstance(text, str) else torch.as_tensor(text).flatten().tolist()
        return pieces_of(self._need(), ids)

    def _need(self) -> Any:
        if self.tokenizer is None:
            raise ValueError("This model came without a tokenizer: give tokens, or pass one to from_hf.")
        return self.tokenizer


def padded(rows: Sequence[Sequence[int]], pad: int, side: str) -> Int[Tensor, "batch pos"]:
    """Rows of unlike length as one tensor.

    Raises:
        ValueError: another side than left and right.
    """
    if side not in ("left", "right"):
        raise ValueError(f"Texts are padded on the left or the right, not '{side}'.")
    if side == "right":
        return pad_right(rows, pad)
    return pad_right([row[::-1] for row in rows], pad).flip(1)


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Int[Tensor, "batch pos"]:
    """Rows of unlike length as one tensor."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])


def shorten(text: str, width: int = 60) -> str:
    """The text, cut in the middle where it is longer than ``width`` characters."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]}...{text[-half:]}"
