"""The learned programs that come with the package: their text, their card and their data flow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.circuits.known.programs.tasks import ProgramTask

LEARNED = Path(__file__).parent / "learned"
"""The programs that come with the package: ``TASK.py``, with ``_`` for ``-``, and its card ``TASK.card.json``."""


@dataclass(frozen=True)
class BundledProgram:
    """A learned program as it lies in the package.

    Attributes:
        task: what it answers.
        text: the Python file.
        card: seed, steps, seconds, figures, live variables and edges.
    """

    task: ProgramTask
    text: str
    card: dict[str, Any]

    @property
    def true_edges(self) -> set[str]:
        """Its data flow: ``attn_0_1->mlp_1_0`` where the answers depend on what the one reads from the other."""
        return set(self.card["edges"])

    @cached_property
    def _module(self) -> dict[str, Any]:
        module: dict[str, Any] = {"__name__": self.task.module}
        exec(compile(self.text, f"{self.task.module}.py", "exec"), module)
        return module

    def run(self, words: Sequence[str]) -> list[str]:
        """What the program answers at every position.

        Raises:
            ValueError: an unknown word, none, or more than it reads.
        """
        answers: list[str] = self._module["run"](list(words))
        return answers


def bundled(task: ProgramTask) -> BundledProgram:
    """The program that comes with the package for a task.

    Raises:
        ValueError: its files are not there.
    """
    file = LEARNED / f"{task.module}.py"
    try:
        text = file.read_text(encoding="utf-8")
        card = json.loads(file.with_suffix(".card.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The program for {task.key} is not in '{file.parent}'; learn it again.") from error
    return BundledProgram(task, text, card)
