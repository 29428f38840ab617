from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_cli import Workbench, found, one_line, workbench  # noqa: F401 - fixtures
from workbench import jobs
from workbench.circuits import (
    Progress,
    completeness,
    minimality,
    prompt_stability,
    random_control,
    untrained_control,
)
from workbench.runs import RunStore
from workbench.runs.constants import CONSTANTS, constants_in
from workbench.runs.sections import Section


def test_the_command_says_what_the_functions_say(workbench: Workbench, found: Path) -> None:  # noqa: F811
    said = workbench("examine", found, "--draws", 6, "--json").json
    run = RunStore().open(found)
    model = jobs.model_of(run)
    task, circuit = jobs.task_of(run, model), run.circuit()
    control = random_control(model, task, circuit, draws=6)
    assert said["controls"]["random"] == pytest.approx(control.random, abs=1e-5)
    assert said["controls"]["p"] == control.p
    whole = completeness(model, task, circuit, draws=6)
    assert said["completeness"]["incompleteness"] == pytest.approx(whole.incompleteness, abs=1e-5)
    assert said["minimality"]["superfluous"] == minimality(model, task, circuit).superfluous
    assert said["n_edges"] == circuit.n_edges
    shown = workbench("examine", found, "--what", "controls,minimality", "--draws", 6)
    assert "Superfluous" in shown.out
    assert "CMD" not in shown.out


def test_bad_input_is_one_line(workbench: Workbench, found: Path) -> None:  # noqa: F811
    one_line(workbench("examine", "nothing"), "There is no run 'nothing'")
    one_line(workbench("examine", found, "--what", "luck"), "There is no examination 'luck'")
    one_line(workbench("examine", found, "--what", ""), "choose of controls")
    one_line(workbench("examine", found, "--test", "z"), "Unknown test 'z'")
    one_line(workbench("examine", found, "--correction", "z"), "Unknown correction 'z'")
    one_line(workbench("examine", found, "--ablation", "nil"), "Unknown ablation 'nil'")


# -- what is finished is kept ----------------------------------------------------------------------------------

ALL = "controls,completeness,minimality,curve,stability,untrained"


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_every_section_is_kept_and_the_same_command_works_on_nothing(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    line = ["examine", found, "--draws", 4, "--pieces", 3, "--models", 2, "--into", tmp_path / "kept"]
    first = workbench(*line, "--what", "controls,stability")
    assert first.status == 0
    before = times(tmp_path / "kept")
    assert before.keys() == {"controls.json", "stability.json", "examination.json"}
    second = workbench(*line, "--what", ALL, "--json")
    assert "Finished before: controls, stability; going on with completeness" in second.err
    assert second.json["stability"]["pieces"] == 3
    assert len(second.json["untrained"]["transferred"]) == 2
    now = times(tmp_path / "kept")
    assert {name: now[name] for name in before} == before
    assert not list((tmp_path / "kept").glob("*.partial*"))
    third = workbench(*line, "--what", ALL, "--json")
    assert times(tmp_path / "kept") == now
    assert third.json == second.json
    shown = workbench(*line, "--what", ALL).out
    for word in ("Faithfulness", "Incompleteness", "Superfluous", "CMD", "Overlap", "Untrained"):
        assert word in shown
    for option, words in (
        (["--draws", 5], "began with draws 4 and cannot go on with draws 5"),
        (["--ablation", "mean"], "began with ablation resample and cannot go on with ablation mean"),
        (["--edges", 50], "began with circuit .*, edges 60 and cannot go on with circuit .*, edges 50"),
    ):
        one_line(workbench(*line, *option), words)
    assert times(tmp_path / "kept") == now


def test_stability_and_the_untrained_control_are_those_of_the_functions(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
) -> None:
    said = workbench("examine", found, "--what", "stability,untrained", "--pieces", 2, "--models", 1, "--json").json
    run = RunStore().open(found)
    model = jobs.model_of(run)
    task = jobs.task_of(run, model)
    stable = prompt_stability(model, task, "eap", n_edges=60, pieces=2)
    assert said["stability"]["overlap"] == pytest.approx(stable.overlap)
    assert [one["edge"] for one in said["stability"]["edges"]] == [one.edge for one in stable.edges]
    control = untrained_control(model, task, "eap", n_edges=60, draws=1)
    assert said["untrained"]["transferred"] == pytest.approx(control.transferred, abs=1e-5)


def test_kill_9_keeps_sections_and_the_circuits_of_the_section_under_way(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept"
    script = f"""
import sys, time
import workbench.circuits
from workbench import cli
from workbench.circuits.patching import PatchedRun
evaluate = sys.modules["workbench.circuits.evaluate"]
evaluate.SECONDS = -1
metric = PatchedRun.metric
PatchedRun.metric = lambda self, mask: (time.sleep(0.02), metric(self, mask))[1]
cli.main(["examine", {str(found)!r}, "--what", "controls,minimality", "--draws", "3", "--into", {str(kept)!r}])
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    section = Section(kept, "minimality")

    def there() -> int:
        metrics = section.metrics["resume"]
        return 0 if metrics is None else int((~metrics.isnan()).all(1).sum())

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and there() < 5:
        time.sleep(0.02)
    child.kill()
    child.wait()
    done = there()
    assert done >= 5
    assert (kept / "controls.json").exists()
    assert section.finished is None
    seen: list[Progress] = []
    run = RunStore().open(found)
    model = jobs.model_of(run)
    resumed = minimality(
        model, jobs.task_of(run, model), run.circuit(), progress=seen.append, resume=section.metrics["resume"]
    )
    assert seen[0].done == done + 1
    result = workbench("examine", found, "--what", "controls,minimality", "--draws", 3, "--into", kept, "--json")
    assert result.status == 0
    assert "Finished before: controls; going on with minimality" in result.err
    assert result.json["minimality"]["superfluous"] == resumed.superfluous
    assert minimality(model, jobs.task_of(run, model), run.circuit()).superfluous == resumed.superfluous
    assert not section.partial.exists()


def test_optimal_constants_are_learned_once_for_all_sections(
    workbench: Workbench,  # noqa: F811
    found: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    line = ["examine", found, "--ablation", "optimal", "--draws", 2, "--into", tmp_path / "kept", "--json"]
    said = workbench(*line, "--what", "controls").json
    constants = constants_in(tmp_path / "kept")
    assert constants is not None
    run = RunStore().open(found)
    model = jobs.model_of(run)
    control = random_control(model, jobs.task_of(run, model), run.circuit(), constants, draws=2)
    assert said["controls"]["random"] == pytest.approx(control.random, abs=1e-5)
    before = (tmp_path / "kept" / CONSTANTS).stat().st_mtime_ns
    assert workbench(*line, "--what", "controls,minimality").json["minimality"]["ablation"] == "optimal"
    assert (tmp_path / "kept" / CONSTANTS).stat().st_mtime_ns == before
