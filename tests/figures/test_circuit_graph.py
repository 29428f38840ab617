from __future__ import annotations

import math
import re
import time

import pytest
import torch

from tests.figures.helpers import having, parse, synthetic, texts, titles
from workbench.circuits.graph import Circuit, Graph, Scores, node_of
from workbench.figures import circuit_graph


@pytest.mark.parametrize(
    ("layers", "heads", "mlp", "n"), [(4, 3, True, 40), (1, 4, True, 12), (2, 8, False, 30), (6, 20, True, 120)]
)
def test_every_edge_and_every_node_is_drawn_once(layers: int, heads: int, mlp: bool, n: int) -> None:
    circuit = synthetic(layers, heads, mlp).top(n)
    root = parse(circuit_graph(circuit))
    assert circuit.n_edges > 3
    assert sorted(e.attrib["data-id"] for e in having(root, "wb-edge")) == sorted(circuit.edges)
    assert sorted(e.attrib["data-id"] for e in having(root, "wb-node")) == sorted({*circuit.nodes, "input", "logits"})
    for edge in having(root, "wb-edge"):
        writer, _, reader = edge.attrib["data-id"].partition("->")
        assert (edge.attrib["data-source"], edge.attrib["data-target"]) == (writer, node_of(reader))


def test_strong_edges_are_wider_less_transparent_and_drawn_later() -> None:
    circuit = synthetic().top(40)
    drawn = having(parse(circuit_graph(circuit)), "wb-edge")
    strength = [abs(circuit.score(e.attrib["data-id"])) for e in drawn]
    assert strength == sorted(strength)
    for key in ("stroke-width", "stroke-opacity"):
        values = [float(e.attrib[key]) for e in drawn]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert [int(e.attrib["data-rank"]) for e in drawn] == list(reversed(range(circuit.n_edges)))


def test_width_is_the_root_of_the_share() -> None:
    graph = Graph(1, 2)
    values = torch.zeros(len(graph.writers), len(graph.readers))
    for name, score in {"input->logits": 4.0, "input->m0": 1.0, "m0->logits": -1.0}.items():
        values[graph.edge(name)] = score
    drawn = having(parse(circuit_graph(Scores(graph, values).top(3))), "wb-edge")
    width = {e.attrib["data-id"]: float(e.attrib["stroke-width"]) for e in drawn}
    assert width["input->m0"] == pytest.approx(width["input->logits"] / 2, abs=0.01)
    assert width["m0->logits"] == width["input->m0"]


def test_exactly_the_negative_edges_are_dashed() -> None:
    circuit = synthetic().top(40)
    dashed = {
        e.attrib["data-id"] for e in having(parse(circuit_graph(circuit)), "wb-edge") if "stroke-dasharray" in e.attrib
    }
    assert dashed == {name for name in circuit.edges if circuit.score(name) < 0}
    assert 0 < len(dashed) < circuit.n_edges


def test_hover_says_the_names_and_the_score_with_its_unit() -> None:
    graph = Graph(2, 2)
    values = torch.zeros(len(graph.writers), len(graph.readers))
    for name, score in {"input->a0.h1<v>": 2.0, "a0.h1->a1.h0<q>": -0.51234, "a1.h0->logits": 1.0}.items():
        values[graph.edge(name)] = score
    found = titles(parse(circuit_graph(Scores(graph, values).top(3), unit="nats")))
    assert "0.1 → query of 1.0: −0.512 nats" in found
    assert any(text.startswith("Head 1.0: 1 edge in, 1 edge out") for text in found)


def test_computation_runs_upwards_and_heads_stand_by_index() -> None:
    figure = circuit_graph(synthetic(5, 4).top(80))
    nodes = {node["id"]: node for node in figure.data["nodes"]}
    assert nodes["logits"]["y"] < min(n["y"] for key, n in nodes.items() if key != "logits")
    assert nodes["input"]["y"] > max(n["y"] for key, n in nodes.items() if key != "input")
    inner = [n for n in figure.data["nodes"] if n["layer"] is not None]
    for a in inner:
        for b in inner:
            if a["layer"] < b["layer"]:
                assert a["y"] > b["y"]
            if a["layer"] == b["layer"]:
                assert a["y"] == b["y"]
                if a["head"] is not None and (b["head"] is None or a["head"] < b["head"]):
                    assert a["x"] < b["x"]


def test_a_layer_without_members_is_squeezed() -> None:
    graph = Graph(30, 9)
    edges = ["input->a3.h1<v>", "a3.h1->a20.h2<q>", "a20.h2->logits"]
    few = circuit_graph(Circuit.from_edges(graph, edges))
    spread = [f"input->m{layer}" for layer in range(30)] + [f"m{layer}->logits" for layer in range(30)]
    many = circuit_graph(Circuit.from_edges(graph, spread))
    assert float(parse(few).attrib["height"]) < 0.6 * float(parse(many).attrib["height"])
    assert "layers 4–19" in texts(parse(few))


def test_the_slider_moves_no_node_and_hides_exactly_the_weak_edges() -> None:
    circuit = synthetic().top(40)
    whole, part = circuit_graph(circuit), circuit_graph(circuit, shown=10)
    assert whole.data["nodes"] == part.data["nodes"]
    drawn = having(parse(part), "wb-edge")
    assert {int(e.attrib["data-rank"]) for e in drawn if e.get("display") != "none"} == set(range(10))
    touched = {e.attrib[end] for e in drawn if e.get("display") != "none" for end in ("data-source", "data-target")}
    lit = {e.attrib["data-id"] for e in having(parse(part), "wb-node") if "wb-off" not in e.attrib["class"]}
    assert lit == touched


def test_a_node_has_the_rank_of_its_strongest_edge() -> None:
    root = parse(circuit_graph(synthetic().top(40)))
    ranks: dict[str, int] = {}
    for edge in having(root, "wb-edge"):
        for end in ("data-source", "data-target"):
            node = edge.attrib[end]
            ranks[node] = min(ranks.get(node, 10**9), int(edge.attrib["data-rank"]))
    assert {e.attrib["data-id"]: int(e.attrib["data-rank"]) for e in having(root, "wb-node")} == ranks


def test_two_circuits_of_one_graph_share_places_when_asked() -> None:
    scores = synthetic(8, 4)
    small, large = scores.top(12), scores.top(120)
    assert set(small.nodes) < set(large.nodes)

    def at(figure_of: Circuit, places_of: Circuit | None) -> dict[str, tuple[float, float]]:
        figure = circuit_graph(figure_of, places_of=places_of)
        return {n["id"]: (n["x"], n["y"]) for n in figure.data["nodes"]}

    one, two = at(small, large), at(large, small)
    assert all(two[name] == place for name, place in one.items())
    assert at(small, None) != one


def test_a_selected_node_keeps_its_ancestors_and_descendants_and_dims_the_rest() -> None:
    graph = Graph(3, 2, has_mlp=False)
    edges = ["input->a0.h0<v>", "a0.h0->a1.h0<q>", "a1.h0->logits", "input->a0.h1<v>", "a0.h1->logits"]
    root = parse(circuit_graph(Circuit.from_edges(graph, edges), selected="a1.h0"))
    dim = {e.attrib["data-id"] for e in having(root, "wb-dim")}
    assert dim == {"a0.h1", "input->a0.h1<v>", "a0.h1->logits"}
    near = {e.attrib["data-id"] for e in having(root, "wb-near")}
    assert near == {"a0.h0->a1.h0<q>", "a1.h0->logits"}


def test_parallel_edges_do_not_lie_on_one_another() -> None:
    graph = Graph(2, 2)
    edges = [f"a0.h0->a1.h1<{part}>" for part in "qkv"] + [f"input->a0.h0<{part}>" for part in "qkv"]
    drawn = having(parse(circuit_graph(Circuit.from_edges(graph, edges))), "wb-edge")
    assert len({e.attrib["d"] for e in drawn}) == 6
    ends = {tuple(map(float, re.findall(r"[-\d.]+", e.attrib["d"])[-2:])) for e in drawn}
    assert all(math.dist(a, b) > 4 for a in ends for b in ends if a != b)
    assert len(ends) == 6


def test_a_comparison_colours_edges_by_membership() -> None:
    graph = Graph(2, 2)
    one = Circuit.from_edges(graph, ["input->m0", "m0->logits"])
    two = Circuit.from_edges(graph, ["input->m0", "m0->m1", "m1->logits"])
    figure = circuit_graph(one, compare=two, names=("EAP", "ACDC"))
    side = {e["id"]: e["side"] for e in figure.data["edges"]}
    assert side == {"input->m0": "both", "m0->logits": "first", "m0->m1": "second", "m1->logits": "second"}
    colour = {e.attrib["data-id"]: e.attrib["stroke"] for e in having(parse(figure), "wb-edge")}
    assert colour["m0->m1"] == colour["m1->logits"]
    assert len(set(colour.values())) == 3
    assert figure.title == "1 edge in both, 1 only in EAP, 2 only in ACDC"
    assert {"only in EAP", "only in ACDC", "in both"} <= set(texts(parse(figure)))


def test_an_empty_circuit_says_so_in_the_picture() -> None:
    figure = circuit_graph(Circuit.empty(Graph(30, 9)))
    root = parse(figure)
    assert having(root, "wb-edge") == []
    assert any(text.startswith("No edges: nothing is kept") for text in texts(root))
    assert figure.title == "0 of 270 heads and 0 of 30 MLPs, 0 edges"


def test_a_circuit_without_scores_says_so_and_draws_all_edges_alike() -> None:
    graph = Graph(2, 2)
    root = parse(circuit_graph(Circuit.from_edges(graph, ["input->m0", "m0->logits"])))
    assert len({e.attrib["stroke-width"] for e in having(root, "wb-edge")}) == 1
    assert any("no scores" in text for text in texts(root))


def test_scores_that_are_no_numbers_are_drawn_thin_and_named_so() -> None:
    graph = Graph(1, 1)
    values = torch.full((len(graph.writers), len(graph.readers)), float("nan"))
    values[graph.edge("input->logits")] = 1.0
    circuit = Circuit(graph, graph.mask, values)
    figure = circuit_graph(circuit)
    assert len(having(parse(figure), "wb-edge")) == graph.n_edges
    assert sum(e["score"] is None for e in figure.data["edges"]) == graph.n_edges - 1
    assert "nan" not in figure.svg.lower()


def test_circuits_of_different_graphs_and_unknown_selections_are_refused() -> None:
    circuit = Circuit.from_edges(Graph(2, 2), ["input->logits"])
    with pytest.raises(ValueError, match="different graphs"):
        circuit_graph(circuit, compare=Circuit.empty(Graph(2, 3)))
    with pytest.raises(ValueError, match=r"'a1\.h1' is not a node of this circuit"):
        circuit_graph(circuit, selected="a1.h1")


def test_curves_go_around_a_node_in_the_way() -> None:
    graph = Graph(3, 3, has_mlp=False)
    edges = ["a0.h1->a2.h1<k>", "input->a1.h1<v>", "a1.h1->logits", "input->a0.h1<v>", "a2.h1->logits"]
    figure = circuit_graph(Circuit.from_edges(graph, edges))
    x, y = next((n["x"], n["y"]) for n in figure.data["nodes"] if n["id"] == "a1.h1")
    (way,) = (e.attrib["d"] for e in having(parse(figure), "wb-edge") if e.attrib["data-id"] == "a0.h1->a2.h1<k>")
    p = torch.tensor([float(n) for n in re.findall(r"[-\d.]+", way)]).view(4, 2)
    t = torch.linspace(0, 1, 200)[:, None]
    points = (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t**2 * (1 - t) * p[2] + t**3 * p[3]
    assert (points - torch.tensor([x, y])).norm(dim=1).min() > 13


def test_two_thousand_edges_of_a_thirty_layer_model_are_drawn_in_under_two_seconds() -> None:
    circuit = synthetic(30, 9).top(2000, prune=False)
    start = time.perf_counter()
    figure = circuit_graph(circuit)
    assert time.perf_counter() - start < 2
    assert len(having(parse(figure), "wb-edge")) == 2000
    assert len(figure.svg) < 1_500_000
