"""EAP with integrated gradients over activations (Hanna et al. 2024, arXiv 2403.17806; Mueller et al. 2025).

Where EAP-IG moves the embedding, this moves what each group of writers writes, one group at a time: the embedding, the
heads of each attention, each MLP. In run k of a group it writes ``ablated + k/steps * (clean - ablated)``, k = 1 ...
steps, while everything before it is clean; its edges are scored by the mean of the readers' gradients in these runs.
A run starts at the group's layer, so that the runs of all groups cost about half of ``steps (2 L + 1)`` whole ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, from_cache, graph_of, writer_names
from workbench.circuits.attribution import (
    ReaderGradients,
    attention_pull_back,
    edge_scores,
    norm_pull_back,
    reader_gradients,
    writer_differences,
)
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.option_values import check_range
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models import taps as model_taps

_PARTS = {"q": "q", "k": "k_heads", "v": "v_heads"}


def eap_ig_activations(
    model: Transformer,
    task: Task,
    *,
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by EAP with the gradients integrated over its writer's output.

    ``steps (2 L + 1)`` forwards and backwards for L layers, each from its layer on.

    Args:
        steps: points between the ablated and the clean output.
        model, task, ablation, budget, progress: as in :func:`workbench.circuits.eap.eap`.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: ``steps`` below 1, or an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    check_range("steps", steps, "eap-ig-activations")
    graph = graph_of(model)
    groups = _groups(graph)

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        clean, resid = _clean(model, batch)
        differences = writer_differences(model, graph, clean, ablated)
        values = torch.zeros(graph.mask.shape, device=model.device)
        for group in groups:
            written = group.output(clean)
            to = group.output(ablated).expand_as(written)
            for k in range(1, steps + 1):
                here = torch.lerp(to, written, k / steps)
                values[group.rows] += _run(model, graph, batch, group, here, resid, differences) / steps
                step()
        return values

    rest = Prompts(graph_of(model), task, "eap-ig-activations", {"ablation": ablation, "steps": steps}, resume, keep)
    return edge_means(model, rest, score, steps=steps * len(groups), budget=budget, progress=progress)


@dataclass(frozen=True)
class _Group:
    """Writers that are moved together.

    Attributes:
        kind: ``input``, ``attention`` or ``mlp``.
        layer: its block; 0 for the embedding.
        rows: its writers.
    """

    kind: str
    layer: int
    rows: slice

    @property
    def name(self) -> str:
        """The activation that is its output."""
        part = {"input": "hook_resid_pre", "attention": "attn.hook_z", "mlp": "hook_mlp_out"}[self.kind]
        return f"blocks.{self.layer}.{part}"

    def output(self, outputs: WriterOutputs) -> Tensor:
        """What it writes; heads as z."""
        if self.kind == "input":
            return outputs.embed
        return (outputs.z if self.kind == "attention" else outputs.mlp)[self.layer]

    def before_attention(self, layer: int) -> bool:
        """Whether the attention of ``layer`` reads it."""
        return self.kind == "input" or self.layer < layer

    def before_mlp(self, layer: int, graph: Graph) -> bool:
        """Whether the MLP of ``layer`` reads it."""
        beside = self.kind == "attention" and self.layer == layer and not graph.parallel
        return graph.has_mlp and (beside or self.before_attention(layer))


def _groups(graph: Graph) -> list[_Group]:
    groups = [_Group("input", 0, slice(0, 1))]
    for layer in range(graph.n_layers):
        groups.append(_Group("attention", layer, graph.attention_writers(layer)))
        if graph.has_mlp:
            groups.append(_Group("mlp", layer, slice(graph.mlp_writer(layer), graph.mlp_writer(layer) + 1)))
    return groups


@torch.no_grad()
def _clean(model: Transformer, batch: Task) -> tuple[WriterOutputs, list[Tensor]]:
    """What the writers write, and the residual stream before each block."""
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(
        batch.clean.to(model.device),
        list(dict.fromkeys([*writer_names(model), *streams])),
        attention_mask=stream.attention_mask(model, batch),
        stop_at_layer=model.cfg.n_layers,
    )
    return from_cache(model, cache), [cache[name] for name in streams]


def _run(
    model: Transformer,
    graph: Graph,
    batch: Task,
    group: _Group,
    here: Tensor,
    resid: list[Float[Tensor, "batch pos d_model"]],
    differences: Float[Tensor, "writers batch pos d_model"],
) -> Float[Tensor, "rows readers"]:
    """Scores of the edges out of a group, with the gradients of the run in which it writes ``here``."""
    last = batch.last.to(model.device)
    if not stream.is_sum(model):
        return _through_norms(model, graph, batch, group, here, resid[0], differences)[group.rows]
    gradients = _gradients_after(model, graph, batch, group, here, resid[group.layer])
    rows = differences[group.rows]
    flat = rows.flatten(1)
    values = flat.new_zeros(len(rows), len(graph.readers))
    for layer in range(group.layer, graph.n_layers):
        if group.before_attention(layer):
            readers = attention_pull_back(model, layer, gradients)
            values[:, graph.attention_readers(layer)] = flat @ readers.flatten(1).T
        if group.before_mlp(layer, graph):
            norm = model.blocks[layer].mlp_norm
            reader = norm_pull_back(norm, gradients.mlp[layer], gradients.resid_mlp[layer])
            values[:, graph.mlp_reader(layer)] = flat @ reader.flatten()
    pulled = norm_pull_back(model.ln_final, gradients.final, gradients.resid_final)
    read = rows if stream.answers_once(model) else rows[:, torch.arange(len(last)), last][:, :, None]
    values[:, -1] = read.flatten(1) @ pulled.flatten()
    return values


def _gradients_after(
    model: Transformer,
    graph: Graph,
    batch: Task,
    group: _Group,
    here: Tensor,
    resid: Float[Tensor, "batch pos d_model"],
) -> ReaderGradients:
    """Gradients at the readers that see a group, in a run from its block on; those of others are empty."""
    layers, n = range(graph.n_layers), graph.n_layers
    attentions = [layer for layer in layers if group.before_attention(layer)]
    mlps = [layer for layer in layers if group.before_mlp(layer, graph)]
    mlp_stream = "hook_resid_pre" if graph.parallel else "hook_resid_mid"
    names = {
        **{key: {x: f"blocks.{x}.attn.hook_{part}" for x in attentions} for key, part in _PARTS.items()},
        "mlp": {x: f"blocks.{x}.mlp.hook_in" for x in mlps},
        "resid_pre": {x: f"blocks.{x}.hook_resid_pre" for x in attentions},
        "resid_mlp": {x: f"blocks.{x}.{mlp_stream}" for x in mlps},
    }
    mask = stream.attention_mask(model, batch)
    with torch.enable_grad():
        moved = here.detach().requires_grad_(True)
        start, taps = (moved, None) if group.kind == "input" else (resid, {group.name: lambda _: moved})
        wanted = list(dict.fromkeys(name for part in names.values() for name in part.values()))
        out, cache = model.run_with_cache(
            start, wanted, taps=taps, attention_mask=mask, start_at_layer=group.layer, stop_at_layer=n
        )
        resid_final = stream.where_answered(model, batch, out)
        end: dict[str, Tensor] = {}
        tap = model_taps.Taps({"ln_final.hook_out": model_taps.Keep(end, "final", None)})
        metric = batch.checked_score(stream.answer(model, batch, resid_final, tap)).sum()
        at = {name: cache[name] for key in (*_PARTS, "mlp") for name in names[key].values()}
        grads = torch.autograd.grad(metric, [*at.values(), end["final"]])
    found = dict(zip(at, grads, strict=False))
    nothing = resid.new_zeros(0)

    def listed(key: str, source: Mapping[str, Tensor]) -> list[Tensor]:
        return [source[names[key][x]].detach() if x in names[key] else nothing for x in layers]

    return ReaderGradients(
        q=listed("q", found),
        k=listed("k", found),
        v=listed("v", found),
        mlp=listed("mlp", found),
        final=grads[-1],
        resid_pre=listed("resid_pre", cache),
        resid_mlp=listed("resid_mlp", cache),
        resid_final=resid_final.detach(),
        outputs=WriterOutputs(nothing, [], []),
    )


def _through_norms(
    model: Transformer,
    graph: Graph,
    batch: Task,
    group: _Group,
    here: Tensor,
    embed: Tensor,
    differences: Float[Tensor, "writers batch pos d_model"],
) -> Float[Tensor, "writers readers"]:
    """The same where norms lie between writers and readers: whole runs, and scores of all edges."""

    def move(value: Tensor) -> Tensor:
        return value + (here - value).detach()  # the gradient goes on to the queries and keys behind

    start, taps = (here, None) if group.kind == "input" else (embed, {group.name: move})
    gradients = reader_gradients(model, batch, start, taps=taps)
    return edge_scores(model, graph, differences, gradients, batch.last.to(model.device))
