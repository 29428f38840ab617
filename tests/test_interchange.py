"""Files of EAP-IG and MIB: written by hand in the published form, read, written again, and through the commands."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.figures.helpers import synthetic
from tests.test_cli import Workbench, found, one_line, workbench  # noqa: F401 - fixtures
from workbench import interchange
from workbench.circuits import Circuit, Graph, Scores
from workbench.circuits.activations import graph_of
from workbench.export import circuit_graphml
from workbench.interchange import ForeignFileError
from workbench.models import Transformer

CFG = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 16}
# One layer, one head: all eight edges, as Graph.to_json of EAP-IG lists them.
SCORES = {
    "input->a0.h0<q>": 0.5,
    "input->a0.h0<k>": -0.25,
    "input->a0.h0<v>": 0.0,
    "input->m0": 2.0,
    "a0.h0->m0": -3.5,
    "input->logits": 0.125,
    "a0.h0->logits": 1.0,
    "m0->logits": 4.0,
}
MEMBERS = {"input->m0", "m0->logits"}


def by_hand(**changes: Any) -> dict[str, Any]:
    """A file in the present form."""
    document: dict[str, Any] = {
        "cfg": dict(CFG),
        "nodes": {name: {"in_graph": name != "a0.h0"} for name in ("input", "a0.h0", "m0", "logits")},
        "edges": {name: {"score": score, "in_graph": name in MEMBERS} for name, score in SCORES.items()},
    }
    return document | changes


def put(folder: Path, document: Any, name: str = "graph.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


# -- reading -------------------------------------------------------------------------------------------------


def test_a_file_in_the_present_form_is_read(tmp_path: Path) -> None:
    read = interchange.read(put(tmp_path, by_hand()))
    assert read.scores.graph == Graph(1, 1)
    assert {e: float(read.scores.values[read.scores.graph.edge(e)]) for e in SCORES} == SCORES
    assert read.circuit is not None
    assert read.circuit.edges == MEMBERS
    assert (read.d_model, read.granularity, read.nodes) == (16, "edge", {})


def test_a_file_in_the_old_form_is_read(tmp_path: Path) -> None:
    """There ``nodes`` are truth values, and ``cfg`` is everything that the model was configured with."""
    nodes = {"input": True, "a0.h0": False, "m0": True, "logits": True}
    cfg = CFG | {"act_fn": "gelu_new", "d_vocab": 50257, "device": "cuda", "dtype": "torch.float32"}
    read = interchange.read(put(tmp_path, by_hand(nodes=nodes, cfg=cfg)))
    assert read.circuit is not None
    assert read.circuit.edges == MEMBERS


def test_tensors_are_read(tmp_path: Path) -> None:
    sources, targets = ["input", "a0.h0", "m0"], ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"]
    values = torch.full((3, 5), math.nan)  # entries that are no edges may hold anything
    members = torch.zeros(3, 5, dtype=torch.bool)
    for edge, score in SCORES.items():
        source, target = edge.split("->")
        values[sources.index(source), targets.index(target)] = score
        members[sources.index(source), targets.index(target)] = edge in MEMBERS
    data = {"cfg": CFG, "src_nodes": sources, "dst_nodes": targets, "edges_scores": values, "edges_in_graph": members}
    torch.save(data | {"nodes_in_graph": torch.tensor([True, False, True])}, tmp_path / "graph.pt")
    read, same = interchange.read(tmp_path / "graph.pt"), interchange.read(put(tmp_path, by_hand()))
    assert torch.equal(read.scores.values, same.scores.values)
    assert read.circuit is not None
    assert read.circuit.edges == MEMBERS


def test_scores_of_nodes_keep_the_edges_between_the_best_nodes(tmp_path: Path) -> None:
    """MIB's node level: a circuit is some nodes and all edges between them; nodes without a score always stay."""
    nodes: dict[str, Any] = {"input": {"in_graph": False, "score": math.nan}, "logits": {"in_graph": True}}
    nodes |= {"a0.h0": {"in_graph": False, "score": 0.5}, "m0": {"in_graph": False, "score": -2.0}}
    edges = {name: {"score": 0.0, "in_graph": False} for name in SCORES}
    read = interchange.read(put(tmp_path, by_hand(nodes=nodes, edges=edges)))
    assert read.granularity == "node"
    assert read.nodes == {"a0.h0": 0.5, "m0": -2.0}
    assert read.circuit is None
    assert read.scores.above(1.0).edges == {"input->m0", "m0->logits", "input->logits"}
    assert float(read.scores.ranked()[read.scores.graph.mask].min()) == 0.5
    assert float(read.scores.values[read.scores.graph.edge("a0.h0->m0")]) == 0.5
    assert float(read.scores.values[read.scores.graph.edge("input->m0")]) == -2.0


def test_edges_without_scores_are_a_circuit(tmp_path: Path) -> None:
    edges = {name: {"in_graph": name in MEMBERS} for name in SCORES}
    read = interchange.read(put(tmp_path, by_hand(edges=edges)))
    assert read.scores.above(0.5, prune=False).edges == MEMBERS


# -- there and back ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    parallel=st.booleans(),
    has_mlp=st.booleans(),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["json", "pt"]),
)
def test_a_circuit_comes_back_from_either_form(
    tmp_path_factory: pytest.TempPathFactory,
    layers: int,
    heads: int,
    parallel: bool,
    has_mlp: bool,
    seed: int,
    form: str,
) -> None:
    graph = Graph(layers, heads, has_mlp, parallel and has_mlp)
    values = torch.randn(graph.mask.shape, generator=torch.Generator().manual_seed(seed)) * graph.mask
    circuit = Scores(graph, values).top(graph.n_edges // 2 + 1, prune=False)
    path = tmp_path_factory.mktemp("forms") / f"graph.{form}"
    if form == "pt" and not has_mlp:
        with pytest.raises(ValueError, match="write a model without MLPs as JSON"):
            interchange.to_pt(circuit, 32)
        return
    path.write_bytes((interchange.to_json if form == "json" else interchange.to_pt)(circuit, 32))
    read = interchange.read(path)
    assert read.scores.graph == graph
    assert torch.equal(read.scores.values, values)
    assert read.circuit is not None
    assert torch.equal(read.circuit.mask, circuit.mask)
    assert read.d_model == 32


def test_what_is_written_has_every_part_that_the_published_reader_asks_for() -> None:
    circuit = synthetic(2, 2).top(12)
    document = json.loads(interchange.to_json(circuit, 64))
    assert set(document) == {"cfg", "nodes", "edges"}
    assert document["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 64}
    assert list(document["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert all(set(edge) == {"score", "in_graph"} for edge in document["edges"].values())
    assert {name for name, edge in document["edges"].items() if edge["in_graph"]} == circuit.edges
    assert {name for name, node in document["nodes"].items() if node["in_graph"]} == {*circuit.nodes, "logits"}
    data = torch.load(io.BytesIO(interchange.to_pt(circuit, 64)), weights_only=True)
    assert set(data) == {"cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph"}
    assert data["edges_scores"].shape == data["edges_in_graph"].shape == (7, 15)
    assert data["nodes_in_graph"].shape == (7,)


def test_graphml_and_node_link_data_come_back_through_networkx() -> None:
    circuit = synthetic().top(40)
    read = nx.read_graphml(io.BytesIO(circuit_graphml(circuit)), force_multigraph=True)
    names = {data["name"]: data["score"] for *_, data in read.edges(data=True)}
    assert Circuit.from_edges(circuit.graph, names).edges == circuit.edges
    assert names == pytest.approx({name: circuit.score(name) for name in circuit.edges})
    linked = json.loads(json.dumps(nx.node_link_data(circuit.to_networkx(), edges="edges")))
    again = nx.node_link_graph(linked, edges="edges")
    assert {data["name"] for *_, data in again.edges(data=True)} == circuit.edges
    assert set(again.nodes) == set(circuit.nodes)


# -- MIB -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "pt"])
def test_a_submission_has_a_folder_for_task_and_model(tmp_path: Path, form: Any) -> None:
    scores = synthetic()
    about: dict[str, Any] = {"task": "arc_easy", "model": "meta-llama/Llama-3.1-8B", "d_model": 64, "form": form}
    path = interchange.write_importances(tmp_path, scores, **about)
    assert path == tmp_path / "arc-easy_llama3" / f"importances.{form}"
    read = interchange.read(path.parent)
    assert torch.equal(read.scores.values, scores.values)
    assert read.circuit is None
    nodes = interchange.write_importances(tmp_path / "nodes", scores, granularity="node", **about)
    read = interchange.read(nodes)
    assert read.granularity == "node"
    graph = scores.graph
    for name, score in read.nodes.items():
        own = [e for e in Circuit.full(graph).edges if name in (e.split("->")[0], e.split("->")[1].split("<")[0])]
        assert abs(score) == pytest.approx(max(abs(float(scores.values[graph.edge(e)])) for e in own))


def test_nine_circuits_are_no_larger_than_allowed_and_come_back_as_a_ranking(tmp_path: Path) -> None:
    scores = synthetic(4, 4)
    paths = interchange.write_circuits(tmp_path, scores, task="ioi", model="gpt2", d_model=64)
    assert len(paths) == 9
    assert {path.parent.name for path in paths} == {"ioi_gpt2"}
    for path, percent in zip(paths, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50], strict=True):
        members = [edge["in_graph"] for edge in json.loads(path.read_text())["edges"].values()]
        assert 100 * sum(members) / len(members) <= percent
    read = interchange.read(tmp_path / "ioi_gpt2")
    half = scores.top(scores.graph.n_edges // 2)
    assert read.scores.above(1e-6, prune=False).edges == half.edges
    assert read.scores.values.max() > read.scores.values[half.mask].min()


# -- bad input -----------------------------------------------------------------------------------------------


def broken() -> list[tuple[Any, str]]:
    edge = {"score": 1.0, "in_graph": True}
    return [
        ("{", "is not JSON"),
        ([1, 2], "holds list"),
        ({"format": "workbench-circuit", "edges": []}, r"lacks cfg, nodes and has format, edges|lacks cfg, nodes"),
        (by_hand(cfg={"n_heads": 1}), "'n_layers' in the 'cfg' of 'graph.json' is None"),
        (by_hand(cfg=CFG | {"n_layers": 10**9}), "not a number from 1 to"),
        (by_hand(cfg=CFG | {"n_layers": 4000, "n_heads": 4000}), "no model has so many"),
        (by_hand(edges=[]), "are not objects"),
        (by_hand(edges={"input->a5.h0<q>": edge}), "does not fit its own sizes"),
        (by_hand(edges={"m0->a0.h0<q>": edge}), "cannot exist"),
        (by_hand(edges={"input->m0": {}}), "neither 'score' nor 'in_graph'"),
        (by_hand(edges={"input->m0": edge | {"score": math.nan}}), r"'input->m0' the score nan; .* finite"),
        (by_hand(edges={"input->m0": edge | {"score": "high"}}), "the score 'high'"),
        (by_hand(nodes={"m7": {"in_graph": True}}), "names the node 'm7'"),
        (by_hand(nodes={"m0": {"in_graph": True, "score": math.inf}}), "node 'm0' the score inf"),
        (by_hand(edges={"input->m0": {"score": 0.0, "in_graph": False}}), "there is nothing in it"),
    ]


@pytest.mark.parametrize(("document", "text"), broken())
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, document: Any, text: str) -> None:
    with pytest.raises(ForeignFileError, match=text) as caught:
        interchange.read(put(tmp_path, document))
    assert "\n" not in str(caught.value)
    assert "graph.json" in str(caught.value)


def test_tensors_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path) -> None:
    good = torch.load(io.BytesIO(interchange.to_pt(synthetic(1, 1), 16)), weights_only=True)
    nan = good["edges_scores"].clone()
    nan[0, 3] = math.nan
    cases: list[tuple[Any, str]] = [
        ({key: value for key, value in good.items() if key != "edges_scores"}, "lacks edges_scores"),
        (good | {"edges_scores": torch.ones(2, 2)}, r"has the shape \(2, 2\), not \(3, 5\)"),
        (good | {"src_nodes": ["input", "m0", "a0.h0"]}, "'src_nodes' .* in their order"),
        (good | {"edges_scores": nan}, "the edge 'input->m0' the score nan"),
        (good | {"nodes_scores": torch.ones(2)}, "not one number for each"),
        (torch.ones(3), "holds Tensor"),
        (Path("x"), "is not a file of plain tensors"),  # a pickle of anything else is not run
    ]
    for data, text in cases:
        torch.save(data, tmp_path / "bad.pt")
        with pytest.raises(ForeignFileError, match=text):
            interchange.read(tmp_path / "bad.pt")
    for path, text in ((tmp_path / "no.json", "There is no file"), (tmp_path / "x.csv", "neither .json nor .pt")):
        with pytest.raises(ForeignFileError, match=text):
            interchange.read(path)
    (tmp_path / "sub" / "ioi_gpt2").mkdir(parents=True)
    with pytest.raises(ForeignFileError, match=r"such as .*ioi_gpt2"):
        interchange.read(tmp_path / "sub")


def test_a_file_about_a_model_of_another_size_is_refused_with_both_sizes(tmp_path: Path, model: Transformer) -> None:
    read = interchange.read(put(tmp_path, by_hand()))
    with pytest.raises(ForeignFileError, match="about 1 layers x 1 heads; micro-llama has 2 layers x 4 heads"):
        interchange.check_model(read, model, graph_of(model))
    graph = graph_of(model)
    other = interchange.to_json(Circuit.full(graph), model.cfg.d_model + 1)
    (tmp_path / "wide.json").write_bytes(other)
    with pytest.raises(ForeignFileError, match="a residual stream of"):
        interchange.check_model(interchange.read(tmp_path / "wide.json"), model, graph)


# -- the commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["eap-ig", "eap-ig-pt", "mib", "mib-nodes", "mib-circuits"])
def test_a_run_is_written_and_read_again(
    form: str,
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    suffix = {"eap-ig": "x.json", "eap-ig-pt": "x.pt"}.get(form, "x")
    written = workbench("export", found, "--format", form, "--out", tmp_path / suffix, "--json").json
    assert Path(written["file"]).exists()
    assert written["format"] == form
    before = workbench("runs", "show", found, "--json").json
    ask = ["--model", micro_folder, "--task", "ioi", "--n", 4, "--edges", 60, "--out", tmp_path / "store", "--json"]
    after = workbench("import", written["file"], *ask).json
    assert (after["status"], after["method"]) == ("done", "imported")
    if form in ("eap-ig", "eap-ig-pt", "mib"):
        assert after["report"]["faithfulness"] == pytest.approx(before["report"]["faithfulness"], abs=1e-5)
        assert after["curve"]["cmd"] == pytest.approx(before["curve"]["cmd"], abs=1e-5)
    again = workbench("evaluate", tmp_path / "store", "--json").json  # it is a run like any other
    assert again["report"]["faithfulness"] == pytest.approx(after["report"]["faithfulness"], abs=1e-5)


def test_without_a_size_the_circuit_is_as_large_as_the_file_marks(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    workbench("export", found, "--format", "eap-ig", "--out", tmp_path / "x.json", "--edges", 20)
    ask = ["--model", micro_folder, "--n", 4, "--no-curve", "--out", tmp_path / "store", "--json"]
    after = workbench("import", tmp_path / "x.json", *ask).json
    marked = json.loads((tmp_path / "x.json").read_text())["edges"].values()
    assert after["n_edges"] == sum(edge["in_graph"] for edge in marked)
    assert after["curve"] is None


def test_bad_input_to_the_commands_is_one_line(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    ask = ["--model", micro_folder, "--out", tmp_path / "store"]
    file = put(tmp_path, by_hand())
    read: Callable[..., Any] = lambda *more: workbench("import", *more)  # noqa: E731
    one_line(read(tmp_path / "none.json", *ask), "There is no file")
    one_line(read(file, *ask), "Choose the model that the file was made with")
    one_line(read(file, *ask, "--ablation", "nil"), "Unknown ablation 'nil'")
    one_line(read(file, *ask, "--ranking", "top"), "Unknown ranking 'top'")
    one_line(workbench("export", found, "--format", "mib", "--out", file), "a MIB submission is a folder")
    one_line(workbench("export", found, "--format", "eap-ig", "--out", tmp_path), "is a folder")
    one_line(workbench("export", found, "--format", "mib", "--figure", "curve"), "Only a circuit")
    assert not list((tmp_path / "store").glob("*/run.json"))
