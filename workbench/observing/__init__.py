"""One input observed: what attention does with it in every head, in numbers and in pictures; page and command line.

observation = observe(model, "When Mary and John ...")     # plain data: statistics, census, bound, sinks
pictures(observation)["entropy"]                           # figures by name, see :func:`pictures`
"""

from __future__ import annotations

from workbench.observing.maps import caption_of, measure_map, measure_names
from workbench.observing.pictures import (
    by_distance,
    entropy_by_context,
    entropy_by_layer,
    entropy_by_position,
    heads_at_a_glance,
    largest_by_context,
    pictures,
    sinks_by_position,
    trivial,
)
from workbench.observing.records import PATTERNS, Observation
from workbench.observing.work import check, observe

__all__ = [
    "PATTERNS",
    "Observation",
    "by_distance",
    "caption_of",
    "check",
    "entropy_by_context",
    "entropy_by_layer",
    "entropy_by_position",
    "heads_at_a_glance",
    "largest_by_context",
    "measure_map",
    "measure_names",
    "observe",
    "pictures",
    "sinks_by_position",
    "trivial",
]
