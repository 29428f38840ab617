"""The models whose circuit is known, one record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from workbench.circuits.known.compile import compile_program
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.library import PROGRAMS, Program


@dataclass(frozen=True)
class KnownModel:
    """A model whose circuit is known.

    Attributes:
        key: its name.
        title: what it computes.
        kind: how it came about: ``compiled`` from a program.
        load: makes it; what it gives has a ``model``, ``true_edges`` and a ``task``.
    """

    key: str
    title: str
    kind: str
    load: Callable[[], Any]


def compile_known(program: Program) -> Compiled:
    """A program of the library as a model."""
    return compile_program(
        program.make(), program.vocab, program.max_len, program.causal, name=program.key, draw=program.draw
    )


def known_models() -> list[KnownModel]:
    """Every model whose circuit is known; none is made by listing them."""
    return [KnownModel(p.key, p.title, "compiled", partial(compile_known, p)) for p in PROGRAMS]
