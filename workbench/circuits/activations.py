"""What every writer puts into the residual stream, and what it puts there once it is ablated.

Heads are kept as ``z`` (before the output projection), 9 times smaller than their results on SmolLM2; a head's
result is ``z @ W_O``, so that a mean or a difference of ``z`` is one of results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.graph import Graph
from workbench.circuits.progress import ProgressFn
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.models.images import Pixels
from workbench.models.mechanisms import find

Ablation = Literal["resample", "mean", "positional-mean", "zero", "optimal"]


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


class OptimalConstants(str):
    """The word ``optimal`` with its constants: it can be given wherever an ablation is named.

    So constants are learned once (:func:`workbench.circuits.optimal.optimal_constants`) and judge as many circuits as
    are wanted, of other prompts too. A copy, a pickle and JSON are the bare word: results stay plain data.

    Attributes:
        outputs: a constant for every writer, axes of length 1 for batch and position.
        about: what they were learned from: model, task, prompts and the settings of the search.
        done: steps that were taken; ``complete`` says whether they were all.
        state: what the search needs to go on; empty where it is complete.
    """

    outputs: WriterOutputs
    about: dict[str, Any]
    done: int
    state: dict[str, Tensor]

    def __new__(
        cls, outputs: WriterOutputs, about: dict[str, Any], done: int, state: dict[str, Tensor]
    ) -> OptimalConstants:
        """The word, with what belongs to it."""
        self = super().__new__(cls, "optimal")
        self.outputs, self.about, self.done, self.state = outputs, about, done, state
        return self

    @property
    def complete(self) -> bool:
        """Whether the search came to its end."""
        return bool(self.done >= self.about["steps"])

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("optimal",)

    def check(self, model: Transformer) -> None:
        """Refuse another model than the one that the constants were learned on.

        Raises:
            ValueError: its weights are others.
        """
        if self.about["model"] != fingerprint_of(model):
            raise ValueError(
                f"These optimal constants were learned on another model than {model.name}; learn them on this one, or "
                "ask for ablation='optimal'."
            )


AnyAblation = Ablation | OptimalConstants
"""How edges are ablated: by name, or ``optimal`` with constants that were learned before."""


def fingerprint_of(model: Transformer) -> str:
    """The model's fingerprint; empty where its weights are not all in memory."""
    try:
        return model.fingerprint
    except ValueError:
        return ""


def graph_of(model: Transformer) -> Graph:
    """The edge graph of a model.

    Raises:
        ValueError: a head's output hangs on more than its own queries, keys and values.
    """
    cfg = model.cfg
    mechanism = find(cfg.attention)
    if mechanism.values is not None or mechanism.output is not None or mechanism.key == "selective":
        raise ValueError(
            f"{model.name} attends by '{cfg.attention}', whose heads read more than their own queries, keys and "
            "values, so that no edge leads there. Choose another mechanism, or the model as it was loaded."
        )
    return Graph(
        cfg.n_layers, cfg.n_heads, has_mlp=not cfg.attn_only, parallel=cfg.parallel and cfg.norm_place == "pre"
    )


def writer_names(model: Transformer) -> list[str]:
    """Names of the activations that :class:`WriterOutputs` is read from."""
    layers = range(model.cfg.n_layers)
    return [
        "blocks.0.hook_resid_pre",
        *(f"blocks.{layer}.attn.hook_z" for layer in layers),
        *(f"blocks.{layer}.hook_mlp_out" for layer in layers if not model.cfg.attn_only),
    ]


def record(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Pixels,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> WriterOutputs:
    """Outputs of all writers in one plain forward without gradients, which stops before the unembedding.

    Args:
        model: the model.
        tokens: token ids, or pixels for a vision model.
        attention_mask: 1 for real tokens; :func:`workbench.circuits.stream.attention_mask` has a task's.
    """
    with torch.no_grad():
        _, cache = model.run_with_cache(
            tokens.to(model.device),
            writer_names(model),
            attention_mask=attention_mask,
            stop_at_layer=model.cfg.n_layers,
        )
    return from_cache(model, cache)


def from_cache(model: Transformer, cache: Mapping[str, Tensor]) -> WriterOutputs:
    """Outputs of all writers from a cache that holds :func:`writer_names`."""
    embed, *rest = (cache[name] for name in writer_names(model))
    n = model.cfg.n_layers
    return WriterOutputs(embed, rest[:n], rest[n:])


class Ablator:
    """What each writer is replaced by, for any batch of a task.

    ``resample``: its output on the corrupted prompt. ``mean``: its mean over all tokens of all corrupted prompts.
    ``positional-mean``: its mean over prompts at each position. ``zero``: nothing. ``optimal``: the constant that is
    missed least (:mod:`workbench.circuits.optimal`); it is learned first, unless :class:`OptimalConstants` are given.
    Padding never counts.

    Args:
        model, task: whose writers, on which prompts.
        kind: the ablation.
        batch_size: prompts at once.
        progress: called after every step of learning constants; nothing else takes long.

    Raises:
        ValueError: an unknown ablation, or constants of another model.
        Stopped: stopped before the constants were learned.
    """

    def __init__(
        self, model: Transformer, task: Task, kind: AnyAblation, batch_size: int, progress: ProgressFn | None = None
    ) -> None:
        check_ablation(kind)
        self.model, self.kind = model, kind
        self._mean = None
        if kind == "optimal":
            self._mean = self._learned(task, progress).map(lambda x: x.to(model.device, model.dtype))
        elif kind in ("mean", "positional-mean"):
            self._mean = self._means(task, batch_size)

    def __call__(self, batch: Task) -> WriterOutputs:
        """Ablated outputs for a batch; batch and position axes may have length 1 and then broadcast."""
        if self.kind == "resample":
            return self._corrupted(batch)
        if self._mean is not None:
            width = n_positions(self.model, batch.clean)
            return self._mean.map(lambda x: x[:, :width])
        cfg = self.model.cfg
        like = torch.empty(0, dtype=self.model.dtype, device=self.model.device)
        z = like.new_zeros(1, 1, cfg.n_heads, cfg.d_head)
        nothing = like.new_zeros(1, 1, cfg.d_model)
        return WriterOutputs(nothing, [z] * cfg.n_layers, [nothing] * (0 if cfg.attn_only else cfg.n_layers))

    def _learned(self, task: Task, progress: ProgressFn | None) -> WriterOutputs:
        from workbench.circuits.optimal import with_constants  # it starts from the means, which are made here

        constants = with_constants(self.kind, self.model, task, progress)
        assert isinstance(constants, OptimalConstants)
        constants.check(self.model)
        return constants.outputs

    def _corrupted(self, batch: Task) -> WriterOutputs:
        return record(self.model, batch.corrupted, stream.attention_mask(self.model, batch))

    def _means(self, task: Task, batch_size: int) -> WriterOutputs:
        width = n_positions(self.model, task.clean)
        total: WriterOutputs | None = None
        count = torch.zeros(width, device=self.model.device)
        for batch in task.batches(batch_size):
            n = n_positions(self.model, batch.clean)
            real = (torch.arange(n) < batch.lengths[:, None]).to(self.model.device)
            count[:n] += real.sum(0)
            part = self._corrupted(batch).map(partial(_sum_real, real=real, width=width))
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


def batch_size_for(model: Transformer, task: Task, budget: int) -> int:
    """How many prompts of a task to take at once so that they fit into ``budget`` bytes beside the model; at least 1.

    Batches come out about equal. Counted for each token is what attribution takes: every writer's difference (twice
    where norms change it on its way), three gradients or streams of each reader of a layer, and what one forward keeps
    for its backward. Or what a learned mask takes (:mod:`workbench.circuits.soft_run`), if that is more: twice as many
    differences and seven for each reader. ``benchmarks/edge_attribution.py`` prints the measured peak.
    """
    cfg, graph, width = model.cfg, graph_of(model), n_positions(model, task.clean)
    kept = cfg.n_layers * (4 * cfg.d_model + 9 * cfg.n_heads * cfg.d_head + 3 * cfg.d_mlp)
    if cfg.attn_softcap is not None or cfg.attention != "softmax":
        kept += cfg.n_layers * 4 * cfg.n_heads * width  # patterns, which the fused kernel never makes
    writers, readers = len(graph.writers) * (1 if stream.is_sum(model) else 2), graph.readers_per_layer
    floats = max(cfg.d_model * (writers + 3 * readers) + kept, cfg.d_model * (2 * writers + 7 * readers))
    fit = max(1, budget // (4 * (width * floats + 4 * cfg.n_out)))
    return math.ceil(len(task) / math.ceil(len(task) / fit))
