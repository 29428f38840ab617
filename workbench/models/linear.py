"""A linear map whose spectral norm is one learnable number (sigma-reparametrisation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Weight = Float[Tensor, "d_out d_in"]


class SigmaLinear(nn.Module):
    """``y = (gamma / sigma(W)) W x + b`` with sigma(W) the spectral norm of ``W`` (Zhai et al. 2023, arXiv 2303.06296).

    Looks like ``nn.Linear`` from outside: ``weight`` is the matrix that is used. ``sigma(W) = u^T W v``, where u and v
    follow the leading singular vectors and count as constants for the gradient. A call changes nothing;
    :func:`power_step` moves u and v, once after each update of the weights.

    Attributes:
        raw: ``W`` [out_features, in_features], learnable.
        gamma: the spectral norm of ``weight``, learnable; 1 to begin with.
        u, v: [out_features] and [in_features], of length 1, saved with the weights.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        start = nn.Linear(in_features, out_features, bias=bias)
        self.in_features, self.out_features = in_features, out_features
        self.raw, self.bias = start.weight, start.bias if bias else None
        self.gamma = nn.Parameter(torch.ones(()))
        u, _, v = leading(self.raw)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    @classmethod
    def wrap(cls, linear: nn.Linear) -> SigmaLinear:
        """A copy of a linear layer that computes the same: gamma starts from the spectral norm of its weight.

        Raises:
            ValueError: the weight is zero, so that there is no norm to divide by.
        """
        made = cls(linear.in_features, linear.out_features, linear.bias is not None)
        made = made.to(device=linear.weight.device, dtype=linear.weight.dtype)
        with torch.no_grad():
            u, sigma, v = leading(linear.weight)
            if not sigma > 0:
                raise ValueError("A zero matrix has no spectral norm to divide by.")
            made.raw.copy_(linear.weight)
            made.gamma.copy_(sigma)
            made.u, made.v = u, v
            if made.bias is not None:
                made.bias.copy_(linear.bias)
        return made

    @property
    def sigma(self) -> Float[Tensor, ""]:
        """``u^T W v``, the spectral norm of ``raw`` as far as u and v have found it."""
        return self.u @ self.raw @ self.v

    @property
    def weight(self) -> Weight:
        """``gamma / sigma(raw) * raw``, the matrix that is used."""
        return self.raw * (self.gamma / self.sigma)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """``weight x + bias`` for each ``x``."""
        return F.linear(x, self.weight, self.bias)

    def merge(self) -> nn.Linear:
        """A plain linear layer with the weights as they are now."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight.detach().clone())
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().clone())
        return plain

    def extra_repr(self) -> str:
        """Sizes, as ``nn.Linear`` prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def leading(weight: Weight) -> tuple[Float[Tensor, " d_out"], Float[Tensor, ""], Float[Tensor, " d_in"]]:
    """Leading singular triple ``(u, sigma, v)``, by SVD in float32 at least; of the weight's dtype."""
    exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
    left, sigmas, right = torch.linalg.svd(weight.detach().to(exact), full_matrices=False)
    # Copies: slices would keep the whole factors alive, and could not be saved without them.
    return left[:, 0].clone().to(weight.dtype), sigmas[0].to(weight.dtype), right[0].clone().to(weight.dtype)


@torch.no_grad()
def power_step(module: nn.Module, steps: int = 1) -> None:
    """Bring u and v of every :class:`SigmaLinear` in ``module`` nearer to the leading singular vectors.

    ``v <- W^T u / |W^T u|`` and then ``u <- W v / |W v|``: one round of power iteration, ``steps`` times. To be called
    after each update of the weights.
    """
    for part in module.modules():
        if isinstance(part, SigmaLinear):
            exact = torch.float64 if part.raw.dtype == torch.float64 else torch.float32
            raw, u, v = part.raw.to(exact), part.u.to(exact), part.v
            for _ in range(steps):
                v = F.normalize(raw.T @ u, dim=0)
                u = F.normalize(raw @ v, dim=0)
            # New tensors rather than new contents: a gradient still to come may need the old ones.
            part.u, part.v = u.to(part.raw.dtype), v.to(part.raw.dtype)
