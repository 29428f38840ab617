"""Statistics of every layer and head in one forward, from sweeps over tiles: no pattern is ever built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.attention.layers import Given, LayerAttention, Text, taken, watch
from workbench.attention.measures import KEYS, measured
from workbench.attention.observed import Statistics
from workbench.attention.opened import column_sums, row_statistics
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.kernels import AttentionStatistics, NonFiniteScores, attention_statistics, column_statistics
from workbench.models import Transformer

RECENT = 16
"""Tokens that count as recent by default, the query's own included."""

Sinks = Sequence[int] | Bool[Tensor, "batch pos"]


def statistics(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | Text,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    token_types: Int[Tensor, "batch pos"] | None = None,
    sinks: Sinks = (0,),
    recent: int = RECENT,
    columns: bool = False,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Statistics:
    """Entropy, sinks, distances and the other measures of every layer and head, in one forward.

    Each layer's queries and keys are swept tile by tile while the layer runs
    (:func:`workbench.kernels.attention_statistics`): memory grows with the length, not with its square. The head of
    the model is not run. Mechanisms other than softmax need their pattern: it is made, one layer at a time, and
    ``notes`` says so.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: text, several texts, token ids, or for a vision model pixels or patches.
        attention_mask: 1 for real tokens, 0 for padding, on the left or the right. Without one, what the tokenizer
            has a padding token of its own for is padding. Padded queries and keys count nowhere.
        token_types: segments (BERT).
        sinks: positions that count as sinks, in real tokens from 0, or a mask [batch, pos] where they differ.
        recent: how many tokens back count as recent, the query's own included.
        columns: also what each key receives: a second sweep, about as long as the first.
        budget: bytes beside the model; examples are taken in batches that fit.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: a text is longer than the context; the mask or a setting does not fit; scores that are not finite,
            with their layer and head; or a mechanism whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    given = taken(model, tokens, attention_mask, token_types)
    chosen = _sink_mask(given, sinks)
    size = _batch_size(model, given, budget)
    starts = range(0, len(given.tokens), size)
    report = Reporter(progress, len(starts) * model.cfg.n_layers, "reading attention")
    parts = []
    for start in starts:
        some = given.rows(start, start + size)
        parts.append(_batch(model, some, chosen[start : start + size], recent, columns, report))
    opened = any(not block.attn.is_softmax for block in model.blocks)
    note = f"The pattern of '{model.cfg.attention}' attention was built, one layer at a time."
    whole = _joined(parts)
    return Statistics(
        model.name,
        {key: whole[key] for key in KEYS},
        whole["visible"],
        _aligned(_real(given), given).cpu(),
        None if given.ids is None else _aligned(given.ids, given).cpu(),
        whole["value_norm"],
        None if isinstance(sinks, Tensor) else tuple(sinks),
        recent,
        whole.get("received"),
        whole.get("received_by"),
        (note,) if opened else (),
    )


def _batch(
    model: Transformer, given: Given, sinks: Tensor, recent: int, columns: bool, report: Reporter
) -> list[dict[str, Tensor]]:
    """One record of tensors for each layer; axes are head, example, position."""
    found: list[dict[str, Tensor]] = []
    real = _real(given)

    def see(layer: LayerAttention) -> None:
        rows = sweep(layer, sinks, recent)
        record = {
            key: _aligned(x.masked_fill(~real[:, None], torch.nan).transpose(0, 1), given)
            for key, x in measured(rows).items()
        }
        # Every head of a layer sees the same keys.
        record["visible"] = _aligned(rows.visible[:, 0].masked_fill(~real, 0), given)
        record["value_norm"] = _value_norm(layer, real)
        if columns:
            received, by = _columns(layer, rows, real)
            record["received"] = _aligned(received.transpose(0, 1).masked_fill(~real, torch.nan), given)
            record["received_by"] = _aligned(by, given)
        found.append({key: x.cpu() for key, x in record.items()})
        report.step()
        if not report.going:
            raise Stopped("Stopped before the statistics of all layers were there.")

    watch(model, given, see)
    return found


def sweep(layer: LayerAttention, sinks: Bool[Tensor, "batch pos"], recent: int) -> AttentionStatistics:
    """Row statistics of one layer.

    Raises:
        ValueError: scores that are not finite; the sentence names layer and head.
    """
    if layer.pattern is not None:
        return row_statistics(layer, sinks, recent)
    try:
        return attention_statistics(
            layer.q,
            layer.k,
            layer.v,
            causal=layer.causal,
            scale=layer.scale,
            window=layer.window,
            key_mask=layer.real,
            softcap=layer.softcap,
            sinks=sinks,
            recent=recent,
        )
    except NonFiniteScores as error:
        raise not_finite(layer.layer, error.head, error.batch, error.query) from None


def not_finite(layer: int, head: int, batch: int, query: int) -> ValueError:
    """The sentence for scores that are not finite."""
    return ValueError(
        f"The attention scores of layer {layer}, head {head} are not finite (example {batch}, position {query}): look "
        "for infinite or huge weights there, and use float32 or bfloat16 where they overflow float16."
    )


def _columns(layer: LayerAttention, rows: AttentionStatistics, real: Tensor) -> tuple[Tensor, Tensor]:
    """Weight received [batch, head, pos] and queries that see each key [batch, pos], real queries alone."""
    if layer.pattern is not None:
        return column_sums(layer, real)
    received = rows.lse.new_zeros(*layer.q.shape[:2], real.shape[1])
    by = torch.zeros_like(real, dtype=torch.long)
    # Padded queries on the right see real keys; cutting them off is all that keeps them from counting.
    for start, stop, first, last in _spans(real):
        some, here = slice(start, stop), slice(first, last)
        found = column_statistics(
            layer.q[some, :, here],
            layer.k[some, :, here],
            rows.lse[some, :, here],
            causal=layer.causal,
            scale=layer.scale,
            window=layer.window,
            softcap=layer.softcap,
        )
        received[some, :, here] = found.received_sum.to(received)
        by[some, here] = found.visible[:, 0]
    return received, by


def _spans(real: Tensor) -> list[tuple[int, int, int, int]]:
    """Runs of examples with the same real positions: (first example, one past the last, first position, one past)."""
    spans: list[tuple[int, int, int, int]] = []
    for row, keys in enumerate(real):
        where = keys.nonzero().flatten()
        first, last = int(where[0]), int(where[-1]) + 1
        if spans and spans[-1][2:] == (first, last):
            spans[-1] = (spans[-1][0], row + 1, first, last)
        else:
            spans.append((row, row + 1, first, last))
    return spans


def _value_norm(layer: LayerAttention, real: Tensor) -> Tensor:
    """Mean length of the values over real keys, [head, batch], for each query head."""
    if layer.v is None:
        return layer.q.new_full((layer.q.shape[1], len(layer.q)), torch.nan)
    length = layer.v.to(torch.promote_types(layer.v.dtype, torch.float32)).norm(dim=-1)
    mean: Tensor = (length * real[:, None]).sum(-1) / real.sum(-1)[:, None]
    return mean.repeat_interleave(layer.q.shape[1] // mean.shape[1], 1).T


def _real(given: Given) -> Bool[Tensor, "batch pos"]:
    if given.real is not None:
        return given.real
    return torch.ones(len(given.tokens), given.n, dtype=torch.bool, device=given.tokens.device)


def _aligned(x: Tensor, given: Given) -> Tensor:
    """``x`` [..., batch, pos] with padding on the left moved to the right."""
    if given.real is None or bool(given.real[:, 0].all()):
        return x
    first = given.real.long().argmax(-1, keepdim=True)
    order = (torch.arange(given.n, device=x.device) + first) % given.n
    return x.gather(-1, order.expand(x.shape))


def _sink_mask(given: Given, sinks: Sinks) -> Bool[Tensor, "batch pos"]:
    """Where sinks are; positions count real tokens, and those that a text does not reach are none."""
    real = _real(given)
    if isinstance(sinks, Tensor):
        if tuple(sinks.shape) != tuple(real.shape):
            raise ValueError(f"The mask of sinks is {list(sinks.shape)}; for this input it is {list(real.shape)}.")
        return sinks.bool().to(real.device) & real
    if any(at < 0 for at in sinks):
        raise ValueError(f"Sinks are positions from 0; got {min(sinks)}.")
    place = real.long().cumsum(-1) - 1
    return torch.isin(place, torch.tensor(list(sinks), dtype=torch.long, device=place.device)) & real


def _batch_size(model: Transformer, given: Given, budget: int) -> int:
    """Examples that fit into ``budget`` bytes, at least 1."""
    cfg = model.cfg
    floats = given.n * (10 * cfg.d_model + 4 * cfg.d_mlp + 6 * cfg.n_heads * cfg.d_head)
    floats += 3 * len(KEYS) * cfg.n_heads * given.n
    if cfg.attn_softcap is not None or cfg.attention != "softmax":
        floats += 6 * cfg.n_heads * given.n**2  # patterns, which the fused kernel never makes
    return max(1, budget // (4 * max(floats, 1)))


def _joined(parts: list[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Layers stacked in front, examples of all batches side by side."""
    first = parts[0][0]
    axis = {"visible": 0, "received_by": 0}
    return {
        key: torch.stack(
            [torch.cat([part[layer][key] for part in parts], axis.get(key, 1)) for layer in range(len(parts[0]))]
        )
        for key in first
    }
