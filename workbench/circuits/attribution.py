"""Edge attribution without edge tensors: one matrix product a layer gives the score of every edge into it.

To first order, replacing what writer u sends to reader v by its ablated value changes the metric by
``(ablated_u - clean_u) . d metric / d input_v``. The score is the negative of that, so that a positive one says
that corrupting the edge lowers the behaviour (Syed et al. 2023, equation 2).

1. Run with gradients kept where they are small: at each query head's q, k and v (before rotary) and at the MLPs'
   and the unembedding's normalised input.
2. Without autograd, layer by layer, pull them back to the residual stream: through the projection by its
   transpose, through the norm by its Jacobian in closed form.
3. Multiply the stacked writer differences [writer, batch*pos*d_model] with those readers' gradients.

Where norms lie between writers and readers (:mod:`workbench.circuits.stream`), the score is
``(clean_u - ablated_u) . J^T g_v`` with J the Jacobian, in the run at hand, of reader v's stream with respect to what
u wrote. It is the same for all readers at one height: the differences are carried upward, through one norm's Jacobian
after the other, and multiplied with the gradients of the readers that they come to. The other direction, gradients
downward, would carry three times as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, from_cache, writer_names
from workbench.circuits.graph import Graph
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.norm import Norm
from workbench.models.taps import Keep, Tap, Taps


@dataclass(frozen=True)
class ReaderGradients:
    """Gradients of the summed metric in one run, and the residual streams that the norms saw.

    Attributes:
        q, k, v: a layer: [batch, pos, head, d_head], at the query head's projections before rotary.
        mlp: a layer: [batch, pos, d_model], at the normalised input.
        final: [batch, 1, d_model], at the unembedding's input, where the answer is read; [batch, pos, d_model] where
            that is everywhere (:func:`workbench.circuits.stream.answers_once`).
        resid_pre, resid_mlp: a layer: [batch, pos, d_model], what attention and MLP read.
        resid_final: as ``final``.
        outputs: what the writers wrote in the same run.
    """

    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]
    mlp: list[Tensor]
    final: Tensor
    resid_pre: list[Tensor]
    resid_mlp: list[Tensor]
    resid_final: Tensor
    outputs: WriterOutputs


def reader_gradients(
    model: Transformer,
    batch: Task,
    embed: Float[Tensor, "batch pos d_model"],
    *,
    taps: Mapping[str, Tap] | None = None,
) -> ReaderGradients:
    """One forward and one backward from what enters block 0 to the metric; no gradients for weights.

    Args:
        model: the model.
        batch: examples.
        embed: what enters block 0.
        taps: further taps of the same run, by activation name; they may change the backward (detach a norm's scale,
            replace an activation's derivative, stop a layer's gradient).

    Raises:
        ValueError: a tap on an activation that does not exist.
    """
    n, no_mlp = model.cfg.n_layers, model.cfg.attn_only
    parts = {
        "q": "attn.hook_q",
        "k": "attn.hook_k_heads",
        "v": "attn.hook_v_heads",
        "mlp": "mlp.hook_in",
        "resid_pre": "hook_resid_pre",
        "resid_mlp": "hook_resid_pre" if model.cfg.parallel else "hook_resid_mid",
    }
    names = {
        key: [] if no_mlp and key in ("mlp", "resid_mlp") else [f"blocks.{layer}.{part}" for layer in range(n)]
        for key, part in parts.items()
    }
    wanted = [*(name for group in names.values() for name in group), *writer_names(model)]
    # Without a norm before it the MLP reads the stream itself, where the gradient is that of all its readers: any tap
    # gives it a tensor of its own.
    apart = {} if model.cfg.norm_place == "pre" else dict.fromkeys(names["mlp"], _same)
    taps, last = {**apart, **(taps or {})}, "ln_final.hook_out"
    ends: dict[str, Tensor] = {}
    with torch.enable_grad():
        start, mask = embed.detach().requires_grad_(True), stream.attention_mask(model, batch)
        resid, cache = model.run_with_cache(start, wanted, taps=taps, attention_mask=mask, stop_at_layer=n)
        resid_final = stream.where_answered(model, batch, resid)
        tap = Taps({**taps, last: Keep(ends, last, taps.get(last))})
        metric = batch.checked_score(stream.answer(model, batch, resid_final, tap))
        at = [cache[name] for key in ("q", "k", "v", "mlp") for name in names[key]]
        # Zeros where a tap has cut off what is behind.
        grads = torch.autograd.grad(metric.sum(), [*at, ends[last]], materialize_grads=True)
    kept = {name: value.detach() for name, value in cache.items()}
    return ReaderGradients(
        q=list(grads[:n]),
        k=list(grads[n : 2 * n]),
        v=list(grads[2 * n : 3 * n]),
        mlp=list(grads[3 * n : -1]),
        final=grads[-1],
        resid_pre=[kept[name] for name in names["resid_pre"]],
        resid_mlp=[kept[name] for name in names["resid_mlp"]],
        resid_final=resid_final.detach(),
        outputs=from_cache(model, kept),
    )


def _same(value: Tensor) -> Tensor:
    return value


@torch.no_grad()
def writer_differences(
    model: Transformer, graph: Graph, clean: WriterOutputs, ablated: WriterOutputs
) -> Float[Tensor, "writers batch pos d_model"]:
    """Clean minus ablated output of every writer, stacked."""
    b, p, d = clean.embed.shape
    stack = clean.embed.new_empty(len(graph.writers), b, p, d)
    torch.sub(clean.embed, ablated.embed, out=stack[0])
    for layer in range(graph.n_layers):
        attn = model.blocks[layer].attn
        dz = (clean.z[layer] - ablated.z[layer]).permute(2, 0, 1, 3).reshape(graph.n_heads, b * p, -1)
        torch.bmm(dz, attn.W_O, out=stack[graph.attention_writers(layer)].view(graph.n_heads, b * p, d))
        if graph.has_mlp:
            torch.sub(clean.mlp[layer], ablated.mlp[layer], out=stack[graph.mlp_writer(layer)])
    return stack


@torch.no_grad()
def edge_scores(
    model: Transformer,
    graph: Graph,
    differences: Float[Tensor, "writers batch pos d_model"],
    gradients: ReaderGradients,
    last: Tensor,
    *,
    frozen_norms: bool = False,
) -> Float[Tensor, "writers readers"]:
    """Score of every edge, summed over examples and positions.

    Args:
        model: the model.
        graph: its edges.
        differences: clean minus ablated output of every writer.
        gradients: those of the readers.
        last: [batch] where the answer is read.
        frozen_norms: treat the scale of the norms between a writer and its readers as a constant; a LayerNorm still
            subtracts the mean.
    """
    carried = differences if stream.is_sum(model) else differences.clone()
    flat = carried.view(len(carried), -1)
    values = flat.new_zeros(len(flat), len(graph.readers))
    for layer in range(graph.n_layers):
        before, after = graph.writers_before_attention(layer), graph.writers_before_mlp(layer)
        readers = attention_pull_back(model, layer, gradients, frozen=frozen_norms)
        into_attention = graph.attention_readers(layer)
        if graph.has_mlp and model.cfg.norm_place == "pre":
            _past_attention(model, graph, layer, carried, gradients, frozen_norms)
            norm = model.blocks[layer].mlp_norm
            into_mlp = norm_pull_back(norm, gradients.mlp[layer], gradients.resid_mlp[layer], frozen=frozen_norms)
            readers = torch.cat((readers, into_mlp[None]))
            # One pass over the writers for all readers of the block; what attention cannot read is left out after.
            products = flat[:after] @ readers.view(len(readers), -1).T
            values[:before, into_attention] = products[:before, :-1]
            values[:after, graph.mlp_reader(layer)] = products[:, -1]
            continue
        values[:before, into_attention] = flat[:before] @ readers.view(len(readers), -1).T
        _past_attention(model, graph, layer, carried, gradients, frozen_norms)
        if graph.has_mlp:
            values[:after, graph.mlp_reader(layer)] = flat[:after] @ gradients.mlp[layer].reshape(-1)
            resid = gradients.resid_mlp[layer] + gradients.outputs.mlp[layer]
            stream.push(model.blocks[layer].mlp_norm, carried[: after + 1], resid, frozen=frozen_norms)
    pulled = norm_pull_back(model.ln_final, gradients.final, gradients.resid_final, frozen=frozen_norms)
    if not stream.answers_once(model):
        carried = carried[:, torch.arange(len(last), device=last.device), last]
    values[:, -1] = carried.reshape(len(carried), -1) @ pulled.reshape(-1)
    return values


def _past_attention(
    model: Transformer, graph: Graph, layer: int, carried: Tensor, gradients: ReaderGradients, frozen: bool
) -> None:
    """Carry differences through the norm that lies behind a layer's attention, where there is one: in place."""
    heads, z = graph.attention_writers(layer), gradients.outputs.z[layer]
    stream.push_past_attention(model.blocks[layer], carried, heads, gradients.resid_pre[layer], z, frozen=frozen)


def norm_pull_back(norm: Norm, gradient: Tensor, resid: Tensor, *, frozen: bool = False) -> Tensor:
    """Gradient at the residual stream from the one at the norm's output; ``frozen`` holds the norm's scale constant.

    Leading axes of ``gradient`` broadcast.
    """
    x_hat, scale = norm.standardise(resid)
    if not frozen or norm.weight is None:
        return norm.pull_back(gradient, x_hat, scale)
    g = gradient * norm.weight
    if norm.centred:
        g = g - g.mean(-1, keepdim=True)
    return g / scale


def attention_pull_back(
    model: Transformer, layer: int, gradients: ReaderGradients, *, frozen: bool = False
) -> Float[Tensor, "readers batch pos d_model"]:
    """Gradients of ``layer``'s query, key and value inputs at the residual stream, part by part, head by head.

    The norm's Jacobian needs ``mean(g * x_hat)`` of g = gradient @ W * weight. Taken over d_model for each of 3 x
    n_heads copies that would cost as much as the product itself; as ``gradient . (W (weight * x_hat)) / d_model`` it
    is a dot product of d_head numbers with the projection that the run made anyway. ``frozen`` leaves that term out.
    """
    block = model.blocks[layer]
    attn, norm = block.attn, block.ln1
    b, p, d = gradients.resid_pre[layer].shape
    x_hat, scale = (x.view(b * p, -1) for x in norm.standardise(gradients.resid_pre[layer]))
    parts = []
    for linear, gradient in ((attn.q, gradients.q), (attn.k, gradients.k), (attn.v, gradients.v)):
        weight = attn.heads_of(linear)  # h e d
        g = gradient[layer].permute(2, 0, 1, 3).reshape(-1, b * p, model.cfg.d_head)  # h bp e
        if norm.weight is None or model.cfg.norm_place == "post":
            parts.append(torch.bmm(g, weight))
            continue
        weight = weight * norm.weight
        if norm.centred:
            weight = weight - weight.mean(-1, keepdim=True)
        g = g / scale
        if frozen:
            parts.append(torch.bmm(g, weight))
            continue
        along = (g * torch.matmul(x_hat, weight.transpose(1, 2))).sum(-1, keepdim=True) / d  # h bp 1
        parts.append(torch.bmm(g, weight).addcmul_(along, x_hat, value=-1))
    return torch.cat(parts).view(-1, b, p, d)
