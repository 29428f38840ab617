"""Examinations that are cut off at any step and gone on with: the same findings, and nothing done twice."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import micro, reference
from tests.circuits.test_attribution import random_task
from workbench.circuits import (
    Progress,
    Stopped,
    Task,
    completeness,
    curve_interval,
    discover,
    evaluate,
    faithfulness_curve,
    minimality,
    prompt_stability,
    random_control,
    seed_stability,
    untrained_control,
)
from workbench.circuits.activations import graph_of
from workbench.circuits.evaluate import circuit_metrics, compares_answers
from workbench.circuits.graph import Circuit
from workbench.models import from_hf

HF = micro.hugging_face("llama-grouped")
MICRO = from_hf(HF)
TASK = random_task(batch=4)
GRAPH = graph_of(MICRO)
CIRCUIT = Circuit(GRAPH, GRAPH.mask & (torch.rand(GRAPH.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.3))
SMALL = 1  # bytes of budget: prompts one by one

EXAMINATIONS: dict[str, Callable[..., Any]] = {
    "controls": lambda **k: random_control(MICRO, TASK, CIRCUIT, draws=3, budget=SMALL, **k),
    "completeness": lambda **k: completeness(MICRO, TASK, CIRCUIT, draws=3, budget=SMALL, **k),
    "minimality": lambda **k: minimality(MICRO, TASK, CIRCUIT, budget=SMALL, **k),
    "inflated": lambda **k: minimality(MICRO, TASK, CIRCUIT, test="inflated", draws=5, budget=SMALL, **k),
    "interval": lambda **k: curve_interval(MICRO, TASK, discover(MICRO, TASK, "eap"), budget=SMALL, **k),
    "curve": lambda **k: faithfulness_curve(MICRO, TASK, discover(MICRO, TASK, "eap"), budget=SMALL, **k),
}


class Steps:
    """Counts steps and asks to stop after some of them."""

    def __init__(self, stop: float = math.inf) -> None:
        self.stop, self.seen = stop, list[Progress]()

    def __call__(self, step: Progress) -> bool:
        self.seen.append(step)
        return len(self.seen) < self.stop


def cut(work: Callable[..., Any], stop: int) -> torch.Tensor:
    """What work hands out that is stopped after some steps."""
    handed: list[torch.Tensor] = []
    with contextlib.suppress(Stopped):
        work(progress=Steps(stop), keep=handed.append)
    return handed[-1]


@pytest.mark.parametrize("name", EXAMINATIONS)
@pytest.mark.parametrize("stop", [1, 9, 14])
def test_an_examination_goes_on_where_it_was_cut_off(name: str, stop: int) -> None:
    work = EXAMINATIONS[name]
    steps = Steps()
    whole = work(progress=steps)
    part = cut(work, stop)
    assert int((~part.isnan()).sum()) == stop  # a metric a step: one circuit on one prompt
    rest = Steps()
    assert repr(work(resume=part, progress=rest)) == repr(whole)
    total = steps.seen[0].total
    assert [step.done for step in rest.seen] == list(range(stop + 1, total + 1))
    assert {step.total for step in rest.seen} == {total}


def test_metrics_that_are_there_are_not_run_again_and_the_others_equal_brute_force() -> None:
    masks = [GRAPH.mask, CIRCUIT.mask, torch.zeros_like(GRAPH.mask)]
    resume = torch.full((3, len(TASK)), torch.nan)
    resume[1, :2] = 77.0
    found = circuit_metrics(MICRO, TASK, masks, resume=resume, budget=SMALL)
    with torch.no_grad():
        _, corrupted, _ = reference.Reference(HF).run(TASK.corrupted, lambda w, r, out: out)
        expected = torch.stack([TASK.metric(reference.patched_logits(HF, TASK.clean, corrupted, m)) for m in masks])
    expected[1, :2] = 77.0
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert resume.isnan().sum() == 10  # what was given stays as it was


def test_what_is_handed_out_comes_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["workbench.circuits.evaluate"]  # the package's `evaluate` is the function
    monkeypatch.setattr(module, "SECONDS", -1)
    handed: list[torch.Tensor] = []
    EXAMINATIONS["controls"](keep=handed.append)
    there = [int((~one.isnan()).sum()) for one in handed]
    assert there == [*range(1, 25), 24]  # 6 circuits on 4 prompts, and once at the end


def test_other_work_is_refused() -> None:
    part = cut(EXAMINATIONS["controls"], 3)
    with pytest.raises(ValueError, match="had 6 circuits and 4 prompts; these are 5 and 4"):
        random_control(MICRO, TASK, CIRCUIT, draws=2, resume=part)


# -- several searches ------------------------------------------------------------------------------------------


def test_pieces_of_prompts_that_are_finished_are_not_searched_again() -> None:
    ask: dict[str, Any] = {"n_edges": 20, "pieces": 4, "count": 50}
    whole = prompt_stability(MICRO, TASK, "eap", **ask)
    handed: list[list[Any]] = []
    stop = lambda p: p.what != "pieces" or p.done < 2  # noqa: E731
    part = prompt_stability(MICRO, TASK, "eap", **ask, progress=stop, keep=handed.append)
    assert (part.pieces, part.complete) == (2, False)
    assert [len(one) for one in handed] == [1, 2]
    steps = Steps()
    rest = prompt_stability(MICRO, TASK, "eap", **ask, resume=handed[-1], progress=steps)
    assert [step.done for step in steps.seen if step.what == "pieces"] == [3, 4]
    assert torch.equal(rest.scores.values, whole.scores.values)
    assert (rest.edges, rest.overlap, rest.complete) == (whole.edges, whole.overlap, True)
    with pytest.raises(ValueError, match="holds scores of eap, 1 prompts; asked is eap-ig, 1 prompts"):
        prompt_stability(MICRO, TASK, "eap-ig", **ask, resume=handed[-1])
    with pytest.raises(ValueError, match="holds scores of eap, 1 prompts; asked is eap, 2 prompts"):
        prompt_stability(MICRO, TASK, "eap", n_edges=20, pieces=2, resume=handed[-1])


def test_seeds_that_are_through_are_not_searched_again() -> None:
    def made(seed: int) -> Task:
        return random_task(batch=3, seed=seed)

    whole = seed_stability(MICRO, made, "eap", n_edges=20, seeds=[3, 4, 5])
    handed: list[list[Any]] = []
    with pytest.raises(Stopped):
        seed_stability(
            MICRO, made, "eap", n_edges=20, seeds=[3, 4, 5], keep=handed.append, progress=lambda p: p.what != "seeds"
        )
    asked: list[int] = []
    rest = seed_stability(
        MICRO, lambda seed: asked.append(seed) or made(seed), "eap", n_edges=20, seeds=[3, 4, 5], resume=handed[-1]
    )
    assert asked == [4, 5]
    assert (rest.agreement, rest.always, rest.complete) == (whole.agreement, whole.always, True)


def test_random_models_that_are_finished_are_not_searched_again() -> None:
    ask: dict[str, Any] = {"n_edges": 30, "draws": 3, "seed": 5}
    whole = untrained_control(MICRO, TASK, "eap", **ask)
    handed: list[Any] = []
    untrained_control(MICRO, TASK, "eap", **ask, keep=handed.append, progress=lambda p: p.what != "random models")
    assert (handed[-1].seeds, handed[-1].complete) == ([5], False)
    steps = Steps()
    rest = untrained_control(MICRO, TASK, "eap", **ask, resume=handed[-1], progress=steps)
    assert [step.done for step in steps.seen if step.what == "random models"] == [2, 3]
    assert rest == whole
    with pytest.raises(ValueError, match=r"began with eap, 30 edges, seeds \[5\]; asked is eap, 31 edges"):
        untrained_control(MICRO, TASK, "eap", **(ask | {"n_edges": 31}), resume=handed[-1])
    with pytest.raises(ValueError, match=r"seeds \[5\]; asked is .* seeds \[6, 7, 8\]"):
        untrained_control(MICRO, TASK, "eap", **(ask | {"seed": 6}), resume=handed[-1])


# -- accuracy --------------------------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_right_answers_above_wrong_ones_or_nothing() -> None:
    with torch.no_grad():
        _, corrupted, _ = reference.Reference(HF).run(TASK.corrupted, lambda w, r, out: out)
        logits = reference.patched_logits(HF, TASK.clean, corrupted, CIRCUIT.mask)[torch.arange(4), TASK.last]
    right, wrong = (logits.gather(1, ids.clamp(min=0)).mean(1) for ids in (TASK.right, TASK.wrong))
    assert bool((TASK.right >= 0).all() and (TASK.wrong >= 0).all())
    assert evaluate(MICRO, TASK, CIRCUIT).accuracy == float((right > wrong).float().mean())
    assert evaluate(MICRO, TASK.with_metric("kl", MICRO), CIRCUIT).accuracy is None
    own = replace(TASK, metric_kind="custom", fn=lambda values, batch: batch._difference(values))
    assert evaluate(MICRO, own, CIRCUIT).accuracy is None
    nothing_wrong = replace(TASK, wrong=TASK.wrong.new_full(TASK.wrong.shape, -1))
    assert not compares_answers(nothing_wrong)
    assert evaluate(MICRO, nothing_wrong, CIRCUIT).accuracy is None
    assert compares_answers(TASK.with_metric("prob-diff"))
