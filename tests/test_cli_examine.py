from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cli import Workbench, found, one_line, workbench  # noqa: F401 - fixtures
from workbench import jobs
from workbench.circuits import completeness, minimality, random_control
from workbench.runs import RunStore


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
