"""What a file marks is what is judged, shown and exported, and other circuits of a run's scores on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import ASK, Workbench, found, one_line, workbench  # noqa: F401 - fixtures
from workbench.circuits import Circuit, evaluate, tasks
from workbench.circuits.greedy import greedy
from workbench.models import Transformer
from workbench.runs import RunStore
from workbench.views import circuit_view


@pytest.fixture
def marked(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    tmp_path: Path,
) -> tuple[Path, set[str]]:
    """A file that marks weak edges, one of them out of a head that nothing is fed to, and those edges."""
    workbench("export", found, "--format", "eap-ig", "--out", tmp_path / "x.json")
    document = json.loads((tmp_path / "x.json").read_text())
    weakest = sorted(document["edges"], key=lambda edge: abs(document["edges"][edge]["score"]))
    edges = {"a1.h3->logits", "input->logits", *weakest[10:30]}
    edges -= {edge for edge in edges if edge.split("->")[1].startswith("a1.h3<")}
    for edge, about in document["edges"].items():
        about["in_graph"] = edge in edges
    file = tmp_path / "marked.json"
    file.write_text(json.dumps(document))
    return file, edges


def test_the_marked_circuit_is_what_is_judged_shown_and_exported(
    workbench: Workbench,  # noqa: F811
    marked: tuple[Path, set[str]],
    model: Transformer,
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    file, edges = marked
    ask = ["--model", micro_folder, "--n", 4, "--no-curve", "--out", tmp_path / "store", "--json"]
    after = workbench("import", file, *ask).json
    assert after["n_edges"] == after["report"]["n_edges"] == len(edges)
    run = RunStore(tmp_path / "store").open(after["id"])
    assert run.circuit().edges == edges
    assert run.circuit().prune().edges < edges  # so that it matters
    alone = evaluate(model, tasks.load("ioi", model, n=4, seed=0), Circuit.from_edges(run.graph, edges))
    assert run.report == alone
    shown = circuit_view(run)
    assert shown.circuit is not None
    assert shown.circuit.edges == edges
    assert run.info.size == f"{len(edges)} edges, as the file marks them"
    workbench("export", run.folder, "--format", "eap-ig", "--out", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())["edges"]
    assert {edge for edge, about in again.items() if about["in_graph"]} == edges
    workbench("export", run.folder, "--format", "json", "--out", tmp_path / "own.json")
    judged = workbench("evaluate", run.folder, "--json").json["report"]
    assert judged["faithfulness"] == pytest.approx(alone.faithfulness)
    assert judged["n_edges"] == len(edges)


def test_a_size_takes_the_best_edges_instead(
    workbench: Workbench,  # noqa: F811
    marked: tuple[Path, set[str]],
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    file, edges = marked
    ask = ["--model", micro_folder, "--n", 4, "--no-curve", "--out", tmp_path / "store", "--json"]
    whole = workbench("import", file, *ask).json
    best = workbench("import", file, *ask, "--edges", 20).json
    assert whole["id"] != best["id"]
    run = RunStore(tmp_path / "store").open(best["id"])
    assert run.circuit().edges == run.scores.top(20).edges != edges


def test_other_marks_on_the_same_scores_are_another_run(
    workbench: Workbench,  # noqa: F811
    marked: tuple[Path, set[str]],
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    file, edges = marked
    ask = ["--model", micro_folder, "--n", 4, "--no-curve", "--out", tmp_path / "store", "--json"]
    one = workbench("import", file, *ask).json
    document = json.loads(file.read_text())
    document["edges"]["input->logits"]["in_graph"] = False
    document["edges"]["input->m0"]["in_graph"] = True
    file.write_text(json.dumps(document))
    two = workbench("import", file, *ask).json
    assert one["id"] != two["id"]
    assert RunStore(tmp_path / "store").open(two["id"]).circuit().edges == (edges - {"input->logits"}) | {"input->m0"}


def test_an_imported_run_is_not_searched_for_again(
    workbench: Workbench,  # noqa: F811
    marked: tuple[Path, set[str]],
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    ask = ["--model", micro_folder, "--n", 4, "--no-curve", "--out", tmp_path / "store"]
    name = workbench("import", marked[0], *ask, "--json").json["id"]
    one_line(
        workbench("discover", "--resume", name, "--out", tmp_path / "store"), "was imported, .* import its file again"
    )


# -- evaluate ------------------------------------------------------------------------------------------------


def test_evaluate_judges_other_circuits_of_the_scores(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    model: Transformer,
) -> None:
    run = RunStore(found.parent).open(found)
    task = tasks.load("ioi", model, n=run.info.task["n"], seed=run.info.seed)
    scores = run.scores
    cases: list[tuple[list[Any], Circuit]] = [
        (["--edges", 20], scores.top(20)),
        (["--edges", 20, "--ranking", "signed"], scores.top(20, "signed")),
        (["--edges", 9, "--greedy"], greedy(scores, 9)),
        (["--threshold", 1e-3], scores.above(1e-3)),
        (["--threshold", 1e-3, "--ranking", "signed"], scores.above(1e-3, "signed")),
    ]
    for options, wanted in cases:
        said = workbench("evaluate", found, *options, "--json").json["report"]
        assert said["n_edges"] == wanted.n_edges
        assert said["faithfulness"] == pytest.approx(evaluate(model, task, wanted).faithfulness, abs=1e-6), options
    assert RunStore(found.parent).open(found).info == run.info


def test_evaluate_refuses_in_one_line(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
) -> None:
    one_line(workbench("evaluate", found, "--threshold", 1, "--edges", 3), "give one of the two")
    one_line(workbench("evaluate", found, "--threshold", 1, "--greedy"), "give one of the two")
    one_line(workbench("evaluate", found, "--threshold", 1e9), "No edge reaches .* scores lie between")
    one_line(workbench("evaluate", found, "--threshold", 0), "keeps every edge: the absolute scores lie between")
    one_line(workbench("evaluate", found, "--ranking", "top"), "Unknown ranking 'top'")
    one_line(workbench("evaluate", found, "--edges", 10**7), "Cannot take")
