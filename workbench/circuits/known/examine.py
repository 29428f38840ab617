"""How far a method can be believed: its scores on a model whose circuit is known, beside two controls.

The controls say what an AUROC would be without any knowledge of the model's computation: random scores, and the same
method on a model of the same shape with random weights, which still knows the shape of the graph and the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from workbench.circuits.evaluate import evaluate
from workbench.circuits.graph import Circuit, Ranking, Scores
from workbench.circuits.ground_truth import GroundTruth, ground_truth
from workbench.circuits.methods import discover
from workbench.circuits.task import Task
from workbench.models import Transformer, fresh

RANDOM_RANKINGS = 20


@dataclass(frozen=True)
class Examination:
    """What became of one method on one model.

    Attributes:
        method: its key.
        scores: what it said of every edge.
        truth: how that agrees with the circuit.
        untrained: the same on a model of the same shape with random weights.
        random_auroc, random_average_precision, random_node_auroc: means over random rankings.
        faithfulness: of the true circuit run alone; 1 where it is the whole of the behaviour.
        ranking: whether edges were ranked by absolute or by signed score.
    """

    method: str
    scores: Scores
    truth: GroundTruth
    untrained: GroundTruth
    random_auroc: float
    random_average_precision: float
    random_node_auroc: float
    faithfulness: float
    ranking: Ranking = "absolute"

    @property
    def true_edges(self) -> set[str]:
        """The circuit that the scores were compared with."""
        return {*self.truth.found, *self.truth.missed}


def shown_edges(made: Any) -> set[str]:
    """The true edges of a model that a method can find.

    Those that carry only what depends on the length of the input are left out: the inputs of a pair have equal lengths,
    so that they carry the same on both.

    Args:
        made: what the record of an examinable model loads.
    """
    return set(made.true_edges) - set(made.length_edges)


def examine(
    model: Transformer,
    task: Task,
    true_edges: set[str],
    method: str = "eap-ig",
    *,
    seed: int = 0,
    ranking: Ranking = "absolute",
    **options: Any,
) -> Examination:
    """Run a method on a model whose circuit is known, and on the controls.

    Args:
        model: the model.
        task: pairs of inputs on which the circuit acts.
        true_edges: the circuit.
        method: key of the method, as :func:`workbench.circuits.methods` lists them.
        seed: of the random rankings and weights.
        ranking: best edges by absolute or by signed score.
        **options: of the method.

    Raises:
        ValueError: an unknown method, option or ranking, or an edge that the model does not have.
    """
    if ranking not in ("absolute", "signed"):
        raise ValueError(f"Unknown ranking '{ranking}'; choose 'absolute' or 'signed'.")
    scores = discover(model, task, method=method, **options)
    control = discover(fresh(model.cfg, seed=seed), task, method=method, **options)
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        ground_truth(Scores(scores.graph, torch.rand(scores.values.shape, generator=generator)), true_edges)
        for _ in range(RANDOM_RANKINGS)
    ]
    circuit = Circuit.from_edges(scores.graph, true_edges)
    return Examination(
        method=method,
        scores=scores,
        truth=ground_truth(scores, true_edges, ranking=ranking),
        untrained=ground_truth(control, true_edges, ranking=ranking),
        random_auroc=sum(one.auroc for one in drawn) / len(drawn),
        random_average_precision=sum(one.average_precision for one in drawn) / len(drawn),
        random_node_auroc=sum(one.node_auroc for one in drawn) / len(drawn),
        faithfulness=evaluate(model, task, circuit).faithfulness,
        ranking=ranking,
    )


def examine_made(
    made: Any, method: str = "eap-ig", *, n: int = 64, seed: int = 0, ranking: Ranking = "absolute", **options: Any
) -> Examination:
    """:func:`examine` of a known model on pairs of its own, with the true edges that they can show.

    Args:
        made: what the record of an examinable model loads.
        method: key of the method.
        n: pairs of inputs.
        seed: of the pairs and of the controls.
        ranking: best edges by absolute or by signed score.
        **options: of the method.

    Raises:
        ValueError: as :func:`examine`, or the model's answers are the same on nearly all inputs.
    """
    task = made.task(n, seed)
    return examine(made.model, task, shown_edges(made), method, seed=seed, ranking=ranking, **options)
