"""The tasks: ``tasks.names()`` lists them, ``tasks.load(name, model, n=32, seed=0)`` makes one for a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.circuits.task import Task, TaskCheck, from_pairs
from workbench.circuits.tasks import greater_than, induction, ioi
from workbench.models import Transformer
from workbench.models.lookup import pick


@dataclass(frozen=True)
class TaskRecord:
    """One task that can be made for any model with a fitting tokenizer.

    Attributes:
        key: its name.
        title: its name for people.
        description: one sentence: what the prompts ask, what is corrupted, what is measured.
        reference: where it comes from.
        make: ``(model, n, seed, **options) -> Task``.
    """

    key: str
    title: str
    description: str
    reference: str
    make: Callable[..., Task]


_RECORDS = [
    TaskRecord(
        "ioi",
        "Indirect object",
        "'When Mary and John went ..., John gave a drink to' asks for Mary; in the corrupted prompt a third person "
        "gives. Logit of the indirect object minus the subject's.",
        "Wang et al. 2022, Interpretability in the Wild",
        ioi.make,
    ),
    TaskRecord(
        "greater-than",
        "Greater than",
        "'The war lasted from the year 1732 to the year 17' asks for a later year; the corrupted prompt starts in "
        "01. Probability of later minus earlier years (or their first digit).",
        "Hanna et al. 2023, How does GPT-2 compute greater-than?",
        greater_than.make,
    ),
    TaskRecord(
        "induction",
        "Induction",
        "A list of words starts to repeat and asks for the next one; in the corrupted prompt another word followed "
        "the first time. Logit of the word that followed minus the other's.",
        "Olsson et al. 2022, In-context learning and induction heads",
        induction.make,
    ),
]


def records() -> list[TaskRecord]:
    """All tasks."""
    return list(_RECORDS)


def names() -> list[str]:
    """Keys of all tasks."""
    return [record.key for record in _RECORDS]


def get(name: str) -> TaskRecord:
    """The record of a task.

    Raises:
        ValueError: there is no such task; the message suggests the closest.
    """
    return pick(_RECORDS, name, "task")


def load(name: str, model: Transformer, n: int = 32, seed: int = 0, **options: Any) -> Task:
    """Make ``n`` pairs of a task for a model's tokenizer; the same seed gives the same pairs.

    Raises:
        ValueError: no such task or option, ``n`` below 1, or a tokenizer that the task cannot be asked through.
    """
    record = get(name)
    if n < 1:
        raise ValueError(f"A task needs at least one prompt; got n={n}.")
    allowed = list(inspect.signature(record.make).parameters)[3:]
    for option in options:
        if option not in allowed:
            raise ValueError(f"The task '{name}' has no option '{option}'; it has {', '.join(allowed) or 'none'}.")
    return record.make(model, n, seed, **options)


__all__ = ["Task", "TaskCheck", "TaskRecord", "from_pairs", "get", "load", "names", "records"]
