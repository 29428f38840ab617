"""The attention observatory: what every head attends to, in numbers, without building a pattern.

``statistics(model, tokens)`` reads one prompt or batch, ``statistics_over(model, texts)`` a data set. The rest works on
what these found: views of entropy and its bound, sinks and idle heads, outliers, dispersion with length.
``census(model)`` says what kind of head each one is, ``copying(model)`` what it writes, from weights alone.
"""

from __future__ import annotations

from workbench.attention.dataset import DatasetStatistics, statistics_over
from workbench.attention.detectors import DETECTORS, Census, Detector, census
from workbench.attention.dispersion import Dispersion, dispersion, entropy_floor, largest_ceiling
from workbench.attention.entropy import (
    EntropyBound,
    HeadValue,
    by_layer,
    by_token,
    collapsed,
    entropy_bound,
    floor_of,
    row_bound,
    uniform,
)
from workbench.attention.head_circuits import Copying, TokenPair, copying, ov_pairs, own_logits, qk_pairs
from workbench.attention.measures import MEASURES, Measure
from workbench.attention.observed import Statistics
from workbench.attention.outliers import (
    ActivationOutliers,
    AttentionOutliers,
    Removal,
    WeightOutliers,
    activation_outliers,
    attention_outliers,
    kurtosis,
    removal,
    weight_outliers,
)
from workbench.attention.prompt import statistics
from workbench.attention.running import ByToken, Mean
from workbench.attention.sinks import IdleHead, Sinks, SinkToken, find_sinks, idle_heads, idle_rows

__all__ = [
    "DETECTORS",
    "MEASURES",
    "ActivationOutliers",
    "AttentionOutliers",
    "ByToken",
    "Census",
    "Copying",
    "DatasetStatistics",
    "Detector",
    "Dispersion",
    "EntropyBound",
    "HeadValue",
    "IdleHead",
    "Mean",
    "Measure",
    "Removal",
    "SinkToken",
    "Sinks",
    "Statistics",
    "TokenPair",
    "WeightOutliers",
    "activation_outliers",
    "attention_outliers",
    "by_layer",
    "by_token",
    "census",
    "collapsed",
    "copying",
    "dispersion",
    "entropy_bound",
    "entropy_floor",
    "find_sinks",
    "floor_of",
    "idle_heads",
    "idle_rows",
    "kurtosis",
    "largest_ceiling",
    "ov_pairs",
    "own_logits",
    "qk_pairs",
    "removal",
    "row_bound",
    "statistics",
    "statistics_over",
    "uniform",
    "weight_outliers",
]
