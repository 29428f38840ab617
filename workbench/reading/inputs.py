"""The input and the position of a question about one text or image, checked."""

from __future__ import annotations

from workbench import inspection
from workbench.circuits.decomposition.answers import answer_position
from workbench.models import Transformer


def read_input(model: Transformer, text: str) -> inspection.Given:
    """A text, or for a vision model an image file or the number of a sample.

    Raises:
        ValueError: it is empty, too long, or none that the model reads.
    """
    if model.images is not None:
        return inspection.named(model, text)
    if not text.strip():
        raise ValueError("The text is empty; give one of a word or more.")
    return inspection.read(model, text)


def read_at(model: Transformer, given: inspection.Given, at: int | None) -> int | None:
    """The position that is asked for, from 0; the last one, or the mask, where none is. None: the model answers once.

    Raises:
        ValueError: there is no such position, the model has no positions to ask, or no mask to fill in.
    """
    if at is None:
        return answer_position(model, given.tensor)
    if model.cfg.pooling != "none":
        raise ValueError(f"{model.name} gives one answer for the whole input; leave the position out.")
    n = len(given.names)
    if not -n <= at < n:
        raise ValueError(f"There is no position {at}: the input has the positions 0 to {n - 1}.")
    return at % n


__all__ = ["read_at", "read_input"]
