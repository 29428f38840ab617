"""A transformer as the sum over all paths from its input to its output.

``decompose(model, tokens, target)`` says what paths of each length carry of a logit, ``query(model, tokens, pattern,
target)`` what the paths of a pattern carry, ``path_counts(model)`` how many there are. All of it is exact while
patterns, norm scales and activation gates are held at what they are in the run. ``gradient_mass(model, tokens,
target)`` says through which lengths the gradient comes back.
"""

from __future__ import annotations

from workbench.paths.automaton import Automaton
from workbench.paths.components import Alphabet
from workbench.paths.counts import binomial, count, mean_length, path_counts
from workbench.paths.ensemble import Ensemble
from workbench.paths.expansion import decompose
from workbench.paths.gradient_mass import GradientMass, gradient_mass
from workbench.paths.pattern import PatternError, compile_pattern
from workbench.paths.queries import QueryResult, query
from workbench.paths.top import FoundPath, TopPaths, top_paths

__all__ = [
    "Alphabet",
    "Automaton",
    "Ensemble",
    "FoundPath",
    "GradientMass",
    "PatternError",
    "QueryResult",
    "TopPaths",
    "binomial",
    "compile_pattern",
    "count",
    "decompose",
    "gradient_mass",
    "mean_length",
    "path_counts",
    "query",
    "top_paths",
]
