"""One attention head on one input: where it looks, what it writes, and whether it copies what it looks at.

    found = look_at_head(model, inspection.read(model, "When Mary and John ..."), layer=23, head=0)
    found.pattern            # [query, key]
    found.raised[0]          # the token that its output raises most, directly, where it was asked
    copy_score(model, task.clean, 23, 0)

What a head writes goes to the logits directly and through later heads and MLPs. Here only the direct way is shown:
its output ``z W_O`` through the final norm, whose scale is held as it is in this run, and the unembedding. That is a
sum: the parts of all heads, MLPs, the embedding and the biases add up to the logits (Elhage et al. 2021, A
Mathematical Framework for Transformer Circuits). Numbers are above their mean over all tokens, for a shift of all
logits changes no answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.inspection import Given
from workbench.models import Transformer


@dataclass(frozen=True)
class Moved:
    """A token, and how far a head moves its logit directly, above the mean over all tokens."""

    token: str
    logit: float


@dataclass(frozen=True)
class Source:
    """One of the positions that a head looks at, and what it carries from there.

    Attributes:
        position: of the key.
        token: what stands there.
        share: of the attention.
        own: how far what it carries, at full attention, moves the logit of that same token.
        rank: place of that token among all that it raises; 1 is the first.
        raised: what it raises most.
    """

    position: int
    token: str
    share: float
    own: float
    rank: int
    raised: list[str]


@dataclass(frozen=True)
class HeadLook:
    """One head on one input.

    Attributes:
        layer, head: from 0.
        names: what stands at each position.
        pattern: [query, key].
        causal: whether keys behind the query are out of sight.
        position: where it was asked what it writes.
        raised, lowered: tokens whose logits its output there moves most, directly; empty where it has no direct way.
        sources: where it looks from there, the most attended first.
        norm: length of what it writes there, as a share of the residual stream's.
        unclear: why there are no tokens to show; empty where there are.
    """

    layer: int
    head: int
    names: tuple[str, ...]
    pattern: Float[Tensor, "query key"]
    causal: bool
    position: int
    raised: list[Moved]
    lowered: list[Moved]
    sources: list[Source]
    norm: float
    unclear: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self) | {"pattern": self.pattern.tolist()}


def check_head(model: Transformer, layer: int, head: int) -> None:
    """Refuse a head that the model has not.

    Raises:
        ValueError: saying what there is.
    """
    cfg = model.cfg
    if not 0 <= layer < cfg.n_layers or not 0 <= head < cfg.n_heads:
        raise ValueError(
            f"There is no head {layer}.{head}: {model.name} has layers 0 to {cfg.n_layers - 1} and heads 0 to "
            f"{cfg.n_heads - 1}."
        )


def why_not_direct(model: Transformer) -> str:
    """Why what a head writes cannot be read as tokens; empty where it can."""
    cfg = model.cfg
    if cfg.head == "none":
        return f"{model.name} gives vectors, not words, so what a head writes cannot be read as tokens."
    if not stream.is_sum(model):
        return f"{model.name} normalises the stream behind each layer, so a head has no direct way to the answer."
    if cfg.pooling != "none" or model.head is not None:
        return f"{model.name} answers through further layers, so a head has no direct way to the answer."
    return ""


@torch.no_grad()
def look_at_head(
    model: Transformer, given: Given, layer: int, head: int, *, position: int | None = None, k: int = 8
) -> HeadLook:
    """Run a model and look at one head.

    Args:
        model: the model.
        given: the input.
        layer: from 0.
        head: from 0, among the query heads.
        position: where to ask what it writes; the last by default.
        k: how many tokens and sources to name.

    Raises:
        ValueError: there is no such head or position.
    """
    check_head(model, layer, head)
    last = len(given.names) - 1
    at = last if position is None else position
    if not 0 <= at <= last:
        raise ValueError(f"There is no position {at}: the input has the positions 0 to {last}.")
    block, n = f"blocks.{layer}.attn", model.cfg.n_layers
    names = [f"{block}.{what}" for what in ("hook_pattern", "hook_z", "hook_v_heads")]
    stop, cache = model.run_with_cache(given.tensor, names, stop_at_layer=n)
    pattern, z, v = (cache[name][0] for name in names)
    W_O, resid = model.blocks[layer].attn.W_O[head], stop[0, at]
    written, unclear = z[at, head] @ W_O, why_not_direct(model)
    raised, lowered = [], []
    if not unclear:
        logits = direct_logits(model, written, resid)
        raised, lowered = _moved(model, logits, k), _moved(model, -logits, k, -1)
    share = pattern[head, at].float()
    keys = share.topk(min(k, len(share))).indices.tolist()
    sources = [
        _source(
            model, given, key, float(share[key]), None if unclear else direct_logits(model, v[key, head] @ W_O, resid)
        )
        for key in keys
        if share[key] > 0
    ]
    return HeadLook(
        layer=layer,
        head=head,
        names=given.names,
        pattern=pattern[head].float().cpu(),
        causal=model.cfg.causal,
        position=at,
        raised=raised,
        lowered=lowered,
        sources=sources,
        norm=float(written.float().norm() / resid.float().norm()),
        unclear=unclear,
    )


def direct_logits(
    model: Transformer, written: Float[Tensor, "*n d_model"], resid: Float[Tensor, " d_model"]
) -> Float[Tensor, "*n d_vocab"]:
    """What a part of the last residual stream gives each logit, above the mean over all tokens.

    Args:
        model: one without further layers between its final norm and the unembedding.
        written: the part.
        resid: the whole stream there, whose scale the final norm divides by.
    """
    norm, part = model.ln_final, written.float()
    if norm.weight is not None:
        _, scale = norm.standardise(resid.float())
        part = part - part.mean(-1, keepdim=True) if norm.centred else part
        part = part / scale * norm.weight.float()
    logits = part @ model.unembedding.weight.float().T
    return logits - logits.mean(-1, keepdim=True)


@torch.no_grad()
def copy_score(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    layer: int,
    head: int,
    *,
    where: Bool[Tensor, "batch pos"] | None = None,
    top: int = 5,
) -> float:
    """How often a head, looking at a token with full attention, raises that very token among the ``top`` most.

    Wang et al. 2022 (arXiv 2211.00593, section 3.1) ask it of name movers: what a token is after block 0 goes through
    the head's value and output weights, the final norm and the unembedding. After block 0, so that the token itself is
    asked and not what later layers gathered there; a head of layer 0 gets the embedding.

    Args:
        model: a model whose heads have a direct way to the logits.
        tokens: prompts that hold the tokens to ask for.
        layer: from 0.
        head: from 0, among the query heads.
        where: True at the tokens to ask for, such as names; all by default.
        top: how high the token must stand.

    Returns:
        The share, from 0 to 1. A head that ignores tokens has about ``top / d_vocab``.

    Raises:
        ValueError: there is no such head, it has no direct way, or ``where`` names no token.
    """
    check_head(model, layer, head)
    if reason := why_not_direct(model):
        raise ValueError(reason)
    tokens = tokens.to(model.device)
    where = torch.ones_like(tokens, dtype=torch.bool) if where is None else where.to(model.device)
    asked = tokens[where]
    if not len(asked):
        raise ValueError("No token is asked for, so there is nothing to copy; mark at least one.")
    early = model(tokens, stop_at_layer=min(layer, 1))[where]
    block = model.blocks[layer]
    read, attn = stream.into_attention(block, early), block.attn
    v = read @ attn.heads_of(attn.v)[head].T
    bias = attn.bias_of(attn.v)
    written = (v if bias is None else v + bias[head]) @ attn.W_O[head]
    # The final norm of the head's output alone: its scale changes no order.
    hits = 0
    for part, ids in zip(torch.split(written, 256), torch.split(asked, 256), strict=True):
        logits = model.unembedding(model.ln_final(part)).float()
        own = logits.gather(1, ids[:, None])
        hits += int(((logits > own).sum(1) < top).sum())
    return hits / len(asked)


def answer_places(
    tokens: Int[Tensor, "batch pos"], right: Int[Tensor, "batch n"], wrong: Int[Tensor, "batch m"]
) -> Bool[Tensor, "batch pos"]:
    """Where the answers of a task stand in its prompts."""
    return (tokens[:, :, None] == torch.cat([right, wrong], 1)[:, None]).any(-1)


def _moved(model: Transformer, logits: Float[Tensor, " d_vocab"], k: int, sign: int = 1) -> list[Moved]:
    best = logits.topk(min(k, len(logits)))
    return [
        Moved(word_of(model, token), sign * value)
        for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _source(model: Transformer, given: Given, key: int, share: float, logits: Tensor | None) -> Source:
    if logits is None or given.tensor.ndim != 2:
        return Source(key, given.names[key], share, float("nan"), 0, [])
    token = int(given.tensor[0, key])
    if token >= len(logits):  # the answers have an alphabet of their own
        return Source(key, given.names[key], share, float("nan"), 0, [])
    rank = 1 + int((logits > logits[token]).sum())
    raised = [word_of(model, index) for index in logits.topk(min(3, len(logits))).indices.tolist()]
    return Source(key, given.names[key], share, float(logits[token]), rank, raised)


def word_of(model: Transformer, index: int) -> str:
    """The text of an answer: a token, or a class by name."""
    if model.cfg.labels:
        return str(model.cfg.labels[index])
    if model.tokenizer is None or model.cfg.pooling != "none":
        return str(index)
    return model.text.pieces([index])[0]
