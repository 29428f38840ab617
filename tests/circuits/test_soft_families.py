"""Soft runs, and the methods that learn by them, where norms lie between writers and readers or answers are pooled."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.circuits.family_reference import KINDS
from tests.circuits.test_families import ABLATIONS, ablated_for, close, in_float64, pair, real_only, task_for
from workbench.circuits import Task, discover, faithfulness_curve
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.mask_training import by_start
from workbench.circuits.patching import PatchedRun
from workbench.circuits.refine import refine
from workbench.circuits.soft_run import SoftRun, shared_start
from workbench.models import Transformer
from workbench.models.families.samples import SAMPLES


def soft(model: Transformer, task: Task, ablation: Any = "resample", start: int = 0) -> SoftRun:
    return SoftRun(model, task, Ablator(model, task, ablation, 2)(task), start)


def shares(model: Transformer, seed: int = 0) -> Tensor:
    mask = graph_of(model).mask
    return torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) * mask


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(list(KINDS)), ablation=st.sampled_from(ABLATIONS), seed=st.integers(0, 10**6))
def test_any_mask_of_shares_runs_as_with_one_stream_per_reader(kind: str, ablation: str, seed: int) -> None:
    hf, model = pair(kind)
    task, ref, mask = task_for(kind, seed % 5), KINDS[kind](hf), shares(model, seed)
    ablated = ablated_for(ref, task, ablation)
    with torch.no_grad():
        expected, _ = ref.run(task, lambda w, r, out: ablated[w] + mask[w, r] * (out - ablated[w]))
        found = soft(model, task, ablation).logits(mask)
    close(real_only(kind, found, task), real_only(kind, expected, task), 1e-4)


@pytest.mark.parametrize("kind", [sample.key for sample in SAMPLES])
def test_a_binary_mask_is_the_patched_run(kind: str) -> None:
    model, task = deepcopy(pair(kind)[1]).double(), in_float64(task_for(kind))
    for density in (0.1, 0.9):
        mask = (shares(model) > 1 - density) & graph_of(model).mask
        run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
        with torch.no_grad():
            close(soft(model, task).logits(mask.double()), run.logits(mask), 1e-10)


@pytest.mark.parametrize("kind", [*KINDS, "gemma3"])
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_gradients_anywhere_are_finite_differences(kind: str, ablation: str) -> None:
    model, task = deepcopy(pair(kind)[1]).double(), in_float64(task_for(kind, batch=2))
    run, point = soft(model, task, ablation), shares(model).double()
    mask = point.clone().requires_grad_()
    (found,) = torch.autograd.grad(run.metric(mask).sum(), mask)
    assert not found[~run.graph.mask].any()
    size, edges = 1e-6, run.graph.mask.nonzero()
    for w, r in edges[:: max(1, len(edges) // 20)].tolist():
        step = torch.zeros_like(point)
        step[w, r] = size
        with torch.no_grad():
            slope = (run.metric(point + step) - run.metric(point - step)).sum() / (2 * size)
        torch.testing.assert_close(found[w, r], slope, atol=1e-5 * float(found.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_what_prompts_begin_with_can_be_left_out_where_norms_lie_between(kind: str) -> None:
    model, task = deepcopy(pair(kind)[1]).double(), task_for(kind, unlike=False)
    alike = task.corrupted.clone()
    alike[:, :3] = task.clean[:, :3]
    task = replace(task, corrupted=alike)
    assert shared_start(model, task, "resample") == 3
    found = []
    for start in (0, 3):
        mask = shares(model).double().requires_grad_()
        value = soft(model, task, start=start).metric(mask)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), mask)))
    torch.testing.assert_close(found[0], found[1])


def test_a_causal_model_that_answers_at_all_positions_needs_them_all() -> None:
    task = task_for("gpt2", unlike=False)
    alike = task.corrupted.clone()
    alike[:, :3] = task.clean[:, :3]
    task, model = replace(task, corrupted=alike), deepcopy(pair("gpt2")[1])
    assert shared_start(model, task, "resample") == 3
    model.cfg = replace(model.cfg, head="none")
    assert shared_start(model, task, "resample") == 0


def test_images_keep_their_pairs_in_any_order() -> None:
    task = task_for("vit-classes", batch=4)
    ordered = by_start(replace(task, clean_text=list("abcd")))
    for i, text in enumerate(ordered.clean_text):
        assert torch.equal(ordered.clean[i], task.clean["abcd".index(text)])
        assert torch.equal(ordered.corrupted[i], task.corrupted["abcd".index(text)])


@pytest.mark.parametrize("kind", ["bert-masked", "bert-classes", "gemma2"])
def test_learned_circuits_are_more_faithful_than_those_that_it_starts_from(kind: str) -> None:
    model, task = pair(kind)[1], task_for(kind, batch=6)
    before = discover(model, task, "eap")
    after = refine(model, task, start="eap", steps=60, learning_rate=0.1)
    cmd = [faithfulness_curve(model, task, scores, control=False).cmd for scores in (before, after)]
    assert cmd[1] < 0.8 * cmd[0]


@pytest.mark.parametrize("kind", ["bert", "roberta-classes", "dinov2-registers-classes"])
@pytest.mark.parametrize("method", ["edge-pruning", "subnetwork-probing"])
def test_masks_are_learned_in_every_family(kind: str, method: str) -> None:
    model, task = pair(kind)[1], task_for(kind, batch=4)
    scores = discover(model, task, method, steps=20, prompts=2)
    inside = scores.values[scores.graph.mask]
    assert float(inside.min()) > 0
    assert float(inside.max()) <= 1
    assert len(inside.unique()) > 5
