"""Information flow routes (Ferrando & Voita 2024, arXiv 2403.00824): how much of what a reader reads is whose.

One plain forward of the clean prompts, no corrupted ones and no metric. A part z of a whole y is worth its proximity

    max(||y||_1 - ||z - y||_1, 0),

divided by the sum over all parts (their equations 2 and 3). The whole is what a reader reads, the parts are what the
writers before it wrote. Here as an edge score: the mean over prompts and real positions, for ``logits`` over those that
the answer is read from (:func:`workbench.circuits.stream.share_of_answer`). The three readers of a head, and all heads
of a block, read the same stream, so that their edges have equal scores. Circuits are meant to be grown from ``logits``
backwards (:func:`workbench.circuits.greedy.greedy`).

Where norms lie between writers and readers (BERT, Gemma 2 and 3; :mod:`workbench.circuits.stream`), the whole is still
what the reader reads, and the part of a writer is what it wrote, taken through each norm on the way by

    part -> weight * (part - [mean(part)]) / scale,

with the scale that this norm had in this run, the bracket for LayerNorm only. With its scale held a norm is linear but
for its bias, so that the parts still add up: the whole is their sum and the biases', of attention outputs and of
norms, which belong to no writer. So Kobayashi et al. 2021 (arXiv 2109.07152) take post-norm encoders apart. Without
norms on the way it is the formula above.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, from_cache, graph_of, writer_names
from workbench.circuits.attribution import writer_differences
from workbench.circuits.graph import Graph, Scores
from workbench.circuits.partial import Keep, Prompts
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
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by its share in what its reader reads: one forward.

    Args:
        model: any model whose graph has edges.
        task: its clean prompts are read.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch; returning False keeps the scores of the prompts finished so far.
        resume: what ``keep`` was given by an earlier call; the prompts that it had scored are not scored again.
        keep: called every few seconds with the scores of the prompts finished so far.

    Returns:
        Scores between 0 and 1, without a unit; those into one reader sum to 1 (or are all 0).

    Raises:
        ValueError: ``resume`` is of another search.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)
    rest = Prompts(graph, task, "information-flow", {}, resume, keep)

    def score(batch: Task, nothing: WriterOutputs, step: Step) -> Tensor:
        values = _flow(model, graph, batch, nothing)
        step()
        return values

    mean = mean_over(model, task, score, steps=1, ablation="zero", budget=budget, progress=progress, rest=rest)
    return rest.found(mean.values, mean.n_examples)


@torch.no_grad()
def _flow(model: Transformer, graph: Graph, batch: Task, nothing: WriterOutputs) -> Float[Tensor, "writers readers"]:
    """Shares of one batch, summed over its examples."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(graph.n_layers)]
    if graph.has_mlp and not graph.parallel:
        names += [f"blocks.{layer}.hook_resid_mid" for layer in range(graph.n_layers)]
    tokens, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
    wanted = [*names, *writer_names(model)]
    final, cache = model.run_with_cache(tokens, wanted, attention_mask=mask, stop_at_layer=graph.n_layers)
    outputs = from_cache(model, cache)
    parts = writer_differences(model, graph, outputs, nothing)
    lengths = batch.lengths.to(model.device)[:, None]
    weights = (torch.arange(parts.shape[2], device=model.device) < lengths) / lengths
    values = parts.new_zeros(graph.mask.shape)
    for layer, block in enumerate(model.blocks):
        before, resid = graph.writers_before_attention(layer), cache[names[layer]]
        share = _shares(parts[:before], resid, weights)
        values[:before, graph.attention_readers(layer)] = share[:, None]
        heads = graph.attention_writers(layer)
        stream.push_past_attention(block, parts, heads, resid, outputs.z[layer], frozen=True)
        if graph.parallel:
            values[:before, graph.mlp_reader(layer)] = share
        elif graph.has_mlp:
            resid = cache[names[graph.n_layers + layer]]
            share = _shares(parts[: heads.stop], resid, weights)
            values[: heads.stop, graph.mlp_reader(layer)] = share
            if model.cfg.norm_place == "post":
                stream.push(block.mlp_norm, parts[: heads.stop + 1], resid + outputs.mlp[layer], frozen=True)
    values[:, -1] = _shares(parts, final, stream.share_of_answer(model, batch, final.shape[1]))
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
