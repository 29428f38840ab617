"""Exact edge patching against one whole run for each edge, on Hugging Face's weights and on patched runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import micro, reference
from tests.circuits.test_attribution import random_task
from workbench.circuits import Scores, Stopped, Task
from workbench.circuits.activations import Ablator
from workbench.circuits.exact import exact
from workbench.circuits.partial import Partial
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


def brute_force(hf: Any, task: Task, ablation: str) -> Tensor:
    """metric(model) - metric(model with one edge ablated), one run on Hugging Face's weights for each edge."""
    ref = reference.Reference(hf)
    with torch.no_grad():
        _, ablated, _ = ref.run(task.corrupted, lambda w, r, out: out)
    if ablation == "mean":
        ablated = [out.mean((0, 1), keepdim=True) for out in ablated]
    if ablation == "zero":
        ablated = [torch.zeros_like(out) for out in ablated]
    full = task.metric(reference.patched_logits(hf, task.clean, ablated, ref.graph.mask))
    scores = torch.zeros(ref.graph.mask.shape)
    for w, r in ref.graph.mask.nonzero().tolist():
        mask = ref.graph.mask.clone()
        mask[w, r] = False
        scores[w, r] = (full - task.metric(reference.patched_logits(hf, task.clean, ablated, mask))).mean()
    return scores


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped"])
@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_every_edge_scores_what_a_run_without_it_loses(kind: str, ablation: Any) -> None:
    hf, task = micro.hugging_face(kind), random_task()
    expected = brute_force(hf, task, ablation)
    scores = exact(from_hf(hf), task, ablation=ablation)
    torch.testing.assert_close(scores.values, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    assert (scores.complete, scores.n_examples, scores.settings) == (True, len(task), {"ablation": ablation})


@pytest.mark.parametrize("kind", ["gpt-neox", "gpt-neo", "mistral", "gemma2"])
def test_in_every_family_an_edge_scores_what_the_patched_run_without_it_loses(kind: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)).double(), random_task(batch=2, length=5, unlike=True)
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    full, values = run.metric(run.graph.mask), exact(model, task).values
    for w, r in run.graph.mask.nonzero()[:: max(1, run.graph.n_edges // 30)].tolist():
        mask = run.graph.mask.clone()
        mask[w, r] = False
        assert float(values[w, r]) == pytest.approx(float((full - run.metric(mask)).mean()), abs=1e-6)


def test_prompts_and_edges_in_batches_of_any_size_score_the_same(model: Transformer) -> None:
    task = random_task(vocab=200, batch=5, unlike=True)
    for ablation in ("resample", "positional-mean"):
        whole = exact(model, task, ablation=ablation).values  # type: ignore[arg-type]
        one_by_one = exact(model, task, ablation=ablation, budget=1).values  # type: ignore[arg-type]
        torch.testing.assert_close(one_by_one, whole, atol=1e-5, rtol=1e-4)


def test_images_are_patched_too() -> None:
    model = from_hf(find("vit-classes").model())
    task = images(model)
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    full, values = run.metric(run.graph.mask), exact(model, task).values
    for w, r in run.graph.mask.nonzero()[::9].tolist():
        mask = run.graph.mask.clone()
        mask[w, r] = False
        assert float(values[w, r]) == pytest.approx(float((full - run.metric(mask)).mean()), abs=1e-5)


def images(model: Transformer) -> Task:
    """Pairs of random pictures."""
    image, names = model.cfg.image, ["one", "other"]
    assert image is not None
    draw = torch.randn(2, 2, image.channels, image.height, image.width, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((2,), model(draw[0], stop_at_layer=0).shape[1])
    right, wrong = torch.zeros(2, 1).long(), torch.ones(2, 1).long()
    return Task("images", "Images", draw[0], draw[1], lengths, right, wrong, names, names)


def test_a_stop_keeps_the_readers_that_are_done_and_the_rest_can_follow(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.circuits.partial.SECONDS", -1.0)  # every reader is handed out
    task, kept = random_task(vocab=200), list[Scores]()
    whole = exact(model, task)
    part = exact(model, task, progress=lambda p: p.done < 4, keep=kept.append)
    assert not part.complete
    assert part.values.isfinite().all()
    done = ~kept[-1].values.isnan().any(0)
    assert done.tolist() == [False] * (len(done) - 4) + [True] * 4  # the last readers
    torch.testing.assert_close(part.values[:, done], whole.values[:, done])
    assert not part.values[:, ~done].any()
    steps = []
    rest = exact(model, task, resume=kept[-1], progress=lambda p: steps.append(p.total))
    assert steps == [len(done) - 4] * (len(done) - 4)
    assert rest.complete
    torch.testing.assert_close(rest.values, whole.values)
    again = exact(model, task, resume=rest, progress=lambda p: steps.append(-1))
    assert -1 not in steps  # nothing is left to do
    assert torch.equal(again.values, rest.values)


def test_a_stop_before_the_first_reader_is_done_keeps_nothing(model: Transformer) -> None:
    with pytest.raises(Stopped):
        exact(model, random_task(vocab=200, batch=3), budget=1, progress=lambda p: False)


def test_going_on_with_another_search_is_refused_and_both_are_shown(model: Transformer) -> None:
    task = random_task(vocab=200)
    done = exact(model, task, ablation="zero")
    with pytest.raises(ValueError, match="ablation: 'zero' then, 'mean' now"):
        exact(model, task, ablation="mean", resume=done)
    with pytest.raises(ValueError, match="prompts: 3 then, 2 now"):
        exact(model, task.rows(0, 2), ablation="zero", resume=done)
    other = Partial(done.graph, task, "acdc", {"ablation": "zero"})
    other.fill(0, torch.zeros(len(done.graph.writers)))
    with pytest.raises(ValueError, match="method: 'acdc' then, 'exact' now"):
        exact(model, task, ablation="zero", resume=other.result())
    with pytest.raises(ValueError, match="Unknown ablation 'noise'"):
        exact(model, task, ablation="noise")  # type: ignore[arg-type]


def test_a_metric_that_is_no_number_is_named_with_its_example(model: Transformer) -> None:
    def half(values: Tensor, batch: Task) -> Tensor:
        return torch.where(batch.right[:, 0] == 7, torch.nan, values[:, 0])

    task = replace(random_task(vocab=200), right=torch.tensor([[1], [7], [2]]), metric_kind="custom", fn=half)
    for budget in (1, 2**28):  # prompts one at a time, and all together
        with pytest.raises(ValueError, match=r"not a number \(NaN\) on example 2, on a patched run of .prompt 1."):
            exact(model, task, budget=budget)
