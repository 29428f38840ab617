"""The attention observatory: what every head attends to, in numbers, without building a pattern.

``statistics(model, tokens)`` reads one prompt or batch, ``statistics_over(model, texts)`` a data set.
"""

from __future__ import annotations

from workbench.attention.measures import MEASURES, Measure
from workbench.attention.observed import Statistics
from workbench.attention.prompt import statistics

__all__ = ["MEASURES", "Measure", "Statistics", "statistics"]
