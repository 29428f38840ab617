"""What a model answers and where its heads look, before and after another attention mechanism took their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.inspection.inputs import Given
from workbench.models import ModelConfig, Transformer, mechanisms
from workbench.models.images import names_of

PerHead = Float[Tensor, "layer head"]


@dataclass(frozen=True)
class Look:
    """One run of a model on one input.

    Attributes:
        names: what stands at each position.
        tokens: the token ids [pos]; None for an image.
        patterns: attention weights [layer, head, query, key].
        visible: where a query may look [layer, query, key].
        output: logits [pos, d_vocab], logits of classes [class], or the residual stream [pos, d_model].
        gives: which of the three.
        causal: a query sees no later key.
    """

    names: tuple[str, ...]
    tokens: Int[Tensor, " pos"] | None
    patterns: Float[Tensor, "layer head query key"]
    visible: Bool[Tensor, "layer query key"]
    output: Tensor
    gives: Literal["tokens", "classes", "residual"]
    causal: bool

    @cached_property
    def entropy(self) -> PerHead:
        """Entropy of each head in nats, mean over queries.

        Of each row's absolute weights, divided by their sum where a mechanism lets that differ from 1; a row of zeros
        counts for nothing.
        """
        weights = self.patterns.abs()
        total = weights.sum(-1, keepdim=True)
        rows: Tensor = torch.special.entr(weights / total.clamp(min=1e-30)).sum(-1)
        return rows.masked_fill(total[..., 0] == 0, torch.nan).nanmean(-1)

    @cached_property
    def zeros(self) -> PerHead:
        """Share of the weights that a query could give and that are exactly 0."""
        empty = (self.patterns == 0) & self.visible[:, None]
        return empty.sum((-1, -2)) / self.visible.sum((-1, -2))[:, None]

    @cached_property
    def first(self) -> PerHead:
        """Weight on the first position, mean over queries.

        The first query of a causal model has no choice and is left out.
        """
        start = 1 if self.causal and len(self.names) > 1 else 0
        return self.patterns[:, :, start:, 0].mean(-1)

    def logits(self, position: int | None = None) -> Float[Tensor, " n_out"] | None:
        """Logits at a position, or those of the classes; None for a model without logits."""
        if self.gives == "residual":
            return None
        return self.output if self.gives == "classes" else self.output[-1 if position is None else position]

    @cached_property
    def loss(self) -> float | None:
        """Mean cross-entropy of the next token, nats; None where the model predicts no next token."""
        if not (self.causal and self.gives == "tokens" and self.tokens is not None and len(self.tokens) > 1):
            return None
        if self.output.shape[-1] <= int(self.tokens.max()):
            return None  # the answers have an alphabet of their own
        return float(torch.nn.functional.cross_entropy(self.output[:-1], self.tokens[1:]))


@dataclass(frozen=True)
class Answer:
    """One possible answer.

    Attributes:
        index: token id, or number of the class.
        text: the token as text, or the name of the class.
        before: its probability.
        after: its probability after the swap; None without one.
    """

    index: int
    text: str
    before: float
    after: float | None = None


@dataclass(frozen=True)
class Effect:
    """One number before and after the swap.

    Attributes:
        name: what it is.
        unit: nats, logit, probability or cosine.
        before: without the swap; None where it compares with that itself.
        after: None without a swap.
    """

    name: str
    unit: str
    before: float | None
    after: float | None


@torch.no_grad()
def look(model: Transformer, given: Given) -> Look:
    """Run a model and keep every pattern."""
    cfg = model.cfg
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(cfg.n_layers)]
    output, cache = model.run_with_cache(given.tensor, names)
    n, heads = len(given.names), cfg.n_heads
    patterns = torch.stack([cache[name][0].float().cpu() for name in names]) if names else torch.zeros(0, heads, n, n)
    gives: Literal["tokens", "classes", "residual"] = "classes" if cfg.pooling != "none" else "tokens"
    if cfg.head == "none":
        gives = "residual"
    return Look(
        names=given.names,
        tokens=None if cfg.image is not None else given.tensor[0].cpu(),
        patterns=patterns,
        visible=_visible(cfg, n),
        output=output[0].float().cpu(),
        gives=gives,
        causal=cfg.causal,
    )


def _visible(cfg: ModelConfig, n: int) -> Bool[Tensor, "layer query key"]:
    full = torch.ones(n, n, dtype=torch.bool)
    reach = full.tril() if cfg.causal else full
    windows = cfg.windows or (None,) * cfg.n_layers
    layers = [reach if window is None else reach.triu(1 - window) for window in windows]
    return torch.stack(layers) if layers else torch.zeros(0, n, n, dtype=torch.bool)


def swapped(
    model: Transformer,
    key: str,
    heads: Sequence[tuple[int, int]] | None = None,
    options: Mapping[str, float] | None = None,
) -> Transformer | None:
    """The model with another attention mechanism; None where that is what it has already.

    Raises:
        ValueError: no such mechanism, setting or head, or the model's sizes do not suit it.
    """
    cfg = model.cfg
    mechanism = mechanisms.find(key)
    chosen = mechanisms.options_of(mechanism, options or {})
    own = mechanisms.options_of(mechanisms.find(cfg.attention), dict(cfg.attention_options))
    if key == cfg.attention and chosen == own and cfg.attention_heads is None:
        return None
    return model.with_attention(key, heads=heads, layers=None, **chosen)


def interesting(model: Transformer, given: Given) -> int:
    """The position whose answer one wants first: a mask's where the model fills masks in, else the last."""
    mask = getattr(model.tokenizer, "mask_token_id", None)
    if not model.cfg.causal and mask is not None and given.tensor.ndim == 2:
        places = (given.tensor[0] == mask).nonzero()
        if len(places):
            return int(places[0])
    return len(given.names) - 1


def answers(
    model: Transformer, before: Look, after: Look | None = None, *, position: int | None = None, k: int = 5
) -> list[Answer]:
    """The most probable answers before and after, at most ``2 k``, the most probable first; none without logits.

    Args:
        model: for the text of tokens and the names of classes.
        before: a run.
        after: a run of the swapped model.
        position: whose answer, for a model that answers at each; by default the last.
        k: how many of each run.
    """
    logits = before.logits(position)
    if logits is None:
        return []
    old = logits.softmax(-1)
    changed = None if after is None else after.logits(position)
    new = None if changed is None else changed.softmax(-1)
    k = min(k, len(old))
    chosen = set(old.topk(k).indices.tolist()) | (set() if new is None else set(new.topk(k).indices.tolist()))
    best = old if new is None else torch.maximum(old, new)
    order = sorted(chosen, key=lambda index: -float(best[index]))
    words = _words(model, before, order)
    return [
        Answer(index, words[index], float(old[index]), None if new is None else float(new[index])) for index in order
    ]


def _words(model: Transformer, run: Look, indices: list[int]) -> dict[int, str]:
    if run.gives == "classes" or model.cfg.labels:
        names = names_of(model.cfg.labels, model.cfg.n_out)
        return {index: names[index] for index in indices}
    if model.tokenizer is None:
        return {index: str(index) for index in indices}
    # One by one: side by side, pieces of a split character would be joined.
    return {index: model.text.pieces([index])[0] for index in indices}


def effects(
    model: Transformer, before: Look, after: Look | None = None, *, position: int | None = None
) -> list[Effect]:
    """What the swap did to the loss, the answer's entropy and the answer on top; without logits, to the embedding.

    Arguments as :func:`answers`.
    """
    found: list[Effect] = []
    if before.loss is not None:
        found.append(Effect("Loss", "nats per token", before.loss, None if after is None else after.loss))
    logits = before.logits(position)
    if logits is None:
        if after is not None:
            found.append(Effect("Cosine with the embedding before", "cosine", None, embedding_cosine(before, after)))
        return found
    new = None if after is None else after.logits(position)
    top = int(logits.argmax())
    word = _words(model, before, [top])[top]

    def row(name: str, unit: str, of: Callable[[Tensor], Tensor]) -> None:
        found.append(Effect(name, unit, float(of(logits)), None if new is None else float(of(new))))

    row("Entropy of the answer", "nats", lambda x: torch.special.entr(x.softmax(-1)).sum())
    row(f"Logit of {word!r}", "logit", lambda x: x[top])
    row(f"Probability of {word!r}", "probability", lambda x: x.softmax(-1)[top])
    if new is not None:
        old = logits.log_softmax(-1)
        moved = float((old.exp() * (old - new.log_softmax(-1))).sum())
        found.append(Effect("KL divergence from before", "nats", None, moved))
    return found


def embedding_cosine(before: Look, after: Look) -> float:
    """Cosine between the mean residual streams of two runs: for an encoder, its sentence embeddings."""
    return float(torch.nn.functional.cosine_similarity(before.output.mean(0), after.output.mean(0), dim=0))


def change(before: Look, after: Look) -> PerHead:
    """How far each head's pattern moved: half the summed absolute difference of a row, mean over queries.

    0 is no change; 1 is as far as rows that sum to 1 can move.
    """
    return (after.patterns - before.patterns).abs().sum(-1).mean(-1) / 2
