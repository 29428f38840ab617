"""Information flow routes (Ferrando & Voita 2024, arXiv 2403.00824): how much of what a reader reads is whose.

One plain forward of the clean prompts, no corrupted ones and no metric. A part z of a whole y is worth its proximity

    max(||y||_1 - ||z - y||_1, 0),

divided by the sum over all parts (their equations 2 and 3). The whole is what a reader reads, the parts are what the
writers before it wrote. Here as an edge score: the mean over prompts and real positions, for ``logits`` at the
position where the answer is read. The three readers of a head, and all heads of a block, read the same stream, so that
their edges have equal scores. Circuits are meant to be grown from ``logits`` backwards
(:func:`workbench.circuits.greedy.greedy`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, from_cache, graph_of, writer_names
from workbench.circuits.attribution import writer_differences
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, mean_over
from workbench.circuits.task import Task
from workbench.models import Transformer


def information_flow(
    model: Transformer,
    task: Task,
    *,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Scores:
    """Score every edge by its share in what its reader reads: one forward.

    Args:
        model: any hooked decoder.
        task: its clean prompts are read.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch; returning False keeps the scores of the prompts finished so far.

    Returns:
        Scores between 0 and 1, without a unit; those into one reader sum to 1 (or are all 0).

    Raises:
        ValueError: a model that normalises what is added to its residual stream, which is no sum of parts then.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)
    stream.check_sum(model, "Information flow")

    def score(batch: Task, nothing: WriterOutputs, step: Step) -> Tensor:
        values = _flow(model, graph, batch, nothing)
        step()
        return values

    mean = mean_over(model, task, score, steps=1, ablation="zero", budget=budget, progress=progress)
    return mean.scores(model, task, "information-flow")


@torch.no_grad()
def _flow(model: Transformer, graph: Graph, batch: Task, nothing: WriterOutputs) -> Float[Tensor, "writers readers"]:
    """Shares of one batch, summed over its examples."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(graph.n_layers)]
    if graph.has_mlp and not graph.parallel:
        names += [f"blocks.{layer}.hook_resid_mid" for layer in range(graph.n_layers)]
    tokens, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
    wanted = [*names, *writer_names(model)]
    final, cache = model.run_with_cache(tokens, wanted, attention_mask=mask, stop_at_layer=graph.n_layers)
    parts = writer_differences(model, graph, from_cache(model, cache), nothing)
    lengths = batch.lengths.to(model.device)[:, None]
    weights = (torch.arange(parts.shape[2], device=model.device) < lengths) / lengths
    values = parts.new_zeros(graph.mask.shape)
    for layer in range(graph.n_layers):
        before = graph.writers_before_attention(layer)
        share = _shares(parts[:before], cache[names[layer]], weights)
        values[:before, graph.attention_readers(layer)] = share[:, None]
        if graph.parallel:
            values[:before, graph.mlp_reader(layer)] = share
        elif graph.has_mlp:
            before = graph.writers_before_mlp(layer)
            share = _shares(parts[:before], cache[names[graph.n_layers + layer]], weights)
            values[:before, graph.mlp_reader(layer)] = share
    rows, last = torch.arange(len(tokens), device=model.device), batch.last.to(model.device)
    values[:, -1] = _shares(parts[:, rows, last], final[rows, last], torch.ones_like(lengths[:, 0], dtype=parts.dtype))
    return values


def _shares(
    parts: Float[Tensor, "writers *place d_model"], whole: Float[Tensor, "*place d_model"], weights: Tensor
) -> Float[Tensor, " writers"]:
    """Each part's share in the whole, summed over places with ``weights`` [*place]."""
    size = whole.abs().sum(-1)
    # Part by part: all differences at once would be as large as the parts.
    proximity = torch.stack([(size - (part - whole).abs().sum(-1)).clamp(min=0) for part in parts])
    share = proximity / proximity.sum(0).clamp(min=torch.finfo(size.dtype).tiny)
    return (share * weights).flatten(1).sum(1)
