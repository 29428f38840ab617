"""What a source is compared with: nothing, the mean, or what it is on other prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import WriterOutputs
from workbench.circuits.decomposition.sites import Site
from workbench.models import Transformer


@dataclass(frozen=True)
class Baseline:
    """Values that sources are compared with; axes of length 1 stand for every prompt or position.

    Attributes:
        resid: a layer and the stream that leaves the last: [batch, pos, d_model].
        z: a layer: [batch, pos, head, d_head].
        mlp: a layer: [batch, pos, d_model].
    """

    resid: list[Float[Tensor, "batch pos d_model"]]
    z: list[Float[Tensor, "batch pos head d_head"]]
    mlp: list[Float[Tensor, "batch pos d_model"]]

    @classmethod
    def of(cls, outputs: WriterOutputs) -> Baseline:
        """From what ablated writers write; streams but the first are not known then."""
        return cls([outputs.embed], outputs.z, outputs.mlp)

    def at(self, site: Site) -> Tensor:
        """The values at a place.

        Raises:
            ValueError: they are not known there.
        """
        values = {"resid": self.resid, "head": self.z, "mlp": self.mlp}[site.kind]
        if site.layer >= len(values):
            raise ValueError(f"There is nothing to compare '{site.name}' with; choose heads, MLPs or the input.")
        return values[site.layer]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Baseline:
        """The same with ``fn`` applied to every tensor."""
        return Baseline([fn(x) for x in self.resid], [fn(x) for x in self.z], [fn(x) for x in self.mlp])


def mean_of(values: Baseline, real: Tensor) -> Baseline:
    """The mean over all real positions [batch, pos] of all prompts, with axes of length 1."""

    def mean(x: Tensor) -> Tensor:
        weights = real.to(x.dtype).view(*real.shape, *[1] * (x.ndim - 2))
        return ((x * weights).sum((0, 1)) / weights.sum())[None, None]

    return values.map(mean)


def nothing(model: Transformer) -> Baseline:
    """Zero everywhere, with axes of length 1."""
    cfg = model.cfg
    zero = torch.zeros(1, 1, 1, device=model.device, dtype=model.dtype)
    stream = zero.expand(1, 1, cfg.d_model)
    heads = zero[..., None].expand(1, 1, cfg.n_heads, cfg.d_head)
    return Baseline(
        [stream] * (cfg.n_layers + 1), [heads] * cfg.n_layers, [stream] * (not cfg.attn_only) * cfg.n_layers
    )
