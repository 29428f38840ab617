"""Models whose circuit is known."""

from workbench.circuits.known import rasp
from workbench.circuits.known.compile import compile_program
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.registry import KnownModel, known_models
from workbench.circuits.known.weights import Size

__all__ = ["Compiled", "KnownModel", "Size", "compile_program", "known_models", "rasp"]
