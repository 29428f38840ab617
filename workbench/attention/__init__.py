"""The attention observatory: what every head attends to, in numbers, without building a pattern.

``statistics(model, tokens)`` reads one prompt or batch, ``statistics_over(model, texts)`` a data set. The rest works on
what these found: views of entropy and its bound, sinks and idle heads, outliers, dispersion with length.
``census(model)`` says what kind of head each one is, ``copying(model)`` what it writes, from weights alone.
"""

from __future__ import annotations

from workbench.attention.contextualisation import Contextualisation, contextualisation
from workbench.attention.copy_suppression import CopySuppression, attended_logits, copy_suppression
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
from workbench.attention.hops import HopProfile, hop_profile
from workbench.attention.importance import IMPORTANCE, Importance, ImportanceMetric, head_importance
from workbench.attention.low_pass import LowPass, low_pass
from workbench.attention.measures import MEASURES, Measure
from workbench.attention.monitor import CollapseWarning, EntropyMonitor, entropy_along
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
from workbench.attention.pattern_map import PatternMap, pattern_map
from workbench.attention.probing import QueriesKeys
from workbench.attention.prompt import statistics
from workbench.attention.redundancy import Redundancy, redundancy
from workbench.attention.running import ByToken, Mean
from workbench.attention.sigma_reparam import SigmaReparam, remove_sigma, sigma_reparametrise
from workbench.attention.similarity import Similarity, similarity
from workbench.attention.sinks import IdleHead, Sinks, SinkToken, find_sinks, idle_heads, idle_rows
from workbench.attention.successor import SEQUENCES, OrdinalSequence, Successors, successors
from workbench.attention.training_record import Alarm, AlarmRule, Reading, TrainingRecord

__all__ = [
    "DETECTORS",
    "IMPORTANCE",
    "MEASURES",
    "SEQUENCES",
    "ActivationOutliers",
    "Alarm",
    "AlarmRule",
    "AttentionOutliers",
    "ByToken",
    "Census",
    "CollapseWarning",
    "Contextualisation",
    "CopySuppression",
    "Copying",
    "DatasetStatistics",
    "Detector",
    "Dispersion",
    "EntropyBound",
    "EntropyMonitor",
    "HeadValue",
    "HopProfile",
    "IdleHead",
    "Importance",
    "ImportanceMetric",
    "LowPass",
    "Mean",
    "Measure",
    "OrdinalSequence",
    "PatternMap",
    "QueriesKeys",
    "Reading",
    "Redundancy",
    "Removal",
    "SigmaReparam",
    "Similarity",
    "SinkToken",
    "Sinks",
    "Statistics",
    "Successors",
    "TokenPair",
    "TrainingRecord",
    "WeightOutliers",
    "activation_outliers",
    "attended_logits",
    "attention_outliers",
    "by_layer",
    "by_token",
    "census",
    "collapsed",
    "contextualisation",
    "copy_suppression",
    "copying",
    "dispersion",
    "entropy_along",
    "entropy_bound",
    "entropy_floor",
    "find_sinks",
    "floor_of",
    "head_importance",
    "hop_profile",
    "idle_heads",
    "idle_rows",
    "kurtosis",
    "largest_ceiling",
    "low_pass",
    "ov_pairs",
    "own_logits",
    "pattern_map",
    "qk_pairs",
    "redundancy",
    "removal",
    "remove_sigma",
    "row_bound",
    "sigma_reparametrise",
    "similarity",
    "statistics",
    "statistics_over",
    "successors",
    "uniform",
    "weight_outliers",
]
