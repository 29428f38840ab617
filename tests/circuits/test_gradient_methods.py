"""The attribution methods against their definitions by autograd on Hugging Face weights, and what must hold of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import micro, reference
from tests.circuits import brute_gradients as brute
from tests.circuits.test_attribution import random_task
from workbench.circuits import Graph, Scores, Stopped, Task, discover, methods
from workbench.circuits.activations import graph_of
from workbench.circuits.atp import node_scores
from workbench.circuits.greedy import greedy
from workbench.circuits.known.registry import known_models
from workbench.circuits.methods import check_options, method
from workbench.circuits.relp import rules
from workbench.circuits.sweep import spread
from workbench.models import Transformer, fresh, from_hf

FAMILIES = [*micro.KINDS, *micro.OTHERS]


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest value."""
    expected = expected.detach()
    torch.testing.assert_close(found.detach(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


def exact(model: Transformer) -> Transformer:
    """A copy in double precision: rounding sends EAP-GP's unit steps on ways of their own."""
    return copy.deepcopy(model).double()


@pytest.fixture(params=micro.KINDS)
def hf(request: pytest.FixtureRequest) -> Any:
    return micro.hugging_face(request.param)


@pytest.fixture
def task() -> Task:
    return random_task()


def test_clean_corrupted_is_the_mean_of_the_gradients_at_both_ends(hf: Any, task: Task) -> None:
    ref = reference.Reference(hf)
    expected = brute.scores_along(hf, task, [ref.embed(task.clean), ref.embed(task.corrupted)])
    close(discover(from_hf(hf), task, "clean-corrupted").values, expected / len(task))


def test_eap_ig_activations_moves_each_group_of_writers_by_itself(hf: Any, task: Task) -> None:
    expected = brute.eap_ig_activations(hf, task, 3) / len(task)
    close(discover(from_hf(hf), task, "eap-ig-activations", steps=3).values, expected)


def test_eap_gp_walks_the_path_of_each_example_by_itself(hf: Any, task: Task) -> None:
    expected = brute.scores_along(hf, task, brute.gradient_path(hf, task, 3)) / len(task)
    close(discover(from_hf(hf), task, "eap-gp", steps=3).values, expected)


@pytest.mark.parametrize("attention_rule", [False, True])
def test_relp_is_eap_on_a_model_whose_backward_is_lrps(hf: Any, task: Task, attention_rule: bool) -> None:
    expected = brute.edge_attribution(brute.Open(brute.with_lrp(hf), constant=attention_rule), task) / len(task)
    close(discover(from_hf(hf), task, "relp", attention_rule=attention_rule).values, expected)
    plain = discover(from_hf(hf), task, "eap").values
    assert (plain - expected).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("qk_fix", [False, True])
def test_node_scores_are_first_order_effects_with_the_softmax_made_again(hf: Any, task: Task, qk_fix: bool) -> None:
    expected = {name: float(x.mean()) for name, x in brute.node_effects(hf, task, qk_fix=qk_fix).items()}
    found = node_scores(from_hf(hf), task, qk_fix=qk_fix, graddrop=False)
    assert found.keys() == expected.keys()
    close(torch.tensor([found[name] for name in expected]), torch.tensor(list(expected.values())))


def test_graddrop_is_the_mean_absolute_effect_over_runs_that_each_stop_one_layer(hf: Any, task: Task) -> None:
    layers = reference.Reference(hf).graph.n_layers
    passes = [brute.node_effects(hf, task, qk_fix=True, dropped=layer) for layer in range(layers)]
    total = {name: sum(float(one[name].abs().mean()) for one in passes) for name in passes[0]}
    expected = {name: x / (layers if name == "input" else layers - 1) for name, x in total.items()}
    found = node_scores(from_hf(hf), task)
    close(torch.tensor([found[name] for name in expected]), torch.tensor(list(expected.values())))


@pytest.mark.parametrize("graddrop", [False, True])
def test_an_edge_of_atp_carries_the_score_of_its_lesser_end(hf: Any, task: Task, graddrop: bool) -> None:
    model = from_hf(hf)
    graph, nodes = graph_of(model), node_scores(model, task, graddrop=graddrop)
    expected = brute.between(graph.writers, graph.mask, graph.readers, nodes)
    close(discover(model, task, "atp", graddrop=graddrop).values, expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_hisp_is_the_mean_absolute_gradient_times_output(hf: Any, task: Task, normalise: bool) -> None:
    effects = brute.node_effects(hf, task, qk_fix=False)  # clean - corrupted: their form with resampling
    graph = reference.Reference(hf).graph
    nodes = {name: float(effects[name].abs().mean()) for name in graph.writers}
    if normalise:
        of_block = {name: name[1:].partition(".")[0] if name != "input" else name for name in nodes}
        squares = {b: sum(x**2 for name, x in nodes.items() if of_block[name] == b) for b in set(of_block.values())}
        nodes = {name: x / squares[of_block[name]] ** 0.5 for name, x in nodes.items()}
    values = nodes | {r: nodes[r.partition("<")[0]] for r in graph.readers if r != "logits"}
    expected = brute.between(graph.writers, graph.mask, graph.readers, values)
    close(discover(from_hf(hf), task, "hisp", ablation="resample", normalise=normalise).values, expected)


def test_hisp_ablates_to_zero_unless_told_otherwise(task: Task) -> None:
    hf = micro.hugging_face("gpt2")
    ref = reference.Reference(hf)
    start = ref.embed(task.clean).detach().requires_grad_()
    logits, outputs, _ = ref.run(task.clean, lambda w, r, out: start if w == 0 else out)
    last = outputs[-1]
    (gradient,) = torch.autograd.grad(task.metric(logits).sum(), last)
    expected = (last * gradient).sum((1, 2)).abs().mean()
    scores = discover(from_hf(hf), task, "hisp")
    close(scores.values[-1, -1], expected.detach())


@pytest.mark.parametrize("unlike", [False, True])
def test_information_flow_is_each_parts_share_in_the_stream(hf: Any, unlike: bool) -> None:
    task = random_task(unlike=unlike)
    scores = discover(from_hf(hf), task, "information-flow")
    close(scores.values, brute.information_flow(hf, task) / len(task))


def test_random_scores_are_what_the_seed_says(model: Transformer) -> None:
    task = random_task(vocab=200)
    one, same, other = (discover(model, task, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.values, other.values)
    drawn = one.values[one.graph.mask]
    assert not one.values[~one.graph.mask].any()
    assert abs(float(drawn.mean())) < 5 / len(drawn) ** 0.5
    assert 0.7 < float(drawn.std()) < 1.3


# --- what must hold in every family -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_one_step_over_activations_is_eap(kind: str, task: Task) -> None:
    model = from_hf(micro.hugging_face(kind))
    for ablation in ("resample", "mean"):
        one = discover(model, task, "eap-ig-activations", steps=1, ablation=ablation).values
        close(one, discover(model, task, "eap", ablation=ablation).values)


@pytest.mark.parametrize("kind", FAMILIES)
def test_lrps_rules_change_no_logit(kind: str, task: Task) -> None:
    model = from_hf(micro.hugging_face(kind))
    close(model(task.clean, rules(model, attention_rule=True)), model(task.clean))


@pytest.mark.parametrize(("kind", "seed"), [("gpt2", 0), ("llama-grouped", 1), ("gpt-neox", 0), ("gemma2", 3)])
def test_scores_out_of_a_group_sum_to_what_ablating_it_does(kind: str, seed: int) -> None:
    # Integrated gradients are complete (Sundararajan et al. 2017): for the embedding, and for each group of writers
    # that is moved by itself. A sum over 32 points is within 1 % of the integral.
    model = from_hf(micro.hugging_face(kind, seed=seed)).double()
    task, graph = random_task(batch=2, seed=seed), graph_of(model)
    inputs = discover(model, task, "eap-ig", steps=32).values
    groups = discover(model, task, "eap-ig-activations", steps=32).values
    whole = task.metric(model(task.clean)).mean() - task.metric(model(task.corrupted)).mean()
    layer = graph.n_layers - 1
    name = f"blocks.{layer}.hook_mlp_out"
    _, cache = model.run_with_cache(task.corrupted, [name])
    patched = model(task.clean, {name: lambda _: cache[name]})
    last = task.metric(model(task.clean)).mean() - task.metric(patched).mean()
    found = torch.stack([inputs[0].sum(), groups[0].sum(), groups[graph.mlp_writer(layer)].sum()]).double()
    allowed = 0.01 * float(inputs.abs().sum())
    torch.testing.assert_close(found, torch.stack([whole, whole, last]), atol=allowed, rtol=0)
    assert float(whole.abs()) > 5 * allowed or float(last.abs()) > 5 * allowed


def test_relp_is_eap_where_there_is_no_norm_and_relu_alone() -> None:
    made = next(known for known in known_models() if known.key == "reverse").load()
    task = made.task(n=8, seed=0)
    close(discover(made.model, task, "relp").values, discover(made.model, task, "eap").values)


@pytest.mark.parametrize(
    ("act", "gated"),
    [("solu_ln", False), *((act, gated) for act in ("gelu_new", "relu", "tanh", "solu") for gated in (False, True))],
)
def test_with_all_rules_and_no_bias_relevance_is_conserved(act: str, gated: bool, task: Task) -> None:
    # Every rule makes its part linear in what it takes in, so that the metric is (embedding . coefficients).
    shape = from_hf(micro.hugging_face("gpt2")).cfg
    model = fresh(replace(shape, act_fn=act, gated_mlp=gated), seed=1).double()
    for name, parameter in model.named_parameters():
        parameter.mul_(0.0 if name.endswith("bias") else 3.0)
    embed = model(task.clean, stop_at_layer=0).requires_grad_()
    metric = task.score(model(embed, rules(model, attention_rule=True), logits_at=task.last)[:, 0])
    (coefficients,) = torch.autograd.grad(metric.sum(), embed)
    close((embed * coefficients).sum((1, 2)), metric)


@pytest.mark.parametrize("key", [m.key for m in methods() if m.kind in ("gradient", "baseline")])
def test_batches_and_padding_change_no_score(model: Transformer, key: str) -> None:
    task, model = random_task(vocab=200, batch=3, unlike=True), exact(model)
    for ablation in method(key).ablations or (None,):
        options = {} if ablation is None else {"ablation": ablation}
        alone = discover(model, task, key, budget=1, **options)
        together = discover(model, task, key, **options)
        close(alone.values, together.values)
        assert (together.method, together.n_examples, together.complete) == (key, 3, True)
        assert together.settings == method(key).options | options
        assert together.values[~together.graph.mask].abs().max() == 0


@pytest.mark.parametrize("key", ["eap-ig-activations", "relp", "clean-corrupted", "eap-gp", "atp", "hisp"])
def test_a_stop_keeps_whole_batches_and_nothing_less_than_one(model: Transformer, key: str) -> None:
    task, model = random_task(vocab=200, batch=3), exact(model)
    reports: list[tuple[int, int]] = []
    full = discover(model, task, key, budget=1, progress=lambda p: reports.append((p.done, p.total)))
    steps = reports[-1][1] // 3
    assert reports == [(i + 1, 3 * steps) for i in range(3 * steps)]
    assert full.complete
    part = discover(model, task, key, budget=1, progress=lambda p: p.done < 2 * steps)
    assert (part.n_examples, part.complete) == (2, False)
    close(part.values, discover(model, task.rows(0, 2), key).values)
    if steps > 1:
        with pytest.raises(Stopped, match="nothing was kept"):
            discover(model, task, key, budget=1, progress=lambda p: False)


# --- nodes to edges, and the greedy circuit -----------------------------------------------------------------------

drawn = st.integers(0, 2**31 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@given(generator=drawn, threshold=st.floats(0.01, 2))
@settings(max_examples=30, deadline=None)
def test_edges_above_a_threshold_are_those_between_nodes_above_it(generator: torch.Generator, threshold: float) -> None:
    graph = Graph(2, 3)
    writers = torch.randn(len(graph.writers), generator=generator)
    readers = torch.randn(len(graph.readers), generator=generator)
    edges = spread(graph, writers, readers).abs() >= threshold
    kept = readers.abs() >= threshold
    kept[-1] = True
    assert torch.equal(edges, (writers.abs() >= threshold)[:, None] & kept & graph.mask)


def slow_greedy(scores: Scores, n: int, ranking: str) -> list[tuple[int, int]]:
    """All edges into held nodes are looked through anew for each step."""
    graph, chosen, held = scores.graph, [], {-1}
    values = scores.values.abs() if ranking == "absolute" else scores.values
    for _ in range(n):
        open_edges = [
            (w, r)
            for w, r in graph.mask.nonzero().tolist()
            if int(graph.reader_node[r]) in held and (w, r) not in chosen
        ]
        best = max(open_edges, key=lambda edge: (float(values[edge]), -edge[0], -edge[1]))
        chosen.append(best)
        held.add(best[0])
    return chosen


@given(generator=drawn, n=st.integers(0, 60), coarse=st.booleans(), ranking=st.sampled_from(["absolute", "signed"]))
@settings(max_examples=25, deadline=None)
def test_greedy_takes_the_best_edge_into_what_it_holds(
    generator: torch.Generator, n: int, coarse: bool, ranking: Any
) -> None:
    graph = Graph(2, 2)
    values = torch.randn(graph.mask.shape, generator=generator).masked_fill(~graph.mask, 0.0)
    scores = Scores(graph, (values * 2).round() / 2 if coarse else values)
    n = min(n, graph.n_edges)
    circuit = greedy(scores, n, ranking)
    assert sorted(map(tuple, circuit.mask.nonzero().tolist())) == sorted(slow_greedy(scores, n, ranking))
    assert circuit.n_edges == n
    if n:  # every prefix is part of it, and every edge is on a way to logits
        assert greedy(scores, n - 1, ranking).edges < circuit.edges
    held = {-1, *(w for w, _ in circuit.mask.nonzero().tolist())}
    assert all(int(graph.reader_node[r]) in held for _, r in circuit.mask.nonzero().tolist())
    assert greedy(scores, n, ranking, prune=True).edges == circuit.prune().edges


def test_greedy_refuses_what_it_cannot_take() -> None:
    graph = Graph(2, 2)
    scores = Scores(graph, torch.zeros(graph.mask.shape))
    assert greedy(scores, graph.n_edges).n_edges == graph.n_edges
    with pytest.raises(ValueError, match=f"Cannot take {graph.n_edges + 1} edges: the graph has {graph.n_edges}"):
        greedy(scores, graph.n_edges + 1)
    with pytest.raises(ValueError, match="Unknown ranking 'best'"):
        greedy(scores, 1, "best")  # type: ignore[arg-type]


# --- records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [m.key for m in methods() if m.kind in ("gradient", "baseline")])
def test_the_cost_of_a_method_is_the_passes_that_it_makes(
    model: Transformer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {"forward": 0.0, "backward": 0}
    forward, backward = type(model).forward, torch.autograd.grad

    def count(self: Transformer, *args: Any, **options: Any) -> Tensor:
        n = self.cfg.n_layers
        stop = options.get("stop_at_layer")
        layers["forward"] += (n if stop is None else stop) - options.get("start_at_layer", 0)
        return forward(self, *args, **options)

    def back(*args: Any, **options: Any) -> Any:
        layers["backward"] += 1
        return backward(*args, **options)

    monkeypatch.setattr(type(model), "forward", count)
    monkeypatch.setattr(torch.autograd, "grad", back)
    task, record = random_task(vocab=200), method(key)
    discover(model, task, key)
    cost = record.cost_of(model)
    assert cost is not None
    assert cost[0] == layers["forward"] / model.cfg.n_layers
    if key != "eap-ig-activations":  # its backwards are as short as its forwards, which are not seen here
        assert cost[1] == layers["backward"]


def test_bad_requests_are_explained(model: Transformer) -> None:
    task = random_task(vocab=200)
    for key in ("eap-ig-activations", "eap-gp"):
        with pytest.raises(ValueError, match=f"The option 'steps' of the method '{key}' takes 1 or more, not 0"):
            discover(model, task, key, steps=0)
    for key in ("random", "information-flow"):
        with pytest.raises(ValueError, match=f"The method '{key}' replaces nothing, so it takes no ablation"):
            discover(model, task, key, ablation="mean")
    with pytest.raises(ValueError, match="The method 'information-flow' has no option 'steps'; it has none"):
        check_options("information-flow", {"steps": 2})


@pytest.mark.parametrize(
    "key",
    ["eap", "eap-ig", "clean-corrupted", "eap-gp", "relp", "eap-ig-activations", "atp", "hisp", "information-flow"],
)
def test_a_search_that_was_cut_off_goes_on_with_the_prompts_that_are_left(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.circuits.partial.SECONDS", 0.0)
    model, task = from_hf(micro.hugging_face("gpt2")), random_task()
    whole = discover(model, task, key, budget=1)
    handed: list[Scores] = []
    seen: list[int] = []
    discover(model, task, key, budget=1, keep=handed.append)
    assert [part.n_examples for part in handed] == list(range(1, len(task) + 1))
    assert [part.complete for part in handed] == [False] * (len(task) - 1) + [True]
    again = discover(
        model, task, key, budget=1, resume=handed[1], progress=lambda step: seen.append(step.total) or True
    )
    torch.testing.assert_close(again.values, whole.values, atol=1e-6, rtol=1e-4)
    assert again.complete
    assert again.n_examples == len(task)
    assert seen[0] * len(task) == discover_steps(model, task, key) * (len(task) - 2)
    assert torch.equal(discover(model, task, key, resume=handed[-1]).values, handed[-1].values)
    if key != "information-flow":
        with pytest.raises(ValueError, match=r"ablation: '(resample|zero)' then, 'mean' now"):
            discover(model, task, key, ablation="mean", resume=handed[1])
    with pytest.raises(ValueError, match="had scored 2 prompts; this task has 1"):
        discover(model, task.rows(0, 1), key, resume=handed[1])


def discover_steps(model: Transformer, task: Task, key: str) -> int:
    """Steps that a whole search reports."""
    totals: list[int] = []
    discover(model, task, key, budget=1, progress=lambda step: totals.append(step.total) or True)
    return totals[0]
