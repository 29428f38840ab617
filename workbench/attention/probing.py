"""One reading of a fixed probe: from a model of ours, from Hugging Face's, or from whatever a user's function shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.attention.entropy import floor_of, norm_of_product, row_bound
from workbench.attention.layers import Given, taken
from workbench.attention.observed import ByHead
from workbench.attention.prompt import statistics
from workbench.attention.sigma_reparam import own_class
from workbench.attention.training_record import Reading
from workbench.kernels import attention_statistics
from workbench.models import Transformer, from_hf


@dataclass(frozen=True, eq=False)
class QueriesKeys:
    """What one layer of a foreign model attends with.

    Attributes:
        q: queries as they meet the keys, after rotary turns and norms.
        k: keys; one head for several query heads where these share it.
        causal: a query sees no later key.
        scale: factor on the products; None for ``d_head ** -0.5``.
        real: False for padding; None where every position is real.
    """

    q: Float[Tensor, "batch head pos d_head"]
    k: Float[Tensor, "batch kv_head pos d_head"]
    causal: bool = True
    scale: float | None = None
    real: Bool[Tensor, "batch pos"] | None = None


Shown = Float[Tensor, "batch head query key"] | QueriesKeys
Reader = Callable[[Any, Any], Iterable[Shown]]
"""``read(model, probe)`` -> what each layer attends with, or its pattern."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What is read at each step.

    Attributes:
        model: name of the model.
        shape: examples and positions.
        given: the input, in the form that a workbench model takes; None with ``read``.
        own: the input for ``read``.
        read: a user's function, or None.
    """

    model: str
    shape: tuple[int, int]
    given: Given | None
    own: Any = None
    read: Reader | None = None

    def take(self, model: nn.Module, step: int, norms: bool) -> Reading:
        """A reading. What the model's weights are at this moment is what is read.

        Raises:
            ValueError: ``read`` shows something that is no attention.
        """
        if self.read is not None:
            return _foreign(list(self.read(model, self.own)), step)
        hooked = _hooked(model)
        assert self.given is not None
        given = self.given
        mask = None if given.real is None else given.real.long()
        try:
            found = statistics(hooked, given.tokens, attention_mask=mask, token_types=given.token_types)
        except ValueError as error:
            if "finite" not in str(error):
                raise
            nothing = torch.full((hooked.cfg.n_layers, hooked.cfg.n_heads), torch.nan)
            return Reading(step, nothing, nothing, nothing, diverged=True, note=str(error))
        floor = torch.full_like(found.entropy, torch.nan) if found.notes else row_bound(found).flatten(2).nanmean(-1)
        widest = found.row("logit_range").nan_to_num(nan=-torch.inf).flatten(2).amax(-1)
        qk, matrices = _weights(hooked) if norms else (None, None)
        return Reading(step, found.entropy.float(), floor.float(), widest.float(), qk, matrices)


def probe_of(
    model: nn.Module, probe: Any, attention_mask: Tensor | None, token_types: Tensor | None, read: Reader | None
) -> Probe:
    """A probe in the form in which it is read, kept apart from the tensor that was given.

    Raises:
        ValueError: it does not fit the model, or the model is of no supported family and there is no ``read``.
    """
    if read is not None:
        shape = tuple(probe.shape) if isinstance(probe, Tensor) and probe.ndim >= 2 else (1, 1)
        own = probe.clone() if isinstance(probe, Tensor) else probe
        return Probe(type(model).__name__, (shape[0], shape[1]), None, own, read)
    hooked = _hooked(model)
    given = taken(hooked, probe, attention_mask, token_types)
    kept = Given(given.tokens.clone(), given.real, given.token_types, given.n)
    return Probe(hooked.name, (len(kept.tokens), kept.n), kept)


def _hooked(model: nn.Module) -> Transformer:
    """The model itself, or a new hooked form of Hugging Face's, with the weights that it has now."""
    if isinstance(model, Transformer):
        return model
    if not hasattr(model, "config"):
        raise ValueError(
            f"{type(model).__name__} is neither a workbench model nor one of Hugging Face's; give a function with "
            "'read' that shows each layer's pattern, or its queries and keys."
        )
    return from_hf(_plain(model))


def _plain(model: nn.Module) -> nn.Module:
    """The model itself; or a copy with plain weights where some are parametrised, for those have other names."""
    if not any(parametrize.is_parametrized(part) for part in model.modules()):
        return model
    copy = deepcopy(model)
    for part in list(copy.modules()):
        if parametrize.is_parametrized(part):
            own_class(part)
            for name in list(cast(Any, part).parametrizations):
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return copy


def _weights(model: Transformer) -> tuple[ByHead, dict[str, Float[Tensor, " layer"]]]:
    """``scale * ||W_Q^T W_K||_2`` of every head, and spectral norms of the matrices; NaN where they are not finite."""
    qk: list[Tensor] = []
    norms: dict[str, list[Tensor]] = {part: [] for part in "qkvo"}
    for block in model.blocks:
        attn = block.attn
        matrices = {part: getattr(attn, part).weight.detach().double() for part in "qkvo"}
        if not all(bool(matrix.isfinite().all()) for matrix in matrices.values()):
            qk.append(torch.full((model.cfg.n_heads,), torch.nan))
            for part in "qkvo":
                norms[part].append(torch.tensor(torch.nan))
            continue
        product = norm_of_product(attn.heads_of(attn.q).double(), attn.heads_of(attn.k).double())
        qk.append((model.cfg.attn_scale * product).float().cpu())
        for part, matrix in matrices.items():
            norms[part].append(torch.linalg.matrix_norm(matrix, 2).float().cpu())
    return torch.stack(qk), {part: torch.stack(found) for part, found in norms.items()}


def _foreign(layers: list[Shown], step: int) -> Reading:
    """A reading from patterns, or queries and keys."""
    if not layers:
        raise ValueError("The function given by 'read' shows no layer; it gives a pattern or QueriesKeys for each.")
    rows = [_keyed(one, at) if isinstance(one, QueriesKeys) else _opened(one, at) for at, one in enumerate(layers)]
    if len({len(row[0]) for row in rows}) > 1:
        raise ValueError("The layers that 'read' shows have unlike numbers of heads; show as many in each.")
    entropy, floor, widest = (torch.stack(part).float().cpu() for part in zip(*rows, strict=True))
    lost = not bool(entropy.isfinite().all())
    note = "The scores of a layer are not finite." if lost else None
    return Reading(step, entropy, floor, widest, diverged=lost, note=note)


def _keyed(layer: QueriesKeys, at: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, its lower bound and the largest range of logits, each [head]."""
    heads = layer.q.shape[1]
    try:
        rows = attention_statistics(layer.q, layer.k, causal=layer.causal, scale=layer.scale, key_mask=layer.real)
    except ValueError as error:
        if "finite" not in str(error):
            raise ValueError(f"Layer {at} that 'read' shows: {error}") from None
        nothing = torch.full((heads,), torch.nan)
        return nothing, nothing, nothing
    real = rows.visible > 0 if layer.real is None else layer.real[:, None].expand_as(rows.visible)
    length = (rows.logit_variance.clamp(min=0) * rows.visible).sqrt()
    floor = floor_of(length, rows.visible).masked_fill(~real | (rows.visible < 2), torch.nan)
    wide = (rows.logit_max - rows.logit_min).masked_fill(~real, -torch.inf)
    return _mean(rows.entropy.masked_fill(~real, torch.nan)), _mean(floor), wide.transpose(0, 1).flatten(1).amax(-1)


def _opened(pattern: Tensor, at: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a pattern, which has no logits."""
    if not isinstance(pattern, Tensor) or pattern.ndim != 4:
        what = list(pattern.shape) if isinstance(pattern, Tensor) else type(pattern).__name__
        raise ValueError(
            f"Layer {at} that 'read' shows is {what}; show a pattern [batch, head, query, key] or QueriesKeys."
        )
    p = pattern.double()
    total = p.sum(-1)
    empty = total == 0  # a padded query
    if bool(((total - 1).abs() > 1e-2)[~empty & total.isfinite()].any()) or bool((p < 0).any()):
        raise ValueError(
            f"The pattern of layer {at} that 'read' shows has rows that do not sum to 1; show it after the softmax."
        )
    nothing = torch.full((p.shape[1],), torch.nan, device=p.device)
    return _mean(torch.special.entr(p).sum(-1).masked_fill(empty, torch.nan)), nothing, nothing


def _mean(rows: Float[Tensor, "batch head query"]) -> Float[Tensor, " head"]:
    return rows.transpose(0, 1).flatten(1).nanmean(-1)
