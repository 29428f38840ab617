"""Everything is replaced by its tangent at this run: gradients, carried forwards."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules.record import Bilinear, Function, Rule
from workbench.models.norm import Norm


class Tangent(Rule):
    """First-order attribution: what the output would change by if the source's part were very small."""

    key = "tangent"
    title = "Tangent (gradient)"
    formula = "f'(x) b; b_x y + x b_y"
    reference = "Nanda 2023, attribution patching; Syed et al. 2023, arXiv 2310.10348"

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:  # noqa: ARG002
        """The norm's Jacobian at the whole: ``(b - x_hat mean(b x_hat)) / scale * weight``, b centred by LayerNorm."""
        if norm.weight is None:
            return x.relevant
        x_hat, scale = norm.standardise(x.total)
        relevant = x.relevant - x.relevant.mean(-1, keepdim=True) if norm.centred else x.relevant
        along = (relevant * x_hat).mean(-1, keepdim=True)
        return ((relevant - x_hat * along) / scale * norm.weight).to(x.relevant.dtype)

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:
        """``f'(x) b``."""
        if not len(x.relevant):
            return torch.empty_like(out[:0])
        derivative: Tensor = torch.func.jvp(
            function, (x.total.repeat(len(x.relevant), *[1] * (x.total.ndim - 1)),), (x.relevant,)
        )[1]
        return derivative

    def pattern(self, scores: Parts, function: Function, out: Tensor) -> Tensor:
        """``f'(x) b`` by two turns of reverse mode, for a pattern that is solved for step by step has no other."""
        if not len(scores.relevant):
            return torch.empty_like(out[:0])
        with torch.enable_grad():
            x = scores.total.repeat(len(scores.relevant), *[1] * (scores.total.ndim - 1)).requires_grad_()
            weight = torch.zeros_like(scores.relevant, requires_grad=True)
            (gradient,) = torch.autograd.grad(function(x), x, weight, create_graph=True)
            (derivative,) = torch.autograd.grad(
                gradient, weight, scores.relevant, create_graph=scores.relevant.requires_grad
            )
        return derivative

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b_x y + x b_y``."""
        return times(left.relevant, right.total) + times(left.total, right.relevant)
