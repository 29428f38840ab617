"""A transformer as the sum over all paths from its input to its output.

``decompose(model, tokens, target)`` says what paths of each length carry of a logit, ``query(model, tokens, pattern,
target)`` what the paths of a pattern carry, ``path_counts(model)`` how many there are. All of it is exact while
patterns, norm scales and activation gates are held at what they are in the run. ``gradient_mass(model, tokens,
target)`` says through which lengths the gradient comes back, ``top_paths(model, tokens, target)`` which single paths
carry most.

Components as an ensemble, each with its direct contribution to the answer: ``effects`` (directly, in all, when
deleted), ``prune`` (cut those that do harm), ``ensemble_scale`` (learn their weights).
"""

from __future__ import annotations

from workbench.paths.automaton import Automaton
from workbench.paths.components import Alphabet
from workbench.paths.counts import binomial, count, mean_length, path_counts
from workbench.paths.effects import Effects, effects
from workbench.paths.ensemble import Ensemble
from workbench.paths.ensemble_scale import EnsembleScale, ensemble_scale, load_scale
from workbench.paths.expansion import decompose
from workbench.paths.gradient_mass import GradientMass, gradient_mass
from workbench.paths.pattern import PatternError, compile_pattern
from workbench.paths.pruning import Compared, PathPruning, cut_taps, prune, weight_taps
from workbench.paths.queries import QueryResult, query
from workbench.paths.top import FoundPath, TopPaths, top_paths
from workbench.paths.written import Written, collect

__all__ = [
    "Alphabet",
    "Automaton",
    "Compared",
    "Effects",
    "Ensemble",
    "EnsembleScale",
    "FoundPath",
    "GradientMass",
    "PathPruning",
    "PatternError",
    "QueryResult",
    "TopPaths",
    "Written",
    "binomial",
    "collect",
    "compile_pattern",
    "count",
    "cut_taps",
    "decompose",
    "effects",
    "ensemble_scale",
    "gradient_mass",
    "load_scale",
    "mean_length",
    "path_counts",
    "prune",
    "query",
    "top_paths",
    "weight_taps",
]
