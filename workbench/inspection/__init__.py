"""What a model is, what it answers, and what another attention mechanism changes: plain results for one input.

    given = read(model, "When Mary and John went to the store, John gave a drink to")
    found = compare(model, given, swapped(model, "sparsemax", heads=[(23, 3)]))
    found.answers            # the most probable next tokens, before and after
    found.change[23, 3]      # how far the pattern of head 23.3 moved, from 0 to 1

A result holds tensors and text, never a model.
"""

from workbench.inspection.comparison import Comparison, compare, describe
from workbench.inspection.facts import NO_COUNTERPART, facts, is_native, kind_of, parity, parity_words
from workbench.inspection.inputs import Given, n_samples, named, picture, pixels_of, read, sample, see, shown
from workbench.inspection.swap import (
    Answer,
    Effect,
    Look,
    answers,
    change,
    effects,
    embedding_cosine,
    interesting,
    look,
    swapped,
)

__all__ = [
    "NO_COUNTERPART",
    "Answer",
    "Comparison",
    "Effect",
    "Given",
    "Look",
    "answers",
    "change",
    "compare",
    "describe",
    "effects",
    "embedding_cosine",
    "facts",
    "interesting",
    "is_native",
    "kind_of",
    "look",
    "n_samples",
    "named",
    "parity",
    "parity_words",
    "picture",
    "pixels_of",
    "read",
    "sample",
    "see",
    "shown",
    "swapped",
]
