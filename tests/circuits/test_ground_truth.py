"""Ranks against a known circuit: by hand, by counting pairs, and on rankings whose answer is clear."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.circuits import Circuit, Graph, Scores, ground_truth

GRAPH = Graph(2, 2)
EDGES = sorted(Circuit.full(GRAPH).edges)


def scored(values: dict[str, float]) -> Scores:
    found = torch.zeros(len(GRAPH.writers), len(GRAPH.readers))
    for edge, value in values.items():
        found[GRAPH.edge(edge)] = value
    return Scores(GRAPH, found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_auroc_is_the_share_of_pairs_in_the_right_order(data: st.DataObject) -> None:
    values = {edge: float(data.draw(st.integers(-4, 4))) for edge in EDGES}
    truth = set(data.draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=len(EDGES) - 1, unique=True)))
    found = ground_truth(scored(values), truth)
    pairs = [(abs(values[t]), abs(values[f])) for t in truth for f in EDGES if f not in truth]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert found.auroc == pytest.approx(expected)
    area = torch.trapezoid(torch.tensor(found.true_positive_rate), torch.tensor(found.false_positive_rate))
    assert float(area) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_average_precision_is_the_mean_precision_at_each_true_edge(data: st.DataObject) -> None:
    order = data.draw(st.permutations(EDGES))
    truth = set(data.draw(st.lists(st.sampled_from(EDGES), min_size=1, max_size=9, unique=True)))
    found = ground_truth(scored({edge: float(len(order) - i) for i, edge in enumerate(order)}), truth)
    hits, total = 0, 0.0
    for i, edge in enumerate(order, 1):
        if edge in truth:
            hits += 1
            total += hits / i
    assert found.average_precision == pytest.approx(total / len(truth))
    assert found.recall[-1] == 1
    assert set(found.found) == set(order[: len(truth)]) & truth
    assert set(found.found) | set(found.missed) == truth


def test_the_true_circuit_as_scores_is_found_whole_and_its_opposite_not_at_all() -> None:
    truth = {"input->a0.h1<v>", "a0.h1->m0", "m0->logits"}
    perfect = ground_truth(scored(dict.fromkeys(truth, 1.0)), truth)
    assert (perfect.auroc, perfect.average_precision, perfect.node_auroc) == (1, 1, 1)
    assert perfect.missed == []
    worst = ground_truth(scored({edge: 1.0 for edge in EDGES if edge not in truth}), truth)
    assert worst.auroc == 0
    assert worst.found == []


def test_nodes_are_ranked_by_their_best_edge() -> None:
    truth = {"input->a0.h1<v>", "a0.h1->logits"}
    # m1 has a strong edge, every other node but a0.h1 only weak ones: one of the five false nodes stands above.
    values = dict.fromkeys(EDGES, 0.1) | {"m1->logits": 3.0, "a0.h1->logits": -2.0}
    found = ground_truth(scored(values), truth)
    assert found.node_auroc == pytest.approx(4 / 5)
    assert ground_truth(scored(values), truth, ranking="signed").node_auroc == pytest.approx(2 / 5)


def test_a_constant_ranking_is_chance() -> None:
    truth = EDGES[:7]
    found = ground_truth(scored(dict.fromkeys(EDGES, 1.0)), truth)
    assert found.auroc == 0.5
    assert found.average_precision == pytest.approx(found.chance_average_precision)
    assert found.chance_average_precision == pytest.approx(7 / len(EDGES))


def test_what_cannot_be_ranked_is_said() -> None:
    with pytest.raises(ValueError, match="a9"):
        ground_truth(scored({}), ["a9.h0->logits"])
    with pytest.raises(ValueError, match="not all finite"):
        ground_truth(scored({EDGES[0]: math.nan}), EDGES[:1])
    empty = ground_truth(scored({}), [])
    assert math.isnan(empty.auroc)
    assert math.isnan(empty.average_precision)
