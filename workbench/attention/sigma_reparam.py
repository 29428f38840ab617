"""Sigma-reparametrisation: linear layers whose spectral norm is one learned number, put onto any PyTorch module.

``W_hat = gamma / sigma(W) * W`` with sigma the spectral norm and gamma learned (Zhai et al. 2023, "Stabilizing
Transformer training by preventing attention entropy collapse", arXiv 2303.06296, section 3.1). Queries and keys can
then grow in length only as fast as gamma is learned, not as fast as all of W is, and attention logits with them.

A model of the workbench can have such layers from the start instead (``ModelConfig(linear="sigma")``, where
:func:`workbench.models.linear.power_step` moves u and v). Here they are put onto a model that exists, and taken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.models.linear import leading

Weight = Float[Tensor, "d_out d_in"]


class SigmaReparam(nn.Module):
    """``gamma / sigma(W) * W`` as a parametrisation of a weight matrix.

    ``sigma(W) = u^T W v`` is differentiated with u and v as constants. In training each reading of the weight takes
    one step of power iteration first, ``v <- W^T u / |W^T u|``, ``u <- W v / |W v|``; in evaluation nothing changes.
    Inside ``torch.nn.utils.parametrize.cached()`` a weight is read once.

    Attributes:
        gamma: the spectral norm of the weight that is used, learned.
        u, v: leading singular vectors [d_out] and [d_in], by SVD at first; saved with the weights.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Weight, gamma: float | None = None) -> None:
        """Begin from a weight matrix.

        Args:
            weight: the matrix, of any floating type; its SVD is taken in float32 at least.
            gamma: where the learned norm starts; None for the norm of ``weight``, so that nothing changes at first.
                The paper starts from 1.

        Raises:
            ValueError: no matrix, or one without a spectral norm to divide by.
        """
        super().__init__()
        if weight.ndim != 2:
            raise ValueError(f"Sigma-reparametrisation takes matrices; this weight is {list(weight.shape)}.")
        if not bool(weight.detach().isfinite().all()):
            raise ValueError("The weight is not finite, so that it has no spectral norm; start from other weights.")
        u, sigma, v = leading(weight)
        if not sigma > 0:
            raise ValueError("A zero matrix has no spectral norm to divide by; leave that layer out with 'only'.")
        start = sigma if gamma is None else torch.as_tensor(gamma, dtype=weight.dtype, device=weight.device)
        self.gamma = nn.Parameter(start.clone(), requires_grad=weight.requires_grad)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: Weight) -> Weight:
        """The matrix that is used, of spectral norm ``gamma`` as far as u and v have found it."""
        if self.training:
            self._step(weight)
        # Copies: the next reading writes into u and v, which a gradient still to come may need as they are.
        sigma = self.u.clone() @ weight @ self.v.clone()
        return weight * (self.gamma / sigma)

    @torch.no_grad()
    def _step(self, weight: Weight) -> None:
        exact = torch.promote_types(weight.dtype, torch.float32)
        raw = weight.to(exact)
        v = F.normalize(raw.T @ self.u.to(exact), dim=0)
        self.u.copy_(F.normalize(raw @ v, dim=0))
        self.v.copy_(v)


def sigma_reparametrise(
    module: nn.Module, *, gamma: float | None = None, only: Callable[[str], bool] | None = None
) -> list[str]:
    """Put :class:`SigmaReparam` onto the weights of linear layers, in place.

    Optimisers made before do not know ``gamma``: make them after. A weight that several modules share (an unembedding
    that is the embedding) stays as it is.

    Args:
        module: any module, such as a :class:`workbench.models.Transformer` or Hugging Face's.
        gamma: where each learned norm starts; None for the norm that the layer has, so that the module computes the
            same as before. The paper starts from 1.
        only: which layers, by name; None for every ``nn.Linear``.

    Returns:
        The names of the layers that have it now.

    Raises:
        ValueError: there is no such layer, or one cannot have it; the sentence says which, and nothing was changed.
    """
    owners = Counter(
        id(weight) for part in module.modules() for weight in part._parameters.values() if weight is not None
    )
    layers = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        and not parametrize.is_parametrized(part, "weight")
        and owners[id(part.weight)] == 1
        and (only is None or only(name))
    }
    if not layers:
        raise ValueError(
            "There is no nn.Linear to reparametrise: all are left out by 'only', share weights, or have it already."
        )
    made: dict[str, SigmaReparam] = {}
    for name, part in layers.items():
        try:
            made[name] = SigmaReparam(part.weight, gamma).train(part.training)
        except ValueError as error:
            raise ValueError(f"{name or 'The layer'}: {error}") from None
    for name, part in layers.items():
        parametrize.register_parametrization(part, "weight", made[name], unsafe=True)  # keeps shape and type
    return list(layers)


@torch.no_grad()
def remove_sigma(module: nn.Module) -> list[str]:
    """Take every :class:`SigmaReparam` off, in place: each layer keeps the weight that it used, as a plain parameter.

    Returns:
        The names of the layers that had it.
    """
    had: list[str] = []
    for name, part in list(module.named_modules()):
        if not parametrize.is_parametrized(part, "weight"):
            continue
        stack = part.parametrizations["weight"]
        if not any(isinstance(one, SigmaReparam) for one in stack):
            continue
        stack.eval()  # reading the weight must not move it
        own_class(part)
        parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
        had.append(name)
    return had


def own_class(part: nn.Module) -> None:
    """Give a parametrised module a class of its own.

    A deep copy shares the class that torch made for the original, and taking a parametrisation off deletes the property
    of that class, so that the original would lose its weight.
    """
    shared = type(part)
    part.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
