from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from typer.testing import CliRunner

from workbench import cli
from workbench.circuits import Method, tasks
from workbench.circuits.activations import Ablation
from workbench.circuits.graph import Graph
from workbench.cli import console
from workbench.cli.discovery import ABLATIONS
from workbench.export import FORMATS
from workbench.models import registry
from workbench.runs import RunStore

ASK = ["--task", "ioi", "--method", "eap", "--n", "4", "--edges", "60"]


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Workbench = Callable[..., Result]


@pytest.fixture
def workbench(capsys, monkeypatch, tmp_path) -> Workbench:
    """Runs a command in this process, with a run store of its own."""
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WORKBENCH_DEBUG", raising=False)

    def run(*arguments: object) -> Result:
        status = cli.main([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run


def process(*arguments: object, **environment: str) -> Result:
    """Runs a command as a user does."""
    command = [sys.executable, "-m", "workbench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def found(micro_folder, tmp_path_factory) -> Path:
    """The folder of a finished run on the micro model."""
    store = tmp_path_factory.mktemp("found")
    assert cli.main(["discover", "--model", str(micro_folder), *ASK, "--out", str(store)]) == 0
    (info,) = RunStore(store).list()
    return info.folder


def one_line(result: Result, text: str) -> None:
    """The command failed with nothing but one line on standard error, which matches ``text``."""
    assert result.status in (1, 2)
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert re.search(text, result.err), result.err


# -- help -----------------------------------------------------------------------------------------------------


def test_help_comes_within_a_second_and_without_torch():
    start = time.perf_counter()
    assert process("--help").status == 0
    assert time.perf_counter() - start < 1
    script = "import sys, workbench.cli; print([m for m in ('torch', 'streamlit', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_command_of_the_design_is_there_and_knows_json():
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["--help"]).output
    for name in ("app", "models", "tasks", "methods", "discover", "evaluate", "export", "runs"):
        assert re.search(rf"\b{name}\b", shown)
        assert runner.invoke(cli.app, [name, "--help"], env={"COLUMNS": "200"}).exit_code == 0
    for command in (
        ["app"],
        ["models", "list"],
        ["models", "get"],
        ["tasks"],
        ["methods"],
        ["discover"],
        ["evaluate"],
        ["export"],
        *(["runs", name] for name in ("list", "show", "rename", "delete")),
    ):
        assert "--json" in runner.invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200"}).output, command


# -- discover and evaluate ------------------------------------------------------------------------------------


def test_discover_prints_self_check_cmd_cpr_faithfulness_and_edges_that_are_in_the_run(
    workbench, micro_folder, tmp_path
):
    result = workbench("discover", "--model", micro_folder, *ASK, "--out", tmp_path / "out")
    assert result.status == 0
    run = RunStore(tmp_path / "out").open(tmp_path / "out")
    assert run.report is not None
    assert run.curve is not None
    assert f"CMD           {run.curve.cmd:,.3f}:" in result.out
    assert f"CPR           {run.curve.cpr:,.3f}:" in result.out
    assert f"Faithfulness  {run.report.faithfulness:,.3f}:" in result.out
    assert "right above wrong" in result.out
    assert run.info.note
    assert run.info.note[:60] in result.out
    strongest = max(run.circuit().edges, key=lambda edge: abs(run.circuit().score(edge)))
    assert re.search(rf"1  {re.escape(strongest)} ", result.out)
    assert str(run.folder) in result.out


def test_discover_json_is_the_whole_run_and_nothing_else(workbench, micro_folder, tmp_path):
    result = workbench("discover", "--model", micro_folder, *ASK, "--out", tmp_path, "--json")
    run = RunStore(tmp_path).open(tmp_path)
    assert result.json["id"] == run.id
    assert result.json["report"]["faithfulness"] == run.report.faithfulness  # type: ignore[union-attr]
    assert {edge["edge"] for edge in result.json["edges"]} == run.circuit().edges
    sizes = [abs(edge["score"]) for edge in result.json["edges"]]
    assert sizes == sorted(sizes, reverse=True)


def test_the_options_of_discover_reach_the_run(workbench, micro_folder, tmp_path):
    options = ["--task", "induction", "--method", "eap-ig", "--steps", 2, "--ablation", "zero", "--ranking", "signed"]
    more = ["--n", 3, "--seed", 7, "--edges", 15, "--no-curve", "--out", tmp_path]
    data = workbench("discover", "--model", micro_folder, *options, *more, "--json").json
    assert (data["task"]["name"], data["task"]["n"], data["task"]["seed"]) == ("induction", 3, 7)
    assert data["method"] == "eap-ig"
    assert data["settings"]["options"] == {"steps": 2, "ablation": "zero"}
    assert (data["settings"]["ranking"], data["settings"]["ablation"]) == ("signed", "zero")
    assert (data["n_edges"], data["curve"]) == (15, None)
    same = workbench(
        "discover", "--model", micro_folder, *options[:4], "--set", "steps=2", *options[6:], *more, "--json"
    )
    assert same.json["id"] == data["id"]
    assert "found before" in same.err


def test_a_circuit_that_pruning_empties_is_said_with_the_remedy(workbench, micro_folder, tmp_path):
    ask = ["--task", "ioi", "--method", "eap", "--n", 4, "--edges", 1, "--no-curve", "--out", tmp_path]
    result = workbench("discover", "--model", micro_folder, *ask)
    assert result.status == 0
    assert "ask for more with --edges" in result.out


def test_evaluate_says_again_what_the_run_said_and_other_sizes_say_other_things(workbench, found):
    run = RunStore().open(found)
    again = workbench("evaluate", found, "--json").json["report"]
    assert again == run.report.__dict__
    more = workbench("evaluate", found, "--edges", 90, "--ablation", "zero", "--json").json["report"]
    assert more["n_edges"] > again["n_edges"]
    assert more["ablation"] == "zero"
    whole = workbench("evaluate", found, "--edges", Graph(2, 4).n_edges)
    assert "Faithfulness  1.000" in whole.out
    assert RunStore().open(found).report == run.report


# -- export ---------------------------------------------------------------------------------------------------

BEGINS = {
    "svg": b"<?xml",
    "png": b"\x89PNG",
    "pdf": b"%PDF",
    "html": b"<!DOCTYPE html>",
    "json": b"{",
    "graphml": b"<?xml",
    "dot": b"digraph",
}


@pytest.mark.parametrize("kind", [record.key for record in FORMATS])
def test_export_writes_every_format(workbench, found, tmp_path, kind):
    file = tmp_path / f"picture.{kind}"
    result = workbench("export", found, "--format", kind, "--out", file, "--json")
    assert file.read_bytes().startswith(BEGINS[kind])
    assert result.json == {
        "run": found.name,
        "file": str(file),
        "format": kind,
        "figure": "circuit",
        "bytes": file.stat().st_size,
    }
    (tmp_path / "second").mkdir()
    by_name = tmp_path / "second" / f"x.{kind}"
    assert workbench("export", found, "--out", by_name).status == 0
    assert by_name.read_bytes()[:4] == file.read_bytes()[:4]


def test_export_without_a_file_name_writes_here_and_names_it_after_the_run(workbench, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workbench("export", found).status == 0
    assert workbench("export", found, "--figure", "curve", "--format", "png").status == 0
    assert {file.name for file in tmp_path.iterdir()} >= {f"{found.name}.svg", f"{found.name}-curve.png"}


def test_exported_edges_are_the_circuit_of_the_size_asked_for(workbench, found, tmp_path):
    workbench("export", found, "--edges", 80, "--out", tmp_path / "c.json")
    edges = {edge["name"] for edge in json.loads((tmp_path / "c.json").read_text())["edges"]}
    assert edges == RunStore().open(found).circuit(80).edges > RunStore().open(found).circuit().edges


def test_exported_attention_is_the_pattern_of_the_head_on_the_prompt(workbench, found, tmp_path, model):
    workbench("export", found, "--figure", "attention", "--head", "1.2", "--prompt", 3, "--out", tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())["attention"]
    text = RunStore().open(found).info.prompts["clean"][3]
    _, cache = model.run_with_cache(model.to_tokens(text))
    assert data["tokens"] == model.to_str_tokens(text)
    assert torch.allclose(torch.tensor(data["pattern"]), cache["pattern", 1][0, 2], atol=1e-6)
    assert (
        workbench("export", found, "--figure", "attention", "--head", "a1.h2", "--out", tmp_path / "a.svg").status == 0
    )
    assert "<svg" in (tmp_path / "a.svg").read_text()


# -- runs -----------------------------------------------------------------------------------------------------


def test_runs_are_listed_shown_renamed_and_deleted(workbench, micro_folder, tmp_path):
    store = ["--store", tmp_path / "s"]
    assert "No runs in" in workbench("runs", *store).out
    made = workbench("discover", "--model", micro_folder, *ASK, "--no-curve", "--out", tmp_path / "s", "--json").json[
        "id"
    ]
    assert made in workbench("runs", *store).out
    (listed,) = workbench("runs", "list", *store, "--json").json
    assert (listed["id"], listed["status"]) == (made, "done")
    assert workbench("runs", *store, "--json").json == [listed]
    assert workbench("runs", "rename", made, "A new\tname", *store, "--json").json == {
        "run": made,
        "title": "A new name",
    }
    shown = workbench("runs", "show", made[:12], *store)
    assert "A new name" in shown.out
    assert "Self-check" in shown.out
    assert workbench("runs", "show", made, *store, "--json").json["prompts"]["clean"]
    assert workbench("runs", "delete", made, *store, "--json").json == {"deleted": [made]}
    assert workbench("runs", "list", *store, "--json").json == []


def test_nothing_is_deleted_when_one_of_the_names_is_wrong(workbench, micro_folder, tmp_path):
    ask = ["discover", "--model", micro_folder, *ASK, "--no-curve", "--out", tmp_path, "--json"]
    made = workbench(*ask).json["id"]
    one_line(workbench("runs", "delete", made, made + "x", "--store", tmp_path), f"did you mean '{made}'")
    assert (tmp_path / made).is_dir()


def test_a_title_cannot_drive_the_terminal(workbench, found):
    assert console.plain("a\x1b[31mred\x07\nline") == "a\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} line"
    assert console.plain("[bold]Ünï 名前[/]") == "[bold]Ünï 名前[/]"


def test_a_damaged_run_is_reported_beside_the_others(workbench, tmp_path):
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    result = workbench("runs", "list", "--json")
    assert (result.status, result.json) == (0, [])
    assert "is damaged" in result.err
    one_line(workbench("export", "broken"), "is damaged")


# -- models, tasks, methods, app ------------------------------------------------------------------------------


def test_models_tasks_and_methods_list_what_the_registries_hold(workbench, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first, *others = workbench("models", "--json").json
    assert (first["key"], first["bundled"], first["installed"]) == ("smollm2-135m", False, False)
    assert {model["key"] for model in others if model["bundled"]} >= {"induction-2l", "digits-vit"}
    assert "to fetch" in workbench("models", "list").out
    assert [task["key"] for task in workbench("tasks", "--json").json] == tasks.names()
    assert {method["key"] for method in workbench("methods", "--json").json} >= {"eap", "eap-ig"}
    assert "eap-ig" in workbench("methods").out


def test_methods_with_a_model_say_which_can_serve_it(workbench, monkeypatch, micro_folder):
    def serves(record, _):
        return "It cannot." if record.key == "eap" else None

    assert {row["serves"] for row in workbench("methods", "--model", micro_folder, "--json").json} == {"yes"}
    assert "serves" not in workbench("methods", "--json").json[0]
    monkeypatch.setattr(Method, "serves", serves)
    rows = {row["key"]: row["serves"] for row in workbench("methods", "--model", micro_folder, "--json").json}
    assert rows["eap"] == "It cannot."
    assert {said for key, said in rows.items() if key != "eap"} == {"yes"}
    assert "It cannot." in workbench("methods", "--model", micro_folder).out


def test_tasks_with_a_model_say_how_well_it_does_them(workbench, micro_folder, model):
    from workbench.circuits import tasks

    rows = {row["key"]: row for row in workbench("tasks", "--model", micro_folder, "--json").json}
    task = tasks.load("ioi", model, n=32)
    assert rows["ioi"]["check"]["accuracy"] == task.check(model).accuracy
    assert rows["ioi"]["example"] == task.clean_text[0]


def test_models_get_says_where_the_model_is(workbench, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "get", lambda name, progress, force: tmp_path / name / str(force))
    assert workbench("models", "get", "m", "--json").json == {"key": "m", "folder": str(tmp_path / "m" / "False")}
    assert str(tmp_path / "m" / "True") in workbench("models", "get", "m", "--force").out


def test_a_busy_port_is_said_before_anything_starts_with_a_free_one(workbench, monkeypatch):
    from workbench.cli import library

    monkeypatch.setattr(library, "_become", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = workbench("app", "--port", port)
    one_line(result, rf"Port {port} is in use; try: workbench app --port \d+")
    suggested = int(result.err.split()[-1])
    with socket.create_server(("127.0.0.1", suggested)):
        pass


# -- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["discvoer"], "discover"),
        (["discover", "--edges", "many"], "--edges"),
        (["discover", "--colour", "red"], "--colour"),
        (["evaluate"], "Missing argument"),
        (["discover", "--model", "smolm2-135m"], "did you mean 'smollm2-135m'"),
        (["discover", "--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["discover", "--task", "iio"], "did you mean 'ioi'"),
        (["discover", "--method", "eap-gi"], "did you mean 'eap-ig'"),
        (["discover", "--ablation", "nil"], "Unknown ablation 'nil'"),
        (["discover", "--ranking", "top"], "Unknown ranking 'top'"),
        (["discover", "--n", "0"], "at least one pair"),
        (["discover", "--set", "steps"], "name=value"),
        (["discover", "--set", "stepz=3"], "has no option 'stepz'"),
        (["discover", "--method", "eap", "--steps", "3"], "has no option 'steps'"),
        (["discover", "--set", "steps=1.5"], "takes a whole number, not 1.5"),
        (["discover", "--set", "steps=true"], "takes a whole number, not True"),
        (["discover", "--set", "progress=3"], "has no option 'progress'"),
        (["discover", "--method", "acdc", "--set", "threshold=abc"], "takes a number or null, not 'abc'"),
        (["bench", "--set", "eap-ig.steps=x"], "takes a whole number, not 'x'"),
        (["bench", "--set", "eap-ig.keep=x"], "has no option 'keep'"),
        (["discover", "--out", "/proc/nowhere"], "Cannot write runs to '/proc/nowhere'"),
        (["models", "get", "smolm2"], "did you mean 'smollm2-135m'"),
        (["runs", "show", "nothing"], "There is no run 'nothing'"),
        (["runs", "delete", "../.."], "There is no run '../..'"),
        (["app", "--port", "99999"], "--port"),
    ],
)
def test_bad_input_is_one_line(workbench, arguments, text):
    one_line(workbench(*arguments), text)
    one_line(workbench(*arguments, "--json"), text)


def test_bad_input_about_a_run_is_one_line_and_writes_nothing(workbench, found, tmp_path):
    def export(*arguments: object) -> Result:
        return workbench("export", found, "--out", tmp_path / "x.svg", *arguments)

    one_line(export("--format", "pgn"), "did you mean 'png'")
    one_line(export("--figure", "tree"), "Unknown figure 'tree'")
    one_line(export("--figure", "attention"), "--head 9.6")
    one_line(export("--figure", "attention", "--head", "nine"), "'nine' is not a head")
    one_line(export("--figure", "attention", "--head", "2.0"), "layers 0 to 1 and heads 0 to 3")
    one_line(export("--figure", "attention", "--head", "0.0", "--prompt", "4"), "prompts 0 to 3")
    one_line(export("--figure", "curve", "--format", "dot"), "Only a circuit")
    one_line(export("--edges", "1000000"), "Cannot take 1000000 edges")
    one_line(workbench("export", found, "--out", tmp_path), "is a folder")
    one_line(workbench("evaluate", found, "--ablation", "nil"), "Unknown ablation 'nil'")
    assert not (tmp_path / "x.svg").exists()


def test_more_edges_than_the_model_has_are_refused_before_the_work(workbench, micro_folder, tmp_path):
    result = workbench("discover", "--model", micro_folder, "--edges", "100000", "--out", tmp_path)
    one_line(result, r"100,000 edges are more than the \d+ of micro-llama")
    assert list(tmp_path.iterdir()) == []


def test_without_a_number_of_edges_a_small_graph_is_taken_whole(workbench, micro_folder, tmp_path):
    asked = ["discover", "--model", micro_folder, "--n", 4, "--method", "random", "--no-curve", "--json"]
    data = workbench(*asked, "--out", tmp_path).json
    assert data["n_edges"] == data["settings"]["edges"] == min(500, Graph(2, 4).n_edges)
    grown = workbench(*asked, "--edges", 3, "--greedy", "--out", tmp_path).json
    assert len(grown["edges"]) == 3


def test_a_task_of_another_kind_is_said_before_the_number_of_edges(workbench, micro_folder, tmp_path):
    asked = ["discover", "--model", micro_folder, "--task", "digits", "--edges", 100_000, "--out", tmp_path]
    one_line(workbench(*asked), "digits")
    assert list(tmp_path.iterdir()) == []


def test_the_edges_that_survive_acdc_are_its_circuit(workbench, micro_folder, tmp_path):
    asked = ["discover", "--model", micro_folder, "--n", 2, "--no-curve", "--json", "--out", tmp_path]
    sizes = [abs(edge["score"]) for edge in workbench(*asked, "--method", "exact", "--edges", 40).json["edges"]]
    limit = sorted(sizes)[len(sizes) // 2]
    data = workbench(*asked, "--method", "acdc", "--set", f"threshold={limit}").json
    assert (data["settings"]["construction"], data["settings"]["threshold"]) == ("threshold", limit)
    assert data["edges"]
    assert min(abs(edge["score"]) for edge in data["edges"]) >= limit
    sized = workbench(*asked, "--method", "acdc", "--set", f"threshold={limit}", "--edges", 30).json
    assert sized["n_edges"] == 30


def test_an_ablation_that_is_named_reaches_hisp_and_the_default_does_not(workbench, micro_folder, tmp_path):
    asked = ["discover", "--model", micro_folder, "--n", 2, "--method", "hisp", "--no-curve", "--json"]
    for named, used in (([], "zero"), (["--ablation", "resample"], "resample"), (["--ablation", "mean"], "mean")):
        data = workbench(*asked, *named, "--out", tmp_path).json
        assert data["settings"]["options"]["ablation"] == used


def test_help_names_every_ablation():
    assert get_args(Ablation) == ABLATIONS


def test_an_unexpected_error_is_one_line_and_its_traceback_is_to_be_had(workbench, monkeypatch):
    def fail(self: RunStore) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(RunStore, "scan", fail)
    result = workbench("runs")
    one_line(result, "RuntimeError: boom .*WORKBENCH_DEBUG=1")
    assert result.status == 1
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    assert "Traceback" in workbench("runs").err


def test_no_traceback_reaches_a_user_s_terminal(tmp_path):
    (tmp_path / "runs").write_text("")
    for arguments in (["runs"], ["discover"], ["evaluate", "x"], ["export", "x"], ["nonsense"], ["models", "get", "x"]):
        result = process(*arguments, WORKBENCH_RUNS=str(tmp_path / "runs"))
        one_line(result, "^Error: ")


def test_ctrl_c_keeps_what_was_finished_and_says_where(micro_folder, tmp_path):
    command = [sys.executable, "-m", "workbench", "discover", "--model", str(micro_folder), "--task", "ioi"]
    command += ["--n", "4000", "--method", "eap-ig", "--edges", "20", "--steps", "50", "--out", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    store, deadline = RunStore(tmp_path), time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(info.progress["done"] > 0 for info in store.list()):
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130
    (info,) = store.list()
    assert info.status == "stopped"
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("Stopped; ")
    assert str(info.folder) in err.replace("\n", "")
    assert "Self-check" in out


@pytest.mark.real
def test_discover_finds_the_ioi_circuit_of_the_default_model(workbench, smol, tmp_path):
    result = workbench("discover", "--n", 8, "--method", "eap", "--no-curve", "--out", tmp_path, "--json")
    assert result.json["check"]["accuracy"] > 0.9
    assert result.json["model"]["fingerprint"] == smol.fingerprint
    assert result.json["report"]["n_edges_total"] == 123_211
    assert "a23.h3->logits" in {edge["edge"] for edge in result.json["edges"][:5]}
