"""Everything that is not linear is held as it is in this run, so that the relevant part moves along straight lines."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules.record import Bilinear, Function, Rule, held
from workbench.models.norm import Norm


class Frozen(Rule):
    """Pattern, norm scale and gates held: linear attribution."""

    key = "frozen"
    title = "Frozen (linear)"
    formula = "pattern, norm scale and gates f(x) / x held at the whole's; b f(x) / x"
    reference = (
        "Ali et al. 2022, arXiv 2202.07304; Elhage et al. 2021, A mathematical framework for transformer circuits"
    )
    holds_pattern = True

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b / scale(x)``."""
        return held(norm, x)

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:
        """``b f(x) / x``, the gate that the activation is for the whole."""
        tiny = 1e-6
        near = x.total.abs() < tiny
        start = torch.where(near, torch.full_like(x.total, tiny), x.total)
        return x.relevant * (torch.where(near, function(start), out) / start)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:  # noqa: ARG002
        """``x b_y``: what multiplies (pattern, gate) is held."""
        return times(left.total, right.relevant)
