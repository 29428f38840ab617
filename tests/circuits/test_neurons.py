"""Neurons against Hugging Face's own modules: the input of each MLP's output projection, by hooks and autograd."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import micro, reference
from tests.circuits.compiled import compiled
from tests.circuits.test_attribution import random_task
from workbench.circuits import (
    NeuronEdges,
    NeuronScores,
    Stopped,
    Task,
    discover,
    evaluate_neurons,
    neuron_edges,
    neuron_scores,
)
from workbench.circuits.activations import graph_of
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

KINDS = ("llama-biased", "gpt2")
ABLATIONS = ("resample", "mean", "positional-mean", "zero")


@cache
def both(kind: str) -> tuple[Any, Transformer]:
    hf = micro.hugging_face(kind)
    return hf, from_hf(hf)


def outputs(hf: Any) -> list[Any]:
    """The modules whose input are the neurons."""
    if hf.config.model_type == "gpt2":
        return [block.mlp.c_proj for block in hf.transformer.h]
    return [block.mlp.down_proj for block in hf.model.layers]


def rows(hf: Any, layer: int) -> Tensor:
    """[neuron, d_model]."""
    weight: Tensor = outputs(hf)[layer].weight
    return weight if hf.config.model_type == "gpt2" else weight.T


def run(hf: Any, change: Any = None, **inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """Logits and neurons by layer; ``change(layer, neurons)`` gives what the model goes on with."""
    seen: list[Tensor] = []

    def hook(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = given[0] if change is None else change(len(seen), given[0])
        seen.append(value)
        return (value,)

    with ExitStack() as stack:
        for module in outputs(hf):
            stack.callback(module.register_forward_pre_hook(hook).remove)
        return hf(**inputs).logits, seen


def ablated(hf: Any, task: Task, ablation: str) -> list[Tensor]:
    """What neurons are replaced by, of prompts of one length."""
    with torch.no_grad():
        found = run(hf, input_ids=task.corrupted)[1]
    if ablation == "mean":
        return [value.mean((0, 1), keepdim=True) for value in found]
    if ablation == "positional-mean":
        return [value.mean(0, keepdim=True) for value in found]
    return [torch.zeros_like(value) for value in found] if ablation == "zero" else found


def by_hand(hf: Any, task: Task, words: Tensor, ablation: str) -> Tensor:
    """Scores by the gradients of the run that starts with these word embeddings."""
    with torch.no_grad():
        clean = run(hf, input_ids=task.clean)[1]
    logits, seen = run(hf, inputs_embeds=words.detach().requires_grad_())
    gradients = torch.autograd.grad(task.metric(logits).sum(), seen)
    rows = zip(clean, ablated(hf, task, ablation), gradients, strict=True)
    return torch.stack([((value - other) * gradient).sum((0, 1)) for value, other, gradient in rows]) / len(task)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.detach().abs().max()), rtol=1e-4)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_autograd_at_hugging_faces_neurons(kind: str, ablation: str) -> None:
    hf, model = both(kind)
    task, words = random_task(), hf.get_input_embeddings()
    expected = by_hand(hf, task, words(task.clean), ablation)
    scores = neuron_scores(model, task, method="eap", ablation=ablation, budget=1)  # type: ignore[arg-type]
    close(scores.values, expected)
    assert scores.layers == (0, 1)
    last = neuron_scores(model, task, layers=[1], method="eap", ablation=ablation)  # type: ignore[arg-type]
    close(last.values, expected[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_means_over_runs_between_the_embeddings(kind: str) -> None:
    hf, model = both(kind)
    task, words = random_task(), hf.get_input_embeddings()
    clean, corrupted = words(task.clean), words(task.corrupted)
    parts = [by_hand(hf, task, corrupted + k / 3 * (clean - corrupted), "resample") for k in range(3)]
    close(neuron_scores(model, task, steps=3).values, sum(parts) / 3)


def test_padding_counts_for_nothing() -> None:
    _, model = both("gpt2")
    task = random_task(unlike=True)
    alone = [neuron_scores(model, task.rows(i, i + 1), steps=2).values for i in range(len(task))]
    close(neuron_scores(model, task, steps=2).values, torch.stack(alone).mean(0))
    changed = task.corrupted.clone()
    for row, length in zip(changed, task.lengths.tolist(), strict=True):
        row[length:] = 5
    for ablation in ("mean", "positional-mean"):
        one, other = (
            neuron_scores(model, t, ablation=ablation, method="eap").values  # type: ignore[arg-type]
            for t in (task, replace(task, corrupted=changed))
        )
        close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_out_of_neurons_equal_autograd_on_one_residual_stream_per_reader(kind: str) -> None:
    hf, model = both(kind)
    task, ref = random_task(), reference.Reference(hf)
    with torch.no_grad():
        clean = run(hf, input_ids=task.clean)[1][0]
    change = clean - ablated(hf, task, "resample")[0]
    start = ref.embed(task.clean).detach().requires_grad_()
    logits, _, inputs = ref.run(task.clean, lambda w, r, out: start if w == 0 else out)
    gradients = torch.autograd.grad(task.metric(logits).sum(), inputs)
    expected = torch.zeros(change.shape[2], len(ref.graph.readers))
    for r in ref.graph.mask[ref.graph.mlp_writer(0)].nonzero().flatten().tolist():
        expected[:, r] = torch.einsum("bpm,md,bpd->m", change, rows(hf, 0), gradients[r]) / len(task)
    close(neuron_edges(model, task, 0, method="eap").values, expected)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2", "gpt-neox", "gpt-neox-serial", "phi", "opt"])
def test_edges_out_of_neurons_add_up_to_the_edges_out_of_their_mlp(kind: str) -> None:
    model, task = from_hf(find(kind).model(vocab=64)), random_task()
    graph = graph_of(model)
    for method in ("eap", "eap-ig"):
        for ablation in ("resample", "mean"):
            whole = discover(model, task, method, ablation=ablation).values
            for layer in range(graph.n_layers):
                found = neuron_edges(model, task, layer, method=method, ablation=ablation)  # type: ignore[arg-type]
                close(found.values.sum(0), whole[graph.mlp_writer(layer)])


def test_a_scale_behind_the_output_matrix_belongs_to_the_neurons() -> None:
    model, task = from_hf(find("gpt2").model(vocab=64)), random_task()
    for block in model.blocks:  # as in DINOv2
        block.mlp.scale = torch.nn.Parameter(torch.linspace(-1, 2, model.cfg.d_model), requires_grad=False)
    whole = discover(model, task, "eap").values[graph_of(model).mlp_writer(0)]
    close(neuron_edges(model, task, 0, method="eap").values.sum(0), whole)


def test_with_zero_ablation_the_bias_makes_the_difference() -> None:
    hf, model = both("gpt2")
    task, graph = random_task(), graph_of(model)
    whole = discover(model, task, "eap", ablation="zero").values[graph.mlp_writer(1)]
    found = neuron_edges(model, task, 1, method="eap", ablation="zero").values.sum(0)
    resid = hf(task.clean, output_hidden_states=True)
    # The unembedding alone reads MLP 1: the bias's share is its product with the gradient at the last stream.
    stream, block = resid.hidden_states[-2].detach(), hf.transformer.h[1]
    end = block(stream)
    end = (end if isinstance(end, Tensor) else end[0]).detach().requires_grad_()
    metric = task.metric(hf.lm_head(hf.transformer.ln_f(end))).sum()
    (gradient,) = torch.autograd.grad(metric, end)
    share = (gradient.sum((0, 1)) @ block.mlp.c_proj.bias) / len(task)
    assert float(share.detach().abs()) > 1e-3
    close(found[-1] + share, whole[-1])


def test_a_neuron_s_score_is_the_sum_over_its_edges_in_the_last_layer() -> None:
    _, model = both("llama-biased")
    task = random_task()
    close(neuron_edges(model, task, 1).values.sum(1), neuron_scores(model, task, layers=[1]).values[0])


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    ablation=st.sampled_from(ABLATIONS),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
)
def test_a_run_of_some_neurons_equals_hugging_faces_with_the_others_replaced(
    kind: str, ablation: str, seed: int, density: float
) -> None:
    hf, model = both(kind)
    task = random_task(seed=seed % 5)
    kept = torch.rand(2, model.cfg.d_mlp, generator=torch.Generator().manual_seed(seed)) < density
    other = ablated(hf, task, ablation)

    def metric(mask: Tensor) -> float:
        with torch.no_grad():
            swap = lambda layer, value: torch.where(mask[layer], value, other[layer])  # noqa: E731
            return float(task.metric(run(hf, swap, input_ids=task.clean)[0]).mean())

    found = evaluate_neurons(model, task, kept, ablation)  # type: ignore[arg-type]
    with torch.no_grad():
        full = float(task.metric(hf(task.clean).logits).mean())
    empty, some = metric(torch.zeros_like(kept)), metric(kept)
    assert found.metric == pytest.approx(some, abs=2e-4)
    assert found.metric_full == pytest.approx(full, abs=2e-4)
    assert found.faithfulness * (full - empty) == pytest.approx(some - empty, abs=1e-3)
    assert (found.n_neurons, found.n_neurons_total) == (int(kept.sum()), 2 * model.cfg.d_mlp)


@pytest.mark.parametrize("kind", ["gemma2", "bert-masked", "gpt-neox"])
def test_in_every_family_all_neurons_are_the_model(kind: str) -> None:
    model, task = from_hf(find(kind).model(vocab=64)), random_task()
    layers = [0, 2]
    scores = neuron_scores(model, task, layers=layers, steps=2)
    assert scores.values.any(1).all()
    full = evaluate_neurons(model, task, scores.top(scores.values.numel()), layers=layers)
    empty = evaluate_neurons(model, task, scores.top(0), layers=layers, budget=1)
    assert (full.faithfulness, empty.faithfulness) == (pytest.approx(1, abs=1e-4), pytest.approx(0, abs=1e-4))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bert-masked"])
def test_scores_are_the_effect_of_one_neuron_in_the_limit_of_small_differences(kind: str) -> None:
    model = from_hf(find(kind).model(vocab=64)).double()
    task, size = random_task(batch=2), 1e-6
    name = "blocks.1.mlp.hook_post"
    with torch.no_grad():
        cache = [model.run_with_cache(tokens, [name])[1][name] for tokens in (task.clean, task.corrupted)]
    change = size * (cache[1] - cache[0])
    scores = neuron_scores(model, task, layers=[1], method="eap").values[0]

    def metric(neuron: int | None) -> Tensor:
        def tap(value: Tensor) -> Tensor:
            if neuron is not None:
                value[..., neuron] += change[..., neuron]
            return value

        with torch.no_grad():
            return task.metric(model(task.clean, {name: tap})).mean()

    effects = torch.stack([metric(None) - metric(neuron) for neuron in range(6)]) / size
    torch.testing.assert_close(scores[:6].double(), effects, atol=1e-4 * float(scores.abs().max()), rtol=1e-3)


def test_in_a_compiled_program_few_neurons_keep_the_answer() -> None:
    _, made = compiled("hist")
    task = made.task(n=16)
    scores = neuron_scores(made.model, task)
    worth = int((scores.values.abs() > 1e-6).sum())
    assert 0 < worth < scores.values.numel()
    assert evaluate_neurons(made.model, task, scores.top(worth)).faithfulness == pytest.approx(1, abs=0.05)
    names = scores.best(2)
    assert list(names.values()) == scores.values.flatten()[scores.values.abs().flatten().topk(2).indices].tolist()


def test_the_best_have_names() -> None:
    scores = NeuronScores((1, 3), torch.tensor([[0.0, 2, -1], [0, 0, -3]]))
    assert scores.best(3) == {"m3.n2": -3, "m1.n1": 2, "m1.n2": -1}
    assert scores.top(2).tolist() == [[False, True, False], [False, False, True]]
    _, model = both("gpt2")
    graph = graph_of(model)
    values = torch.zeros(5, len(graph.readers))
    values[4, graph.reader_index["a1.h2<k>"]], values[1, -1] = -2, 1
    edges = NeuronEdges(graph, 0, values)
    assert edges.best(2) == {"m0.n4->a1.h2<k>": -2, "m0.n1->logits": 1}
    with pytest.raises(ValueError, match="there are 6; choose 0 to that"):
        scores.top(7)


def test_a_stop_keeps_the_prompts_that_are_finished() -> None:
    _, model = both("gpt2")
    task = random_task(batch=4)
    stop = lambda p: p.done < 2  # noqa: E731
    first = task.rows(0, 2)
    scores = neuron_scores(model, task, method="eap", budget=1, progress=stop)
    assert (scores.n_examples, scores.complete) == (2, False)
    close(scores.values, neuron_scores(model, first, method="eap").values)
    found = neuron_edges(model, task, 0, method="eap", budget=1, progress=stop)
    assert (found.n_examples, found.complete) == (2, False)
    report = evaluate_neurons(model, task, scores.top(9), budget=1, progress=stop)
    assert (report.n_examples, report.complete) == (2, False)
    assert report.metric == pytest.approx(evaluate_neurons(model, first, scores.top(9)).metric, abs=1e-5)
    with pytest.raises(Stopped):
        neuron_scores(model, task, budget=1, progress=lambda p: False)


def test_bad_requests_are_explained() -> None:
    _, model = both("gpt2")
    task = random_task()
    with pytest.raises(ValueError, match="no layer 2; its layers are 0 to 1"):
        neuron_scores(model, task, layers=[2])
    with pytest.raises(ValueError, match=r"one or several different ones of 0 to 1; got \[\]"):
        neuron_scores(model, task, layers=[])
    with pytest.raises(ValueError, match="not for each neuron; choose resample"):
        neuron_scores(model, task, ablation="optimal")
    with pytest.raises(ValueError, match="'relp' gives no scores by position or neuron"):
        neuron_edges(model, task, 0, method="relp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"bool tensor \[2, 56\].* not torch.float32 \[1, 128\]"):
        evaluate_neurons(model, task, torch.ones(1, 128))
    with pytest.raises(ValueError, match=r"plain sums; gemma .*normalises what is added"):
        neuron_edges(from_hf(micro.hugging_face("gemma2"), name="gemma"), task, 0)
    same = replace(task, corrupted=task.clean)
    with pytest.raises(ValueError, match="does not change the metric"):
        evaluate_neurons(model, same, torch.zeros(2, model.cfg.d_mlp, dtype=torch.bool))
