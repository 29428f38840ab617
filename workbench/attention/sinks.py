"""Attention sinks: keys that get much of the weight whatever is asked, and heads that do nothing by it.

Xiao et al. 2024 ("Efficient streaming language models with attention sinks", arXiv 2309.17453) found them on first
tokens; Gu et al. 2025 ("When attention sink emerges in language models", arXiv 2410.10781) call key k a sink of a head
where the mean weight on it, over the queries that see it, is above 0.3. A head that attends to a sink with a short
value writes next to nothing (Bondarenko et al. 2023, arXiv 2306.12929).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.observed import ByHead, Statistics

EPS = 0.3
"""Mean weight from which on a key is a head's sink (Gu et al. 2025, section 3)."""


@dataclass(frozen=True)
class SinkToken:
    """A key that is a sink in many heads.

    Attributes:
        example: row of the batch.
        position: of the key, in real tokens from 0.
        token: its id; None for images.
        share: of all heads, those whose sink it is.
        weight: mean weight that a query which sees it gives it, over all heads.
    """

    example: int
    position: int
    token: int | None
    share: float
    weight: float


@dataclass(frozen=True)
class Sinks:
    """What was found.

    Attributes:
        eps, share, seen: the thresholds used.
        tokens: sink tokens, those of most heads first.
        rate: share of heads for which each key is a sink, [batch, position]; NaN where too few queries see it.
        first: mass on the first token, [layer, head]: mean over real queries.
        found: mass on all sink tokens together, [layer, head].
    """

    eps: float
    share: float
    seen: int
    tokens: tuple[SinkToken, ...]
    rate: Float[Tensor, "batch position"]
    first: ByHead
    found: ByHead


def find_sinks(found: Statistics, eps: float = EPS, share: float = 0.1, seen: int = 8) -> Sinks:
    """Sink tokens by the attention that they receive.

    Args:
        found: statistics with ``columns=True``.
        eps: mean weight above which a key is a sink of a head.
        share: of all heads for which it must be one.
        seen: queries that must see a key: the last keys of a causal text are seen by few, and by themselves.

    Raises:
        ValueError: columns were not asked for.
    """
    received, by = found.columns()
    weight = found.received_mean.masked_fill((by < seen)[:, None], torch.nan)
    known = ~weight.isnan()
    rate = ((weight > eps) & known).double().sum((0, 1)) / known.double().sum((0, 1))
    mean = weight.flatten(0, 1).nanmean(0)
    tokens = [
        SinkToken(
            row,
            at,
            None if found.tokens is None else int(found.tokens[row, at]),
            float(rate[row, at]),
            float(mean[row, at]),
        )
        for row, at in (rate >= share).nonzero().tolist()
    ]
    tokens.sort(key=lambda token: (-token.share, -token.weight))
    chosen = torch.zeros_like(found.real)
    for token in tokens:
        chosen[token.example, token.position] = True
    first = torch.zeros_like(found.real)
    first[:, 0] = True
    return Sinks(eps, share, seen, tuple(tokens), rate, _mass(received, first, found), _mass(received, chosen, found))


def _mass(received: Tensor, keys: Tensor, found: Statistics) -> ByHead:
    """Mean over real queries of the weight on some keys: what those receive, divided by the number of queries."""
    return received.nan_to_num(0).masked_fill(~keys, 0).sum((2, 3)) / found.real.sum()


@dataclass(frozen=True)
class IdleHead:
    """A head that mostly does nothing.

    Attributes:
        layer, head: which.
        idle: share of its rows that do nothing.
        largest: mean largest weight.
        sink_mass: mean mass on the sinks of the statistics.
        relative_norm: ``sum p ||v||`` over the mean ``||v||``: 1 where the values attended to are as long as any.
    """

    layer: int
    head: int
    idle: float
    largest: float
    sink_mass: float
    relative_norm: float


def idle_rows(found: Statistics, concentrated: float = 0.5, short: float = 0.5) -> ByHead:
    """Share of rows that put at least ``concentrated`` on one key, and read values ``short`` of the mean or shorter.

    Raises:
        ValueError: the model's attention mixes values, so that they have no length of their own.
    """
    relative = _relative_norm(found)
    rows = found.row("largest")
    idle = (rows >= concentrated) & (relative <= short)
    # A row that sees one key is concentrated whatever the head does.
    counts = found.visible[:, None].expand_as(rows) > 1
    return (idle & counts).double().sum((2, 3)) / counts.double().sum((2, 3)).clamp(min=1)


def idle_heads(found: Statistics, concentrated: float = 0.5, short: float = 0.5, share: float = 0.5) -> list[IdleHead]:
    """No-op heads: those of which ``share`` of the rows or more are idle, the idlest first.

    Args:
        found: statistics.
        concentrated: largest weight from which on a row is concentrated.
        short: value-weighted norm below which it reads nothing, relative to the mean length of the head's values.
        share: of a head's rows.

    Raises:
        ValueError: as for :func:`idle_rows`.
    """
    idle = idle_rows(found, concentrated, short)
    relative = _relative_norm(found).flatten(2).nanmean(-1)
    heads = [
        IdleHead(
            layer,
            head,
            float(idle[layer, head]),
            float(found.largest[layer, head]),
            float(found.sink_mass[layer, head]),
            float(relative[layer, head]),
        )
        for layer, head in (idle >= share).nonzero().tolist()
    ]
    return sorted(heads, key=lambda head: -head.idle)


def _relative_norm(found: Statistics) -> Tensor:
    if bool(found.value_norm.isnan().all()):
        raise ValueError(f"Values are mixed in {found.model}, so that no-op heads cannot be told by their length.")
    return found.row("value_weighted_norm") / found.value_norm[..., None].clamp(min=torch.finfo(torch.float32).tiny)
