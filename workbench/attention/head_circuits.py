"""The two circuits of a head, from weights alone: which tokens look at which (QK), and what that writes (OV).

Elhage et al. 2021 ("A mathematical framework for transformer circuits"): of the matrix from source to output token,
``W_E W_V W_O W_U``, eigenvalues on the positive side mean copying. It is [d_vocab, d_vocab] but has the rank of a head:
``AB`` and ``BA`` have the same nonzero eigenvalues, so that those of a [d_head, d_head] product are all there are.
McDougall et al. 2023 (arXiv 2310.04625) call a head that lowers the logit of the token it attends to copy suppression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.observed import ByHead
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.attention import Positions, softcap
from workbench.models.norm import Norm

CHUNK = 4096


@dataclass(frozen=True)
class Copying:
    """What heads do to the logit of the token that they read.

    Attributes:
        model: name of the model.
        eigenvalues: of the OV circuit, the largest first, [layer, head, d_head] (complex).
        score: ``sum Re(eigenvalue) / sum |eigenvalue|``, from -1 to 1: 1 copies, -1 does the opposite.
        own: mean over the vocabulary of what a token, fully attended to, adds to its own logit; negative for copy
            suppression. In logits less their mean, before the final norm divides.
    """

    model: str
    eigenvalues: Tensor
    score: ByHead
    own: ByHead


@dataclass(frozen=True)
class TokenPair:
    """One entry of a circuit.

    Attributes:
        source: id of the given token: what is attended to (OV), or what asks (QK).
        target: id of the token found: whose logit rises most (OV), or that is looked at (QK).
        value: logits less their mean, before the final norm divides (OV), or the attention score at distance zero (QK).
    """

    source: int
    target: int
    value: float


@torch.no_grad()
def copying(model: Transformer, *, progress: ProgressFn | None = None) -> Copying:
    """Copying score and copy suppression of every head, without any [d_vocab, d_vocab] matrix.

    A token stands for its normalised embedding, as the first layer reads it, without positions; the weights of the
    norms count, their biases and those of values do not. Logits are taken less their mean over the vocabulary, which
    softmax does not see. Deeper layers read more than embeddings, which this leaves out. Cost: one product of
    ``d_vocab d_model^2`` steps; then small matrices.

    Args:
        model: a decoder.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: the model reads images, looks both ways or has no logits for its tokens; a mechanism mixes values.
        Stopped: ``progress`` asked for it.
    """
    require_decoder(model)
    tokens, out = embedded(model), unembedding(model)
    across = out.T @ tokens  # sum over the vocabulary, [d_model, d_model]
    report = Reporter(progress, model.cfg.n_layers, "reading OV circuits")
    values, owns = [], []
    for layer in range(model.cfg.n_layers):
        reads, writes = ov_weights(model, layer)
        small = writes @ across @ reads
        values.append(torch.linalg.eigvals(small))
        # The trace is the sum over the vocabulary of what a token adds to its own logit.
        owns.append(small.diagonal(dim1=1, dim2=2).sum(-1) / len(tokens))
        report.step()
        if not report.going:
            raise Stopped("Stopped before the OV circuits of all layers were read.")
    found = torch.stack(values).cpu()
    order = found.abs().argsort(-1, descending=True)
    found = found.gather(-1, order)
    score = found.real.sum(-1) / found.abs().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return Copying(model.name, found, score, torch.stack(owns).cpu())


@torch.no_grad()
def own_logits(model: Transformer, tokens: Sequence[int] | Int[Tensor, " token"]) -> Float[Tensor, "layer head token"]:
    """What each token, fully attended to, adds to its own logit, less their mean; as in :func:`copying`.

    Raises:
        ValueError: as for :func:`copying`; no such token.
    """
    require_decoder(model)
    ids = _checked(model, 0, 0, tokens, 1)
    x, out = embedded(model, ids), unembedding(model)
    layers = [ov_weights(model, layer) for layer in range(model.cfg.n_layers)]
    found = [torch.einsum("hte,hef,tf->ht", x @ reads, writes, out[ids]) for reads, writes in layers]
    return torch.stack(found).cpu()


@torch.no_grad()
def ov_pairs(
    model: Transformer, layer: int, head: int, tokens: Sequence[int] | Int[Tensor, " token"], n: int = 5
) -> list[TokenPair]:
    """For each token, the ``n`` tokens whose logits rise most where the head attends to it; as in :func:`copying`.

    Raises:
        ValueError: as for :func:`copying`; no such head or token.
    """
    require_decoder(model)
    ids = _checked(model, layer, head, tokens, n)
    reads, writes = ov_weights(model, layer)
    written = embedded(model, ids) @ reads[head] @ writes[head]
    out = unembedding(model)
    return _best(ids, written, lambda some: out[some], model.cfg.d_vocab, n)


@torch.no_grad()
def qk_pairs(
    model: Transformer, layer: int, head: int, tokens: Sequence[int] | Int[Tensor, " token"], n: int = 5
) -> list[TokenPair]:
    """For each token as a query, the ``n`` keys of the vocabulary that it scores highest.

    Both read the normalised embedding through this layer's norm, its biases and norms of queries and keys included, at
    distance zero and without positions; the score is scaled and capped as the model does.

    Raises:
        ValueError: the model reads images; no such head or token.
    """
    ids = _checked(model, layer, head, tokens, n)
    attn = model.blocks[layer].attn

    def read(some: Tensor, query: bool) -> Tensor:
        x = embedded(model, some)
        norm = model.blocks[layer].ln1
        if model.cfg.norm_place == "pre":
            x = weighted(norm, x) if norm.bias is None else weighted(norm, x) + norm.bias.double()
        q, k = attn.q(x.to(model.dtype))[None], attn.k(x.to(model.dtype))[None]
        shape = (1, len(some), -1, model.cfg.d_head)
        q, k = attn.place(q.view(shape), k.view(shape), Positions())
        return (q[0, :, head] if query else k[0, :, head // model.cfg.group_size]).double()

    asked = read(ids, True) * model.cfg.attn_scale
    cap = model.cfg.attn_softcap
    pairs = _best(
        ids,
        asked,
        lambda some: read(torch.arange(some.start, some.stop, device=ids.device), False),
        model.cfg.d_vocab,
        n,
    )
    if cap is None:
        return pairs
    # A cap keeps the order.
    return [TokenPair(p.source, p.target, float(softcap(torch.tensor(p.value), cap))) for p in pairs]


def require_decoder(model: Transformer) -> None:
    """Refuse a model whose heads have no circuit from tokens to logits of the same tokens.

    Raises:
        ValueError: saying why.
    """
    cfg = model.cfg
    if cfg.image is not None or not cfg.causal or cfg.head == "none" or cfg.pooling != "none" or model.head is not None:
        raise ValueError(f"Copying compares tokens with logits of the same tokens; {model.name} has none such.")
    if cfg.n_out != cfg.d_vocab:
        raise ValueError(f"{model.name} reads {cfg.d_vocab} tokens and has {cfg.n_out} logits; copying needs the same.")
    if any(block.attn.mechanism.values is not None for block in model.blocks):
        raise ValueError(f"Values are mixed in {model.name}, so that its heads have no OV circuit of their own.")


def _checked(model: Transformer, layer: int, head: int, tokens: Sequence[int] | Tensor, n: int) -> Tensor:
    cfg = model.cfg
    if cfg.image is not None:
        raise ValueError(f"{model.name} reads images; it has no pairs of tokens.")
    if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads):
        raise ValueError(
            f"There is no head {head} in a layer {layer}: there are {cfg.n_layers} layers of {cfg.n_heads} heads."
        )
    ids = torch.as_tensor(tokens, dtype=torch.long, device=model.device).flatten()
    if not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= cfg.d_vocab:
        raise ValueError(f"Give one token id or more, from 0 to {cfg.d_vocab - 1}.")
    if not 1 <= n <= cfg.d_vocab:
        raise ValueError(f"Ask for 1 to {cfg.d_vocab} pairs of each token; got {n}.")
    return ids


def embedded(model: Transformer, ids: Tensor | None = None) -> Float[Tensor, "token d_model"]:
    """Token embeddings as the first layer reads them, before the weight of its norm; float64."""
    x = (model.W_E if ids is None else model.W_E[ids]).double() * model.cfg.embed_scale
    if model.embed_norm is not None:
        x = model.embed_norm.standardise(x)[0]
        x = weighted(model.embed_norm, x)
        if model.embed_norm.bias is not None:
            x = x + model.embed_norm.bias.double()
    if model.cfg.norm == "none" or model.cfg.norm_place == "post":
        return x
    return model.blocks[0].ln1.standardise(x)[0]


def unembedding(model: Transformer) -> Float[Tensor, "token d_model"]:
    """What each logit, less their mean, reads of the residual stream before the final norm divides; float64."""
    out = weighted(model.ln_final, model.W_U.T.double())
    if model.ln_final.centred:
        out = out - out.mean(-1, keepdim=True)
    return out - out.mean(0)


def ov_weights(model: Transformer, layer: int) -> tuple[Tensor, Tensor]:
    """[head, d_model, d_head] from a normalised embedding to values, and [head, d_head, d_model] to the stream."""
    block = model.blocks[layer]
    reads = block.attn.heads_of(block.attn.v).double()
    if model.cfg.norm_place == "pre":
        reads = weighted(block.ln1, reads)
    writes = block.attn.W_O.double()
    if block.ln1_post is not None:
        writes = writes - writes.mean(-1, keepdim=True) if block.ln1_post.centred else writes
        writes = weighted(block.ln1_post, writes)
    return reads.mT, writes


def weighted(norm: Norm, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """``x`` times the weight of a norm, where it has one; float64."""
    return x if norm.weight is None else x * norm.weight.double()


def _best(ids: Tensor, left: Tensor, right: Callable[[slice], Tensor], vocabulary: int, n: int) -> list[TokenPair]:
    """The ``n`` largest products of each row of ``left`` with the rows of ``right``, some of them at a time."""
    best = left.new_full((len(ids), 0), 0.0)
    where = torch.zeros(len(ids), 0, dtype=torch.long, device=left.device)
    for start in range(0, vocabulary, CHUNK):
        some = slice(start, min(start + CHUNK, vocabulary))
        product = left @ right(some).T
        numbers = torch.arange(some.start, some.stop, device=left.device).expand_as(product)
        best, where = torch.cat([best, product], 1), torch.cat([where, numbers], 1)
        best, kept = best.topk(min(n, best.shape[1]), dim=1)
        where = where.gather(1, kept)
    return [
        TokenPair(source, target, value)
        for source, targets, values in zip(ids.tolist(), where.tolist(), best.tolist(), strict=True)
        for target, value in zip(targets, values, strict=True)
    ]
