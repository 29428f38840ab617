"""Irrelevant first: what the model would do without the sources is irrelevant, all of the change is relevant."""

from __future__ import annotations

from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules.record import Bilinear, Function, Rule
from workbench.models.norm import Norm


class Exact(Rule):
    """Activation patching: the irrelevant parts are the run in which the sources are ablated."""

    key = "exact"
    title = "Exact (activation patching)"
    formula = "f(b + g) - f(g) at every step"
    reference = "Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262"
    by_runs = True

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:
        """``N(x) - N(g)``."""
        changed: Tensor = out - norm(x.irrelevant)
        return changed

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:
        """``f(x) - f(g)``."""
        return out - function(x.irrelevant)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:
        """``x y - g_x g_y``."""
        return out - times(left.irrelevant, right.irrelevant)
