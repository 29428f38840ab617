"""How well scores find a circuit that is known: ROC, precision and recall over the ranking of edges and of nodes.

Every threshold on the scores splits the edges into found and not found. The area under the curve of true against false
positives (AUROC) is the chance that a true edge stands above one that is not; 0.5 for a random ranking, ties counted
half. Average precision is the mean precision at each true edge; for a random ranking it is about the share of true
edges. Both are exact over the ranks, not sampled at a few sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.graph import Circuit, Graph, Ranking, Scores


@dataclass(frozen=True)
class GroundTruth:
    """How a ranking of edges agrees with the true circuit.

    Attributes:
        auroc: of the edges; NaN where all edges are true, or none.
        average_precision: of the edges; NaN where none is true.
        node_auroc, node_average_precision: the same for heads and MLPs, each ranked by the best of its edges.
        chance_average_precision: the share of true edges, which a random ranking reaches on average.
        n_true, n_edges: true edges, and all.
        false_positive_rate, true_positive_rate: the ROC curve, from (0, 0) to (1, 1).
        precision, recall: after each true or false edge that a lower threshold lets in, ties together; the first is
            the highest threshold.
        found: of the best ``n_true`` edges, those that are true and have a score; by name.
        missed: true edges that are not among them.
    """

    auroc: float
    average_precision: float
    node_auroc: float
    node_average_precision: float
    chance_average_precision: float
    n_true: int
    n_edges: int
    false_positive_rate: list[float]
    true_positive_rate: list[float]
    precision: list[float]
    recall: list[float]
    found: list[str]
    missed: list[str]


def ground_truth(scores: Scores, true_edges: Iterable[str], *, ranking: Ranking = "absolute") -> GroundTruth:
    """Compare scores with a circuit that is known.

    Args:
        scores: of a method on the model whose circuit it is.
        true_edges: names such as ``a0.h0->m0``.
        ranking: best by absolute or by signed score.

    Raises:
        ValueError: a name is no edge of this graph, or a score is not finite.
    """
    graph = scores.graph
    truth = Circuit.from_edges(graph, true_edges)
    key = scores.ranked(ranking).cpu()
    if not key[graph.mask].isfinite().all():
        raise ValueError(f"Scores of '{scores.method}' are not all finite; they cannot be ranked.")
    labels, values = truth.mask[graph.mask], key[graph.mask]
    node_labels, node_values = _nodes(graph, truth.mask, key)
    falls, hits = _roc(labels, values)
    precision, recall = _precision_recall(labels, values)
    # An edge without a score was not chosen, whatever place a tie gave it.
    best = {name for name in scores.top(truth.n_edges, ranking, prune=False).edges if scores.values[graph.edge(name)]}
    return GroundTruth(
        auroc=_auroc(labels, values),
        average_precision=_average_precision(labels, values),
        node_auroc=_auroc(node_labels, node_values),
        node_average_precision=_average_precision(node_labels, node_values),
        chance_average_precision=truth.n_edges / graph.n_edges,
        n_true=truth.n_edges,
        n_edges=graph.n_edges,
        false_positive_rate=falls,
        true_positive_rate=hits,
        precision=precision,
        recall=recall,
        found=sorted(best & truth.edges),
        missed=sorted(truth.edges - best),
    )


def _nodes(
    graph: Graph, truth: Bool[Tensor, "writers readers"], key: Float[Tensor, "writers readers"]
) -> tuple[Tensor, Tensor]:
    """Whether each head and MLP has a true edge, and the best key of all its edges."""
    labels, values = [], []
    for row, writer in enumerate(graph.writers):
        if writer == "input":
            continue
        columns = graph.reader_node == row
        edges = graph.mask.clone()
        edges[[i for i in range(len(graph.writers)) if i != row]] &= columns
        labels.append(bool(truth[edges].any()))
        values.append(float(key[edges].max()))
    return torch.tensor(labels), torch.tensor(values)


def _one_kind(labels: Tensor) -> bool:
    return not labels.any() or bool(labels.all())


def _auroc(labels: Tensor, values: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    return math.nan if _one_kind(labels) else float(roc_auc_score(labels.numpy(), values.numpy()))


def _average_precision(labels: Tensor, values: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels.numpy(), values.numpy())) if labels.any() else math.nan


def _roc(labels: Tensor, values: Tensor) -> tuple[list[float], list[float]]:
    from sklearn.metrics import roc_curve

    if _one_kind(labels):
        return [0.0, 1.0], [0.0, 1.0]
    falls, hits, _ = roc_curve(labels.numpy(), values.numpy())
    return falls.tolist(), hits.tolist()


def _precision_recall(labels: Tensor, values: Tensor) -> tuple[list[float], list[float]]:
    from sklearn.metrics import precision_recall_curve

    if not labels.any():
        return [], []
    precision, recall, _ = precision_recall_curve(labels.numpy(), values.numpy())
    # scikit-learn ends with the point (recall 0, precision 1), which no threshold reaches.
    return precision[-2::-1].tolist(), recall[-2::-1].tolist()
