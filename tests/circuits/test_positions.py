"""Edges at positions against autograd and patching on one residual stream per reader, position by position."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import micro, reference
from tests.circuits.compiled import compiled
from tests.circuits.test_attribution import random_task
from workbench.circuits import (
    Circuit,
    Graph,
    PositionCircuit,
    PositionScores,
    Stopped,
    discover,
    evaluate,
    evaluate_positions,
    position_scores,
)
from workbench.circuits.activations import Ablator, graph_of
from workbench.circuits.graph import node_of, part_of
from workbench.circuits.patching import PatchedRun
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

KINDS = ("llama-grouped", "gpt2")


@cache
def both(kind: str) -> tuple[Any, Transformer]:
    hf = micro.hugging_face(kind)
    return hf, from_hf(hf)


def by_hand(hf: Any, clean: Tensor, corrupted: Tensor, start: Tensor, metric: Any) -> Tensor:
    """Gradients of the run from ``start`` times clean minus corrupted, [pos, writer, reader], summed over prompts."""
    ref = reference.Reference(hf)
    with torch.no_grad():
        _, outputs, _ = ref.run(clean, lambda w, r, out: out)
        _, ablated, _ = ref.run(corrupted, lambda w, r, out: out)
    start = start.detach().requires_grad_()
    logits, _, inputs = ref.run(clean, lambda w, r, out: start if w == 0 else out)
    gradients = torch.autograd.grad(metric(logits).sum(), inputs)
    scores = torch.zeros(clean.shape[1], *ref.graph.mask.shape)
    for w, r in ref.graph.mask.nonzero().tolist():
        scores[:, w, r] = ((outputs[w] - ablated[w]) * gradients[r]).sum((0, 2))
    return scores


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_autograd_on_one_residual_stream_per_reader(kind: str) -> None:
    hf, model = both(kind)
    task, ref = random_task(), reference.Reference(hf)
    clean, corrupted = ref.embed(task.clean), ref.embed(task.corrupted)

    def at(share: float) -> Tensor:
        start = corrupted + share * (clean - corrupted)
        return by_hand(hf, task.clean, task.corrupted, start, task.metric) / len(task)

    close(position_scores(model, task, method="eap").values, at(1))
    close(position_scores(model, task, steps=3).values, (at(0) + at(1 / 3) + at(2 / 3)) / 3)
    close(position_scores(model, task, method="clean-corrupted").values, (at(0) + at(1)) / 2)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt-neox", "gemma2", "bert-masked", "bert-classes"])
def test_over_positions_they_add_up_to_the_methods_scores(kind: str) -> None:
    model = from_hf(find(kind).model(vocab=64))
    task = random_task()
    if model.cfg.pooling != "none":
        task = replace(task, right=torch.tensor([[0]] * 3), wrong=torch.tensor([[1]] * 3))
    for method, options in (("eap", {}), ("eap-ig", {"steps": 2}), ("eap-gp", {"steps": 2}), ("clean-corrupted", {})):
        scores = position_scores(model, task, method=method, ablation="mean", **options)  # type: ignore[arg-type]
        alone = discover(model, task, method, ablation="mean", **options)
        close(scores.total().values, alone.values)
        assert (scores.total().settings, scores.total().method) == (alone.settings, method)
        assert scores.causal == model.cfg.causal


def test_what_answers_at_one_place_is_read_by_the_logits_there_alone() -> None:
    _, model = both("gpt2")
    task = replace(random_task(), at=torch.tensor([2, 5, 5]))
    values = position_scores(model, task, method="eap").values
    assert values[:, :, -1].any(1).nonzero().flatten().tolist() == [2, 5]
    assert not values[6].any()  # behind the answers nothing is read at all
    close(values.sum(0), discover(model, task, "eap").values)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    ablation=st.sampled_from(["resample", "mean", "zero"]),
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]),
)
def test_any_circuit_runs_as_with_one_residual_stream_per_reader(
    kind: str, ablation: str, seed: int, density: float
) -> None:
    hf, model = both(kind)
    task, ref = random_task(seed=seed % 5), reference.Reference(hf)
    noise = torch.rand(task.clean.shape[1], *ref.graph.mask.shape, generator=torch.Generator().manual_seed(seed))
    mask = ref.graph.mask & (noise < density)
    with torch.no_grad():
        _, other, _ = ref.run(task.corrupted, lambda w, r, out: out)
        if ablation == "mean":
            other = [out.mean((0, 1), keepdim=True) for out in other]
        if ablation == "zero":
            other = [torch.zeros_like(out) for out in other]
        mix = lambda w, r, out: torch.where(mask[:, w, r, None], out, other[w])  # noqa: E731
        expected = ref.run(task.clean, mix)[0][:, -1]
    run = PatchedRun(model, task, Ablator(model, task, ablation, 2)(task))  # type: ignore[arg-type]
    torch.testing.assert_close(run.logits(mask), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt-neox", "gemma2", "bert-masked"])
def test_all_pairs_are_the_model_none_the_corrupted_run_and_one_mask_everywhere_the_circuit(kind: str) -> None:
    model, task = from_hf(find(kind).model(vocab=64)), random_task()
    graph, places = graph_of(model), task.clean.shape[1]
    full = evaluate_positions(model, task, PositionCircuit.everywhere(Circuit.full(graph), places))
    empty = evaluate_positions(model, task, PositionCircuit.from_edges(graph, places, []))
    assert (full.faithfulness, empty.faithfulness) == (pytest.approx(1, abs=1e-4), pytest.approx(0, abs=1e-4))
    assert full.metric == pytest.approx(float(task.metric(model(task.clean)).mean()), abs=1e-4)
    assert empty.metric == pytest.approx(float(task.metric(model(task.corrupted)).mean()), abs=1e-4)
    pairs = places * graph.n_edges - (places - 1) * len(graph.writers)  # the logits are read at the last place alone
    assert (full.n_edges, full.n_edges_total, empty.n_edges, empty.n_nodes) == (pairs, pairs, 0, 0)
    noise = torch.rand(graph.mask.shape, generator=torch.Generator().manual_seed(0))
    some = Circuit(graph, graph.mask & (noise < 0.4))
    everywhere = evaluate_positions(model, task, PositionCircuit.everywhere(some, places), budget=1)
    assert everywhere.metric == pytest.approx(evaluate(model, task, some).metric, abs=1e-4)
    assert everywhere.n_nodes == places * (len(some.nodes) - 1) + 1


def test_half_of_the_positions_is_another_circuit() -> None:
    _, model = both("llama-grouped")
    task, graph = random_task(), graph_of(model)
    late = PositionCircuit.everywhere(Circuit.full(graph), 7)
    late.mask[:4] = False
    # With the first four tokens corrupted the residual streams there are the corrupted run's, and nothing else.
    mixed = torch.cat((task.corrupted[:, :4], task.clean[:, 4:]), 1)
    found = evaluate_positions(model, task, late).metric
    assert found == pytest.approx(float(task.metric(model(mixed)).mean()), abs=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_pruning_leaves_what_lies_on_a_way_from_input_to_logits(causal: bool) -> None:
    graph, places, some = Graph(2, 2), 3, 0
    for seed in range(60):
        noise = torch.rand(places, *graph.mask.shape, generator=torch.Generator().manual_seed(seed))
        circuit = PositionCircuit(graph, graph.mask & (noise < (0.03, 0.06, 0.1)[seed % 3]), causal)
        steps: dict[str, tuple[tuple[str, int], list[tuple[str, int]]]] = {}
        for edge in circuit.edges:
            name, place = edge.split("@")
            writer, reader = name.split("->")
            seen = range(int(place) if causal else 0, places) if part_of(reader) in ("k", "v") else [int(place)]
            steps[edge] = (writer, int(place)), [(node_of(reader), at) for at in seen]
        ways = nx.DiGraph([(start, end) for start, ends in steps.values() for end in ends])
        roots = {node for node in ways if node[0] == "input"}
        goals = {node for node in ways if node[0] == "logits"}
        fed = roots.union(*(nx.descendants(ways, node) for node in roots))
        read = goals.union(*(nx.ancestors(ways, node) for node in goals))
        alive = fed & read
        expected = {edge for edge, (start, ends) in steps.items() if start in alive and alive.intersection(ends)}
        assert circuit.prune().edges == expected
        some += 0 < len(expected) < circuit.n_edges
    assert some > 15


def test_pruning_changes_no_metric_where_prompts_are_resampled() -> None:
    _, model = both("gpt2")
    task, graph, some = random_task(), graph_of(model), 0
    run = PatchedRun(model, task, Ablator(model, task, "resample", 3)(task))
    for seed in range(10):
        noise = torch.rand(7, *graph.mask.shape, generator=torch.Generator().manual_seed(seed))
        circuit = PositionCircuit(graph, graph.mask & (noise < 0.08))
        pruned = circuit.prune()
        some += circuit.n_edges - pruned.n_edges
        torch.testing.assert_close(run.metric(pruned.mask), run.metric(circuit.mask), atol=1e-4, rtol=1e-4)
    assert some > 0


def test_in_a_compiled_program_the_best_pairs_are_true_edges_where_the_answer_is_read() -> None:
    program, made = compiled("reverse")
    assert not program.causal
    task = made.task(n=32)
    (at,) = set(task.last.tolist())
    scores = position_scores(made.model, task)
    into_logits = {name for name in scores.top(12).edges if "logits" in name}
    assert into_logits
    assert all(name.endswith(f"->logits@{at}") for name in into_logits)
    circuit = scores.top(12)
    assert {name.partition("@")[0] for name in circuit.edges} <= made.true_edges
    assert circuit.anywhere().edges == {name.partition("@")[0] for name in circuit.edges}


def test_the_best_pairs_have_names_and_come_back_from_them() -> None:
    graph = Graph(2, 2)
    values = torch.zeros(4, *graph.mask.shape)
    values[(3, *graph.edge("a0.h1->logits"))] = -3
    values[(1, *graph.edge("input->a0.h1<v>"))] = 2
    values[(2, *graph.edge("input->m1"))] = 1
    scores = PositionScores(graph, values)
    top = scores.top(3)
    assert top.edges == {"a0.h1->logits@3", "input->a0.h1<v>@1"}  # nothing reads MLP 1
    assert scores.top(2, "signed", prune=False).edges == {"input->a0.h1<v>@1", "input->m1@2"}
    assert torch.equal(PositionCircuit.from_edges(graph, 4, top.edges).mask, top.mask)
    assert scores.at("a0.h1->logits").tolist() == [0, 0, 0, -3]
    assert scores.n_edges == 4 * graph.n_edges
    asked = replace(scores, answered=(1,))
    assert asked.n_edges == 4 * graph.n_edges - 3 * len(graph.writers)
    everything = asked.top(asked.n_edges, prune=False).edges
    assert {name for name in everything if "logits" in name} == {f"{w}->logits@1" for w in graph.writers}


def test_a_stop_keeps_the_prompts_that_are_finished() -> None:
    _, model = both("gpt2")
    task = random_task(batch=4)
    scores = position_scores(model, task, method="eap", budget=1, progress=lambda p: p.done < 2)
    assert (scores.n_examples, scores.complete) == (2, False)
    close(scores.values, position_scores(model, task.rows(0, 2), method="eap").values)
    with pytest.raises(Stopped):
        position_scores(model, task, budget=1, progress=lambda p: False)


def test_bad_requests_are_explained() -> None:
    _, model = both("llama-grouped")
    task, graph = random_task(), graph_of(model)
    unlike = random_task(unlike=True)
    with pytest.raises(ValueError, match=r"example 1 \('prompt 0'\) has 7 tokens and example 2 .* 6; take .*select"):
        position_scores(model, unlike)
    with pytest.raises(ValueError, match="prompts of one length"):
        evaluate_positions(model, unlike, PositionCircuit.from_edges(graph, 7, []))
    with pytest.raises(ValueError, match="'exact' gives no scores by position or neuron; choose one of eap-ig, eap"):
        position_scores(model, task, method="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'steps' .* takes 1 or more, not 0"):
        position_scores(model, task, steps=0)
    with pytest.raises(ValueError, match="Unknown ablation 'non'"):
        position_scores(model, task, ablation="non")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 5 positions and the prompts have 7"):
        evaluate_positions(model, task, PositionCircuit.from_edges(graph, 5, []))
    with pytest.raises(ValueError, match=r"names no position; .* from 0 to 4"):
        PositionCircuit.from_edges(graph, 5, ["input->m0@5"])
    with pytest.raises(ValueError, match="not in this model's graph"):
        PositionCircuit.from_edges(graph, 5, ["input->m9@1"])
    with pytest.raises(ValueError, match=r"Cannot take -1 edges at positions: .* make 704; choose 0 to that"):
        position_scores(model, task, method="eap").top(-1)
    with pytest.raises(ValueError, match="model of 3 layers"):
        evaluate_positions(model, task, PositionCircuit.from_edges(Graph(3, 2), 7, []))
