"""Gradients of the metric at what nodes write and at what heads compute with, in one clean run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, from_cache, writer_names
from workbench.circuits.graph import Graph
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.taps import Tap


@dataclass(frozen=True)
class CleanRun:
    """A clean run whose gradients can be taken, as often as its graph is kept.

    Attributes:
        metric: the task's metric, summed over the batch.
        names: the activations whose gradients can be asked for; ``blocks.0.hook_resid_pre`` is the embedding.
        values: those and further activations, with their graph.
        outputs: what the writers wrote.
    """

    metric: Tensor
    names: Sequence[str]
    values: Mapping[str, Tensor]
    outputs: WriterOutputs

    def gradients(self, keep: bool = False) -> dict[str, Tensor]:
        """Gradient of the metric at each of ``names``; 0 where it does not depend on it."""
        at = [self.values[name] for name in self.names]
        grads = torch.autograd.grad(self.metric, at, retain_graph=keep, allow_unused=True)
        return {name: torch.zeros_like(x) if g is None else g for name, x, g in zip(self.names, at, grads, strict=True)}


def clean_run(
    model: Transformer,
    batch: Task,
    names: Sequence[str] = (),
    *,
    keep: Sequence[str] = (),
    taps: Mapping[str, Tap] | None = None,
) -> CleanRun:
    """Run the clean prompts with gradients open at every writer's output and at ``names``.

    Args:
        model: the model; its weights take no gradients.
        batch: examples.
        names: further activations to open.
        keep: activations to keep only.
        taps: further taps of the same run; they may change the backward.
    """
    opened = [*writer_names(model), *names]
    wanted = list(dict.fromkeys([*opened, *keep]))
    mask, n = stream.attention_mask(model, batch), model.cfg.n_layers
    with torch.no_grad():
        embed = model(batch.clean.to(model.device), attention_mask=mask, stop_at_layer=0)
    with torch.enable_grad():
        start = embed.requires_grad_(True)
        resid, cache = model.run_with_cache(start, wanted, taps=taps, attention_mask=mask, stop_at_layer=n)
        metric = batch.checked_score(stream.answer_of(model, batch, resid)).sum()
    values = {name: cache[name] for name in wanted}
    outputs = from_cache(model, {name: value.detach() for name, value in values.items()})
    return CleanRun(metric, opened, values, outputs)


def writer_effects(
    graph: Graph, names: Sequence[str], gradients: Mapping[str, Tensor], clean: WriterOutputs, ablated: WriterOutputs
) -> Float[Tensor, "batch writers"]:
    """``(clean - ablated) . gradient`` of every writer, summed over positions.

    Args:
        graph: the graph.
        names: the writers' activations, as :func:`workbench.circuits.activations.writer_names` orders them.
        gradients: by name.
        clean, ablated: what the writers write, and what it is replaced by.
    """
    embed, *rest = (gradients[name] for name in names)
    n = graph.n_layers
    columns = [((clean.embed - ablated.embed) * embed).sum((1, 2))[:, None]]
    for layer in range(n):
        columns.append(((clean.z[layer] - ablated.z[layer]) * rest[layer]).sum((1, 3)))
        if graph.has_mlp:
            columns.append(((clean.mlp[layer] - ablated.mlp[layer]) * rest[n + layer]).sum((1, 2))[:, None])
    return torch.cat(columns, 1)
