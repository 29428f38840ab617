"""What a person points at in an input: words, tokens and phrases of a text, patches of an image.

Each is a source of a decomposition: positions of what enters layer 0, ``input@3-4``. A word is a run of letters and
digits, or one mark; marks that a tokenizer reads in one piece with a word are one part with it.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.models import Transformer

Spans = Sequence[tuple[int, int]]

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Part:
    """A word, a token, a patch or a phrase.

    Attributes:
        name: as a person reads it.
        first, last: its positions, both included.
        special: whether it is no part of the text or the image but was put there for the model (``[CLS]``).
    """

    name: str
    first: int
    last: int
    special: bool = False

    @property
    def place(self) -> str:
        """Its name as a place in a model, see :mod:`workbench.circuits.decomposition.sites`."""
        return f"input@{self.first}" if self.first == self.last else f"input@{self.first}-{self.last}"


@dataclass(frozen=True)
class Cut:
    """An input, cut into parts that cover every position.

    Attributes:
        tensor: tokens [1, pos] or pixels [1, channel, height, width].
        parts: in the order of their positions.
        text: as it was given; empty for an image.
        spans: first character of each token, and the one behind its last; empty where it is not known.
        pieces: the text of each token.
        grid: rows and columns of patches; None for a text.
    """

    tensor: Tensor
    parts: tuple[Part, ...]
    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    pieces: tuple[str, ...] = ()
    grid: tuple[int, int] | None = None

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        """Pairs of parts that touch: one behind the other in a text, by an edge on the grid of an image.

        What is special has no neighbours.
        """
        plain = [i for i, part in enumerate(self.parts) if not part.special]
        if self.grid is None:
            return [(i, j) for i, j in itertools.pairwise(plain) if j == i + 1]
        rows, columns = self.grid
        at = [plain[row * columns : (row + 1) * columns] for row in range(rows)]
        across = [(at[row][c], at[row][c + 1]) for row in range(rows) for c in range(columns - 1)]
        down = [(at[row][c], at[row + 1][c]) for row in range(rows - 1) for c in range(columns)]
        return across + down


def words(model: Transformer, text: str) -> Cut:
    """The text cut into words.

    Raises:
        ValueError: it is empty or too long, or the tokenizer does not tell where its tokens stand in a text.
    """
    cut = tokens(model, text)
    if model.tokenizer is None:
        return cut
    if not cut.spans:
        raise ValueError(
            f"The tokenizer of {model.name} does not tell where its tokens stand in a text, so that words cannot be "
            "found; ask for tokens."
        )
    places = [match.span() for match in _WORD.finditer(text)]
    parts: list[Part] = []
    last_word = -1  # the last word that the part before reaches into
    for i, (start, stop) in enumerate(cut.spans):
        reached = [w for w, (a, b) in enumerate(places) if a < stop and start < b]
        space = bool(parts) and not parts[-1].special and cut.pieces[parts[-1].first : parts[-1].last + 1] == (" ",)
        if reached and (space or (parts and reached[0] <= last_word)):
            parts[-1] = Part("", parts[-1].first, i)
        else:
            parts.append(cut.parts[i] if not reached else Part("", i, i))
        last_word = max([last_word, *reached])
    named = [part if part.name else Part(_said(text, cut, part), part.first, part.last) for part in parts]
    return Cut(cut.tensor, tuple(named), text, cut.spans, cut.pieces)


def tokens(model: Transformer, text: str) -> Cut:
    """The text cut into tokens; for a model without a tokenizer the text is numbers of tokens, such as ``3 14 15``.

    Raises:
        ValueError: it is empty or too long, or holds no numbers where numbers are needed.
    """
    import torch

    if model.images is not None:
        raise ValueError(f"{model.name} reads images, not text; give an image and ask for its patches.")
    if not text.strip():
        raise ValueError("The text is empty: write at least one word.")
    if model.tokenizer is None:
        numbers = re.split(r"[\s,]+", text.strip())
        if not all(number.isdecimal() for number in numbers):
            raise ValueError(f"{model.name} has no tokenizer: write token numbers from 0 to {model.cfg.d_vocab - 1}.")
        given = torch.tensor([[int(number) for number in numbers]], device=model.device)
        return Cut(given, tuple(Part(n, i, i) for i, n in enumerate(numbers)), text, pieces=tuple(numbers))
    given = model.to_tokens(text)
    ids = given[0].tolist()
    pieces = tuple(model.to_str_tokens(given[0]))
    spans = _spans(model, text, ids)
    special = set(model.tokenizer.all_special_ids)
    # An unknown word is a special token to a tokenizer, but a word to a person.
    special -= {model.tokenizer.unk_token_id, getattr(model.tokenizer, "mask_token_id", None)}
    parts = tuple(Part(piece, i, i, ids[i] in special) for i, piece in enumerate(pieces))
    return Cut(given, parts, text, spans, pieces)


def patches(model: Transformer, pixels: Float[Tensor, "1 channel height width"]) -> Cut:
    """The image cut into patches, row by row; the tokens before them are special parts.

    Raises:
        ValueError: the model reads no images, or the image does not fit it.
    """
    given = model.to_pixels(pixels)
    assert model.images is not None
    cfg = model.images.cfg
    grid = given.shape[2] // cfg.patch_height, given.shape[3] // cfg.patch_width
    names = [*cfg.prefix, *(f"patch ({row}, {column})" for row in range(grid[0]) for column in range(grid[1]))]
    parts = tuple(Part(name, i, i, i < len(cfg.prefix)) for i, name in enumerate(names))
    return Cut(given, parts, grid=grid)


def phrase(cut: Cut, said: str) -> Part:
    """The tokens of a phrase of the text, such as ``not good``; ``the#2`` is the second of several.

    Raises:
        ValueError: it is not in the text, occurs several times, or a token holds it together with its neighbour.
    """
    bare, _, which = said.strip().rpartition("#") if re.search(r".#\d+$", said.strip()) else (said.strip(), "", "")
    if not bare:
        raise ValueError("The phrase is empty: write one or more words of the text.")
    if not cut.spans:
        raise ValueError(f"Where '{bare}' stands is not known for this model; write positions, such as input@2-5.")
    found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(bare)}(?!\w)", cut.text)]
    found = found or [m.span() for m in re.finditer(re.escape(bare), cut.text)]
    if not found:
        raise ValueError(f"'{bare}' is not in the text{_hint(bare, cut.text)}.")
    if which and not 1 <= int(which) <= len(found):
        raise ValueError(f"'{bare}' occurs {len(found)} times in the text; '{said}' does not exist.")
    if len(found) > 1 and not which:
        raise ValueError(f"'{bare}' occurs {len(found)} times in the text; write '{bare}#1' for the first.")
    start, stop = found[int(which or 1) - 1]
    inside = [i for i, (a, b) in enumerate(cut.spans) if a < stop and start < b]
    low, high = _bare(cut.text, cut.spans[inside[0]])[0], _bare(cut.text, cut.spans[inside[-1]])[1]
    if low < start or high > stop:
        pieces = " + ".join(repr(cut.pieces[i]) for i in inside)
        raise ValueError(
            f"'{bare}' is merged with its neighbour by the tokenizer ({pieces}), so that it is no source by itself; "
            f"choose '{cut.text[low:high]}'."
        )
    return Part(said.strip(), inside[0], inside[-1])


def _spans(model: Transformer, text: str, ids: list[int]) -> tuple[tuple[int, int], ...]:
    """Where each token stands; nothing where the tokenizer does not tell."""
    try:
        found = model.tokenizer(text, return_offsets_mapping=True)
    except (NotImplementedError, KeyError, ValueError):
        return ()
    return tuple((a, b) for a, b in found["offset_mapping"]) if found["input_ids"] == ids else ()


def _said(text: str, cut: Cut, part: Part) -> str:
    """The text of a part without the spaces around it."""
    start, stop = cut.spans[part.first][0], max(b for _, b in cut.spans[part.first : part.last + 1])
    return text[start:stop].strip()


def _bare(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """A token's place without the spaces at its ends."""
    said = text[span[0] : span[1]]
    return span[0] + len(said) - len(said.lstrip()), span[0] + len(said.rstrip())


def _hint(said: str, text: str) -> str:
    there = [match.group() for match in _WORD.finditer(text)]
    lower = {word.lower(): word for word in reversed(there)}
    close = difflib.get_close_matches(said.lower(), list(lower), 1)
    return f"; did you mean '{lower[close[0]]}'?" if close else f"; its words are: {', '.join(there[:12])}"


def blank(model: Transformer, cut: Cut) -> Tensor:
    """The same input with nothing in it, as a baseline: every word a mask (else a padding or end-of-text token), every
    patch all zeros (the mean colour of models that normalise, black of the digits); special tokens stay.

    Raises:
        ValueError: the tokenizer has no token that means nothing.
    """
    if cut.grid is not None:
        return cut.tensor * 0
    nothing = _nothing(model)
    if nothing is None:
        raise ValueError(f"{model.name} has no token that means nothing; choose the baseline zero or mean.")
    out = cut.tensor.clone()
    for part in cut.parts:
        if not part.special:
            out[:, part.first : part.last + 1] = nothing
    return out


def has_blank(model: Transformer) -> bool:
    """Whether :func:`blank` knows an input with nothing in it."""
    return model.images is not None or _nothing(model) is not None


def _nothing(model: Transformer) -> int | None:
    """The token that stands for a missing word."""
    names = ("mask_token_id", "unk_token_id", "pad_token_id", "eos_token_id", "bos_token_id")
    known = (getattr(model.tokenizer, name, None) for name in names)
    return next((int(token) for token in known if token is not None and token < model.cfg.d_vocab), None)
