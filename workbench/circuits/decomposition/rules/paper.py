"""Contextual decomposition for transformers as it was published, carried over to what the paper has not."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules.record import Bilinear, Function, Rule, held
from workbench.models.norm import Norm


class Paper(Rule):
    """CD-T: biases shared by size, the norm's scale held, activations irrelevant first, the pattern decomposed."""

    key = "paper"
    title = "CD-T as published"
    formula = "W b + bias |W b| / (|W b| + |W g|); N held; f(x) - f(g); softmax(b_q b_k); b_P b_v"
    reference = "Hsu et al. 2025, arXiv 2407.00886, section 3 (eq. 4-15)"

    def bias(self, moved: Parts, bias: Tensor) -> Tensor:
        """Each number of the bias by the sizes of the parts behind the matrix (eq. 4-5)."""
        return share(moved).mul_(bias).add_(moved.relevant)

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b / scale(x)``, and the norm's bias by the sizes of the parts before it."""
        relevant = held(norm, x)
        return relevant if norm.bias is None else relevant + norm.bias * share(x)

    def pattern(self, scores: Parts, function: Function, out: Tensor) -> Tensor:  # noqa: ARG002
        """``softmax`` of the relevant scores alone (eq. 10)."""
        return function(scores.relevant)

    def product(self, left: Parts, right: Parts, times: Bilinear, out: Tensor) -> Tensor:  # noqa: ARG002
        """``b_x b_y``: what anything irrelevant touches is irrelevant (eq. 9 and 12; gated MLPs likewise)."""
        return times(left.relevant, right.relevant)


def share(x: Parts) -> Tensor:
    """``|b| / (|b| + |g|)``, number by number; 0 where both are: a bias is irrelevant then."""
    relevant = x.relevant.abs()
    # The published 1e-8 is itself 0 in float16.
    tiny = max(1e-8, torch.finfo(relevant.dtype).tiny)
    return relevant / x.irrelevant.abs().add_(relevant).add_(tiny)
