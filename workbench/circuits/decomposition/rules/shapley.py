"""Each part gets the mean of what it adds when it comes first and when it comes last."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules.record import Bilinear, Function, Rule, held
from workbench.models.norm import Norm


class Shapley(Rule):
    """The Shapley value of the two parts at every product and every non-linearity."""

    key = "shapley"
    title = "Shapley"
    formula = "(f(b) - f(0) + f(x) - f(g)) / 2; (b_x y + x b_y) / 2; biases and f(0) are irrelevant"
    reference = "Murdoch et al. 2018, arXiv 1801.05453, section 3.2; Shapley 1953"

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:
        """Half with the scale held at the whole's, half with the scale that the irrelevant part has alone."""
        last: Tensor = out - norm(x.irrelevant)
        return (held(norm, x) + last) / 2

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:
        """``(f(b) - f(0) + f(x) - f(g)) / 2``."""
        # Of patterns and MLPs these are the largest numbers there are: no more of them at once than need be. In this
        # order a source that has no part in x gives exactly nothing.
        last = out - function(x.irrelevant)
        return last.add_(function(x.relevant)).sub_(function(torch.zeros_like(x.total))).div_(2)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b_x b_y + (b_x g_y + g_x b_y) / 2``."""
        return times(left.relevant, right.total).add_(times(left.total, right.relevant)).div_(2)
