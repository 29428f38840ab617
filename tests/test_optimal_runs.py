"""Runs with optimal ablation: constants are learned once, outlive a kill, and are taken up again."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_cli import Workbench, found, workbench  # noqa: F401 - fixtures
from workbench import jobs
from workbench.circuits import Progress, discover, tasks
from workbench.circuits.optimal import optimal_constants
from workbench.circuits.patching import PatchedRun
from workbench.jobs import Request
from workbench.models import Transformer
from workbench.runs import RunStore
from workbench.runs.constants import CONSTANTS, constants_in, with_constants

REQUEST = Request(
    "micro", "ioi", n=4, seed=1, method="eap", options={"ablation": "optimal"}, edges=60, ablation="optimal"
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


class Steps:
    """Counts steps of learning and asks to stop after some."""

    def __init__(self, stop: int = 10**6) -> None:
        self.stop, self.seen = stop, list[int]()

    def __call__(self, step: Progress) -> bool:
        if step.what == "learning constants":
            self.seen.append(step.done)
        return len(self.seen) < self.stop


def test_a_run_learns_its_constants_once_for_scores_judgement_and_curve(model: Transformer, store: RunStore) -> None:
    steps = Steps()
    run = jobs.run_discovery(model, REQUEST, store, steps)
    assert steps.seen == list(range(1, 201))
    assert run.info.status == "done"
    task = tasks.load("ioi", model, n=4, seed=1)
    constants = optimal_constants(model, task)
    kept = constants_in(run.folder)
    assert kept is not None
    assert kept.complete
    torch.testing.assert_close(kept.outputs.embed, constants.outputs.embed, atol=1e-5, rtol=1e-5)
    scores = discover(model, task, "eap", ablation=constants)
    torch.testing.assert_close(run.scores.values, scores.values, atol=1e-4, rtol=1e-4)
    assert run.report is not None
    patched = PatchedRun(model, task, constants.outputs).metric(scores.top(60).mask)
    assert run.report.metric == pytest.approx(float(patched.mean()), abs=1e-4)
    assert run.info.settings["ablation"] == run.scores.settings["ablation"] == "optimal"
    assert run.curve is not None
    assert run.curve.ablation == "optimal"
    assert "constants" in run.info.timings


def test_a_stop_while_constants_are_learned_keeps_them_and_the_same_request_goes_on(
    model: Transformer, store: RunStore
) -> None:
    run = jobs.run_discovery(model, REQUEST, store, Steps(70))
    assert run.info.status == "stopped"
    part = constants_in(run.folder)
    assert part is not None
    assert part.done == 70
    assert run.can_go_on
    rest, told = Steps(), list[str]()
    again = jobs.run_discovery(model, REQUEST, store, rest, tell=told.append)
    assert told[0].endswith("was stopped: going on where it ended (70 of 200 steps of the constants were learned).")
    assert again.id == run.id
    assert again.info.status == "done"
    assert rest.seen == list(range(71, 201))
    anew = Steps()
    jobs.run_discovery(model, REQUEST, store, anew, fresh=True)
    assert anew.seen == list(range(1, 201))


def test_a_circuit_of_another_size_takes_the_constants_of_the_same_search(model: Transformer, store: RunStore) -> None:
    first = jobs.run_discovery(model, REQUEST, store)
    steps = Steps()
    second = jobs.run_discovery(model, replace(REQUEST, edges=40), store, steps)
    assert second.id != first.id
    assert steps.seen == []
    own, theirs = constants_in(second.folder), constants_in(first.folder)
    assert own is not None
    assert theirs is not None
    assert torch.equal(own.outputs.embed, theirs.outputs.embed)


def test_constants_of_another_search_or_a_damaged_file_are_learned_anew(model: Transformer, tmp_path: Path) -> None:
    task, other = (tasks.load("ioi", model, n=4, seed=seed) for seed in (1, 2))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    learned: Any = with_constants("optimal", model, task, [first])
    assert with_constants("mean", model, task, [second]) == "mean"
    assert not list(second.iterdir())
    steps = Steps()
    again: Any = with_constants("optimal", model, task, [first, second], steps)
    assert steps.seen == []
    assert constants_in(second) is not None
    assert torch.equal(again.outputs.embed, learned.outputs.embed)
    with_constants("optimal", model, other, [first, second], steps)
    assert len(steps.seen) == 200
    (second / CONSTANTS).write_bytes(b"nothing")
    with_constants("optimal", model, other, [first, second], steps)
    assert len(steps.seen) == 400


def test_evaluate_and_import_learn_once_and_a_folder_that_cannot_be_written_does_no_harm(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    micro_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned: list[Any] = []

    def learn(*given: Any, **options: Any) -> Any:
        learned.append(given)
        return optimal_constants(*given, **options)

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("workbench.circuits.optimal.optimal_constants", learn)
    ask = ["evaluate", found, "--ablation", "optimal", "--json"]
    with monkeypatch.context() as locked:
        locked.setattr("workbench.runs.files.write", refuse)
        first = workbench(*ask)
    assert not (found / CONSTANTS).exists()
    assert workbench(*ask).json == first.json
    assert len(learned) == 2
    assert (found / CONSTANTS).exists()
    assert workbench(*ask).json == first.json
    assert len(learned) == 2
    (found / CONSTANTS).unlink()
    workbench("export", found, "--format", "eap-ig", "--out", tmp_path / "x.json")
    where = ["--model", micro_folder, "--n", 4, "--ablation", "optimal", "--out", tmp_path / "store", "--json"]
    imported = workbench("import", tmp_path / "x.json", *where).json
    assert len(learned) == 3
    assert imported["report"]["faithfulness"] == pytest.approx(first.json["report"]["faithfulness"], abs=1e-4)
    assert imported["curve"]["ablation"] == "optimal"


def test_kill_9_while_constants_are_learned_loses_next_to_nothing(
    micro_folder: Path, model: Transformer, tmp_path: Path
) -> None:
    script = f"""
import sys, time
import workbench.circuits.optimal as optimal
from workbench import jobs, load
from workbench.runs import RunStore
optimal.SECONDS = -1
options = {{"ablation": "optimal"}}
request = jobs.Request("micro", "ioi", 4, 1, "eap", options, edges=60, ablation="optimal")
jobs.run_discovery(load({str(micro_folder)!r}), request, RunStore({str(tmp_path)!r}), lambda p: time.sleep(0.03))
"""
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    done = 0
    while time.monotonic() < deadline and not 5 <= done < 200:
        parts = [constants_in(folder) for folder in tmp_path.iterdir() if folder.is_dir()]
        done = max((one.done for one in parts if one is not None), default=0)
        time.sleep(0.02)
    child.kill()
    child.wait()
    store = RunStore(tmp_path)
    assert [info.status for info in store.list()] == ["interrupted"]
    rest = Steps()
    run = jobs.run_discovery(model, REQUEST, store, rest)
    assert run.info.status == "done"
    assert 5 < rest.seen[0] < 200
    assert rest.seen[-1] == 200
