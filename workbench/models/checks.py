"""Whether weights fit a configuration, and inputs a model: refused in one sentence, before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.models.embedding import n_positions

if TYPE_CHECKING:
    from workbench.models.transformer import Transformer


def check_fit(model: Transformer, given: Mapping[str, Tensor]) -> None:
    """Refuse weights that are missing, surplus or of another shape than the model's; all are listed.

    Raises:
        ValueError: naming them, with the shapes found and expected.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in given.items()}
    cfg, frequencies = model.cfg, model.inverse_frequencies
    if cfg.positions == "rotary":
        rows = 1 if cfg.rotary_kinds is None else max(cfg.rotary_kinds) + 1
        wanted["inverse_frequencies"] = (rows, (cfg.rotary_dim or cfg.d_head) // 2)
    if frequencies is not None:
        found["inverse_frequencies"] = tuple(frequencies.view(-1, frequencies.shape[-1]).shape)
    said = [
        f"'{name}' has the shape {list(found[name])} where {list(shape)} is expected"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    said += [f"missing: {', '.join(gone)}"] if (gone := sorted(set(wanted) - set(found))) else []
    said += [f"surplus: {', '.join(more)}"] if (more := sorted(set(found) - set(wanted))) else []
    if said:
        raise ValueError(f"The weights of '{model.name}' do not fit its configuration ({'; '.join(said)}).")


def check_input(model: Transformer, given: Tensor, layers: range, logits_at: Tensor | None, stops: bool) -> Tensor:
    """What a call is given, whole numbers as long ones.

    Raises:
        ValueError: it is nothing that this model reads, or the call contradicts itself.
    """
    cfg = model.cfg
    if not isinstance(given, Tensor):
        raise ValueError(f"A model runs on a tensor, not {type(given).__name__}; use model.to_tokens or torch.tensor.")
    if layers.start > layers.stop:
        raise ValueError(f"start_at_layer={layers.start} lies behind stop_at_layer={layers.stop}.")
    if logits_at is not None:
        if stops:
            raise ValueError(
                "logits_at says where to make logits, stop_at_layer that there are none; give one of them."
            )
        at = logits_at if isinstance(logits_at, Tensor) else torch.as_tensor(logits_at)
        n = n_positions(model, given) if given.ndim > 1 else 0
        if tuple(at.shape) != (len(given),) or (len(at) and not -n <= int(at.min()) <= int(at.max()) < n):
            raise ValueError(f"logits_at is one position from 0 to {n - 1} for each of the {len(given)} examples.")
    if not given.is_floating_point():
        if layers.start:
            raise ValueError(
                f"start_at_layer={layers.start} needs the residual stream [batch, pos, d_model], not tokens."
            )
        if cfg.image is not None and given.ndim > 2:
            raise ValueError("Pixel values are floating-point numbers; give a picture to model.to_pixels.")
        if given.ndim != 2:
            raise ValueError(
                f"Tokens are [batch, pos]; got {list(given.shape)}. Put one text into a batch: tokens[None]."
            )
        return given.long()
    if given.ndim == 3 and given.dtype != model.dtype:
        raise ValueError(f"The residual stream is {given.dtype}, {model.name} is {model.dtype}; convert it with .to().")
    if given.ndim == 3 and given.shape[2] != cfg.d_model:
        one = " One image goes into a batch: image[None]." if cfg.image is not None else ""
        raise ValueError(f"A residual stream is [batch, pos, {cfg.d_model}]; got {list(given.shape)}.{one}")
    if given.ndim != 3 and (cfg.image is None or given.ndim not in (4, 5) or layers.start):
        expected = (
            "the residual stream [batch, pos, d_model]" if layers.start else "tokens [batch, pos] of whole numbers"
        )
        expected = "images [batch, channel, height, width]" if cfg.image is not None and not layers.start else expected
        raise ValueError(f"{model.name} reads {expected}; got numbers of the shape {list(given.shape)}.")
    return given
