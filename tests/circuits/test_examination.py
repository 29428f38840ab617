"""Examining a circuit: compiled programs, whose circuit is known, and brute force on micro models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import micro, reference
from tests.circuits.compiled import compiled
from tests.circuits.test_attribution import random_task
from tests.figures.helpers import synthetic
from workbench.circuits import (
    Circuit,
    Graph,
    Progress,
    Scores,
    Stopped,
    Task,
    agreement,
    completeness,
    curve_interval,
    discover,
    evaluate,
    faithfulness_curve,
    minimality,
    prompt_stability,
    random_circuit,
    random_control,
    seed_stability,
    tasks,
    untrained_control,
)
from workbench.circuits.activations import graph_of
from workbench.circuits.agreement import node_keys
from workbench.circuits.completeness import component_groups
from workbench.circuits.intervals import adjust, bounds, resamples
from workbench.circuits.minimality import exceeding_test, paired_test, random_path
from workbench.models import Transformer, from_hf

HF = micro.hugging_face("gpt2")
MICRO = from_hf(HF)
PROGRAMS = ["frac-prevs", "induction", "caesar", "sort-unique"]


def known(key: str, n: int = 24) -> tuple[Transformer, Task, Circuit]:
    """A compiled program, pairs of inputs, and the edges of its circuit that those can show."""
    _, made = compiled(key)
    return made.model, made.task(n), Circuit.from_edges(graph_of(made.model), made.true_edges - made.length_edges)


def brute_metric(task: Task, mask: torch.Tensor) -> torch.Tensor:
    """The metric of each example in a circuit of the micro model, with one residual stream for each reader."""
    with torch.no_grad():
        _, corrupted, _ = reference.Reference(HF).run(task.corrupted, lambda w, r, out: out)
        return task.metric(reference.patched_logits(HF, task.clean, corrupted, mask))


def stop_after(steps: int) -> Callable[[Progress], bool]:
    count = itertools.count(1)
    return lambda _: next(count) < steps


# -- random circuits -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 4),
    heads=st.integers(1, 3),
    has_mlp=st.booleans(),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_a_random_circuit_has_its_size_and_no_dangling_edge(
    layers: int, heads: int, has_mlp: bool, share: float, seed: int
) -> None:
    graph = Graph(layers, heads, has_mlp=has_mlp)
    n = round(share * graph.n_edges)
    circuit = random_circuit(graph, n, torch.Generator().manual_seed(seed))
    assert circuit.n_edges == n
    assert not (circuit.mask & ~graph.mask).any()
    assert torch.equal(circuit.prune().mask, circuit.mask)


def test_random_circuits_differ_and_reach_every_edge() -> None:
    graph = Graph(2, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = [random_circuit(graph, 8, generator).mask for _ in range(200)]
    often = torch.stack(drawn).float().mean(0)[graph.mask]
    assert float(often.min()) > 0.02
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) > 190


@pytest.mark.parametrize("key", ["induction", "sort-unique"])
def test_a_true_circuit_is_far_better_than_random_ones_of_its_size(key: str) -> None:
    model, task, circuit = known(key)
    control = random_control(model, task, circuit, draws=19, seed=1)
    assert control.faithfulness == pytest.approx(1, abs=1e-4)
    assert control.mean < 0.4
    assert control.p <= 0.1
    assert min(control.random) <= control.low <= control.mean <= control.high <= max(control.random)


def test_faithfulness_of_random_circuits_is_that_of_evaluate() -> None:
    task, graph = random_task(), graph_of(MICRO)
    circuit = random_circuit(graph, 30, torch.Generator().manual_seed(5))
    control = random_control(MICRO, task, circuit, draws=2, seed=5)
    drawn = torch.Generator().manual_seed(5)
    expected = [evaluate(MICRO, task, random_circuit(graph, 30, drawn)).faithfulness for _ in range(2)]
    assert control.random == pytest.approx(expected, abs=1e-4)
    as_good = 1 + (abs(1 - expected[1]) <= abs(1 - expected[0]))  # the first draw is the circuit itself
    assert control.p == pytest.approx((1 + as_good) / 3)
    assert control.random[0] == pytest.approx(control.faithfulness)


def test_a_method_finds_no_circuit_of_the_model_in_random_weights() -> None:
    model, task, circuit = known("induction")
    found = untrained_control(model, task, "eap", n_edges=circuit.n_edges, draws=3)
    assert found.seeds == [0, 1, 2]
    assert evaluate(model, task, discover(model, task, "eap").top(circuit.n_edges)).faithfulness > 0.99
    assert max(found.transferred) < 0.6
    assert len(found.own) == 3
    part = untrained_control(model, task, "eap", n_edges=5, draws=3, progress=lambda p: p.what != "random models")
    assert part.complete is False
    assert part.transferred == found.transferred[:1]
    with pytest.raises(Stopped):
        untrained_control(model, task, "eap", n_edges=5, progress=stop_after(1))


# -- completeness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", PROGRAMS)
@pytest.mark.parametrize("unit", ["nodes", "edges"])
def test_the_true_circuit_is_complete(key: str, unit: str) -> None:
    model, task, circuit = known(key)
    found = completeness(model, task, circuit, unit=unit)  # type: ignore[arg-type]
    assert found.incompleteness == pytest.approx(0, abs=1e-4)
    assert found.worst == pytest.approx(0, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0, 0), abs=1e-4)
    # It is no empty claim: removing parts does change something.
    assert any(abs(one.model - 1) > 0.2 for one in found.removals)


def test_incompleteness_is_the_distance_that_brute_force_finds() -> None:
    task, graph = random_task(), graph_of(MICRO)
    circuit = discover(MICRO, task, "eap").top(40)
    removed = {"two": ["a0.h1", "m0"], "one": ["a1.h0"]}
    found = completeness(MICRO, task, circuit, draws=0, groups=removed)
    full, empty = brute_metric(task, graph.mask).mean(), brute_metric(task, torch.zeros_like(graph.mask)).mean()
    for one in found.removals:
        out = torch.zeros_like(graph.mask)
        for node in removed[one.name]:
            out[graph.writers.index(node)] = True
        kept, rest = brute_metric(task, circuit.mask & ~out).mean(), brute_metric(task, graph.mask & ~out).mean()
        assert one.incompleteness == pytest.approx(float((kept - rest).abs() / (full - empty).abs()), abs=2e-3)
        assert one.incompleteness > 0.02
    assert math.isnan(found.incompleteness)
    assert found.worst == max(one.incompleteness for one in found.removals)


def test_the_whole_model_is_complete_and_groups_cover_the_circuit() -> None:
    task, graph = random_task(), graph_of(MICRO)
    whole = Circuit.full(graph)
    assert completeness(MICRO, task, whole, draws=4).worst == 0
    groups = component_groups(whole)
    assert list(groups) == ["input", "heads of layer 0", "m0", "heads of layer 1", "m1"]
    assert sorted(node for nodes in groups.values() for node in nodes) == sorted(graph.writers)


def test_the_interval_of_incompleteness_holds_it(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=24)
    circuit = discover(model, task, "eap").top(60)
    other = completeness(model, task, circuit, draws=12, groups={})
    assert 0 < other.low < other.incompleteness < other.high
    assert other.incompleteness == pytest.approx(sum(one.incompleteness for one in other.removals) / 12)
    assert [removal.name for removal in other.removals] == [f"random {i + 1}" for i in range(12)]


# -- minimality ----------------------------------------------------------------------------------------------


def with_false_edge(model: Transformer, circuit: Circuit, task: Task) -> tuple[Circuit, str]:
    """The circuit with an edge that is none of it, whose ends are in it and which carries nothing of the answer."""
    others = sorted(Circuit.full(circuit.graph).edges - circuit.edges)
    for name in others:
        mask = circuit.mask.clone()
        mask[circuit.graph.edge(name)] = True
        wider = Circuit(circuit.graph, mask)
        if wider.prune().n_edges == circuit.n_edges + 1:
            return wider, name
    raise AssertionError("no such edge")


@pytest.mark.parametrize("key", PROGRAMS)
@pytest.mark.parametrize("test", ["paired", "inflated"])
def test_every_true_edge_is_kept_and_a_false_one_is_superfluous(key: str, test: str) -> None:
    model, task, circuit = known(key, 48)
    wider, false = with_false_edge(model, circuit, task)
    found = minimality(model, task, wider, test=test)  # type: ignore[arg-type]
    assert found.superfluous == [false]
    assert found.faithfulness == pytest.approx(1, abs=1e-4)
    assert found.undecided == []
    assert [one.edge for one in found.edges][-1] == false
    assert {one.edge for one in found.edges if one.kept} == circuit.edges


def test_the_worth_of_an_edge_is_what_brute_force_finds() -> None:
    task = random_task()
    circuit = discover(MICRO, task, "eap").top(12)
    found = {one.edge: one for one in minimality(MICRO, task, circuit, alpha=0.5).edges}
    whole = brute_metric(task, circuit.mask)
    assert set(found) == circuit.edges
    for edge, one in found.items():
        mask = circuit.mask.clone()
        mask[circuit.graph.edge(edge)] = False
        assert one.effect == pytest.approx(float((whole - brute_metric(task, mask)).mean()), abs=2e-4)


def test_an_edge_that_does_much_on_few_prompts_is_undecided_not_superfluous() -> None:
    model, task, circuit = known("induction", 48)
    found = minimality(model, task.rows(0, 3), circuit)
    strong = [one.edge for one in found.edges if abs(one.share) > 0.01 and one.p_adjusted > 0.05]
    assert strong
    assert found.undecided == strong
    assert not set(found.superfluous) & set(strong)


def test_the_paired_test_is_the_t_test_and_its_p_values_are_uniform_under_the_null() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000, 12, generator=generator, dtype=torch.float64)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0, axis=1).pvalue
    assert paired_test(values) == pytest.approx(expected.tolist())
    assert scipy.stats.kstest(paired_test(values), "uniform").pvalue > 0.01
    # At the edge of the margin as well, and inside it the test is conservative.
    assert scipy.stats.kstest(paired_test(values + 1.5, margin=1.5), "uniform").pvalue > 0.01
    assert float(np.mean(np.array(paired_test(values + 0.5, margin=1.5)) < 0.05)) < 0.01


def test_effects_without_spread_are_decided_by_the_margin() -> None:
    values = torch.tensor([[0.0] * 5, [2.0] * 5, [1e-7] * 5, [-2.0] * 5])
    assert paired_test(values, margin=1e-3) == [1.0, 0.0, 1.0, 0.0]
    assert paired_test(values) == [1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="at least two"):
        paired_test(torch.ones(3, 1))


def test_the_inflated_test_is_a_binomial_test_against_the_quantile() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, effects = torch.rand(100, generator=generator), torch.tensor([0.05, 0.85, 0.95, 2.0])
    for p, effect in zip(exceeding_test(effects, noise, 0.9), effects, strict=True):
        k = int((noise < effect).sum())
        assert p == pytest.approx(scipy.stats.binomtest(k, 100, 0.9, alternative="less").pvalue)
    assert exceeding_test(torch.tensor([0.0]), torch.zeros(100), 0.9)[0] < 1e-6  # like a superfluous edge


def test_a_random_path_leads_from_input_to_logits() -> None:
    graph = Graph(3, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        path = random_path(graph, generator)
        assert path[0][0] == 0
        assert path[-1][1] == len(graph.readers) - 1
        assert all(graph.mask[place] for place in path)
        assert all(int(graph.reader_node[a[1]]) == b[0] for a, b in itertools.pairwise(path))


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_bonferroni_test_and_bh_is_scipy_s(p: list[float]) -> None:
    sets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), k)]
    closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
    assert adjust(p, "holm") == pytest.approx(closed)
    assert adjust(p, "bh") == pytest.approx(scipy.stats.false_discovery_control(p).tolist())
    assert adjust(p, "none") == p


# -- intervals -----------------------------------------------------------------------------------------------


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = resamples(40, 400, seed=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(400, dtype=torch.float64))
    hits = 0
    for _ in range(300):
        low, high = bounds(weights @ torch.randn(40, generator=generator).double())
        hits += low <= 0 <= high
    assert 0.88 < hits / 300 < 0.985  # 0.95, a little less for 40 items
    assert bounds(torch.tensor([1.0, math.nan, 3.0]), 0.5) == pytest.approx((1.5, 2.5))
    assert all(math.isnan(end) for end in bounds(torch.empty(0)))


def test_the_intervals_of_cmd_and_cpr_are_those_of_the_curve(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=12, seed=3)
    scores = discover(model, task, "eap")
    curve, found = faithfulness_curve(model, task, scores), curve_interval(model, task, scores)
    assert (found.cmd, found.cpr) == pytest.approx((curve.cmd, curve.cpr), abs=1e-4)
    assert found.faithfulness == pytest.approx(curve.faithfulness, abs=1e-4)
    assert found.cmd_low < found.cmd_high
    assert found.low[-1] == found.high[-1] == pytest.approx(1)  # the whole model, whatever the prompts
    # Prompts that are all the same leave nothing to vary.
    same = replace(
        task,
        **{name: getattr(task, name)[:1].repeat(6, 1) for name in ("clean", "corrupted", "right", "wrong")},
        lengths=task.lengths[:1].repeat(6),
    )
    alike = curve_interval(model, same, scores)
    assert alike.cmd_low == pytest.approx(alike.cmd_high, abs=1e-4)


# -- agreement -----------------------------------------------------------------------------------------------


def test_agreement_is_what_scipy_and_sets_say() -> None:
    one = synthetic(seed=0)
    noise = torch.randn(one.values.shape, generator=torch.Generator().manual_seed(9))
    other = replace(one, values=(one.values + 0.5 * noise).round(decimals=1) * one.graph.mask)  # with ties
    found = agreement({"one": one, "other": other}, sizes=[10, 50])
    a, b = (s.values[one.graph.mask].abs().numpy() for s in (one, other))
    assert found.spearman[0][1] == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert found.kendall[0][1] == pytest.approx(scipy.stats.kendalltau(a, b).statistic, abs=1e-9)
    assert found.spearman[0][0] == found.kendall[1][1] == pytest.approx(1)
    for i, size in enumerate(found.sizes):
        best = [s.top(size, prune=False).edges for s in (one, other)]
        assert found.jaccard[i][0][1] == pytest.approx(len(best[0] & best[1]) / len(best[0] | best[1]))
        assert found.share[i][1][0] == pytest.approx(len(best[0] & best[1]) / size)
        assert found.chance[i] == size / one.graph.n_edges
        assert found.jaccard[i][0][0] == 1


def test_signed_rankings_that_are_opposite_disagree_and_absolute_ones_agree() -> None:
    one = synthetic()
    two = {"one": one, "minus": replace(one, values=-one.values)}
    assert agreement(two, ranking="signed").spearman[0][1] == pytest.approx(-1)
    assert agreement(two).spearman[0][1] == pytest.approx(1)


def test_a_node_is_ranked_by_the_best_of_its_edges() -> None:
    scores = synthetic(3, 2)
    graph, key = scores.graph, scores.ranked()
    expected = []
    for writer in graph.writers[1:]:
        own = [
            e
            for e in Circuit.full(graph).edges
            if e.split("->")[0] == writer or e.split("->")[1].split("<")[0] == writer
        ]
        expected.append(max(abs(float(scores.values[graph.edge(e)])) for e in own))
    assert node_keys(key, graph).tolist() == pytest.approx(expected)
    assert agreement({"a": scores, "b": scores}, level="nodes").n == len(expected)


def test_random_rankings_share_what_chance_says() -> None:
    graph = Graph(4, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = {str(i): Scores(graph, torch.rand(graph.mask.shape, generator=generator) * graph.mask) for i in range(12)}
    found = agreement(drawn, sizes=[60])
    shares = [found.share[0][a][b] for a in range(12) for b in range(a)]
    assert sum(shares) / len(shares) == pytest.approx(found.chance[0], abs=0.03)
    assert abs(sum(found.spearman[0][1:]) / 11) < 0.05


# -- stability -----------------------------------------------------------------------------------------------


def test_pieces_of_one_size_average_to_the_scores_of_the_whole(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=12)
    found = prompt_stability(model, task, "eap", n_edges=40, pieces=4)
    torch.testing.assert_close(found.scores.values, discover(model, task, "eap").values, atol=1e-5, rtol=1e-4)
    assert [one.edge for one in found.edges[:5]] == sorted(
        found.scores.top(40, prune=False).edges,
        key=lambda e: -abs(float(found.scores.values[found.scores.graph.edge(e)])),
    )[:5]
    assert found.overlap_low <= found.overlap <= found.overlap_high <= 1
    assert all(one.low <= one.score <= one.high for one in found.edges)


def test_with_two_pieces_the_interval_ends_at_their_scores(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=8)
    found = prompt_stability(model, task, "eap", n_edges=10, pieces=2)
    ends = [discover(model, task.rows(start, start + 4), "eap").values for start in (0, 4)]
    for one in found.edges:  # a quarter of the resamples has the first piece twice, a quarter the second
        place = found.scores.graph.edge(one.edge)
        low, high = sorted(float(values[place]) for values in ends)
        assert (one.low, one.high) == pytest.approx((low, high), abs=1e-5)


def test_a_compiled_circuit_is_the_same_for_all_prompts_and_seeds() -> None:
    model, _, circuit = known("frac-prevs")
    _, made = compiled("frac-prevs")
    found = prompt_stability(model, made.task(24), "eap", n_edges=circuit.n_edges)
    assert found.overlap == found.overlap_low == 1
    assert {one.edge for one in found.edges} == circuit.edges
    assert all(one.chosen == 1 for one in found.edges)
    seeds = seed_stability(model, lambda seed: made.task(24, seed), "eap", n_edges=circuit.n_edges)
    assert (seeds.overlap, seeds.lowest) == (1, 1)
    assert set(seeds.always) == circuit.edges


def test_seeds_are_compared_in_pairs(model: Transformer) -> None:
    found = seed_stability(
        model, lambda seed: tasks.load("ioi", model, n=4, seed=seed), "eap", n_edges=30, seeds=[4, 5, 6]
    )
    best = [discover(model, tasks.load("ioi", model, n=4, seed=s), "eap").top(30, prune=False).edges for s in (4, 5, 6)]
    pairs = [len(a & b) / len(a | b) for a, b in itertools.combinations(best, 2)]
    assert found.overlap == pytest.approx(sum(pairs) / 3)
    assert found.lowest == pytest.approx(min(pairs))
    assert set(found.always) == best[0] & best[1] & best[2]
    assert found.vary == "task"


# -- stopping and bad input ----------------------------------------------------------------------------------


def test_a_stop_keeps_what_was_finished(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=6)
    circuit = discover(model, task, "eap").top(8)
    whole = minimality(model, task, circuit, budget=1)
    part = minimality(model, task, circuit, budget=1, progress=stop_after(3 * (circuit.n_edges + 3) + 2))
    assert (part.n_examples, part.complete, whole.complete) == (3, False, True)
    with pytest.raises(Stopped):
        completeness(model, task, circuit, budget=1, progress=stop_after(2))
    with pytest.raises(Stopped):
        prompt_stability(model, task, "eap", n_edges=5, pieces=3, progress=stop_after(2))
    three = prompt_stability(model, task, "eap", n_edges=5, pieces=6, progress=stop_after(6))
    assert (three.pieces, three.complete) == (3, False)


def test_bad_requests_are_one_sentence(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    scores = discover(model, task, "eap")
    circuit, other = scores.top(10), Circuit.full(Graph(3, 2))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: completeness(model, task, other), "model of 3 layers x 2 heads"),
        (lambda: completeness(model, task, circuit, unit="heads"), "Unknown unit 'heads'"),  # type: ignore[arg-type]
        (lambda: completeness(model, task, Circuit.empty(circuit.graph)), "has no edges"),
        (lambda: completeness(model, task, circuit, groups={"x": ["a9.h9"]}), "'a9.h9' is no head"),
        (lambda: completeness(model, task, circuit, draws=0, groups={}), "nothing to remove"),
        (lambda: minimality(model, task, circuit, test="z"), "Unknown test 'z'"),  # type: ignore[arg-type]
        (lambda: minimality(model, task, circuit, correction="b"), "Unknown correction 'b'"),  # type: ignore[arg-type]
        (lambda: minimality(model, task, circuit, alpha=2), "alpha lies between 0 and 1"),
        (lambda: minimality(model, task.rows(0, 1), circuit), "at least two prompts"),
        (lambda: minimality(model, task, Circuit.full(circuit.graph), test="inflated"), "no path can be added"),
        (lambda: random_control(model, task, circuit, draws=0), "draws=0"),
        (lambda: random_control(model, task, circuit, "nil"), "Unknown ablation 'nil'"),  # type: ignore[arg-type]
        (lambda: untrained_control(model, task, "eap", n_edges=5, draws=0), "draws=0"),
        (lambda: random_circuit(circuit.graph, 10**6, torch.Generator()), "0 to"),
        (lambda: agreement([scores]), "at least two rankings"),
        (lambda: agreement([scores, scores]), "Several rankings are called 'eap'"),
        (lambda: agreement({"a": scores, "b": synthetic()}), "'b' are of another model"),
        (lambda: agreement({"a": scores, "b": scores}, sizes=[0]), "best 0"),
        (lambda: agreement({"a": scores, "b": scores}, level="x"), "Unknown level"),  # type: ignore[arg-type]
        (lambda: agreement({"a": scores, "b": replace(scores, values=scores.values / 0)}), "'b' are not all finite"),
        (lambda: prompt_stability(model, task, "eap", n_edges=5, pieces=9), "2 to 4 pieces"),
        (lambda: prompt_stability(model, task, "eap-gi", n_edges=5, pieces=2), "did you mean 'eap-ig'"),
        (lambda: seed_stability(model, task, "eap", n_edges=5), "has no seed"),
        (lambda: seed_stability(model, lambda s: task, "eap", n_edges=5, seeds=[1, 1]), "all different"),
        (lambda: curve_interval(model, task.rows(0, 1), scores), "at least two"),
        (lambda: curve_interval(model, replace(task, corrupted=task.clean), scores), "does not change the metric"),
    ]
    for call, text in cases:
        with pytest.raises(ValueError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
