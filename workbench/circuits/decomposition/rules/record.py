"""What a decomposition rule is: how each kind of step of a transformer hands the relevant part on.

A rule sees an activation in its two parts and what the step makes of the whole, and says which share of that is
relevant; the rest is irrelevant. What is linear and has no constant term needs no rule. Shapes: [source, batch, ...]
for relevant parts, [1, batch, ...] for totals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.models.norm import Norm

Function = Callable[[Tensor], Tensor]
Bilinear = Callable[[Tensor, Tensor], Tensor]


class Rule:
    """One way to decompose. Every method returns the relevant part of what a step gives: by itself, irrelevant first.

    Attributes:
        key: name in the registry.
        title: name in prose.
        formula: one line of plain text; b is the relevant part, g the irrelevant one, x = b + g.
        reference: who proposed it, and where.
        by_runs: whether the irrelevant part of every activation is what the model computes from the irrelevant parts
            before it; then these are carried, the model's own modules run on them, and no method is asked.
        holds_pattern: whether the pattern has no relevant part, whatever the scores are.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    reference: ClassVar[str]
    by_runs: ClassVar[bool] = False
    holds_pattern: ClassVar[bool] = False

    def bias(self, moved: Parts, bias: Tensor) -> Tensor:  # noqa: ARG002
        """Of ``moved + bias``, with ``moved`` both parts behind the matrix."""
        return moved.relevant

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:
        """Of ``out = norm(x)``."""
        alone: Tensor = norm(x.irrelevant)
        return out - alone

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:
        """Of ``out = function(x)``, for activations."""
        return out - function(x.irrelevant)

    def pattern(self, scores: Parts, function: Function, out: Tensor) -> Tensor:
        """Of ``out = function(scores)``, the attention pattern."""
        return self.function(scores, function, out)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:
        """Of ``out = times(left, right)``, which is linear in each: scores, pattern times values, gate times input."""
        return out - times(left.irrelevant, right.irrelevant)


def held(norm: Norm, x: Parts) -> Tensor:
    """The relevant part of a norm's output with the scale held at the whole's: ``centred(b) / scale(x) * weight``."""
    if norm.weight is None:
        return x.relevant
    _, scale = norm.standardise(x.total)
    relevant = x.relevant - x.relevant.mean(-1, keepdim=True) if norm.centred else x.relevant
    return (relevant / scale * norm.weight).to(x.relevant.dtype)
