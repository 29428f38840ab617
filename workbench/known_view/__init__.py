"""What there is to see of a model whose circuit is known: its pictures, its program, and what it answers."""

from workbench.known_view.pictures import chosen, curves, faint, hits, program_picture, verdicts
from workbench.known_view.reading import (
    Tried,
    carried,
    compiled_of,
    example,
    listing,
    source_of,
    try_program,
    try_words,
)

__all__ = [
    "Tried",
    "carried",
    "chosen",
    "compiled_of",
    "curves",
    "example",
    "faint",
    "hits",
    "listing",
    "program_picture",
    "source_of",
    "try_program",
    "try_words",
    "verdicts",
]
