"""What a method that finds circuits is: a function with a name, a price, a source and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.graph import Scores
from workbench.circuits.passes import CostFn, Passes
from workbench.models import Transformer

Kind = Literal["gradient", "patching", "learned", "baseline"]
LimitFn = Callable[[Transformer | None, Mapping[str, Any]], None]

# Not settings of a method: they change how long it works and where it says so, never what it finds.
_NOT_OPTIONS = ("budget", "progress", "resume", "keep")
ABLATIONS: tuple[str, ...] = get_args(Ablation)


@dataclass(frozen=True)
class Method:
    """One way to score edges.

    Attributes:
        key: its name.
        title: its name for people.
        cost: forwards and backwards for a batch of prompts.
        reference: where it was published.
        run: ``(model, task, *, progress, budget, **options) -> Scores``.
        kind: ``gradient`` (attribution), ``patching`` (interventions), ``learned`` (masks found by descent) or
            ``baseline``.
        ablations: what edges can be replaced by; none where the method replaces nothing.
        passes: ``(model, options) -> (forwards, backwards)`` for a batch, with every option given; None where they
            are not known before.
        limit: ``(model, options)``, with every option given and None for a model that is not known yet; raises a
            ValueError that says what the method cannot do. None where it serves every model that has edges, and its
            options any together.
    """

    key: str
    title: str
    cost: str
    reference: str
    run: Callable[..., Scores]
    kind: Kind = "gradient"
    ablations: tuple[str, ...] = ABLATIONS
    passes: CostFn | None = None
    limit: LimitFn | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The settings that :func:`discover` passes on, with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _NOT_OPTIONS}

    def cost_of(self, model: Transformer, options: Mapping[str, Any] | None = None) -> Passes | None:
        """(forwards, backwards) through the model for a batch of prompts; None where they are not known before.

        Args:
            model: the model.
            options: those that differ from the defaults.
        """
        return None if self.passes is None else self.passes(model, {**self.options, **(options or {})})

    def check(self, model: Transformer | None, options: Mapping[str, Any]) -> None:
        """Refuse a model whose edges this method cannot score, or options that do not go together.

        Args:
            model: the model; None while it is not known.
            options: all of them.

        Raises:
            ValueError: saying why.
        """
        if model is not None:
            graph_of(model)
        if self.limit is not None:
            self.limit(model, options)

    def serves(self, model: Transformer, options: Mapping[str, Any] | None = None) -> str | None:
        """Why this method cannot score a model's edges, in a sentence; None where it can.

        Args:
            model: the model.
            options: those that differ from the defaults.
        """
        try:
            self.check(model, {**self.options, **(options or {})})
        except ValueError as error:
            return str(error)
        return None
