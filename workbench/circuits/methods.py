"""The methods that find circuits: one record each, one signature, one kind of result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.circuits.eap import eap, eap_ig
from workbench.circuits.graph import Scores
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.lookup import pick

# Not settings of a method: they change how long and how loudly it works, never what it finds.
_NOT_OPTIONS = ("budget", "progress")


@dataclass(frozen=True)
class Method:
    """One way to score edges.

    Attributes:
        key: its name.
        title: its name for people.
        cost: forwards and backwards for a batch of prompts.
        reference: where it was published.
        run: ``(model, task, *, progress, budget, **options) -> Scores``.
    """

    key: str
    title: str
    cost: str
    reference: str
    run: Callable[..., Scores]

    @property
    def options(self) -> dict[str, Any]:
        """The settings that :func:`discover` passes on, with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS}


_METHODS = [
    Method(
        "eap-ig",
        "EAP with integrated gradients",
        "steps forwards and backwards, 1 forward",
        "Hanna et al. 2024, arXiv 2403.17806",
        eap_ig,
    ),
    Method("eap", "Edge attribution patching", "2 forwards, 1 backward", "Syed et al. 2023, arXiv 2310.10348", eap),
]


def methods() -> list[Method]:
    """All methods, the recommended one first."""
    return list(_METHODS)


def method(key: str) -> Method:
    """The record of a method.

    Raises:
        ValueError: there is no such method; the message suggests the closest.
    """
    return pick(_METHODS, key, "method")


def check_options(key: str, options: dict[str, Any]) -> None:
    """Refuse options that a method does not have.

    Raises:
        ValueError: naming the option and those that exist.
    """
    known = method(key).options
    for option in options:
        if option not in known and option not in _NOT_OPTIONS:
            raise ValueError(f"The method '{key}' has no option '{option}'; it has {', '.join(known)}.")


def discover(
    model: Transformer,
    task: Task,
    method: str = "eap-ig",
    *,
    progress: ProgressFn | None = None,
    **options: Any,
) -> Scores:
    """Score every edge of a model on a task.

    Args:
        model: the model.
        task: pairs of prompts and a metric.
        method: key of a method; :func:`methods` lists them.
        progress: called after every step; returning False stops and keeps what is finished.
        **options: settings of the method, such as ``steps=5`` or ``ablation="mean"``; ``budget`` (bytes).

    Raises:
        ValueError: no such method or option, or a setting that the method refuses.
        Stopped: stopped before there was anything to keep.
    """
    check_options(method, options)
    return pick(_METHODS, method, "method").run(model, task, progress=progress, **options)
