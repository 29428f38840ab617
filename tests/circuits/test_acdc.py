"""ACDC by many trials at once against ACDC one edge at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import micro, reference
from tests.circuits.compiled import compiled
from tests.circuits.sequential_acdc import sequential_acdc
from tests.circuits.test_attribution import random_task
from workbench.circuits import Scores, Stopped, Task
from workbench.circuits.acdc import BELOW, _search, acdc, acdc_circuit, sweep_thresholds
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.patching import PatchedRun
from workbench.circuits.progress import Reporter
from workbench.circuits.trials import Trials
from workbench.models import Transformer, from_hf

PROGRAMS = ["hist", "frac-prevs", "pair-balance", "detect-pattern", "sort", "reverse", "simple-ioi", "depth"]
MICRO = {kind: micro.hugging_face(kind).double() for kind in ("gpt2", "llama-grouped")}


def hugging_face_loss(hf: Any, task: Task, kind: str) -> Callable[[Tensor], float]:
    """The loss of a circuit by its definition, on Hugging Face's weights."""
    ref = reference.Reference(hf)
    with torch.no_grad():
        _, ablated, _ = ref.run(task.corrupted, lambda w, r, out: out)
        full = hf(task.clean).logits[:, -1].log_softmax(-1)

    def loss(mask: Tensor) -> float:
        logits = reference.patched_logits(hf, task.clean, ablated, mask)
        if kind == "task":
            return -float(task.metric(logits).mean())
        return float((full.exp() * (full - logits[:, -1].log_softmax(-1))).sum(-1).mean())

    return loss


def patched_loss(model: Transformer, task: Task) -> Callable[[Tensor], float]:
    run = PatchedRun(model, task, Ablator(model, task, "resample", len(task))(task))
    return lambda mask: -float(run.metric(mask).double().mean())


def circuit_at(model: Transformer, task: Task, threshold: float, **options: Any) -> Tensor:
    """The mask of ACDC's circuit; that of one that keeps nothing or everything too."""
    try:
        return acdc_circuit(model, task, threshold, **options).mask
    except ValueError as error:
        mask = graph_of(model).mask.clone()
        return mask if "every edge" in str(error) else mask & False


@pytest.mark.parametrize("kind", MICRO)
@pytest.mark.parametrize("metric", ["task", "kl"])
@pytest.mark.parametrize("threshold", [0.004, 0.03, 0.2])
def test_the_circuit_is_that_of_one_edge_at_a_time_on_hugging_faces_weights(
    kind: str, metric: Any, threshold: float
) -> None:
    hf, task = MICRO[kind], random_task(batch=2, length=5)
    model = from_hf(hf)
    expected, increments = sequential_acdc(graph_of(model), hugging_face_loss(hf, task, metric), threshold)
    assert min(abs(one - threshold) for one in increments) > 1e-7  # no tie
    assert torch.equal(circuit_at(model, task, threshold, metric=metric), expected)


@pytest.mark.parametrize("key", PROGRAMS)
@pytest.mark.parametrize("threshold", [0.0031, 0.037, 0.43])
def test_the_circuit_is_that_of_one_edge_at_a_time_on_compiled_programs(key: str, threshold: float) -> None:
    _, made = compiled(key)
    task = made.task(12, 0)
    expected, increments = sequential_acdc(graph_of(made.model), patched_loss(made.model, task), threshold)
    assert min(abs(one - threshold) for one in increments) > 1e-4  # no tie in single precision
    assert torch.equal(circuit_at(made.model, task, threshold), expected)


@pytest.mark.parametrize("options", [{"order": "forward"}, {"budget": 1}, {"ablation": "zero"}])
def test_order_budget_and_ablation_are_those_of_one_edge_at_a_time(options: dict[str, Any]) -> None:
    model, task = from_hf(MICRO["llama-grouped"]), random_task(batch=2, length=5, unlike=True)
    run = PatchedRun(model, task, Ablator(model, task, options.get("ablation", "resample"), 2)(task))
    expected, _ = sequential_acdc(
        run.graph, lambda mask: -float(run.metric(mask).mean()), 0.05, forward="order" in options
    )
    assert torch.equal(acdc_circuit(model, task, 0.05, **options).mask, expected)


def test_a_model_that_normalises_what_is_added_is_searched_too() -> None:
    model, task = from_hf(micro.hugging_face("gemma2")).double(), random_task(batch=1, length=3)
    expected, _ = sequential_acdc(graph_of(model), patched_loss(model, task), 0.5)
    assert expected.any()
    assert torch.equal(circuit_at(model, task, 0.5), expected)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.5, 1.0]), at_once=st.integers(1, 9))
def test_no_guess_changes_what_is_found(seed: int, share: float, at_once: int) -> None:
    model, task = from_hf(MICRO["gpt2"]), random_task(batch=2, length=5)
    graph = graph_of(model)
    guess = torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(seed)) < share
    found = []
    for expected in (None, guess):
        trials = Trials(model, task, "task", "resample", 2**28)
        turn_to = trials.turn_to

        def limited(reader: int, mask: Tensor, trials: Trials = trials, turn_to: Any = turn_to) -> None:
            turn_to(reader, mask)
            trials.at_once = min(trials.at_once, at_once)

        trials.turn_to = limited  # type: ignore[method-assign]
        found.append(_search(trials, 0.02, "reverse", Reporter(None, 1, ""), guess=expected))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], equal_nan=True, atol=1e-9, rtol=1e-7)


def test_increments_are_those_of_one_edge_at_a_time() -> None:
    hf, task = MICRO["gpt2"], random_task(batch=2, length=5)
    model = from_hf(hf)
    _, expected = sequential_acdc(graph_of(model), hugging_face_loss(hf, task, "task"), 0.03)
    trials = Trials(model, task, "task", "resample", 2**28)
    _, increments = _search(trials, 0.03, "reverse", Reporter(None, 1, ""))
    tried = [x for r in reversed(range(increments.shape[1])) for x in increments[:, r].flip(0).tolist() if x == x]
    assert tried == pytest.approx(expected, abs=1e-9)


def test_one_threshold_scores_edges_so_that_its_circuit_is_what_reaches_it() -> None:
    model, task = from_hf(MICRO["llama-grouped"]), random_task(batch=2, length=5)
    circuit, scores = acdc_circuit(model, task, 0.05), acdc(model, task, threshold=0.05)
    for ranking in ("signed", "absolute"):
        assert scores.above(0.05, ranking, prune=False).edges == circuit.edges  # type: ignore[arg-type]
    assert scores.settings == {"metric": "task", "order": "reverse", "ablation": "resample", "threshold": 0.05}


def test_a_sweep_scores_an_edge_by_the_largest_threshold_that_keeps_it() -> None:
    model, task = from_hf(MICRO["gpt2"]), random_task(batch=2, length=5)
    scores, loss, graph = acdc(model, task, steps=4), patched_loss(model, task), graph_of(model)
    span = loss(graph.mask & False) - loss(graph.mask)
    thresholds = sweep_thresholds(span, 4)
    assert thresholds[0] == pytest.approx(span)
    assert thresholds[-1] == pytest.approx(span / 1000)
    left, above = graph.mask.clone(), math.inf
    for threshold in thresholds:
        kept, _ = sequential_acdc(graph, loss, threshold)
        new = scores.values[kept & left]
        assert ((new >= threshold * (1 - 1e-6)) & (new <= BELOW * above)).all()
        left, above = left & ~kept, threshold
    assert (scores.values[left].abs() <= BELOW * above).all()


def test_a_stopped_search_goes_on_where_it_was(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.circuits.partial.SECONDS", -1.0)
    task, kept = random_task(vocab=200, batch=2, length=5), list[Scores]()
    whole = acdc(model, task, threshold=0.02)
    part = acdc(model, task, threshold=0.02, progress=lambda p: p.done < 40, keep=kept.append)
    assert not part.complete
    assert part.values[:, -1].any()
    assert not part.values[:, 0].any()
    assert kept[-1].values[:, 0].isnan().any()
    rest = acdc(model, task, threshold=0.02, resume=kept[-1])
    # Going on starts with another sum of the same numbers.
    torch.testing.assert_close(rest.values, whole.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(rest.values >= 0.02, whole.values >= 0.02)
    with pytest.raises(ValueError, match=r"threshold: 0\.02 then, 0\.03 now"):
        acdc(model, task, threshold=0.03, resume=kept[-1])
    with pytest.raises(Stopped):
        acdc_circuit(model, task, 0.02, progress=lambda p: p.done < 40)


def test_a_stopped_sweep_keeps_the_thresholds_that_are_done(model: Transformer) -> None:
    task, kept, n = random_task(vocab=200, batch=2, length=5), list[Scores](), graph_of(model).n_edges
    whole = acdc(model, task, steps=3)
    part = acdc(model, task, steps=3, progress=lambda p: p.done <= 2 * n, keep=kept.append)
    assert not part.complete
    assert kept[-1].state["rounds"] == 2
    rest = acdc(model, task, steps=3, resume=kept[-1])
    assert rest.settings == whole.settings
    torch.testing.assert_close(rest.values, whole.values, atol=1e-6, rtol=1e-5)
    with pytest.raises(Stopped):
        acdc(model, task, steps=3, progress=lambda p: False)


def test_bad_requests_are_explained(model: Transformer) -> None:
    task = random_task(vocab=200, batch=2, length=5)
    with pytest.raises(ValueError, match=r"keeps no edge: without one, the metric gets worse by .* to .*; choose"):
        acdc_circuit(model, task, 1e6)
    with pytest.raises(ValueError, match="'threshold' of the method 'acdc' takes a number above 0, not -1"):
        acdc(model, task, threshold=-1)
    with pytest.raises(ValueError, match="'steps' of the method 'acdc' takes 1 or more, not 0"):
        acdc(model, task, steps=0)
    with pytest.raises(ValueError, match="ACDC has no metric 'loss'; choose one of task, kl"):
        acdc(model, task, metric="loss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ACDC has no order 'random'; choose one of reverse, forward"):
        acdc(model, task, order="random")  # type: ignore[arg-type]
    same = Task(**{**vars(task), "corrupted": task.clean})
    with pytest.raises(ValueError, match="does not change 'random'"):
        acdc(model, same)


def test_divergence_needs_more_than_one_output() -> None:
    _, made = compiled("frac-prevs")
    with pytest.raises(ValueError, match="has one output; choose metric='task'"):
        acdc(made.model, made.task(4, 0), metric="kl")
