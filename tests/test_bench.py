"""Benchmarks: their numbers, their files, and how they go on after an interruption."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.test_cli import Workbench, one_line, workbench  # noqa: F401 - a fixture
from workbench import bench
from workbench.bench import cells as cells_module
from workbench.circuits import Progress, discover, faithfulness_curve, tasks
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import examine_made, shown_edges
from workbench.models import Transformer, fresh

ASK: dict[str, Any] = {"n": 4, "seeds": [0, 1]}


def ask(*models: str | Transformer, out: Path, **changes: Any) -> bench.BenchTable:
    return bench.run(["eap", "eap-ig"], ["ioi"], list(models), out=out, **(ASK | changes))


def figures(table: bench.BenchTable) -> dict[Any, dict[str, float]]:
    """Without what a clock said."""
    return {c.place: {k: v for k, v in c.figures.items() if k != "seconds"} for c in table.cells}


def test_a_cell_holds_what_the_method_and_the_curve_say(model: Transformer, tmp_path: Path) -> None:
    table = ask(model, out=tmp_path, options={"eap-ig": {"steps": 3}})
    assert [c.method for c in table.cells] == [bench.RANDOM, "eap", "eap-ig"] * 2
    assert [c.seed for c in table.cells] == [0, 0, 0, 1, 1, 1]
    assert table.complete
    task = tasks.load("ioi", model, n=4, seed=1)
    curve = faithfulness_curve(model, task, discover(model, task, "eap-ig", steps=3))
    cell = table.cells[-1]
    assert (cell.figures["cmd"], cell.figures["cpr"]) == pytest.approx((curve.cmd, curve.cpr), abs=1e-5)
    assert cell.figures["accuracy"] == task.check(model).accuracy
    assert cell.fingerprint == model.fingerprint
    random = table.cells[3].figures
    assert random["cmd"] == pytest.approx(sum_of_distances(model, task, seed=1), abs=1e-4)


def sum_of_distances(model: Transformer, task: Any, seed: int) -> float:
    """CMD of edges in random order: the control that every faithfulness curve has."""
    curve = faithfulness_curve(model, task, discover(model, task, "eap"), seed=seed)
    assert curve.random is not None
    width = [b - a for a, b in zip(curve.fractions, curve.fractions[1:], strict=False)]
    off = [abs(1 - f) for f in curve.random]
    return sum(w * (a + b) / 2 for w, a, b in zip(width, off, off[1:], strict=False))


def test_known_models_are_examined_and_what_is_refused_is_listed(tmp_path: Path) -> None:
    table = bench.run(["eap"], known=["caesar", "length"], n=8, seeds=[3], out=tmp_path)
    caesar, length = table.cells
    made = next(record for record in known_models() if record.key == "caesar").load()
    truth = examine_made(made, "eap", n=8, seed=3).truth
    assert caesar.figures["auroc"] == truth.auroc
    assert caesar.figures["average_precision"] == truth.average_precision
    assert length.figures == {}
    assert "same on nearly all inputs" in str(length.reason)
    assert table.refused == [length]
    assert "eap on length" in table.to_markdown()
    assert "same on nearly all inputs" in table.to_csv()


def test_what_is_refused_is_a_cell_with_its_reason(model: Transformer, tmp_path: Path) -> None:
    request: dict[str, Any] = {"n": 4, "seeds": [0], "out": tmp_path}
    table = bench.run(["eap"], ["ioi", "digits"], [model], **request)
    assert [c.reason is None for c in table.cells] == [True, True, False, False]
    assert "digits" in str(table.cells[2].reason)
    assert bench.run(["eap"], ["ioi", "digits"], [model], **request).cells == table.cells


def test_the_untrained_baseline_is_a_mean_over_random_models_with_its_reach(tmp_path: Path) -> None:
    table = bench.run(["eap"], known=["caesar"], n=8, seeds=[3], untrained=3, out=tmp_path)
    made = next(record for record in known_models() if record.key == "caesar").load()
    task, edges = made.task(8, 3), shown_edges(made)
    drawn = []
    for seed in (3, 4, 5):
        scores = discover(fresh(made.model.cfg, seed=seed), task, "eap")
        mask = scores.graph.mask
        is_true = [scores.graph.edge(edge) for edge in edges]
        label = torch.zeros(mask.shape, dtype=torch.bool)
        for place in is_true:
            label[place] = True
        drawn.append(roc_auc_score(label[mask].numpy(), scores.values.abs()[mask].numpy()))
    found = table.cells[0].figures
    assert min(drawn) < max(drawn)
    assert found["untrained_auroc"] == pytest.approx(sum(drawn) / 3, abs=1e-6)
    assert (found["untrained_auroc_low"], found["untrained_auroc_high"]) == pytest.approx((min(drawn), max(drawn)))
    assert f"{sum(drawn) / 3:.3g} ({min(drawn):.3g} to {max(drawn):.3g})" in table.to_markdown()
    with pytest.raises(ValueError, match="began with untrained 3 and cannot go on with untrained 2"):
        bench.run(["eap"], known=["caesar"], n=8, seeds=[3], untrained=2, out=tmp_path)


def test_a_stop_between_random_models_keeps_no_half_cell(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"known": ["caesar"], "n": 8, "seeds": [3], "out": tmp_path}
    table = bench.run(["eap"], **ask, progress=lambda p: not (p.what == "random weights" and p.done == 2))
    assert (table.cells, table.complete) == ([], False)
    assert not list((tmp_path / "cells").iterdir())
    assert bench.run(["eap"], **ask).complete


def test_optimal_constants_are_learned_once_for_all_methods(model: Transformer, tmp_path: Path) -> None:
    seen: list[Progress] = []
    table = ask(model, out=tmp_path, seeds=[0], ablation="optimal", progress=seen.append)
    assert table.complete
    assert [step.done for step in seen if step.what == "learning constants"] == list(range(1, 201))


def test_an_interrupted_benchmark_goes_on_where_it_stopped(
    model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(model, out=tmp_path / "whole")
    part = ask(model, out=tmp_path / "part", progress=lambda p: not (p.what == "cells" and p.done == 4))
    assert not part.complete
    assert len(part.cells) == 4
    filled: list[str] = []
    fill = cells_module.fill

    def count(slot: Any, *rest: Any) -> Any:
        filled.append(slot.method)
        return fill(slot, *rest)

    monkeypatch.setattr("workbench.bench.work.fill", count)
    rest = ask(model, out=tmp_path / "part")
    assert filled == ["eap", "eap-ig"]
    assert rest.complete
    assert figures(rest) == {place: pytest.approx(f, abs=1e-6) for place, f in figures(whole).items()}


def test_a_stop_in_the_middle_of_a_cell_keeps_no_half_cell(model: Transformer, tmp_path: Path) -> None:
    def stop(step: Progress) -> bool:
        return step.what == "cells" or step.done < 3

    table = ask(model, out=tmp_path, progress=stop)
    assert not table.complete
    assert len(list((tmp_path / "cells").glob("*.json"))) == len(table.cells) < 6
    assert ask(model, out=tmp_path).complete


def test_kill_9_keeps_the_finished_cells(micro_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workbench", "bench", "--methods", "eap", "--tasks", "ioi"]
    command += ["--models", str(micro_folder), "--n", "4", "--seeds", ",".join(map(str, range(60)))]
    command += ["--out", str(tmp_path / "b")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(tmp_path.glob("b/cells/*.json"))) < 3:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("b/cells/*.json")}
    assert 3 <= len(before) < 120
    assert all(json.loads(path.read_text())["figures"] for path in before)
    seeds = list(range(60))
    stop = len(before) + 2
    table = bench.run(
        ["eap"],
        ["ioi"],
        [str(micro_folder)],
        n=4,
        seeds=seeds,
        out=tmp_path / "b",
        progress=lambda p: not (p.what == "cells" and p.done == stop),
    )
    assert len(table.cells) == stop
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_are_refused_with_both(model: Transformer, tmp_path: Path) -> None:
    ask(model, out=tmp_path, seeds=[0])
    before = sorted(path.name for path in (tmp_path / "cells").iterdir())
    for changes, text in (
        ({"n": 5}, r"began with n 4 and cannot go on with n 5"),
        ({"seeds": [0, 1]}, r"began with seeds 0 and cannot go on with seeds 0/1"),
        ({"ablation": "mean"}, r"ablation resample and cannot go on with ablation mean"),
        ({"options": {"eap-ig": {"steps": 2}}}, r'options \{\} and .* options \{"eap-ig": \{"steps": 2\}\}'),
    ):
        with pytest.raises(ValueError, match=text):
            ask(model, out=tmp_path, **({"seeds": [0]} | changes))
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == before
    assert ask(model, out=tmp_path, seeds=[0]).complete


def test_a_model_with_other_weights_is_refused(model: Transformer, tmp_path: Path) -> None:
    ask(model, out=tmp_path, seeds=[0], progress=lambda p: not (p.what == "cells" and p.done == 2))
    other = fresh(model.cfg, seed=5, tokenizer=model.text.tokenizer, name=model.name)
    with pytest.raises(ValueError, match="The weights of 'micro-llama' have changed"):
        ask(other, out=tmp_path, seeds=[0])


def test_a_damaged_cell_is_worked_out_again_and_a_busy_folder_is_refused(model: Transformer, tmp_path: Path) -> None:
    first = ask(model, out=tmp_path, seeds=[0])
    path = sorted((tmp_path / "cells").iterdir())[0]
    path.write_text('{"figures": ')
    assert figures(ask(model, out=tmp_path, seeds=[0])) == figures(first)

    def busy(step: Progress) -> bool:
        with pytest.raises(ValueError, match="is being worked on already"):
            ask(model, out=tmp_path, seeds=[0])
        return False

    path.unlink()
    ask(model, out=tmp_path, seeds=[0], progress=busy)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"methods": ["eap-gi"]}, "did you mean 'eap-ig'"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["eap", "eap"]}, "'eap' is asked for twice among the methods"),
        ({"tasks": ["iio"]}, "did you mean 'ioi'"),
        ({"tasks": []}, "Tasks need models|nothing to run"),
        ({"models": ["smolm2-135m"]}, "did you mean 'smollm2-135m'"),
        ({"known": ["ceasar"]}, "did you mean 'caesar'"),
        ({"known": ["learned-hist"]}, "There is no known model 'learned-hist'"),
        ({"n": 0}, "at least one pair"),
        ({"untrained": 0}, "at least one untrained model"),
        ({"seeds": []}, "one seed"),
        ({"ablation": "nil"}, "Unknown ablation 'nil'"),
        ({"options": {"eap": {"steps": 3}}}, "has no option 'steps'"),
        ({"options": {"acdcx": {}}}, "options of 'acdcx'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    model: Transformer, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    request: dict[str, Any] = {"methods": ["eap"], "tasks": ["ioi"], "models": [model]} | changes
    with pytest.raises(ValueError, match=text):
        bench.run(request.pop("methods"), request.pop("tasks"), request.pop("models"), out=tmp_path / "b", **request)
    assert not (tmp_path / "b").exists()


def test_the_tables_say_what_the_cells_hold(model: Transformer, tmp_path: Path) -> None:
    table = ask(model, out=tmp_path)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [(r["method"], int(r["seed"])) for r in rows] == [(c.method, c.seed) for c in table.cells]
    assert [float(r["cmd"]) for r in rows] == [c.figures["cmd"] for c in table.cells]
    document = json.loads(table.to_json())
    assert document["settings"]["n"] == 4
    assert len(document["cells"]) == 6
    mean = sum(c.figures["cmd"] for c in table.cells if c.method == "eap") / 2
    (line,) = [line for line in table.to_markdown().splitlines() if "| eap |" in line]
    assert line.split("|")[4].strip().startswith(f"{mean:.3g} (")
    nan = bench.BenchTable({}, [bench.Cell("known", "eap", "x", "x", 0, {"auroc": math.nan})])
    assert json.loads(nan.to_json())["cells"][0]["figures"]["auroc"] is None
    assert "| x | eap | – |" in nan.to_markdown()


def test_the_command_writes_table_and_figure_and_goes_on(
    workbench: Workbench,  # noqa: F811
    micro_folder: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "b"
    line = ["bench", "--methods", "eap,eap-ig", "--tasks", "ioi", "--models", micro_folder, "--n", 4, "--out", out]
    line += ["--known", "caesar", "--set", "eap-ig.steps=2"]
    first = workbench(*line, "--json")
    assert first.status == 0
    assert [cell["method"] for cell in first.json["cells"]] == [bench.RANDOM, "eap", "eap-ig", "eap", "eap-ig"]
    names = {"table.csv", "table.md", "table.json", "bench.svg", "bench.png", "bench.pdf", "bench.html"}
    assert names <= {path.name for path in out.iterdir()}
    second = workbench(*line)
    assert second.status == 0
    assert "caesar" in second.out
    assert json.loads((out / "table.json").read_text())["cells"] == first.json["cells"]
    one_line(workbench(*line, "--seeds", "1"), "began with seeds 0 and cannot go on with seeds 1")
    one_line(workbench(*line, "--seeds", "one"), "whole numbers")
    one_line(workbench(*line, "--set", "steps=3"), "method.name=value")
    one_line(workbench("bench", "--methods", "eap-gi", "--out", tmp_path / "c"), "did you mean 'eap-ig'")
    one_line(workbench("bench", "--models", micro_folder, "--out", "/proc/nowhere"), "Cannot write to '/proc/nowhere'")
