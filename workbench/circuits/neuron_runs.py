"""Runs of a model in which neurons are read or replaced, and what they are replaced by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, check_ablation
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions

EMBED = "blocks.0.hook_resid_pre"


class NeuronAblation:
    """What neurons are replaced by, for any batch of a task.

    As :class:`workbench.circuits.activations.Ablator` says it for writers; padding never counts.

    Args:
        model: the model.
        task: what means are over.
        kind: how.
        names: the neurons' activations, see :func:`hook_name`.
        batch_size: prompts at once.

    Raises:
        ValueError: an unknown ablation, or ``optimal``.
    """

    def __init__(self, model: Transformer, task: Task, kind: Ablation, names: list[str], batch_size: int) -> None:
        check_ablation(kind)
        if kind == "optimal":
            raise ValueError(
                "Optimal ablation learns one constant for each head and MLP, not for each neuron; choose resample, "
                "mean, positional-mean or zero."
            )
        self.model, self.kind, self.names = model, kind, names
        self.means = self._means(task, batch_size) if "mean" in kind else []

    def __call__(self, batch: Task) -> list[Tensor]:
        """By name, [batch, pos, neuron]; batch and position may have length 1 and then broadcast."""
        if self.kind == "resample":
            return recorded(self.model, batch, batch.corrupted, self.names)
        if self.kind == "zero":
            return [torch.zeros(1, 1, self.model.cfg.d_mlp, device=self.model.device)] * len(self.names)
        width = n_positions(self.model, batch.clean)
        return [mean[:, :width] for mean in self.means]

    def _means(self, task: Task, batch_size: int) -> list[Tensor]:
        width = n_positions(self.model, task.clean)
        total = torch.zeros(len(self.names), width, self.model.cfg.d_mlp, device=self.model.device)
        count = torch.zeros(width, 1, device=self.model.device)
        for batch in task.batches(batch_size):
            n = n_positions(self.model, batch.clean)
            real = (torch.arange(n) < batch.lengths[:, None]).to(total)
            count[:n, 0] += real.sum(0)
            for row, value in zip(total, recorded(self.model, batch, batch.corrupted, self.names), strict=True):
                row[:n] += torch.einsum("bpm,bp->pm", value, real.to(value.dtype))
        if self.kind == "mean":
            return list((total.sum(1) / count.sum())[:, None, None])
        return list((total / count.clamp(min=1))[:, None])


def hook_name(layer: int) -> str:
    """Where the neurons of a layer can be read and replaced."""
    return f"blocks.{layer}.mlp.hook_post"


def checked_layers(model: Transformer, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for; None is all.

    Raises:
        ValueError: no MLPs, a layer that is not there or is there twice, or none.
    """
    n = model.cfg.n_layers
    if model.cfg.attn_only:
        raise ValueError(f"{model.name} has no MLPs, and so no neurons; choose another model, or score its heads.")
    chosen = tuple(range(n) if layers is None else layers)
    for layer in chosen:
        if not 0 <= layer < n:
            raise ValueError(f"{model.name} has no layer {layer}; its layers are 0 to {n - 1}.")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"Layers must be one or several different ones of 0 to {n - 1}; got {list(chosen)}.")
    return chosen


def recorded(model: Transformer, batch: Task, inputs: Tensor, names: list[str]) -> list[Tensor]:
    """Activations of one plain forward without gradients."""
    mask, n = stream.attention_mask(model, batch), model.cfg.n_layers
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs.to(model.device), names, attention_mask=mask, stop_at_layer=n)
    return [cache[name] for name in names]


__all__ = ["EMBED", "NeuronAblation", "checked_layers", "hook_name", "recorded"]
