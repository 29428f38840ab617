"""Optimal constants against closed forms, and against means by patched runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import micro
from tests.circuits.test_attribution import random_task
from workbench.circuits import Task, discover, evaluate
from workbench.circuits.activations import Ablator, WriterOutputs, graph_of, record
from workbench.circuits.known import known_models
from workbench.circuits.optimal import ablated_logits, optimal_constants
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, fresh, from_hf

KNOWN = {record.key: record for record in known_models()}


def each_ablated(model: Transformer, task: Task, constants: WriterOutputs) -> list[torch.Tensor]:
    """Logits with one writer after the other ablated, by patching all its edges."""
    run, logits = PatchedRun(model, task, constants), []
    for writer in range(len(run.graph.writers)):
        mask = run.graph.mask.clone()
        mask[writer] = False
        logits.append(run.logits(mask))
    return logits


def kl(model: Transformer, task: Task, constants: WriterOutputs) -> float:
    """Mean KL from the model over all writers, each ablated alone."""
    plain = torch.distributions.Categorical(logits=task.answers(model))
    rows = [torch.distributions.Categorical(logits=x) for x in each_ablated(model, task, constants)]
    return float(torch.stack([torch.distributions.kl_divergence(plain, row).mean() for row in rows]).mean())


def linear() -> tuple[Transformer, Task]:
    """Random weights, no norm, one output: the metric is linear in what reaches the readout."""
    made = KNOWN["frac-prevs"].load()
    return fresh(made.model.cfg, seed=3), made.task(24)


def test_a_tapped_run_ablates_the_nodes_that_patching_ablates() -> None:
    model, task = from_hf(micro.hugging_face("llama-grouped")), random_task(unlike=True)
    constants = Ablator(model, task, "mean", 2)(task)
    for writer, expected in enumerate(each_ablated(model, task, constants)):
        chosen = torch.zeros(len(task), len(graph_of(model).writers), dtype=torch.bool)
        chosen[:, writer] = True
        found = ablated_logits(model, task, constants, chosen)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_each_example_ablates_writers_of_its_own() -> None:
    model, task = from_hf(micro.hugging_face("gpt2")), random_task(batch=3)
    constants = Ablator(model, task, "zero", 2)(task)
    chosen = torch.zeros(3, len(graph_of(model).writers), dtype=torch.bool)
    chosen[1, 2] = True
    found = ablated_logits(model, task, constants, chosen)
    plain, ablated = task.answers(model), each_ablated(model, task, constants)[2]
    torch.testing.assert_close(found, torch.stack((plain[0], ablated[1], plain[2])), atol=2e-4, rtol=1e-4)


def test_where_everything_is_ablated_the_optimum_of_a_linear_readout_is_the_mean_answer() -> None:
    model, task = linear()
    constants = optimal_constants(model, task, together="all", loss="square", steps=150, prompts=24).outputs
    full = task.score(task.answers(model))
    empty = PatchedRun(model, task, constants).metric(torch.zeros_like(graph_of(model).mask))
    assert float(full.std()) > 0
    torch.testing.assert_close(empty, full.mean().expand_as(full), atol=0.02 * float(full.std()), rtol=0)


def test_the_optimum_of_a_writer_that_only_the_readout_reads_is_its_mean_where_the_answer_is() -> None:
    model, task = linear()
    constants = optimal_constants(model, task, together="one", loss="square", steps=400, prompts=24).outputs
    written = record(model, task.clean).mlp[-1][torch.arange(len(task)), task.last]
    reads = model.unembedding.weight[0]
    best = (written @ reads).mean()
    spread = float((written @ reads).std())
    sign = torch.where(task.right[:, 0] >= 0, 1.0, -1.0)
    assert bool((sign == sign[0]).all())  # the metric is the number for all, or minus the number for all
    found = float(constants.mlp[-1][0, 0] @ reads)
    assert found == pytest.approx(float(best), abs=0.15 * spread)  # steps are noisy
    mean = float(Ablator(model, task, "mean", 24)(task).mlp[-1][0, 0] @ reads)
    assert abs(mean - float(best)) > 2 * abs(found - float(best))  # over all positions it is another


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2", "phi"])
@pytest.mark.parametrize("together", ["one", "some"])
def test_constants_do_no_more_harm_than_means(kind: str, together: Any) -> None:
    model, task = from_hf(micro.hugging_face(kind)), random_task(batch=8)
    constants = optimal_constants(model, task, together=together, steps=150, prompts=8).outputs
    mean = Ablator(model, task, "mean", 8)(task)
    assert constants.embed.shape == mean.embed.shape
    assert [z.shape for z in constants.z] == [z.shape for z in mean.z]
    assert kl(model, task, constants) < kl(model, task, mean)


@pytest.mark.parametrize("key", ["reverse", "caesar"])
def test_constants_do_no_more_harm_than_means_in_compiled_programs(key: str) -> None:
    made = KNOWN[key].load()
    task = made.task(16)
    constants = optimal_constants(made.model, task, steps=200).outputs
    assert kl(made.model, task, constants) <= kl(made.model, task, Ablator(made.model, task, "mean", 16)(task)) + 1e-6


def test_a_seed_decides_everything_and_a_stop_keeps_the_constants_so_far(model: Transformer) -> None:
    task = random_task(vocab=200, batch=4)
    one, again, other = (optimal_constants(model, task, steps=3, prompts=2, seed=seed).outputs for seed in (0, 0, 1))
    assert torch.equal(one.mlp[0], again.mlp[0])
    assert any(not torch.equal(a, b) for a, b in zip(one.mlp, other.mlp, strict=True))
    seen = []
    stopped = optimal_constants(
        model, task, steps=9, together="all", progress=lambda p: seen.append((p.done, p.total)) or p.done < 2
    )
    assert seen == [(1, 9), (2, 9)]
    assert not stopped.complete
    assert not torch.equal(stopped.outputs.embed, Ablator(model, task, "mean", 2)(task).embed)
    assert not stopped.outputs.embed.requires_grad


def test_bad_requests_are_explained(model: Transformer) -> None:
    task: Any = random_task(vocab=200)
    with pytest.raises(ValueError, match="Unknown choice 'two'; together is one of one, some, all"):
        optimal_constants(model, task, together="two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Unknown loss"):
        optimal_constants(model, task, loss="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'steps' takes 1 or more, not 0"):
        optimal_constants(model, task, steps=0)
    with pytest.raises(ValueError, match="'prompts' takes 1 or more, not 0"):
        optimal_constants(model, task, prompts=0)
    linear_model, numbers = linear()
    with pytest.raises(ValueError, match="has one output; choose loss='metric'"):
        optimal_constants(linear_model, numbers, loss="kl")


def test_circuits_can_be_judged_and_edges_scored_with_optimal_constants() -> None:
    model = from_hf(micro.hugging_face("llama-grouped"))
    task = random_task()
    scores = discover(model, task, "eap", ablation="optimal")
    constants = optimal_constants(model, task).outputs
    found = evaluate(model, task, scores.top(60), "optimal")
    run = PatchedRun(model, task, constants)
    assert found.metric == pytest.approx(float(run.metric(scores.top(60).mask).mean()), abs=1e-5)
    assert found.ablation == "optimal"
