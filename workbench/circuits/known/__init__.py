"""Models whose circuit is known."""

from workbench.circuits.known import rasp
from workbench.circuits.known.compile import compile_program
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.registry import KnownModel, known_models

__all__ = ["Compiled", "KnownModel", "compile_program", "known_models", "rasp"]
