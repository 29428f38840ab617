"""The edge graph: names, sizes, pruning, top edges."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.circuits import Circuit, Graph, Scores
from workbench.circuits.graph import node_of

SMALL = Graph(n_layers=3, n_heads=2)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    seed, density = draw(st.integers(0, 10**6)), draw(st.floats(0.01, 0.9))
    noise = torch.rand(SMALL.mask.shape, generator=torch.Generator().manual_seed(seed))
    return Circuit(SMALL, SMALL.mask & (noise < density))


def test_sizes_are_the_published_ones() -> None:
    gpt2, smol = Graph(12, 12), Graph(30, 9)
    assert (len(gpt2.writers), len(gpt2.readers), gpt2.n_edges) == (157, 445, 32_491)
    assert smol.n_edges == 123_211


def test_an_edge_exists_exactly_from_what_is_computed_earlier() -> None:
    def when(node: str) -> tuple[float, int]:
        if node in ("input", "logits"):
            return (-1, 0) if node == "input" else (1e9, 0)
        return (int(node[1:].split(".")[0]), int(node[0] == "m"))

    for w, writer in enumerate(SMALL.writers):
        for r, reader in enumerate(SMALL.readers):
            assert bool(SMALL.mask[w, r]) == (when(writer) < when(node_of(reader))), (writer, reader)


def test_attention_only_and_parallel_graphs_have_no_edge_that_cannot_be() -> None:
    bare = Graph(2, 2, has_mlp=False)
    assert not any(name.startswith("m") for name in bare.writers + bare.readers)
    parallel = Graph(2, 2, parallel=True)
    assert not parallel.mask[parallel.writer_index["a1.h0"], parallel.reader_index["m1"]]
    assert parallel.mask[parallel.writer_index["m0"], parallel.reader_index["a1.h0<q>"]]


@settings(deadline=None)
@given(circuits())
def test_pruning_leaves_no_dangling_node_and_takes_nothing_else(circuit: Circuit) -> None:
    pruned = circuit.prune()
    assert pruned.edges <= circuit.edges
    assert torch.equal(pruned.prune().mask, pruned.mask)
    # Independent reference: an edge stays if and only if it lies on a path from the input to the logits.
    graph: nx.DiGraph[str] = nx.DiGraph()
    for edge in circuit.edges:
        writer, reader = edge.split("->")
        graph.add_edge(writer, node_of(reader))
    after = {"input"} | (nx.descendants(graph, "input") if "input" in graph else set())
    before = {"logits"} | (nx.ancestors(graph, "logits") if "logits" in graph else set())
    expected = {e for e in circuit.edges if e.split("->")[0] in after and node_of(e.split("->")[1]) in before}
    assert pruned.edges == expected


@given(circuits())
def test_edges_by_name_make_the_circuit_again(circuit: Circuit) -> None:
    assert torch.equal(Circuit.from_edges(SMALL, circuit.edges).mask, circuit.mask)


def test_top_takes_the_best_by_size_or_by_sign() -> None:
    values = torch.zeros(SMALL.mask.shape)
    for name, score in (("input->m0", -3.0), ("m0->logits", 2.0), ("input->logits", 1.0)):
        values[SMALL.edge(name)] = score
    scores = Scores(SMALL, values)
    assert scores.top(1, prune=False).edges == {"input->m0"}
    assert scores.top(1, "signed", prune=False).edges == {"m0->logits"}
    assert scores.top(2).edges == {"input->m0", "m0->logits"}
    assert scores.top(1).edges == set()  # dangling
    assert scores.above(1.0).edges == {"input->m0", "m0->logits", "input->logits"}
    assert scores.top(SMALL.n_edges).n_edges == SMALL.n_edges
    assert scores.top(3).score("input->m0") == -3.0


def test_networkx_has_every_edge_with_its_score() -> None:
    circuit = Scores(SMALL, torch.randn(SMALL.mask.shape) * SMALL.mask).top(40)
    graph = circuit.to_networkx()
    assert {data["name"] for _, _, data in graph.edges(data=True)} == circuit.edges
    assert all(data["score"] == pytest.approx(circuit.score(data["name"])) for *_, data in graph.edges(data=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a1.h0", "not an edge name"),
        ("a1.h9->logits", "did you mean 'a1.h"),
        ("m2->a0.h1<q>", "is not computed before"),
        ("input->a0.h1<x>", "did you mean 'a0.h1<"),
    ],
)
def test_a_wrong_edge_name_is_explained(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Circuit.from_edges(SMALL, [name])


def test_impossible_sizes_and_thresholds_are_explained() -> None:
    scores = Scores(SMALL, torch.ones(SMALL.mask.shape) * SMALL.mask)
    with pytest.raises(ValueError, match=f"Cannot take {SMALL.n_edges + 1} edges"):
        scores.top(SMALL.n_edges + 1)
    with pytest.raises(ValueError, match="scores lie between 1 and 1"):
        scores.above(2.0)
    for threshold, said in (
        (1.0, "The threshold 1 keeps every edge"),
        (float("nan"), "No edge reaches the threshold nan"),
    ):
        with pytest.raises(ValueError, match=f"{said}: the absolute scores lie between 1 and 1"):
            scores.above(threshold)
    spread = Scores(SMALL, torch.randn(SMALL.mask.shape) * SMALL.mask)
    with pytest.raises(ValueError, match="The threshold 0 keeps every edge: the absolute scores lie between"):
        spread.above(0)
    assert spread.above(0, "signed", prune=False).n_edges == int((spread.values > 0).sum())
