"""The examination of methods on models whose circuit is known, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench import cli
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import examine

BY_KEY = {record.key: record for record in known_models()}


@pytest.mark.parametrize("key", ["frac-prevs", "induction", "caesar"])
def test_a_method_finds_a_circuit_that_gradients_show_and_the_controls_do_not(key: str) -> None:
    made = BY_KEY[key].load()
    found = examine(made.model, made.task(32), made.true_edges, "eap-ig")
    assert found.truth.auroc == 1
    assert found.truth.missed == []
    assert found.faithfulness == pytest.approx(1, abs=1e-4)
    assert found.random_auroc == pytest.approx(0.5, abs=0.2)
    assert found.untrained.auroc < 1


def test_the_commands_list_and_examine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in listed} == set(BY_KEY)
    assert {row["kind"] for row in listed} == {"compiled", "trained", "program"}
    assert cli.main(["known", "check", "frac-prevs", "length", "--n", "16", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["truth"]["auroc"] == 1
    assert "same on nearly all inputs" in second["error"]
    assert cli.main(["known", "check", "frac-prevs", "--n", "16"]) == 0
    assert "frac-prevs" in capsys.readouterr().out


def test_an_unknown_model_or_method_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "check", "frac-prev"]) == 2
    assert "did you mean 'frac-prevs'" in capsys.readouterr().err
    assert cli.main(["known", "check", "--method", "magic"]) == 2
    assert "There is no method 'magic'" in capsys.readouterr().err


def test_a_learned_program_has_no_model_to_run_a_method_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "check", "learned-hist"]) == 2
    assert "it has no model to run a method on" in capsys.readouterr().err


def test_show_says_what_a_model_computes_and_which_edges_are_its_circuit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "show", "hist", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["title"], shown["layers"], shown["heads"]) == ("how often each token occurs", 1, 1)
    assert (shown["tokens"], shown["longest_input"], shown["all_edges"]) == (["a", "b", "c"], 8, 8)
    carries = {edge["name"]: edge["carries"] for edge in shown["edges"]}
    assert carries == {
        "input->a0.h0<q>": "tokens",
        "input->a0.h0<k>": "tokens",
        "a0.h0->m0": "hist_share",
        "m0->logits": "hist",
    }
    assert cli.main(["known", "show", "shuffle-dyck", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {e["name"] for e in shown["edges"] if e["length_only"]} == {"a0.h0->m0", "m0->m1", "m1->a5.h0<q>"}
    assert cli.main(["known", "show", "hist"]) == 0
    text = capsys.readouterr().out
    assert "hist = SelectorWidth(same_token)" in text
    assert "The 4 edges of its circuit" in text
    assert cli.main(["known", "show", "learned-hist", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {edge["name"] for edge in shown["edges"]} == {"tokens->num_attn_0_1", "num_attn_0_1->output"}
    assert shown["accuracy"] == 1
    assert cli.main(["known", "show", "learned-hist"]) == 0
    assert "100.00%" in capsys.readouterr().out
    assert cli.main(["known", "show", "hits"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "start", "names"),
    [
        (None, b"<?xml", {"circuit.svg", "roc.svg", "precision-recall.svg"}),
        ("pdf", b"%PDF", {"circuit.pdf", "roc.pdf", "precision-recall.pdf"}),
        ("png", b"\x89PNG", {"circuit.png", "roc.png", "precision-recall.png"}),
        ("html", b"<!DOCTYPE html>", {"circuit.html", "roc.html", "precision-recall.html"}),
        ("json", b"{", {"circuit.json", "roc.json", "precision-recall.json"}),
        ("dot", b"digraph", {"circuit.dot"}),
    ],
)
def test_check_writes_the_figures(
    format: str | None, start: bytes, names: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    asked = ["known", "check", "frac-prevs", "--n", "8", "--out", str(folder), "--json"]
    assert cli.main([*asked, *(["--format", format] if format else [])]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    files = {file.name.removeprefix("frac-prevs-eap-ig-"): file for file in folder.iterdir()}
    assert set(files) == names
    assert {Path(name) for name in row["files"]} == set(files.values())
    assert all(file.read_bytes().lower().startswith(start.lower()) for file in files.values())


def test_bad_figure_options_are_said_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for options, said in [
        (["--format", "svg"], "Say with --out"),
        (["--format", "svx", "--out", str(tmp_path / "a")], "There is no format 'svx'; did you mean 'svg'?"),
        (["--out", str(tmp_path / "file")], "Cannot make the folder"),
    ]:
        assert cli.main(["known", "check", "frac-prevs", *options]) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert told.out == ""
    assert cli.main(["known", "check", "frac-prev", "--out", str(tmp_path / "b")]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
