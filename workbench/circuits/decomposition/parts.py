"""An activation in two parts: what comes from the chosen sources, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """One activation of some prompts, split for each of several sources.

    The irrelevant part is the difference and is never stored, so that the parts sum to the whole whatever a rule does.

    Attributes:
        total: [1, batch, ...] the activation as the model has it.
        relevant: [source, batch, ...] what comes from each source.
    """

    total: Float[Tensor, "1 batch *rest"]
    relevant: Float[Tensor, "source batch *rest"]

    @property
    def irrelevant(self) -> Float[Tensor, "source batch *rest"]:
        """What does not come from the source."""
        return self.total - self.relevant

    def along(self, linear: Callable[[Tensor], Tensor]) -> Parts:
        """Both parts through a map without a constant term, such as a rotation or a choice of positions."""
        return Parts(linear(self.total), linear(self.relevant))

    def plus(self, other: Parts) -> Parts:
        """The sum of two activations."""
        return Parts(self.total + other.total, self.relevant + other.relevant)

    def beside(self, constant: Tensor | None) -> Parts:
        """The activation with something added that comes from no source."""
        return self if constant is None else Parts(self.total + constant, self.relevant)

    def joined_by(self, n: int) -> Parts:
        """With further sources that have had no part in anything so far, until there are ``n``."""
        more = n - len(self.relevant)
        if more <= 0:
            return self
        return Parts(self.total, torch.cat((self.relevant, self.relevant.new_zeros(more, *self.total.shape[1:]))))


def rows(x: Float[Tensor, "source batch *rest"]) -> Float[Tensor, "source_batch *rest"]:
    """Sources and prompts on one axis, as the model's own parts take them."""
    return x.flatten(0, 1)


def unrows(x: Float[Tensor, "source_batch *rest"], n: int) -> Float[Tensor, "source batch *rest"]:
    """The inverse of :func:`rows`, for ``n`` sources."""
    return x.view(n, len(x) // n if n else -1, *x.shape[1:])
