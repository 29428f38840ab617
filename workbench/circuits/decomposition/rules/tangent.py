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

    def function(self, x: Parts, function: Function, out: Tensor) -> Tensor:  # noqa: ARG002
        """``f'(x) b``."""
        return _along(function, x)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b_x y + x b_y``."""
        return times(left.relevant, right.total).add_(times(left.total, right.relevant))


def _along(function: Function, x: Parts) -> Tensor:
    """``f'(x) b`` for every source, by two turns of reverse mode: the first makes the Jacobian of the whole once.

    A pattern that is solved for step by step has no forward mode.
    """
    if not len(x.relevant):
        return torch.empty_like(x.relevant)
    further = torch.is_grad_enabled()  # the caller differentiates what comes out
    with torch.enable_grad():
        whole = x.total.detach().requires_grad_()
        weight = torch.zeros_like(whole, requires_grad=True)
        (gradient,) = torch.autograd.grad(function(whole), whole, weight, create_graph=True)
        (change,) = torch.autograd.grad(
            gradient, weight, x.relevant[:, None], create_graph=further, is_grads_batched=True
        )
    return change[:, 0]
