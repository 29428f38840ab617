"""The models whose circuit is known, one record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from workbench.circuits.known import programs, siit
from workbench.circuits.known.compile import compile_program
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.library import PROGRAMS, Program

Kind = Literal["compiled", "trained", "program"]


@dataclass(frozen=True)
class KnownModel:
    """A model whose circuit is known.

    Attributes:
        key: its name.
        title: what it computes.
        kind: how it came about: ``compiled`` from a RASP program, ``trained`` to have the circuit of a compiled one
            (SIIT), or a learned ``program``, which is its own circuit.
        load: makes it; what it gives has ``true_edges``, and but for a learned program a ``model`` and a ``task``.
    """

    key: str
    title: str
    kind: Kind
    load: Callable[[], Any]

    @property
    def examinable(self) -> bool:
        """Whether methods can be run on it: it has a hooked model."""
        return self.kind != "program"


def compile_known(program: Program) -> Compiled:
    """A program of the library as a model."""
    return compile_program(
        program.make(), program.vocab, program.max_len, program.causal, name=program.key, draw=program.draw
    )


def known_models() -> list[KnownModel]:
    """Every model whose circuit is known; none is made by listing them."""
    return [
        *(KnownModel(p.key, p.title, "compiled", partial(compile_known, p)) for p in PROGRAMS),
        *(KnownModel(r.key, r.title, "trained", partial(siit.bundled, r)) for r in siit.RECORDS),
        *(
            KnownModel(f"learned-{t.key}", t.description, "program", partial(programs.bundled, t))
            for t in programs.TASKS
        ),
    ]
