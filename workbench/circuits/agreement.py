"""Agreement between rankings of edges: do two methods, two seeds or two tasks name the same edges?

Over all edges: Spearman's rank correlation and Kendall's tau-b (ties counted). Over the best k alone: the overlap of
the two sets, as Jaccard's |A and B| / |A or B| and as the share |A and B| / k, of which two random rankings have k /
n; and Spearman's correlation over their union. All at the level of edges and of nodes, a node ranked by the best of
its edges. Most edges do nothing, and their order is noise: the overlap says more of a circuit than the correlation
over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.graph import Graph, Ranking, Scores

Level = Literal["edges", "nodes"]
Matrix = list[list[float]]
SIZES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of all edges at which sets are compared by default."""


@dataclass(frozen=True)
class Agreement:
    """How alike rankings are, each pair of them.

    Attributes:
        names: of the rankings.
        level: whether ``edges`` or ``nodes`` were ranked.
        n: how many of them there are.
        spearman, kendall: [ranking][ranking] over all; NaN where a ranking is constant.
        sizes: how many of the best were compared.
        jaccard, share: for each size [ranking][ranking], the overlap of the best.
        top_spearman: for each size the correlation over the union of the best.
        chance: for each size the share that two random rankings have on average.
    """

    names: list[str]
    level: Level
    n: int
    spearman: Matrix
    kendall: Matrix
    sizes: list[int]
    jaccard: list[Matrix]
    share: list[Matrix]
    top_spearman: list[Matrix]
    chance: list[float]


def agreement(
    scores: Mapping[str, Scores] | Sequence[Scores],
    *,
    level: Level = "edges",
    sizes: Sequence[int] | None = None,
    ranking: Ranking = "absolute",
) -> Agreement:
    """Compare rankings of the edges of one graph.

    Args:
        scores: by name, or a list of them, which are then called by their methods.
        level: rank ``edges``, or ``nodes`` (heads and MLPs) by the best of their edges.
        sizes: how many of the best to compare; None for some shares from 0.1 % to 20 %.
        ranking: best by absolute or by signed score.

    Raises:
        ValueError: fewer than two rankings, two of one name, graphs that differ, scores that are not finite, an unknown
            level or ranking, or a size out of range.
    """
    named = _named(scores)
    graph = next(iter(named.values())).graph
    keys = []
    for name, one in named.items():
        if one.graph != graph:
            raise ValueError(f"The scores of '{name}' are of another model's graph; compare rankings of one model.")
        key = one.ranked(ranking).cpu().double()
        if not key[graph.mask].isfinite().all():
            raise ValueError(f"The scores of '{name}' are not all finite; they cannot be ranked.")
        keys.append(_leveled(key, graph, level))
    values = torch.stack(keys)
    n = values.shape[1]
    compared = list(sizes) if sizes is not None else sorted({max(1, round(share * n)) for share in SIZES})
    for size in compared:
        if not 1 <= size <= n:
            raise ValueError(f"Cannot compare the best {size} of {n:,} {level}; choose 1 to {n:,}.")
    best = [_best(values, size) for size in compared]
    k = len(values)
    return Agreement(
        names=list(named),
        level=level,
        n=n,
        spearman=_pairs(k, lambda a, b: _correlation(values[a], values[b], "spearman")),
        kendall=_pairs(k, lambda a, b: _correlation(values[a], values[b], "kendall")),
        sizes=compared,
        jaccard=[_jaccards(sets) for sets in best],
        share=[_shares(sets) for sets in best],
        top_spearman=[_over_union(values, sets) for sets in best],
        chance=[size / n for size in compared],
    )


def jaccard(one: set[int], other: set[int]) -> float:
    """|A and B| / |A or B|; 1 where both are empty."""
    return len(one & other) / len(one | other) if one or other else 1.0


def spearman(one: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation, tied values at their mean rank; NaN where either is constant."""
    return _correlation(one, other, "spearman")


def node_keys(key: Float[Tensor, "writers readers"], graph: Graph) -> Float[Tensor, " nodes"]:
    """The best key among the edges into and out of each head and MLP, in the order of computation."""
    out = key.max(1).values
    found = []
    for row in range(1, len(graph.writers)):
        found.append(torch.maximum(out[row], key[:, graph.reader_node == row].max()))
    return torch.stack(found)


def _named(scores: Mapping[str, Scores] | Sequence[Scores]) -> dict[str, Scores]:
    if not isinstance(scores, Mapping):
        names = [one.method for one in scores]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Several rankings are called '{twice[0]}'; hand them over by name.")
        scores = dict(zip(names, scores, strict=True))
    if len(scores) < 2:
        raise ValueError(f"Agreement needs at least two rankings; got {len(scores)}.")
    return dict(scores)


def _leveled(key: Float[Tensor, "writers readers"], graph: Graph, level: str) -> Float[Tensor, " n"]:
    if level == "edges":
        return key[graph.mask]
    if level == "nodes":
        return node_keys(key, graph)
    raise ValueError(f"Unknown level '{level}'; choose 'edges' or 'nodes'.")


def _best(values: Float[Tensor, "rankings n"], size: int) -> list[set[int]]:
    return [set(row.tolist()) for row in values.topk(size, dim=1).indices]


def _pairs(k: int, measure: Callable[[int, int], float]) -> Matrix:
    """A measure of each pair, taken once: all measures here are symmetric."""
    matrix = [[0.0] * k for _ in range(k)]
    for a in range(k):
        for b in range(a, k):
            matrix[a][b] = matrix[b][a] = measure(a, b)
    return matrix


def _jaccards(sets: list[set[int]]) -> Matrix:
    return _pairs(len(sets), lambda a, b: jaccard(sets[a], sets[b]))


def _shares(sets: list[set[int]]) -> Matrix:
    return _pairs(len(sets), lambda a, b: len(sets[a] & sets[b]) / len(sets[a]))


def _over_union(values: Float[Tensor, "rankings n"], sets: list[set[int]]) -> Matrix:
    def measure(a: int, b: int) -> float:
        either = sorted(sets[a] | sets[b])
        return _correlation(values[a, either], values[b, either], "spearman")

    return _pairs(len(sets), measure)


def _correlation(one: Float[Tensor, " n"], other: Float[Tensor, " n"], kind: str) -> float:
    from scipy.stats import kendalltau, rankdata  # type: ignore[import-untyped]

    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return math.nan
    if kind == "kendall":
        return float(kendalltau(one.numpy(), other.numpy()).statistic)
    ranks = torch.stack([torch.from_numpy(rankdata(x.numpy())) for x in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])
