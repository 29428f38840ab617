"""The ROC and precision-recall figures: what is drawn has the areas that it is labelled with."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch

from tests.figures.helpers import NASTY, having, parse, synthetic, texts, titles
from workbench.circuits import GroundTruth, ground_truth
from workbench.circuits.graph import Circuit, Graph, Scores
from workbench.figures import Figure, circuit_graph, precision_recall, roc_curve
from workbench.figures.ground_truth import SIDE


def ranked(truth: str, edges: str = "abcd") -> GroundTruth:
    """Four edges ranked a to d, of which those in ``truth`` are true; equal letters tie."""
    graph = Graph(1, 1, has_mlp=False)
    names = ["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>", "input->logits"]
    values = torch.zeros(len(graph.writers), len(graph.readers))
    values[graph.edge("a0.h0->logits")] = 0.0
    for name, letter in zip(names, edges, strict=True):
        values[graph.edge(name)] = float("dcba".index(letter) + 1)
    return ground_truth(Scores(graph, values), [names["abcd".index(letter)] for letter in truth])


def lines(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """The drawn lines in the units of the axes, read from the picture itself."""
    found = {}
    for group in having(parse(figure), "wb-series"):
        numbers = [float(n) for n in re.findall(r"[-\d.]+", next(e.attrib["d"] for e in group if "d" in e.attrib))]
        found[group.attrib["data-id"]] = list(zip(numbers[::2], numbers[1::2], strict=True))
    xs, ys = zip(*found["chance"], strict=True)
    left, bottom = min(xs), max(y for line in found.values() for _, y in line)
    assert max(xs) - left == pytest.approx(SIDE)
    if figure.data["series"][-1]["y"] != [0.0, 1.0]:  # not the diagonal: its height is known, so where 0 is follows
        bottom = ys[0] + SIDE * figure.data["chance_average_precision"]
    return {key: [((x - left) / SIDE, (bottom - y) / SIDE) for x, y in line] for key, line in found.items()}


def area(line: list[tuple[float, float]]) -> float:
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(line))


def many(seed: int) -> GroundTruth:
    scores = synthetic(3, 3, seed=seed)
    true = synthetic(3, 3, seed=seed + 50).top(40, prune=False).edges
    return ground_truth(scores, true)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_drawn_roc_curve_is_the_auroc(seed: int) -> None:
    one, other = many(seed), many(seed + 10)
    drawn = lines(roc_curve(one, other))
    assert area(drawn["method"]) == pytest.approx(one.auroc, abs=2e-3)
    assert area(drawn["untrained"]) == pytest.approx(other.auroc, abs=2e-3)
    assert area(drawn["chance"]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_drawn_steps_is_the_average_precision(seed: int) -> None:
    one, other = many(seed), many(seed + 10)
    drawn = lines(precision_recall(one, other))
    assert area(drawn["method"]) == pytest.approx(one.average_precision, abs=2e-3)
    assert area(drawn["untrained"]) == pytest.approx(other.average_precision, abs=2e-3)
    assert area(drawn["chance"]) == pytest.approx(one.n_true / one.n_edges, abs=2e-3)


def same(line: list[tuple[float, float]], expected: list[tuple[float, float]]) -> bool:
    return torch.allclose(torch.tensor(line), torch.tensor(expected, dtype=torch.float32), atol=1e-3)


def test_a_ranking_worked_out_by_hand() -> None:
    one = ranked("ac")  # true, other, true, other, and an edge without a score
    assert same(lines(roc_curve(one))["method"], [(0, 0), (0, 0.5), (1 / 3, 0.5), (1 / 3, 1), (1, 1)])
    # Ends where both true edges are let in.
    assert same(lines(precision_recall(one))["method"][:2], [(0, 1), (0.5, 1)])
    assert same(lines(precision_recall(one))["method"][-1:], [(1, 2 / 3)])


def test_ties_are_one_slanted_step_of_the_roc_curve() -> None:
    assert same(lines(roc_curve(ranked("a", "aabb")))["method"][:2], [(0, 0), (0.25, 1)])


def test_labels_carry_name_and_number_and_do_not_overlap() -> None:
    one, other = many(0), many(10)
    for figure, value in (
        (roc_curve(one, other, method="eap"), one.auroc),
        (precision_recall(one, other, method="eap"), one.average_precision),
    ):
        root = parse(figure)
        assert f"eap {value:.3g}" in texts(root)
        assert any(text.startswith("random weights ") for text in texts(root))
        at = [
            float(e.attrib["y"])
            for e in root.iter("{http://www.w3.org/2000/svg}text")
            if (e.text or "").startswith(("eap ", "random "))
        ]
        assert len(at) == 3
        assert all(b - a >= 12 for a, b in pairwise(sorted(at)))


def test_lines_are_told_apart_by_dashes_too() -> None:
    for figure in (roc_curve(many(0), many(10)), precision_recall(many(0), many(10))):
        dashes = [
            next(e.get("stroke-dasharray") for e in g if "d" in e.attrib) for g in having(parse(figure), "wb-series")
        ]
        assert len(set(dashes)) == 3


def test_titles_state_the_finding() -> None:
    assert roc_curve(ranked("ab")).title == "Every true edge stands above every other"
    assert roc_curve(ranked("ac")).title == "A true edge stands above another in 83.3 % of pairs"
    assert roc_curve(ranked("ac"), ranked("ab")).title.endswith("; with random weights in 100 %")
    assert precision_recall(ranked("ab")).title == "Average precision 1; a random ranking has about 0.4"
    assert roc_curve(ranked("ac"), title="Mine").title == "Mine"


def test_where_all_edges_or_none_are_true_the_figures_say_so() -> None:
    none = ranked("")
    assert math.isnan(none.auroc)
    assert roc_curve(none).title == "Nothing to rank: all edges are true, or none is"
    assert precision_recall(none).title == "Nothing to find: no edge is true"
    assert set(lines(roc_curve(none))) == {"chance"}
    assert "nan" not in roc_curve(none).svg.lower() + precision_recall(none).svg.lower()


@pytest.mark.parametrize("name", NASTY)
def test_a_method_s_name_is_text(name: str) -> None:
    for figure in (roc_curve(many(0), method=name, caption=name), precision_recall(many(0), method=name, title=name)):
        root = parse(figure)
        assert not any(e.tag.endswith("script") for e in root.iter())


def test_the_data_has_the_figures_and_the_series() -> None:
    one, other = many(0), many(10)
    data = roc_curve(one, other).data
    assert data["method"]["auroc"] == one.auroc
    assert data["untrained"]["average_precision"] == other.average_precision
    assert [series["key"] for series in data["series"]] == ["method", "untrained", "chance"]
    assert data["series"][0]["x"] == one.false_positive_rate


def test_hits_and_misses_have_words_colours_and_dashes_of_their_own_and_no_hairlines() -> None:
    graph = Graph(2, 2)
    values = torch.zeros(len(graph.writers), len(graph.readers))
    values[graph.edge("input->m0")], values[graph.edge("m0->logits")] = 2.0, -0.01
    picked = Circuit(graph, values != 0, values)
    truth = Circuit(graph, Circuit.from_edges(graph, ["input->m0", "m0->m1", "m1->logits"]).mask, values)
    figure = circuit_graph(picked, truth=truth)
    sides = {edge["id"]: edge["side"] for edge in figure.data["edges"]}
    assert sides == {"input->m0": "found", "m0->logits": "false", "m0->m1": "missed", "m1->logits": "missed"}
    assert figure.title == "1 of 3 true edges found, 2 missed, 1 false"
    root = parse(figure)
    look = {e.attrib["data-id"]: (e.attrib["stroke"], e.get("stroke-dasharray")) for e in having(root, "wb-edge")}
    kinds = [look["input->m0"], look["m0->m1"], look["m0->logits"]]
    assert len({colour for colour, _ in kinds}) == len({dash for _, dash in kinds}) == 3
    assert look["m0->m1"] == look["m1->logits"]
    assert len({e.attrib["stroke-width"] for e in having(root, "wb-edge")}) == 1
    assert {"found", "true, but missed", "chosen, but not true"} <= set(texts(root))
    assert "m0 → m1: true, but missed, 0 logit difference" in titles(root)
    with pytest.raises(ValueError, match="different graphs"):
        circuit_graph(picked, truth=Circuit.empty(Graph(2, 3)))
