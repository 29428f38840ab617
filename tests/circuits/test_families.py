"""Edges of encoders, classifiers, vision transformers, Gemma and parallel models against Hugging Face's modules."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits
from tests.circuits import family_reference as reference
from tests.circuits.family_reference import KINDS
from workbench.circuits import Task, discover
from workbench.circuits.activations import Ablator, graph_of, record
from workbench.circuits.attribution import edge_scores, reader_gradients, writer_differences
from workbench.circuits.patching import PatchedRun
from workbench.circuits.stream import attention_mask
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import SAMPLES, find
from workbench.models.mechanisms import MECHANISMS

ABLATIONS = ("resample", "mean", "positional-mean", "zero")
PADDED = tuple(kind for kind in KINDS if "bert" in kind)


class Likeness(Task):
    """For a model without a head: how far the first two real vectors point the same way."""

    def score(self, values: Tensor) -> Tensor:
        return torch.cosine_similarity(values[:, 0], values[:, 1], dim=-1)


@cache
def pair(kind: str) -> tuple[Any, Transformer]:
    """A fresh micro model with large random weights, Hugging Face's and ours."""
    # Wild weights make attention sharp and norms far from linear.
    hf = find(kind).model(weights="wild")
    return hf, from_hf(hf)


def task_for(kind: str, seed: int = 0, batch: int = 3, unlike: bool = True) -> Task:
    """Random texts (of encoders, of unlike length) or images, and two answers."""
    hf, model = pair(kind)
    g, c = torch.Generator().manual_seed(seed), hf.config
    if model.cfg.image is not None:
        image = model.cfg.image
        draw = lambda: torch.randn(batch, image.channels, image.height, image.width, generator=g)  # noqa: E731
        clean, corrupted, n = draw(), draw(), 5
        lengths = torch.full((batch,), model.cfg.n_ctx)
    else:
        lengths = torch.tensor([7 - 2 * i if unlike and kind in PADDED else 7 for i in range(batch)])
        real, n = torch.arange(7) < lengths[:, None], model.cfg.n_out
        draw = lambda: torch.randint(3, 64, (batch, 7), generator=g).where(real, torch.tensor(c.pad_token_id or 0))  # noqa: E731
        clean, corrupted = draw(), draw()
    order = torch.stack([torch.randperm(n, generator=g) for _ in range(batch)])
    words = [f"example {i}" for i in range(batch)]
    made = Likeness if model.cfg.head == "none" else Task
    return made("random", "Random", clean, corrupted, lengths, order[:, :1], order[:, 1:2], words, words)


def ablated_for(ref: reference.Reference, task: Task, ablation: str) -> list[Tensor]:
    with torch.no_grad():
        _, outputs = ref.run(task, reference.as_it_is, "corrupted")
    real = torch.arange(int(task.lengths.max())) < task.lengths[:, None]
    weight = real[:, :, None].to(outputs[0].dtype)
    if ablation == "mean":
        return [(out * weight).sum((0, 1), keepdim=True) / weight.sum() for out in outputs]
    if ablation == "positional-mean":
        return [(out * weight).sum(0, keepdim=True) / weight.sum(0, keepdim=True) for out in outputs]
    return [torch.zeros_like(out) for out in outputs] if ablation == "zero" else outputs


def answers(kind: str, task: Task, side: str = "clean") -> Tensor:
    """What Hugging Face's own model says, where the task reads it."""
    hf, model = pair(kind)
    given = getattr(task, side)
    with torch.no_grad():
        real = (torch.arange(given.shape[1]) < task.lengths[:, None]).long()
        out = hf(given) if model.cfg.image is not None else hf(given, attention_mask=real)
    if model.cfg.head == "none":
        return out.last_hidden_state
    return out.logits if out.logits.ndim == 2 else out.logits[torch.arange(len(given)), task.last]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal, but for so many parts of the largest number."""
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)


def real_only(kind: str, values: Tensor, task: Task) -> Tensor:
    """What is said of padding left out, where a whole residual stream is the answer."""
    if pair(kind)[1].cfg.head != "none":
        return values
    return values * (torch.arange(values.shape[1]) < task.lengths[:, None])[:, :, None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_hugging_faces_model(kind: str) -> None:
    task = task_for(kind)
    found, _ = reference.KINDS[kind](pair(kind)[0]).run(task, reference.as_it_is)
    close(real_only(kind, found, task), real_only(kind, answers(kind, task), task), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_eap_is_autograd_on_one_stream_per_reader(kind: str, ablation: str) -> None:
    hf, model = pair(kind)
    task, ref = task_for(kind), KINDS[kind](hf)
    slow = reference.edge_attribution(ref, task, ablated_for(ref, task, ablation)) / len(task)
    assert graph_of(model) == ref.graph
    close(discover(model, task, "eap", ablation=ablation).values, slow, 1e-5)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    ablation=st.sampled_from(ABLATIONS),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]),
)
def test_any_circuit_runs_as_with_one_stream_per_reader(kind: str, ablation: str, seed: int, density: float) -> None:
    hf, model = pair(kind)
    task, ref = task_for(kind, seed % 5), KINDS[kind](hf)
    noise = torch.rand(ref.graph.mask.shape, generator=torch.Generator().manual_seed(seed))
    mask = ref.graph.mask & (noise < density)
    expected = reference.patched(ref, task, ablated_for(ref, task, ablation), mask)
    found = PatchedRun(model, task, Ablator(model, task, ablation, 2)(task)).logits(mask)  # type: ignore[arg-type]
    close(real_only(kind, found, task), real_only(kind, expected, task), 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_edges_are_the_model_and_none_the_ablated_run(kind: str) -> None:
    model, task = pair(kind)[1], task_for(kind)
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    whole, nothing = run.logits(run.graph.mask), run.logits(torch.zeros_like(run.graph.mask))
    close(real_only(kind, whole, task), real_only(kind, answers(kind, task), task), 1e-4)
    close(real_only(kind, nothing, task), real_only(kind, answers(kind, task, "corrupted"), task), 1e-4)
    assert not torch.allclose(whole, nothing, atol=1e-2)


@pytest.mark.parametrize("kind", ["bert-masked", "bert-classes", "gemma2", "vit-classes"])
def test_gradients_between_ablated_and_clean_input_are_those_of_the_reference(kind: str) -> None:
    hf, model = pair(kind)
    task, ref = task_for(kind), KINDS[kind](hf)
    ablated, steps = ablated_for(ref, task, "resample"), 3
    with torch.no_grad():
        _, clean = ref.run(task, reference.as_it_is)
    edges = ref.graph.mask.nonzero().tolist()
    expected = torch.zeros(ref.graph.mask.shape)
    for k in range(steps):
        point = torch.lerp(ablated[0], clean[0], k / steps)
        ref.embed = lambda inputs, point=point: point  # type: ignore[method-assign]
        leaves = {(w, r): torch.zeros_like(point).requires_grad_() for w, r in edges}
        answer, _ = ref.run(task, lambda w, r, output, leaves=leaves: output + leaves[w, r])
        gradients = torch.autograd.grad(task.score(answer).sum(), list(leaves.values()))
        for (w, r), gradient in zip(edges, gradients, strict=True):
            expected[w, r] += ((clean[w] - ablated[w]) * gradient).sum() / steps / len(task)
    graph = graph_of(model)
    outputs = record(model, task.clean, attention_mask(model, task))
    differences = writer_differences(model, graph, outputs, Ablator(model, task, "resample", 2)(task))
    before, scores = differences.clone(), torch.zeros(graph.mask.shape)
    for k in range(steps):
        gradients_at = reader_gradients(model, task, torch.lerp(ablated[0], clean[0], k / steps))
        scores += edge_scores(model, graph, differences, gradients_at, task.last) / steps / len(task)
    assert torch.equal(differences, before)  # they serve every step
    close(scores, expected, 1e-5)


def exact_and_first_order(model: Transformer, task: Task, count: int = 40) -> tuple[Tensor, Tensor]:
    """Small changes of single edges, patched and by :func:`edge_scores`; ``model`` computes in float64."""
    graph = graph_of(model)
    mask = attention_mask(model, task)
    clean, other = record(model, task.clean, mask), record(model, task.corrupted, mask)
    near = clean.combine(other, lambda a, b: a + 1e-6 * (b - a))
    gradients = reader_gradients(model, task, clean.embed)
    scores = edge_scores(model, graph, writer_differences(model, graph, clean, near), gradients, task.last)
    run = PatchedRun(model, task, near)
    full, exact = run.metric(graph.mask).sum(), []
    edges = graph.mask.nonzero()[:: max(1, graph.n_edges // count)].tolist()
    for edge in edges:
        without = graph.mask.clone()
        without[tuple(edge)] = False
        exact.append(full - run.metric(without).sum())
    return torch.stack(exact), torch.stack([scores[tuple(edge)] for edge in edges])


@pytest.mark.parametrize("kind", [sample.key for sample in SAMPLES if sample.key not in KINDS])
def test_every_sample_of_every_family_has_edges(kind: str) -> None:
    model, task = pair(kind)[1], task_for(kind)
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    assert run.graph.n_edges == int(run.graph.mask.sum()) > 0
    close(real_only(kind, run.logits(run.graph.mask), task), real_only(kind, answers(kind, task), task), 1e-4)
    nothing = run.logits(torch.zeros_like(run.graph.mask))
    close(real_only(kind, nothing, task), real_only(kind, answers(kind, task, "corrupted"), task), 1e-4)
    exact, first_order = exact_and_first_order(deepcopy(model).double(), in_float64(task))
    close(first_order, exact, 1e-4)


def in_float64(task: Task) -> Task:
    wide = [x.double() if x.is_floating_point() else x for x in (task.clean, task.corrupted)]
    return replace(task, clean=wide[0], corrupted=wide[1])


@pytest.mark.parametrize("kind", PADDED)
def test_padding_changes_no_score_and_no_circuit(kind: str) -> None:
    model, task = pair(kind)[1], task_for(kind)
    alone = [task.rows(i, i + 1) for i in range(len(task))]
    for method, ablation in (("eap", "resample"), ("eap", "zero"), ("eap-ig", "resample")):
        one_by_one = torch.stack([discover(model, row, method, ablation=ablation).values for row in alone])
        close(discover(model, task, method, ablation=ablation).values, one_by_one.mean(0), 1e-5)
    mask = discover(model, task, "eap").top(60, prune=False).mask
    metrics = [PatchedRun(model, row, Ablator(model, row, "zero", 1)(row)).metric(mask) for row in alone]
    close(PatchedRun(model, task, Ablator(model, task, "zero", 1)(task)).metric(mask), torch.cat(metrics), 1e-5)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("kind", ["bert-classes", "gemma2", "vit-classes"])
def test_batches_of_any_size_give_the_same_scores(kind: str, ablation: str) -> None:
    model, task = pair(kind)[1], task_for(kind, batch=4, unlike=False)
    one_by_one = discover(model, task, "eap", ablation=ablation, budget=1).values
    close(one_by_one, discover(model, task, "eap", ablation=ablation).values, 1e-5)


@pytest.mark.parametrize("kind", ["bert-masked", "bert-classes", "vit-classes", "gemma2", "phi"])
def test_frozen_norms_are_those_of_a_model_whose_scales_carry_no_gradient(kind: str) -> None:
    hf, model = pair(kind)
    task, ref = task_for(kind), KINDS[kind](hf)
    ablated = ablated_for(ref, task, "resample")
    norms = [module for module in hf.modules() if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))]
    for norm in norms:
        norm.forward = partial(with_constant_scale, norm)
    try:
        slow = reference.edge_attribution(ref, task, ablated)
    finally:
        for norm in norms:
            del norm.forward
    graph = graph_of(model)
    taps = {name: Tensor.detach for name in model.hook_names if name.endswith("hook_scale")}
    gradients = reader_gradients(model, task, model(task.clean, stop_at_layer=0), taps=taps)
    differences = writer_differences(model, graph, gradients.outputs, Ablator(model, task, "resample", 2)(task))
    close(edge_scores(model, graph, differences, gradients, task.last, frozen_norms=True), slow, 1e-5)


def with_constant_scale(norm: Any, x: Tensor) -> Tensor:
    if hasattr(norm, "bias"):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True, correction=0) + norm.eps).sqrt().detach() * norm.weight + norm.bias
    return x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt().detach() * (1 + norm.weight)


@pytest.mark.parametrize("kind", ["bert-masked", "gemma2", "vit-classes"])
def test_a_tap_may_cut_a_gradient(kind: str) -> None:
    model, task = pair(kind)[1], task_for(kind)
    embed, top = model(task.clean, stop_at_layer=0), model.cfg.n_layers - 1
    plain = reader_gradients(model, task, embed)
    cut = reader_gradients(model, task, embed, taps={f"blocks.{top}.hook_mlp_out": Tensor.detach})
    assert plain.mlp[top].abs().max() > 0 == cut.mlp[top].abs().max()
    torch.testing.assert_close(cut.final, plain.final)
    assert not torch.allclose(cut.q[0], plain.q[0])
    with pytest.raises(ValueError, match=r"no activation called 'blocks\.0\.hook_mpl_out'"):
        reader_gradients(model, task, embed, taps={"blocks.0.hook_mpl_out": Tensor.detach})


APART = ("gated", "value-residual", "differential", "selective")


@pytest.mark.parametrize("key", [m.key for m in MECHANISMS if m.key not in (*APART, "softmax")])
def test_edges_of_other_attention_mechanisms(key: str) -> None:
    plain = pair("gpt2")[1]
    chosen = [(0, 1), (1, 0), (1, 2)] if key in ("cosine", "sigmoid") else None
    model, task = deepcopy(plain).double().with_attention(key, heads=chosen), task_for("gpt2")
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    close(run.logits(run.graph.mask), model(task.clean, logits_at=task.last)[:, 0], 1e-8)
    close(run.logits(run.graph.mask & False), model(task.corrupted, logits_at=task.last)[:, 0], 1e-8)
    without_one_head(model, task, run)
    exact, first_order = exact_and_first_order(model, task)
    close(first_order, exact, 1e-4)


def without_one_head(model: Transformer, task: Task, run: PatchedRun) -> None:
    """A circuit that lacks all edges from one head is the model with that head's output replaced."""
    other = record(model, task.corrupted).z[0][:, :, 1]

    def replace_head(z: Tensor) -> Tensor:
        return torch.cat((z[:, :, :1], other[:, :, None], z[:, :, 2:]), 2)

    mask = run.graph.mask.clone()
    mask[run.graph.writer_index["a0.h1"]] = False
    expected = model(task.clean, {"blocks.0.attn.hook_z": replace_head}, logits_at=task.last)[:, 0]
    close(run.logits(mask), expected, 1e-8)


def test_a_parallel_block_may_normalise_what_is_added() -> None:
    like = pair("gemma2")[1]
    weights = like.state_dict() | {"inverse_frequencies": like.inverse_frequencies}
    model = Transformer(replace(like.cfg, parallel=True), weights).double()
    task = task_for("gemma2")
    run = PatchedRun(model, task, Ablator(model, task, "resample", 2)(task))
    close(run.logits(run.graph.mask), model(task.clean, logits_at=task.last)[:, 0], 1e-8)
    without_one_head(model, task, run)
    exact, first_order = exact_and_first_order(model, task)
    close(first_order, exact, 1e-4)


@pytest.mark.parametrize("key", APART)
def test_mechanisms_with_other_ways_in_are_refused(key: str) -> None:
    model = digits.encoder().with_attention(key)
    with pytest.raises(ValueError, match=f"encoder.* attends by '{key}', whose heads read more than their own"):
        graph_of(model)
