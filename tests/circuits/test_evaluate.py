"""Patched runs against one residual stream per reader; faithfulness and its areas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import micro, reference
from tests.circuits.test_attribution import random_task
from workbench.circuits import Circuit, Graph, Scores, discover, evaluate, faithfulness_curve, tasks
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.evaluate import FRACTIONS
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, from_hf

PAIRS = {kind: micro.hugging_face(kind) for kind in micro.KINDS}
OURS = {kind: from_hf(hf) for kind, hf in PAIRS.items()}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(micro.KINDS),
    ablation=st.sampled_from(["resample", "mean", "zero"]),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]),
)
def test_any_circuit_runs_as_with_one_residual_stream_per_reader(
    kind: str, ablation: str, seed: int, density: float
) -> None:
    hf, model = PAIRS[kind], OURS[kind]
    task = random_task(seed=seed % 7)
    ref = reference.Reference(hf)
    noise = torch.rand(ref.graph.mask.shape, generator=torch.Generator().manual_seed(seed))
    mask = ref.graph.mask & (noise < density)
    with torch.no_grad():
        _, corrupted, _ = ref.run(task.corrupted, lambda w, r, out: out)
    if ablation == "mean":
        corrupted = [out.mean((0, 1), keepdim=True) for out in corrupted]
    if ablation == "zero":
        corrupted = [torch.zeros_like(out) for out in corrupted]
    expected = reference.patched_logits(hf, task.clean, corrupted, mask)[:, -1]
    run = PatchedRun(model, task, Ablator(model, task, ablation, 2)(task))  # type: ignore[arg-type]
    torch.testing.assert_close(run.logits(mask), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("ablation", ["resample", "mean", "positional-mean", "zero"])
def test_the_full_circuit_is_the_model_and_the_empty_one_the_ablated_run(model: Transformer, ablation: str) -> None:
    task = tasks.load("ioi", model, n=6)
    assert task.lengths.unique().numel() > 1  # padded prompts are part of the claim
    full, empty = Circuit.full(graph_of(model)), Circuit.empty(graph_of(model))
    assert evaluate(model, task, full, ablation).faithfulness == pytest.approx(1, abs=1e-4)  # type: ignore[arg-type]
    report = evaluate(model, task, empty, ablation)  # type: ignore[arg-type]
    assert report.faithfulness == pytest.approx(0, abs=1e-4)
    if ablation == "resample":
        assert report.metric == pytest.approx(task.check(model).metric_corrupted, abs=1e-5)
    assert report.metric_full == pytest.approx(task.check(model).metric_clean, abs=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_on_smollm2_too(smol: Transformer, ablation: str) -> None:
    task = tasks.load("ioi", smol, n=6)
    for circuit, value in ((Circuit.full(graph_of(smol)), 1), (Circuit.empty(graph_of(smol)), 0)):
        assert evaluate(smol, task, circuit, ablation).faithfulness == pytest.approx(value, abs=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", micro.OTHERS)
@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_in_every_family_the_full_circuit_is_the_model_and_the_empty_one_the_ablated_run(
    kind: str, ablation: str
) -> None:
    model = from_hf(micro.hugging_face(kind))
    task = random_task(unlike=True)
    run = PatchedRun(model, task, Ablator(model, task, ablation, 2)(task))  # type: ignore[arg-type]
    torch.testing.assert_close(run.metric(run.graph.mask), task.metric(model(task.clean)), atol=1e-4, rtol=1e-4)
    empty = run.metric(torch.zeros_like(run.graph.mask))
    if ablation == "resample":
        torch.testing.assert_close(empty, task.metric(model(task.corrupted)), atol=1e-4, rtol=1e-4)
    else:
        assert not torch.allclose(empty, task.metric(model(task.clean)), atol=1e-3)


def test_memory_budget_changes_no_value(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=7)
    circuit = discover(model, task, "eap").top(30)
    one, all_at_once = (evaluate(model, task, circuit, "mean", budget=b) for b in (1, 10**9))
    assert one.faithfulness == pytest.approx(all_at_once.faithfulness, abs=1e-4)
    assert replace(one, faithfulness=0, metric=0, metric_empty=0, metric_full=0) == replace(
        all_at_once, faithfulness=0, metric=0, metric_empty=0, metric_full=0
    )


def test_areas_are_trapezoids_over_the_linear_share(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=6)
    curve = faithfulness_curve(model, task, discover(model, task, "eap"))
    assert curve.fractions == list(FRACTIONS)
    assert curve.faithfulness[-1] == pytest.approx(1, abs=1e-4) == curve.faithfulness_signed[-1]
    cpr = cmd = 0.0
    for i in range(len(FRACTIONS) - 1):
        width = FRACTIONS[i + 1] - FRACTIONS[i]
        cpr += width * (curve.faithfulness_signed[i] + curve.faithfulness_signed[i + 1]) / 2
        cmd += width * (abs(1 - curve.faithfulness[i]) + abs(1 - curve.faithfulness[i + 1])) / 2
    assert curve.cpr == pytest.approx(cpr)
    assert curve.cmd == pytest.approx(cmd)
    # Each point is the faithfulness of that circuit on its own.
    scores = discover(model, task, "eap")
    circuit = scores.top(round(0.2 * scores.graph.n_edges))
    assert curve.faithfulness[7] == pytest.approx(evaluate(model, task, circuit).faithfulness, abs=1e-5)
    assert curve.n_edges[7] == circuit.n_edges


def test_bad_requests_are_explained(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=2)
    with pytest.raises(ValueError, match="model of 3 layers x 2 heads; micro-llama has 2 x 4"):
        evaluate(model, task, Circuit.full(Graph(3, 2)))
    with pytest.raises(ValueError, match="Unknown ablation 'media'"):
        evaluate(model, task, Circuit.full(graph_of(model)), "media")  # type: ignore[arg-type]
    same = replace(task, corrupted=task.clean)
    with pytest.raises(ValueError, match="does not change the metric"):
        evaluate(model, same, Circuit.full(graph_of(model)))
    scores = Scores(graph_of(model), torch.zeros(graph_of(model).mask.shape))
    with pytest.raises(ValueError, match="Fractions must ascend"):
        faithfulness_curve(model, task, scores, fractions=[0.5, 0.1])


@pytest.mark.real
def test_on_smollm2_scores_and_patched_runs_equal_one_residual_stream_per_reader(smol: Transformer) -> None:
    from transformers import AutoModelForCausalLM

    from workbench.models import registry

    hf = AutoModelForCausalLM.from_pretrained(registry.get("smollm2-135m")).requires_grad_(False)
    task = tasks.load("ioi", smol, n=2, template="When {} and {} went to the store, {} gave a drink to")
    slow = reference.edge_attribution(hf, task.clean, task.corrupted, task.metric) / len(task)
    scores = discover(smol, task, "eap")
    assert float((scores.values - slow).norm() / slow.norm()) < 1e-5
    with torch.no_grad():
        _, ablated, _ = reference.Reference(hf).run(task.corrupted, lambda w, r, out: out)
    mask = scores.top(3000).mask
    expected = reference.patched_logits(hf, task.clean, ablated, mask)[:, -1]
    found = PatchedRun(smol, task, Ablator(smol, task, "resample", 2)(task)).logits(mask)
    assert float((found - expected).abs().max() / expected.std()) < 1e-4
