"""A forward in which chosen edges carry another input's activations, one choice for each example, with gradients.

:class:`workbench.circuits.patching.PatchedRun` patches one set of edges in a whole batch and keeps no gradients; for
training, every example of a batch has a set of its own and the models are tiny.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits.activations import graph_of
from workbench.models import Transformer
from workbench.models.attention import Attention


def outputs(
    model: Transformer, tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos d_vocab"], Float[Tensor, "batch writer pos d_model"]]:
    """Logits of a plain run, and what every writer adds to the residual stream, in the order of the graph."""
    empty = graph_of(model).mask[None].expand(len(tokens), -1, -1) & False
    nothing = model.embed.weight.new_zeros(len(tokens), empty.shape[1], tokens.shape[1], model.cfg.d_model)
    return interchanged(model, tokens, nothing, empty)


def interchanged(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other: Float[Tensor, "batch writer pos d_model"],
    edges: Bool[Tensor, "batch writer reader"],
) -> tuple[Float[Tensor, "batch pos d_vocab"], Float[Tensor, "batch writer pos d_model"]]:
    """Run a model with some edges carrying what the writers wrote on other inputs.

    Args:
        model: the model.
        tokens: inputs.
        other: what the writers wrote on the inputs that each is paired with, see :func:`outputs`.
        edges: for each example the edges that carry ``other``.

    Returns:
        Logits, and what every writer wrote in this run.
    """
    graph = graph_of(model)
    resid = model(tokens, stop_at_layer=0)
    written, positions = [resid], model.positions(tokens)[0]
    patched = bool(edges.any())

    def read(columns: list[int], stream: Tensor) -> Tensor:
        """What readers take in: [batch, reader, pos, d_model]."""
        n = len(written)
        if not patched:
            return stream[:, None].expand(-1, len(columns), -1, -1)
        change = other[:, :n] - torch.stack(written, 1)
        chosen = edges[:, :n, columns].to(change.dtype)
        return stream[:, None] + torch.einsum("bwr,bwpd->brpd", chosen, change)

    for layer, block in enumerate(model.blocks):
        columns = graph.attention_readers(layer)
        normed = block.ln1(read(list(range(columns.start, columns.stop)), resid))
        attn: Attention = block.attn
        q, k, v = (
            _project(attn, linear, part)
            for linear, part in zip((attn.q, attn.k, attn.v), normed.chunk(3, 1), strict=True)
        )
        z = attn.attend(*attn.place(q, k, positions[layer]), v, positions[layer])
        results = torch.einsum("bphe,hed->bhpd", z, attn.W_O)
        bias = attn.b_O
        mid = resid + results.sum(1) + (0 if bias is None else bias)
        written.extend(results.unbind(1))
        if graph.has_mlp:
            assert block.mlp is not None
            stream = resid if graph.parallel else mid
            # A parallel MLP reads no head of its own layer: their edges are never in the graph's mask.
            out = block.mlp(block.mlp_norm(read([graph.mlp_reader(layer)], stream)[:, 0]))
            written.append(out)
            mid = mid + out
        resid = mid
    final = read([len(graph.readers) - 1], resid)[:, 0]
    return model.logits(final), torch.stack(written, 1)


def _project(attn: Attention, linear: torch.nn.Linear, x: Float[Tensor, "batch head pos d_model"]) -> Tensor:
    """Each head's projection of its own input: [batch pos head d_head]."""
    projected = torch.einsum("bhpd,hed->bphe", x, attn.heads_of(linear))
    bias = attn.bias_of(linear)
    return projected if bias is None else projected + bias
