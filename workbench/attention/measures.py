"""What is measured of a row of attention: one list that statistics, tables, pictures and documentation read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.kernels import AttentionStatistics
from workbench.models.lookup import pick


@dataclass(frozen=True)
class Measure:
    """One number of a row, that is of one query in one head.

    Attributes:
        key: its name, also the attribute of :class:`workbench.attention.Statistics`.
        title: its name in prose.
        unit: nats, tokens, a share of 1, scores, or the length of a vector.
        formula: one line of plain text; p are the weights of the row, s its logits, n its visible keys.
    """

    key: str
    title: str
    unit: str
    formula: str


MEASURES: tuple[Measure, ...] = (
    Measure("entropy", "Entropy", "nats", "-Σ p log p"),
    Measure("normalised_entropy", "Normalised entropy", "share", "-Σ p log p / log n, for n > 1"),
    Measure("largest", "Largest weight", "share", "max p"),
    Measure("effective_keys", "Effective keys", "tokens", "1 / Σ p²"),
    Measure("sink_mass", "Sink mass", "share", "Σ p over the sink keys"),
    Measure("recent_mass", "Recent mass", "share", "Σ p over the keys nearer than the recent window"),
    Measure("distance", "Distance", "tokens", "Σ p |i - j|"),
    Measure("distance_spread", "Spread of distance", "tokens", "sqrt(Σ p (|i - j| - distance)²)"),
    Measure("logit_mean", "Mean logit", "scores", "Σ s / n"),
    Measure("logit_spread", "Spread of logits", "scores", "sqrt(Σ (s - mean)² / n)"),
    Measure("logit_range", "Range of logits", "scores", "max s - min s"),
    Measure("value_weighted_norm", "Value-weighted norm", "length", "Σ p ‖v‖"),
    Measure("output_norm", "Norm of the output", "length", "‖Σ p v‖"),
)
KEYS = tuple(measure.key for measure in MEASURES)


def find(key: str) -> Measure:
    """The measure called ``key``.

    Raises:
        ValueError: there is none; the message suggests the closest.
    """
    return pick(list(MEASURES), key, "attention measure")


def measured(rows: AttentionStatistics) -> dict[str, Float[Tensor, "batch head query"]]:
    """Every measure of what a sweep found; NaN where a measure says nothing (one key, no values)."""
    visible = rows.visible.to(rows.entropy)
    nothing = torch.full_like(rows.entropy, torch.nan)
    return {
        "entropy": rows.entropy,
        "normalised_entropy": torch.where(visible > 1, rows.entropy / visible.clamp(min=2).log(), nothing),
        "largest": rows.largest,
        "effective_keys": rows.effective_keys,
        "sink_mass": rows.sink_mass,
        "recent_mass": rows.recent_mass,
        "distance": rows.distance,
        "distance_spread": rows.distance_spread,
        "logit_mean": rows.logit_mean,
        "logit_spread": rows.logit_variance.clamp(min=0).sqrt(),
        "logit_range": rows.logit_max - rows.logit_min,
        "value_weighted_norm": nothing if rows.sum_of_norms is None else rows.sum_of_norms,
        "output_norm": nothing if rows.norm_of_sum is None else rows.norm_of_sum,
    }
