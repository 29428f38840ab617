"""Transformer Programs (Friedman, Wettig and Chen 2023): transformers that are learned as readable programs.

``learn(find("sort"))`` trains a discrete transformer, ``emit`` writes it out as a Python file that runs on its own,
``flow`` says which variable each of its parts reads. ``learned/`` has a program for every task.
``python -m workbench.circuits.known.programs`` learns them again.
"""

from workbench.circuits.known.programs.bundled import LEARNED, BundledProgram, bundled
from workbench.circuits.known.programs.check import agreement
from workbench.circuits.known.programs.emit import emit
from workbench.circuits.known.programs.flow import Flow, flow
from workbench.circuits.known.programs.model import DiscreteTransformer
from workbench.circuits.known.programs.program import Head, Lookup, Program
from workbench.circuits.known.programs.tasks import TASKS, Examples, ProgramTask, Sizes, examples, find, names
from workbench.circuits.known.programs.train import EPOCHS, Learned, learn

__all__ = [
    "EPOCHS",
    "LEARNED",
    "TASKS",
    "BundledProgram",
    "DiscreteTransformer",
    "Examples",
    "Flow",
    "Head",
    "Learned",
    "Lookup",
    "Program",
    "ProgramTask",
    "Sizes",
    "agreement",
    "bundled",
    "emit",
    "examples",
    "find",
    "flow",
    "learn",
    "names",
]
