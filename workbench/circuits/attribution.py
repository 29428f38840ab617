"""Edge attribution without edge tensors: one matrix product a layer gives the score of every edge into it.

To first order, replacing what writer u sends to reader v by its ablated value changes the metric by
``(ablated_u - clean_u) . d metric / d input_v``. The score is the negative of that, so that a positive one says
that corrupting the edge lowers the behaviour (Syed et al. 2023, equation 2).

1. Run with gradients kept where they are small: at each query head's q, k and v (before rotary) and at the MLPs'
   and the unembedding's normalised input.
2. Without autograd, layer by layer, pull them back to the residual stream: through the projection by its
   transpose, through the norm by its Jacobian in closed form.
3. Multiply the stacked writer differences [writer, batch*pos*d_model] with those readers' gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.activations import WriterOutputs, from_cache, writer_names
from workbench.circuits.graph import Graph
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.norm import Norm


@dataclass(frozen=True)
class ReaderGradients:
    """Gradients of the summed metric in one run, and the residual streams that the norms saw.

    Attributes:
        q, k, v: a layer: [batch, pos, head, d_head], at the query head's projections before rotary.
        mlp: a layer: [batch, pos, d_model], at the normalised input.
        final: [batch, 1, d_model], at the unembedding's input, where the answer is read.
        resid_pre, resid_mlp: a layer: [batch, pos, d_model], what attention and MLP read.
        resid_final: [batch, 1, d_model].
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


def reader_gradients(model: Transformer, batch: Task, embed: Float[Tensor, "batch pos d_model"]) -> ReaderGradients:
    """One forward and one backward from what enters block 0 to the metric; no gradients for weights."""
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
    with torch.enable_grad():
        start = embed.detach().requires_grad_(True)
        resid, cache = model.run_with_cache(start, wanted, stop_at_layer=n)
        rows = torch.arange(len(resid), device=resid.device)
        resid_final = resid[rows, batch.last.to(resid.device)][:, None]
        final = model.ln_final(resid_final)
        metric = batch.score(model.unembed(final)[:, 0])
        at = [cache[name] for key in ("q", "k", "v", "mlp") for name in names[key]]
        grads = torch.autograd.grad(metric.sum(), [*at, final])
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
) -> Float[Tensor, "writers readers"]:
    """Score of every edge, summed over examples and positions."""
    writers, b = differences.shape[:2]
    flat = differences.view(writers, -1)
    values = flat.new_zeros(writers, len(graph.readers))
    for layer in range(graph.n_layers):
        heads = graph.writers_before_attention(layer)
        readers = attention_pull_back(model, layer, gradients)
        if not graph.has_mlp:
            values[:heads, graph.attention_readers(layer)] = flat[:heads] @ readers.view(len(readers), -1).T
            continue
        n = graph.writers_before_mlp(layer)
        norm = model.blocks[layer].mlp_norm
        into_mlp = norm_pull_back(norm, gradients.mlp[layer], gradients.resid_mlp[layer])
        readers = torch.cat((readers, into_mlp[None]))
        # One pass over the writers for all readers of the block; what attention cannot read is left out after.
        products = flat[:n] @ readers.view(len(readers), -1).T
        values[:heads, graph.attention_readers(layer)] = products[:heads, :-1]
        values[:n, graph.mlp_reader(layer)] = products[:, -1]
    rows = torch.arange(b, device=last.device)
    pulled = norm_pull_back(model.ln_final, gradients.final, gradients.resid_final)
    values[:, -1] = differences[:, rows, last].reshape(writers, -1) @ pulled.reshape(-1)
    return values


def norm_pull_back(norm: Norm, gradient: Tensor, resid: Tensor) -> Tensor:
    """Gradient at the residual stream from the one at the norm's output."""
    return norm.pull_back(gradient, *norm.standardise(resid))


def attention_pull_back(
    model: Transformer, layer: int, gradients: ReaderGradients
) -> Float[Tensor, "readers batch pos d_model"]:
    """Gradients of ``layer``'s query, key and value inputs at the residual stream, part by part, head by head.

    The norm's Jacobian needs ``mean(g * x_hat)`` of g = gradient @ W * weight. Taken over d_model for each of 3 x
    n_heads copies that would cost as much as the product itself; as ``gradient . (W (weight * x_hat)) / d_model`` it
    is a dot product of d_head numbers with the projection that the run made anyway.
    """
    block = model.blocks[layer]
    attn, norm = block.attn, block.ln1
    b, p, d = gradients.resid_pre[layer].shape
    x_hat, scale = (x.view(b * p, -1) for x in norm.standardise(gradients.resid_pre[layer]))
    parts = []
    for linear, gradient in ((attn.q, gradients.q), (attn.k, gradients.k), (attn.v, gradients.v)):
        weight = attn.heads_of(linear)  # h e d
        g = gradient[layer].permute(2, 0, 1, 3).reshape(-1, b * p, model.cfg.d_head)  # h bp e
        if norm.weight is None:
            parts.append(torch.bmm(g, weight))
            continue
        weight = weight * norm.weight
        if norm.centred:
            weight = weight - weight.mean(-1, keepdim=True)
        g = g / scale
        along = (g * torch.matmul(x_hat, weight.transpose(1, 2))).sum(-1, keepdim=True) / d  # h bp 1
        parts.append(torch.bmm(g, weight).addcmul_(along, x_hat, value=-1))
    return torch.cat(parts).view(-1, b, p, d)
