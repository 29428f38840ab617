"""Edge attribution against autograd on one residual stream per reader, and against exact one-edge patching."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import micro, reference
from workbench.circuits import Circuit, Stopped, Task, discover, methods
from workbench.circuits.activations import Ablator, batch_size_for, graph_of, record
from workbench.circuits.attribution import edge_scores, reader_gradients, writer_differences
from workbench.circuits.eap import eap
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, from_hf


def random_task(vocab: int = 64, batch: int = 3, length: int = 7, seed: int = 0, unlike: bool = False) -> Task:
    """Random tokens; with ``unlike`` lengths, padded."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length - i if unlike else length for i in range(batch)])
    draw = lambda: torch.randint(0, vocab, (batch, length), generator=g)  # noqa: E731
    right, wrong = torch.randint(0, vocab, (batch, 1), generator=g), torch.randint(0, vocab, (batch, 1), generator=g)
    words = [f"prompt {i}" for i in range(batch)]
    return Task(
        "random", "Random", draw(), draw(), lengths, right, wrong, words, words, "logit-diff", {"name": "random"}
    )


@pytest.mark.parametrize("kind", micro.KINDS)
def test_eap_equals_one_residual_stream_per_reader(kind: str) -> None:
    hf = micro.hugging_face(kind)
    model, task = from_hf(hf), random_task()
    slow = reference.edge_attribution(hf, task.clean, task.corrupted, task.metric) / len(task)
    fast = discover(model, task, "eap").values
    torch.testing.assert_close(fast, slow, atol=1e-5 * float(slow.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_padded_prompts_score_as_each_alone(kind: str) -> None:
    model, task = from_hf(micro.hugging_face(kind)), random_task(unlike=True)
    alone = [discover(model, task.rows(i, i + 1), "eap-ig", steps=3).values for i in range(len(task))]
    together = discover(model, task, "eap-ig", steps=3).values
    torch.testing.assert_close(together, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)


def test_batches_of_any_size_give_the_same_scores(model: Transformer) -> None:
    task = random_task(vocab=200, batch=5)
    for method in ("eap", "eap-ig"):
        for ablation in ("resample", "mean", "positional-mean", "zero"):
            one = discover(model, task, method, ablation=ablation, budget=1).values
            all_at_once = discover(model, task, method, ablation=ablation).values
            torch.testing.assert_close(one, all_at_once, atol=1e-6, rtol=1e-4)


def test_eap_ig_is_the_mean_of_gradients_between_corrupted_and_clean_embedding() -> None:
    hf = micro.hugging_face("llama-grouped")
    model, task = from_hf(hf), random_task()
    ref = reference.Reference(hf)
    with torch.no_grad():
        _, clean, _ = ref.run(task.clean, lambda w, r, out: out)
        _, corrupted, _ = ref.run(task.corrupted, lambda w, r, out: out)
    expected = torch.zeros(ref.graph.mask.shape)
    for k in range(4):
        start = (corrupted[0] + k / 4 * (clean[0] - corrupted[0])).detach().requires_grad_()
        logits, _, inputs = ref.run(task.clean, lambda w, r, out, start=start: start if w == 0 else out)
        grads = torch.autograd.grad(task.metric(logits).sum(), inputs)
        for w, r in ref.graph.mask.nonzero().tolist():
            expected[w, r] += ((clean[w] - corrupted[w]) * grads[r]).sum() / 4 / len(task)
    scores = discover(model, task, "eap-ig", steps=4)
    torch.testing.assert_close(scores.values, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2", *micro.OTHERS])
def test_eap_is_exact_one_edge_patching_in_the_limit_of_small_differences(kind: str) -> None:
    model = from_hf(micro.hugging_face(kind)).double()
    task, graph = random_task(batch=2), graph_of(model)
    clean, corrupted = record(model, task.clean), record(model, task.corrupted)
    size = 1e-6
    near = clean.combine(corrupted, lambda a, b: a + size * (b - a))
    gradients = reader_gradients(model, task, model(task.clean, stop_at_layer=0))
    differences = writer_differences(model, graph, clean, near)
    scores = edge_scores(model, graph, differences, gradients, task.last)
    run = PatchedRun(model, task, near)
    # Patch one edge with the rest of the graph at its clean value.
    full = run.metric(graph.mask).sum()
    edges = graph.mask.nonzero()[:: max(1, graph.n_edges // 60)].tolist()
    exact = []
    for w, r in edges:
        mask = graph.mask.clone()
        mask[w, r] = False
        exact.append(full - run.metric(mask).sum())
    first_order = torch.stack([scores[w, r] for w, r in edges])
    torch.testing.assert_close(first_order, torch.stack(exact), atol=1e-4 * float(scores.abs().max()), rtol=1e-3)


def test_a_stop_keeps_the_prompts_that_are_finished(model: Transformer) -> None:
    task = random_task(vocab=200, batch=4)
    seen = []
    scores = discover(model, task, "eap", budget=1, progress=lambda p: seen.append((p.done, p.total)) or p.done < 2)
    assert seen == [(1, 4), (2, 4)]
    assert (scores.n_examples, scores.complete) == (2, False)
    torch.testing.assert_close(scores.values, discover(model, task.rows(0, 2), "eap").values, atol=1e-6, rtol=1e-4)
    with pytest.raises(Stopped):
        discover(model, task, "eap-ig", budget=1, steps=3, progress=lambda p: False)


def test_memory_budget_decides_the_batch_and_batches_are_even(model: Transformer) -> None:
    task = random_task(vocab=200, batch=10)
    assert batch_size_for(model, task, 1) == 1
    assert batch_size_for(model, task, 10**10) == 10
    pair = next(budget for budget in range(10**4, 10**8, 10**4) if batch_size_for(model, task, budget) > 1)
    sizes = {batch_size_for(model, task, k * pair) for k in range(1, 12)}
    assert sizes <= {2, 3, 4, 5, 10}  # never a full batch and a small rest where two even ones do
    assert batch_size_for(model, random_task(vocab=200, batch=10, length=39), pair) == 1


def test_bad_requests_are_explained(model: Transformer) -> None:
    task: Any = random_task(vocab=200)
    with pytest.raises(ValueError, match="no method 'eap_ig'; did you mean 'eap-ig'"):
        discover(model, task, "eap_ig")
    with pytest.raises(ValueError, match=r"no option .step.; it has steps, ablation"):
        discover(model, task, "eap-ig", step=3)
    with pytest.raises(ValueError, match="The option 'steps' of the method 'eap-ig' takes 1 or more, not 0"):
        discover(model, task, "eap-ig", steps=0)
    with pytest.raises(ValueError, match="Unknown ablation 'reample'"):
        eap(model, task, ablation="reample")  # type: ignore[arg-type]
    keys = [m.key for m in methods()]
    assert keys[0] == "eap-ig"
    assert {"eap", "clean-corrupted", "eap-gp", "relp", "atp", "hisp", "information-flow", "random"} < set(keys)
    assert len(keys) == len(set(keys))
    assert methods()[0].options == {"steps": 5, "ablation": "resample"}


def test_mean_ablation_is_the_mean_over_real_tokens_only(model: Transformer) -> None:
    task = random_task(vocab=200, unlike=True)
    whole = Ablator(model, task, "mean", 2)(task)
    rows = [record(model, task.corrupted[i : i + 1, : int(n)]) for i, n in enumerate(task.lengths)]
    expected = torch.cat([row.mlp[1][0] for row in rows]).mean(0)
    torch.testing.assert_close(whole.mlp[1][0, 0], expected, atol=1e-5, rtol=1e-5)
    by_position = Ablator(model, task, "positional-mean", 2)(task)
    expected = torch.stack([row.z[0][0, 6] for row in rows if row.z[0].shape[1] > 6]).mean(0)
    torch.testing.assert_close(by_position.z[0][0, 6], expected, atol=1e-5, rtol=1e-5)
    assert Circuit.full(graph_of(model)).n_edges > 0
