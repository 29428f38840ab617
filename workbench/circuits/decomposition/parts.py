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

    One of the two parts is carried and the other is the difference, so that they sum to the whole whatever a rule does.

    Attributes:
        total: [1, batch, ...] the activation as the model has it.
        carried: [source, batch, ...] what comes from each source; or all that does not, where ``runs``.
        runs: whether the irrelevant part is carried: a rule that computes it as the model would needs it as it is, for
            the difference of two nearly equal numbers is rounding, which a norm would make large.
    """

    total: Float[Tensor, "1 batch *rest"]
    carried: Float[Tensor, "source batch *rest"]
    runs: bool = False

    @property
    def relevant(self) -> Float[Tensor, "source batch *rest"]:
        """What comes from the source."""
        return self.total - self.carried if self.runs else self.carried

    @property
    def irrelevant(self) -> Float[Tensor, "source batch *rest"]:
        """What does not come from the source."""
        return self.carried if self.runs else self.total - self.carried

    @property
    def n(self) -> int:
        """How many sources there are."""
        return len(self.carried)

    def of(self, total: Tensor, carried: Tensor) -> Parts:
        """Another activation of the same sources, carried in the same way."""
        return Parts(total, carried, self.runs)

    def along(self, linear: Callable[[Tensor], Tensor]) -> Parts:
        """Both parts through a map without a constant term, such as a rotation or a choice of positions."""
        return self.of(linear(self.total), linear(self.carried))

    def plus(self, other: Parts) -> Parts:
        """The sum of two activations."""
        return self.of(self.total + other.total, self.carried + other.carried)

    def beside(self, constant: Tensor | None) -> Parts:
        """The activation with something added that comes from no source."""
        if constant is None:
            return self
        return self.of(self.total + constant, self.carried + constant if self.runs else self.carried)

    def still(self) -> Parts:
        """The same whole, of which nothing is relevant."""
        nothing = self.total if self.runs else self.total.new_zeros(1)
        return self.of(self.total, nothing.expand(self.n, *self.total.shape[1:]))

    def joined_by(self, n: int) -> Parts:
        """With further sources that have had no part in anything so far, until there are ``n``."""
        more = n - self.n
        if more <= 0:
            return self
        start = self.total if self.runs else self.total.new_zeros(1)
        return self.of(self.total, torch.cat((self.carried, start.expand(more, *self.total.shape[1:]))))


def rows(x: Float[Tensor, "source batch *rest"]) -> Float[Tensor, "source_batch *rest"]:
    """Sources and prompts on one axis, as the model's own parts take them."""
    return x.flatten(0, 1)


def unrows(x: Float[Tensor, "source_batch *rest"], n: int) -> Float[Tensor, "source batch *rest"]:
    """The inverse of :func:`rows`, for ``n`` sources."""
    return x.view(n, len(x) // n if n else -1, *x.shape[1:])
