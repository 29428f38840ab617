"""Soft patched runs, hard-concrete masks, and the two methods that learn masks with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import micro, reference
from tests.circuits.test_attribution import random_task
from workbench.circuits import Task, ground_truth, hard_concrete, tasks
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.edge_pruning import edge_pruning
from workbench.circuits.graph import Graph
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import shown_edges
from workbench.circuits.mask_training import LOSSES, Batches, by_start
from workbench.circuits.patching import PatchedRun
from workbench.circuits.soft_run import SoftRun, shared_start
from workbench.circuits.subnetwork_probing import edge_values, subnetwork_probing
from workbench.models import Transformer, from_hf

PAIRS = {kind: micro.hugging_face(kind) for kind in micro.KINDS}
OURS = {kind: from_hf(hf) for kind, hf in PAIRS.items()}
KNOWN = {record.key: record for record in known_models()}


def soft(model: Transformer, task: Task, ablation: Any = "resample", start: int = 0) -> SoftRun:
    return SoftRun(model, task, Ablator(model, task, ablation, 2)(task), start)


def random_mask(graph: Graph, seed: int = 0) -> torch.Tensor:
    return torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(seed)) * graph.mask


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(micro.KINDS),
    ablation=st.sampled_from(["resample", "mean", "zero"]),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0, None]),
)
def test_any_mask_of_shares_runs_as_with_one_residual_stream_per_reader(
    kind: str, ablation: str, seed: int, density: float | None
) -> None:
    hf, task = PAIRS[kind], random_task(seed=seed % 7)
    ref = reference.Reference(hf)
    noise = random_mask(ref.graph, seed)
    mask = noise if density is None else ((noise < density) & ref.graph.mask).float()
    with torch.no_grad():
        _, ablated, _ = ref.run(task.corrupted, lambda w, r, out: out)
        if ablation == "mean":
            ablated = [out.mean((0, 1), keepdim=True) for out in ablated]
        if ablation == "zero":
            ablated = [torch.zeros_like(out) for out in ablated]
        mixed, _, _ = ref.run(task.clean, lambda w, r, out: ablated[w] + mask[w, r] * (out - ablated[w]))
        found = soft(OURS[kind], task, ablation).logits(mask)
    torch.testing.assert_close(found, mixed[:, -1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in micro.OTHERS if kind not in micro.POST_NORMS])
def test_in_every_family_a_binary_mask_is_the_patched_run(kind: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)), random_task(unlike=True)
    mask = random_mask(graph_of(model)) > 0.5
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    torch.testing.assert_close(soft(model, task).metric(mask.float()), run.metric(mask), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", micro.KINDS)
def test_the_gradient_at_the_model_is_edge_attribution(kind: str) -> None:
    task = random_task()
    run = soft(OURS[kind], task)
    mask = run.graph.mask.float().requires_grad_()
    (found,) = torch.autograd.grad(run.metric(mask).sum(), mask)
    slow = reference.edge_attribution(PAIRS[kind], task.clean, task.corrupted, task.metric)
    torch.testing.assert_close(found, slow, atol=1e-5 * float(slow.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2", "gpt-neox", "phi", "gpt-neo"])
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_gradients_anywhere_are_finite_differences(kind: str, ablation: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)).double(), random_task(batch=2, unlike=True)
    run = soft(model, task, ablation)
    point = random_mask(run.graph).double() * run.graph.mask
    mask = point.clone().requires_grad_()
    (found,) = torch.autograd.grad(run.metric(mask).sum(), mask)
    assert not found[~run.graph.mask].any()
    size, edges = 1e-5, run.graph.mask.nonzero()
    for w, r in edges[:: max(1, len(edges) // 25)].tolist():
        step = torch.zeros_like(point)
        step[w, r] = size
        with torch.no_grad():
            slope = (run.metric(point + step) - run.metric(point - step)).sum() / (2 * size)
        torch.testing.assert_close(found[w, r], slope, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2", "gpt-neo"])
def test_what_prompts_begin_with_can_be_left_out(kind: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)).double(), random_task(batch=4, length=9)
    alike = task.corrupted.clone()
    alike[:, :4], alike[2, :6] = task.clean[:, :4], task.clean[2, :6]
    task = replace(task, corrupted=alike)
    assert shared_start(model, task, "resample") == 4
    assert shared_start(model, task, "mean") == shared_start(model, task, "zero") == 0
    found = []
    for start in (0, 4):
        run = soft(model, task, start=start)
        mask = random_mask(run.graph).double().requires_grad_()
        value = run.metric(mask)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), mask)))
    torch.testing.assert_close(found[0], found[1])
    same = replace(task, corrupted=task.clean)
    assert shared_start(model, same, "resample") == 8  # the last position stays


def test_pairs_go_together_by_where_their_prompts_part() -> None:
    task = random_task(batch=4, length=9)
    alike = task.corrupted.clone()
    alike[0, :8], alike[2, :5] = task.clean[0, :8], task.clean[2, :5]
    task = replace(task, corrupted=alike, clean_text=list("abcd"), corrupted_text=list("ABCD"))
    ordered = by_start(task)
    assert ordered.clean_text[-2:] == ["c", "a"]
    for i, text in enumerate(ordered.clean_text):
        j = task.clean_text.index(text)
        assert ordered.corrupted_text[i] == task.corrupted_text[j]
        for name in ("clean", "corrupted", "lengths", "right", "wrong"):
            assert torch.equal(getattr(ordered, name)[i], getattr(task, name)[j])


def test_distances_are_those_of_plain_runs() -> None:
    """At the mask of zeros the circuit is the corrupted run."""
    model, task = OURS["gpt2"], random_task(batch=4)
    batches = Batches(model, task, "resample", prompts=4, budget=10**9, seed=0)
    ready = batches.ready(0)
    clean, corrupted = (model(x)[:, -1] for x in (ready.run.batch.clean, ready.run.batch.corrupted))
    p, q = clean.softmax(-1), corrupted.softmax(-1)
    full, empty = (ready.run.batch.score(x) for x in (clean, corrupted))
    assert batches.scale == pytest.approx(abs(float((full - empty).mean())), rel=1e-4)
    zeros = torch.zeros(graph_of(model).mask.shape)
    assert float(ready.distance(zeros, "kl", 1)) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert float(ready.distance(zeros, "metric", 2)) == pytest.approx(float((full - empty).abs().mean()) / 2, rel=1e-4)
    assert float(ready.distance(zeros, "square", 2)) == pytest.approx(
        float((full - empty).square().mean()) / 4, rel=1e-4
    )
    assert float(ready.distance(zeros, "faithfulness", batches.scale)) == pytest.approx(1, rel=1e-4)
    for loss in LOSSES:
        assert float(ready.distance(torch.ones_like(zeros), loss, 1)) == pytest.approx(0, abs=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_hard_concrete_masks_are_drawn_as_their_distribution_says(log_alpha: float) -> None:
    n = 200_000
    z = hard_concrete.sample(torch.full((n,), log_alpha), torch.Generator().manual_seed(0))
    # Louizos et al. 2018: P(z = 0) = sigmoid(2/3 log(0.1 / 1.1) - log_alpha); z = 1 mirrors it.
    edge = 2 / 3 * torch.tensor(0.1 / 1.1).log()
    p_zero, p_one = torch.sigmoid(edge - log_alpha), torch.sigmoid(edge + log_alpha)
    spread = 5 / n**0.5 / 2
    assert float((z == 0).float().mean()) == pytest.approx(float(p_zero), abs=spread)
    assert float((z == 1).float().mean()) == pytest.approx(float(p_one), abs=spread)
    assert float(hard_concrete.keep_probability(torch.tensor(log_alpha))) == pytest.approx(1 - float(p_zero), abs=1e-6)
    assert float(hard_concrete.expected(torch.tensor(log_alpha))) == pytest.approx(float(z.mean()), abs=spread)


def test_hard_concrete_gradients_are_those_of_the_open_part() -> None:
    log_alpha = torch.linspace(-6, 6, 400, dtype=torch.float64, requires_grad=True)
    draw = lambda x: hard_concrete.sample(x, torch.Generator().manual_seed(1))  # noqa: E731
    z = draw(log_alpha)
    (found,) = torch.autograd.grad(z.sum(), log_alpha)
    with torch.no_grad():
        slope = (draw(log_alpha + 1e-6) - draw(log_alpha - 1e-6)) / 2e-6
    torch.testing.assert_close(found, slope, atol=1e-5, rtol=1e-4)
    closed = (z == 0) | (z == 1)
    assert closed.any()
    assert not closed.all()
    assert not found[closed].any()


@pytest.mark.parametrize(
    ("key", "method"),
    [*((key, edge_pruning) for key in ("frac-prevs", "caesar")), ("reverse", subnetwork_probing)],
)
def test_masks_find_compiled_circuits(key: str, method: Any) -> None:
    made = KNOWN[key].load()
    scores = method(made.model, made.task(16), steps=150)
    assert ground_truth(scores, shown_edges(made)).auroc >= 0.9
    assert not scores.values[~scores.graph.mask].any()
    assert float(scores.values.min()) >= 0
    assert float(scores.values.max()) <= 1


@pytest.mark.parametrize("method", [edge_pruning, subnetwork_probing])
def test_a_seed_decides_everything_and_a_stop_keeps_the_masks_so_far(model: Transformer, method: Any) -> None:
    task = tasks.load("ioi", model, n=6)
    run = lambda **options: method(model, task, steps=4, prompts=2, **options)  # noqa: E731
    one, again, other = run(), run(), run(seed=1)
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, other.values)
    # Batches made again in every step are the same as those that are kept.
    torch.testing.assert_close(run(budget=3 * 10**6).values, one.values, atol=1e-4, rtol=1e-3)
    seen = []
    stopped = run(progress=lambda p: seen.append((p.done, p.total)) or p.done < 2)
    assert seen == [(1, 4), (2, 4)]
    assert not stopped.complete
    assert one.complete
    assert not torch.equal(stopped.values, one.values)
    assert stopped.settings["steps"] == 4


def test_a_smaller_target_drops_edges_earlier() -> None:
    made = KNOWN["reverse"].load()
    task, held = made.task(16), []
    for target in (0.5, 0.1):
        found = edge_pruning(made.model, task, target=target, steps=100)
        held.append(float(found.values[found.graph.mask].mean()))
    assert held[0] > held[1] + 0.1


def test_an_edges_score_is_the_chance_that_both_ends_are_kept() -> None:
    graph = Graph(2, 1)  # writers: input, a0.h0, m0, a1.h0, m1
    keep = torch.tensor([0.5, 0.2, 0.9, 0.4])
    found = edge_values(graph, keep)
    ends = {"input": 1.0, "a0.h0": 0.5, "m0": 0.2, "a1.h0": 0.9, "m1": 0.4, "logits": 1.0}
    for w, r in graph.mask.nonzero().tolist():
        expected = ends[graph.writers[w]] * ends[graph.readers[r].partition("<")[0]]
        assert float(found[w, r]) == pytest.approx(expected)
    with_parts = edge_values(graph, torch.cat((keep, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))))
    assert float(with_parts[graph.edge("m0->a1.h0<k>")]) == pytest.approx(0.2 * 0.9 * 0.5)
    assert float(with_parts[graph.edge("input->a0.h0<v>")]) == pytest.approx(0.5 * 0.3)


def test_a_high_price_closes_what_no_price_leaves_open(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    free, dear = (subnetwork_probing(model, task, sparsity=s, steps=20, parts=True) for s in (0.0, 1000.0))
    assert float(free.values[free.graph.mask].mean()) > float(dear.values[dear.graph.mask].mean()) + 0.1


def test_bad_requests_are_explained(model: Transformer) -> None:
    task: Any = random_task(vocab=200)
    for method in (edge_pruning, subnetwork_probing):
        with pytest.raises(ValueError, match="Unknown loss 'l2'; choose one of metric, faithfulness, square, kl"):
            method(model, task, loss="l2")
        with pytest.raises(ValueError, match="'steps' takes 1 or more, not 0"):
            method(model, task, steps=0)
        with pytest.raises(ValueError, match="'prompts' takes 1 or more, not 0"):
            method(model, task, prompts=0)
        with pytest.raises(ValueError, match="'learning_rate' takes a number above 0, not 0"):
            method(model, task, learning_rate=0)
        with pytest.raises(ValueError, match="Unknown ablation 'men'"):
            method(model, task, ablation="men")
        with pytest.raises(ValueError, match="does not change the metric of 'random'"):
            method(model, replace(task, corrupted=task.clean))
    with pytest.raises(ValueError, match="'target' takes a number between 0 and 1, not 200"):
        edge_pruning(model, task, target=200)
    with pytest.raises(ValueError, match="'sparsity' takes 0 or more, not -1"):
        subnetwork_probing(model, task, sparsity=-1)
    numerical = KNOWN["frac-prevs"].load()
    with pytest.raises(ValueError, match="has one output; choose loss='metric'"):
        edge_pruning(numerical.model, numerical.task(4), loss="kl")
