"""What every writer puts into the residual stream, and what it puts there once it is ablated.

Heads are kept as ``z`` (before the output projection), 9 times smaller than their results on SmolLM2; a head's
result is ``z @ W_O``, so that a mean or a difference of ``z`` is one of results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.graph import Graph
from workbench.circuits.task import Task
from workbench.models import Transformer

Ablation = Literal["resample", "mean", "positional-mean", "zero"]


@dataclass(frozen=True)
class WriterOutputs:
    """Outputs of all writers in one run.

    Attributes:
        embed: [batch, pos, d_model] what enters block 0.
        z: a layer: [batch, pos, head, d_head].
        mlp: a layer: [batch, pos, d_model].
    """

    embed: Float[Tensor, "batch pos d_model"]
    z: list[Float[Tensor, "batch pos head d_head"]]
    mlp: list[Float[Tensor, "batch pos d_model"]]

    def map(self, fn: Callable[[Tensor], Tensor]) -> WriterOutputs:
        """The same with ``fn`` applied to every tensor."""
        return WriterOutputs(fn(self.embed), [fn(z) for z in self.z], [fn(m) for m in self.mlp])

    def combine(self, other: WriterOutputs, fn: Callable[[Tensor, Tensor], Tensor]) -> WriterOutputs:
        """``fn`` applied to each pair of tensors of two runs."""
        return WriterOutputs(
            fn(self.embed, other.embed),
            [fn(a, b) for a, b in zip(self.z, other.z, strict=True)],
            [fn(a, b) for a, b in zip(self.mlp, other.mlp, strict=True)],
        )


def graph_of(model: Transformer) -> Graph:
    """The edge graph of a model.

    Raises:
        ValueError: what a head writes cannot be told from what its neighbours write.
    """
    if model.cfg.post_norms:
        raise ValueError(
            f"{model.name} normalises what attention and MLP write before it is added ({model.cfg.family}); "
            "edges of such models are not supported yet. Choose a model without post-norms."
        )
    if model.cfg.attention != "softmax":
        raise ValueError(
            f"{model.name} attends by '{model.cfg.attention}'; edges of models with another mechanism than softmax are "
            "not supported yet. Choose the model as it was loaded."
        )
    if model.cfg.norm_place == "post" or model.cfg.pooling != "none" or model.cfg.head != "unembed":
        kind = "a vision model" if model.cfg.image is not None else "an encoder"
        raise ValueError(
            f"{model.name} is {kind} ({model.cfg.family}); edges of such models are not supported yet. "
            "Choose a decoder such as smollm2-135m."
        )
    cfg = model.cfg
    return Graph(cfg.n_layers, cfg.n_heads, has_mlp=not cfg.attn_only, parallel=cfg.parallel)


def writer_names(model: Transformer) -> list[str]:
    """Names of the activations that :class:`WriterOutputs` is read from."""
    layers = range(model.cfg.n_layers)
    return [
        "blocks.0.hook_resid_pre",
        *(f"blocks.{layer}.attn.hook_z" for layer in layers),
        *(f"blocks.{layer}.hook_mlp_out" for layer in layers if not model.cfg.attn_only),
    ]


def record(model: Transformer, tokens: Int[Tensor, "batch pos"]) -> WriterOutputs:
    """Outputs of all writers in one plain forward without gradients, which stops before the unembedding."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens.to(model.device), writer_names(model), stop_at_layer=model.cfg.n_layers)
    return from_cache(model, cache)


def from_cache(model: Transformer, cache: Mapping[str, Tensor]) -> WriterOutputs:
    """Outputs of all writers from a cache that holds :func:`writer_names`."""
    embed, *rest = (cache[name] for name in writer_names(model))
    n = model.cfg.n_layers
    return WriterOutputs(embed, rest[:n], rest[n:])


class Ablator:
    """What each writer is replaced by, for any batch of a task.

    ``resample``: its output on the corrupted prompt. ``mean``: its mean over all tokens of all corrupted prompts.
    ``positional-mean``: its mean over prompts at each position. ``zero``: nothing. Padding never counts.

    Raises:
        ValueError: an unknown ablation, or a task whose padding the model would see.
    """

    def __init__(self, model: Transformer, task: Task, kind: Ablation, batch_size: int) -> None:
        check_ablation(kind)
        check_padding(model, task)
        self.model, self.kind = model, kind
        self._mean = None if kind in ("resample", "zero") else self._means(task, batch_size)

    def __call__(self, batch: Task) -> WriterOutputs:
        """Ablated outputs for a batch; batch and position axes may have length 1 and then broadcast."""
        if self.kind == "resample":
            return record(self.model, batch.corrupted)
        if self._mean is not None:
            width = batch.clean.shape[1]
            return self._mean.map(lambda x: x[:, :width])
        cfg, like = self.model.cfg, self.model.embed.weight
        z = like.new_zeros(1, 1, cfg.n_heads, cfg.d_head)
        nothing = like.new_zeros(1, 1, cfg.d_model)
        return WriterOutputs(nothing, [z] * cfg.n_layers, [nothing] * (0 if cfg.attn_only else cfg.n_layers))

    def _means(self, task: Task, batch_size: int) -> WriterOutputs:
        width = task.clean.shape[1]
        total: WriterOutputs | None = None
        count = torch.zeros(width, device=self.model.device)
        for batch in task.batches(batch_size):
            n = batch.clean.shape[1]
            real = (torch.arange(n) < batch.lengths[:, None]).to(self.model.device)
            count[:n] += real.sum(0)
            part = record(self.model, batch.corrupted).map(partial(_sum_real, real=real, width=width))
            total = part if total is None else total.combine(part, torch.add)
        assert total is not None
        if self.kind == "mean":
            return total.map(lambda x: (x.sum(0) / count.sum())[None, None])
        return total.map(lambda x: (x / count.clamp(min=1).view(-1, *[1] * (x.ndim - 1)))[None])


def _sum_real(x: Tensor, real: Tensor, width: int) -> Tensor:
    """Sum over the batch of the real tokens at each position: [pos, ...], widened with zeros."""
    summed = torch.einsum("bp...,bp->p...", x, real.to(x.dtype))
    out = x.new_zeros(width, *summed.shape[1:])
    out[: len(summed)] = summed
    return out


def check_ablation(kind: str) -> None:
    """Refuse an unknown ablation.

    Raises:
        ValueError: naming those that exist.
    """
    if kind not in get_args(Ablation):
        raise ValueError(f"Unknown ablation '{kind}'; choose one of {', '.join(get_args(Ablation))}.")


def check_padding(model: Transformer, task: Task) -> None:
    """Refuse a task of prompts that differ in length for a model that looks right, where the padding is.

    Raises:
        ValueError: naming the model.
    """
    if not model.cfg.causal and len(set(task.lengths.tolist())) > 1:
        raise ValueError(
            f"{model.name} attends in both directions, and would see the padding of prompts that differ in length; "
            "choose a task whose prompts have equally many tokens."
        )


def batch_size_for(model: Transformer, task: Task, budget: int) -> int:
    """How many prompts of a task to take at once so that they fit into ``budget`` bytes beside the model; at least 1.

    Batches come out about equal. Counted for each token: every writer's difference, the readers' gradients of one
    layer, and what one forward keeps for its backward; ``benchmarks/edge_attribution.py`` prints the measured peak.
    """
    cfg, graph = model.cfg, graph_of(model)
    kept = cfg.n_layers * (4 * cfg.d_model + 9 * cfg.n_heads * cfg.d_head + 3 * cfg.d_mlp)
    floats = cfg.d_model * (len(graph.writers) + 3 * graph.readers_per_layer) + kept
    fit = max(1, budget // (4 * (task.clean.shape[1] * floats + 4 * cfg.d_vocab)))
    return math.ceil(len(task) / math.ceil(len(task) / fit))
