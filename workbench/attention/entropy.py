"""Entropy looked at from every side: layers, heads, positions, tokens, heads at either end, and its lower bound.

The bound is theorem 3.1 of Zhai et al. 2023 ("Stabilizing Transformer training by preventing attention entropy
collapse", arXiv 2303.06296): a row of T logits whose vector has length at most s has at least the entropy
:func:`floor_of`. It holds for the row's logits less their mean, which softmax does not see, so that the statistics give
it row by row; and weights give it without any row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.attention.dataset import DatasetStatistics
from workbench.attention.layers import Given, LayerAttention, Text, taken, watch
from workbench.attention.measures import find
from workbench.attention.observed import ByHead, ByRow, Statistics
from workbench.attention.running import ByToken, RunningByToken
from workbench.models import Transformer
from workbench.models.attention import Attention
from workbench.models.norm import Norm

Found = Statistics | DatasetStatistics


@dataclass(frozen=True)
class HeadValue:
    """One head, and what was measured there."""

    layer: int
    head: int
    value: float

    @property
    def name(self) -> str:
        """As in circuits: ``a9.h6``."""
        return f"a{self.layer}.h{self.head}"


def by_layer(found: Found, measure: str = "entropy") -> Float[Tensor, " layer"]:
    """Mean over the heads of each layer."""
    return found.value(measure).nanmean(-1)


def by_token(found: Found, measure: str = "entropy") -> ByToken:
    """Mean of a measure by the token at the query, [token, layer, head].

    Raises:
        ValueError: images have no tokens; or a data set in which the measure was not followed.
    """
    key = find(measure).key
    if isinstance(found, DatasetStatistics):
        if key not in found.tokens:
            raise ValueError(f"'{key}' was not kept by token: follow it over texts, with follow=({key!r},).")
        return found.tokens[key]
    if found.tokens is None:
        raise ValueError("Images have no tokens; look at by_position instead.")
    running = RunningByToken()
    running.add(found.tokens, found.row(key))
    return running.result()


def collapsed(found: Found, below: float = 0.1) -> list[HeadValue]:
    """Heads whose mean entropy is below ``below`` nats, the lowest first.

    The paper calls a collapse "entropy near 0" and gives no threshold; 0.1 nats is a row with 98 % on one key.
    """
    return listed(found.entropy, found.entropy < below, descending=False)


def uniform(found: Found, above: float = 0.95) -> list[HeadValue]:
    """Heads whose mean normalised entropy is above ``above``, the flattest first."""
    share = found.normalised_entropy
    return listed(share, share > above, descending=True)


def listed(values: ByHead, chosen: Tensor, descending: bool) -> list[HeadValue]:
    """The chosen heads [layer, head] with their values, in their order."""
    heads = [HeadValue(layer, head, float(values[layer, head])) for layer, head in chosen.nonzero().tolist()]
    return sorted(heads, key=lambda found: found.value, reverse=descending)


def floor_of(length: Float[Tensor, "..."], keys: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Least entropy of ``keys`` weights whose logits, as a vector, are no longer than ``length``; in nats.

    ``log(1 + (T - 1) b) + s sqrt(T (T - 1)) b / (1 + (T - 1) b)`` with ``b = exp(-s sqrt(T / (T - 1)))`` (Zhai et al.
    2023, theorem 3.1): the entropy of a row with one logit apart from all others. It falls from log T at s = 0.
    One key, or none, has entropy 0.
    """
    s, t = length.double(), keys.double().clamp(min=2)
    rest = (t - 1) * torch.exp(-s * (t / (t - 1)).sqrt())
    # s sqrt(T (T - 1)) b = s sqrt(T / (T - 1)) (T - 1) b
    floor = torch.log1p(rest) + s * (t / (t - 1)).sqrt() * rest / (1 + rest)
    return floor.masked_fill(keys < 2, 0)


@dataclass(frozen=True)
class EntropyBound:
    """Measured entropy beside what it cannot fall below. All in nats.

    Attributes:
        entropy: mean measured entropy [layer, head], over rows that see more than one key.
        by_rows: mean lower bound from each row's own logits, [layer, head].
        rows: that bound, [layer, head, batch, position]; NaN where a row sees one key or none.
        by_weights: mean lower bound from the weights and the length of what attention reads, [layer, head].
        length: the s of that bound, [layer, head, batch].
        theorem: True where s is the theorem's own, False where positions or norms of queries and keys ask for a wider
            one of :func:`entropy_bound`.
    """

    entropy: ByHead
    by_rows: ByHead
    rows: ByRow
    by_weights: ByHead
    length: Float[Tensor, "layer head batch"]
    theorem: bool


def row_bound(found: Statistics) -> ByRow:
    """Lower bound of every row's entropy from its own logits: ``s = sqrt(n) * logit_spread``.

    NaN where a row sees one key or none.

    Raises:
        ValueError: the rows are no softmax of their logits.
    """
    if found.notes:
        raise ValueError(f"The bound is one of softmax. {found.notes[0]}")
    visible = found.visible[:, None]
    floor = floor_of(found.row("logit_spread") * visible.double().sqrt(), visible)
    return floor.masked_fill(visible < 2, torch.nan)


@torch.no_grad()
def entropy_bound(
    model: Transformer,
    tokens: Tensor | Text,
    found: Statistics,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> EntropyBound:
    """Zhai et al.'s lower bound from weights, and row by row, beside the measured entropy.

    With X the normalised residual stream that attention reads (a column of ones beside it where there are biases) and
    c the model's scale, a row's logits are no longer than

    - ``s = c ||W_Q^T W_K||_2 ||X||_2^2``: theorem 3.1, where queries and keys meet as the weights make them;
    - ``s = c ||W_Q||_2 ||W_K||_2 max_i ||x_i|| ||X||_F`` where rotary angles turn them in between: turning keeps the
      length of every query and key, not the norm of the product;
    - ``s = c max ||q|| max ||k|| sqrt(T)`` where a norm fixes their lengths (its weights say how long they get).

    A cap on logits (Gemma 2) only shortens them. Cost: one more forward.

    Args:
        model: the model.
        tokens, attention_mask: what ``found`` was made from.
        found: its statistics.

    Raises:
        ValueError: attention that is no softmax; or other tokens.
    """
    rows = row_bound(found)
    given = taken(model, tokens, attention_mask)
    if (len(given.tokens), given.n) != tuple(found.real.shape) or found.model != model.name:
        raise ValueError("These statistics are of another model or of other tokens.")
    read: dict[int, Tensor] = {}
    lengths: list[Tensor] = []

    def see(layer: LayerAttention) -> None:
        x = read.pop(layer.layer)
        lengths.append(_longest(model.blocks[layer.layer].attn, x, given))

    after = "ln1.hook_out" if model.cfg.norm_place == "pre" else "hook_resid_pre"
    positions, _ = model.positions(given.tokens, None if given.real is None else given.real.long())

    def keep(layer: int, x: Tensor) -> None:
        read[layer] = positions[layer].beside(x)

    taps = {f"blocks.{layer}.{after}": (lambda x, layer=layer: keep(layer, x)) for layer in range(model.cfg.n_layers)}
    watch(model, given, see, taps)
    length = torch.stack(lengths).cpu()
    floor = floor_of(length[..., None].expand_as(rows), found.visible[:, None].expand_as(rows))
    floor = floor.masked_fill(rows.isnan(), torch.nan)
    several = found.row("entropy").masked_fill(rows.isnan(), torch.nan)
    own = model.cfg.positions != "rotary" and not model.cfg.qk_norm
    return EntropyBound(
        several.flatten(2).nanmean(-1),
        rows.flatten(2).nanmean(-1),
        rows,
        floor.flatten(2).nanmean(-1),
        length,
        own,
    )


def _longest(attn: Attention, x: Float[Tensor, "batch pos d_model"], given: Given) -> Float[Tensor, "head batch"]:
    """The s of one layer, for every head and example."""
    cfg = attn.cfg
    x = x.double()
    if given.real is not None:
        x = x.masked_fill(~given.real[..., None], 0)
    if attn.q_norm is not None and attn.k_norm is not None:
        n = x.new_full((len(x),), given.n) if given.real is None else given.real.sum(-1).double()
        both = _longest_normed(attn.q_norm) * _longest_normed(attn.k_norm)
        turned = max(1.0, cfg.rotary_scale) ** 2 if cfg.positions == "rotary" else 1.0
        return (cfg.attn_scale * turned * both * n.sqrt()).expand(cfg.n_heads, -1)
    if cfg.attn_bias:
        ones = x.new_ones(*x.shape[:2], 1) if given.real is None else given.real[..., None].double()
        x = torch.cat([x, ones], -1)
    w_q, w_k = _with_bias(attn, attn.q), _with_bias(attn, attn.k)
    if cfg.positions != "rotary":
        wide: Tensor = torch.linalg.matrix_norm(x, 2).square()
        return cfg.attn_scale * norm_of_product(w_q, w_k)[:, None] * wide
    norms: Tensor = torch.linalg.matrix_norm(w_q, 2) * torch.linalg.matrix_norm(w_k, 2)
    wide = x.norm(dim=-1).amax(-1) * torch.linalg.matrix_norm(x)
    return cfg.attn_scale * max(1.0, cfg.rotary_scale) ** 2 * norms[:, None] * wide


def norm_of_product(w_q: Tensor, w_k: Tensor) -> Float[Tensor, " head"]:
    """``||W_Q^T W_K||_2`` from matrices of the size of a head."""
    # W^T = Q R with orthonormal Q, so that W_Q^T W_K = Q_q (R_q R_k^T) Q_k^T.
    q, k = torch.linalg.qr(w_q.mT, mode="r").R, torch.linalg.qr(w_k.mT, mode="r").R
    norm: Float[Tensor, " head"] = torch.linalg.matrix_norm(q @ k.mT, 2)
    return norm


def _with_bias(attn: Attention, linear: nn.Linear) -> Float[Tensor, "head d_head d_in"]:
    weight, bias = attn.heads_of(linear).double(), attn.bias_of(linear)
    return weight if bias is None else torch.cat([weight, bias.double()[..., None]], -1)


def _longest_normed(norm: Norm) -> float:
    """Longest vector that a norm gives: ``sqrt(d) max |weight|``, and its bias."""
    assert norm.weight is not None
    longest = float(norm.weight.double().abs().max()) * math.sqrt(len(norm.weight))
    return longest if norm.bias is None else longest + float(torch.linalg.vector_norm(norm.bias.double()))
