"""What is kept of the keys that a row has seen, how such records become one, and the statistics that follow.

With m the largest logit, e = exp(s - m): sums of e, of e (s - m) for the entropy and of e^2, and means with squared
deviations. A record with a larger m shrinks the others' sums by exp(m - m') (Milakov and Gimelshein 2018, "Online
normalizer calculation for softmax"). Everything but the values is float64: a peaked row's entropy lies in the digits of
sum e behind 1.

The numbers of a row lie in one tensor, so that few operations do for all of them: a tile is small, and every operation
costs about as much as a pass over a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Found = dict[str, Tensor]

# Of the logits: how many are visible, their mean, squared deviation from it, and lowest; the largest and its key.
COUNT, MEAN, LOW, TOP, AT, SCATTER = range(6)
# Sum of e^2; mean distance, weighted by e.
SQUARES, DISTANCE = 6, 7
# Sums of e, of e (s - m), of e over sink keys and over recent keys, of e times the squared deviation from the mean
# distance, and of e times the lengths of the values (0 without values).
SUM, TILT, SINK, NEAR, SPREAD, NORMS = range(8, 14)
COLUMNS = 14


@dataclass(frozen=True)
class RowSums:
    """Of some keys, for each row: ``numbers`` in the order above, and the weighted sum of the values, if any."""

    numbers: Float[Tensor, "14 row"]
    values: Float[Tensor, "row d_value"] | None


def nothing(rows: int, d_value: int | None, dtype: torch.dtype, sums: torch.dtype, device: torch.device) -> RowSums:
    """What is known before the first key; ``d_value`` is None without values."""
    numbers = torch.zeros(COLUMNS, rows, dtype=sums, device=device)
    numbers[LOW], numbers[TOP], numbers[AT] = torch.inf, -torch.inf, -1
    return RowSums(numbers, None if d_value is None else torch.zeros(rows, d_value, dtype=dtype, device=device))


def merged(parts: Sequence[RowSums]) -> RowSums:
    """The record of all keys together (deviations: Chan, Golub and LeVeque 1983). Of equal logits the first counts."""
    if len(parts) == 1:
        return parts[0]
    numbers = torch.stack([part.numbers for part in parts])
    tops = numbers[:, TOP]
    top, first = tops.max(0)
    down = (tops - top).masked_fill_(tops == -torch.inf, 0)
    shrink = down.exp()
    found = torch.empty_like(numbers[0])
    scaled = numbers[:, SUM:] * shrink[:, None]
    torch.sum(scaled, 0, out=found[SUM:])
    weights = scaled[:, 0]
    found[TILT] += (down * weights).sum(0)
    found[SQUARES] = (numbers[:, SQUARES] * shrink.square()).sum(0)
    share = weights / found[SUM].clamp(min=torch.finfo(weights.dtype).tiny)
    found[DISTANCE] = (share * numbers[:, DISTANCE]).sum(0)
    found[SPREAD] += (weights * (numbers[:, DISTANCE] - found[DISTANCE]).square_()).sum(0)
    counts = numbers[:, COUNT]
    found[COUNT] = counts.sum(0)
    found[MEAN] = (counts / found[COUNT].clamp(min=1) * numbers[:, MEAN]).sum(0)
    found[SCATTER] = (counts * (numbers[:, MEAN] - found[MEAN]).square_() + numbers[:, SCATTER]).sum(0)
    found[LOW] = numbers[:, LOW].amin(0)
    found[TOP] = top
    found[AT] = numbers[:, AT].gather(0, first[None])[0]
    values = None
    for part, by in zip(parts, shrink.float() if parts[0].values is None else shrink.to(parts[0].values), strict=True):
        if part.values is not None:
            values = part.values * by[:, None] if values is None else values.addcmul_(part.values, by[:, None])
    return RowSums(found, values)


def statistics(
    numbers: Float[Tensor, "14 *row"], values: Float[Tensor, "*row d_value"] | None, want_output: bool
) -> Found:
    """The statistics of rows that have seen all their keys, by the names of ``AttentionStatistics``."""
    count, mean, low, top, at, scatter, squares, distance, total, tilt, sink, near, spread, norms = numbers
    empty = count == 0
    total, some = total.masked_fill(empty, 1), count.masked_fill(empty, 1)
    log = torch.log1p(total - 1)
    found = {
        "entropy": log - tilt / total,
        "largest": 1 / total,
        "effective_keys": total * total / squares.masked_fill(empty, 1),
        "distance": distance,
        "distance_spread": (spread / total).sqrt(),
        "sink_mass": sink / total,
        "recent_mass": near / total,
        "logit_mean": mean,
        "logit_variance": scatter / some,
        "logit_min": low,
        "logit_max": top,
    }
    if values is not None:
        output = values / total.to(values.dtype)[..., None]
        found |= {"norm_of_sum": output.norm(dim=-1), "sum_of_norms": norms / total}
        if want_output:
            found["output"] = output
    found = {
        name: x.masked_fill(empty.view(*empty.shape, *[1] * (x.ndim - empty.ndim)), 0) for name, x in found.items()
    }
    return found | {"lse": top + log, "largest_at": at.long().masked_fill(empty, -1), "visible": count.long()}
