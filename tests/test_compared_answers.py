"""The share of right answers above wrong ones, wherever parts are judged; nothing where none are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import micro
from tests.circuits.test_attribution import random_task
from workbench.circuits import Task
from workbench.circuits.activations import graph_of
from workbench.circuits.evaluate import Evaluation
from workbench.circuits.graph import Circuit
from workbench.circuits.neurons import evaluate_neurons
from workbench.circuits.positions import PositionCircuit, evaluate_positions
from workbench.cli.discovery import report_facts
from workbench.live import switch_off
from workbench.models import from_hf

HF = micro.hugging_face("llama-grouped")
MICRO = from_hf(HF)
TASK = random_task(batch=6)


def everywhere(task: Task) -> Evaluation:
    """The circuit of all edges at all positions."""
    circuit = PositionCircuit.everywhere(Circuit.full(graph_of(MICRO)), task.clean.shape[1])
    return evaluate_positions(MICRO, task, circuit)


def all_neurons(task: Task) -> Any:
    return evaluate_neurons(MICRO, task, torch.ones(MICRO.cfg.n_layers, MICRO.cfg.d_mlp, dtype=torch.bool))


def nothing_off(task: Task) -> float | None:
    effect = switch_off(MICRO, task, [])
    assert effect.accuracy_before == effect.accuracy_after
    return effect.accuracy_before


JUDGED: dict[str, Callable[[Task], float | None]] = {
    "positions": lambda task: everywhere(task).accuracy,
    "neurons": lambda task: all_neurons(task).accuracy,
    "switched": nothing_off,
}


@pytest.mark.parametrize("where", JUDGED)
def test_a_whole_model_is_right_as_often_as_hugging_face_s_and_nothing_is_said_of_other_metrics(where: str) -> None:
    accuracy = JUDGED[where]
    with torch.no_grad():
        logits = HF(TASK.clean).logits[torch.arange(len(TASK)), TASK.last]
    right, wrong = (logits.gather(1, ids.clamp(min=0)).mean(1) for ids in (TASK.right, TASK.wrong))
    assert accuracy(TASK) == pytest.approx(float((right > wrong).float().mean()))
    assert accuracy(TASK.with_metric("kl", MICRO)) is None
    assert accuracy(replace(TASK, wrong=TASK.wrong.new_full(TASK.wrong.shape, -1))) is None


def test_a_report_says_the_share_only_where_there_is_one() -> None:
    n = graph_of(MICRO).n_edges
    report = Evaluation(0.5, 1.0, 2.0, 0.0, 0.75, 3, 4, n, 6, "resample")
    assert "; right above wrong 75.0%" in str(report_facts(report, "logit difference")[1])
    assert "right above wrong" not in str(report_facts(replace(report, accuracy=None), "divergence")[1])
