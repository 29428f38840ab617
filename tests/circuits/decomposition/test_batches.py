"""What a source gives does not depend on what else is asked at the same time, nor on the memory there is for it."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuits.decomposition.cases import assert_close, draw_place, inputs_for, model_of
from workbench.circuits import Task
from workbench.circuits.decomposition import (
    RULES,
    Logits,
    Rule,
    all_nodes,
    contributions,
    decompose,
    task_contributions,
)
from workbench.circuits.decomposition.contributions import bytes_of
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.split import baseline_of, sources_of
from workbench.circuits.progress import Progress

RULE_KEYS = [rule.key for rule in RULES]


def logits_of(model: object, inputs: object) -> Logits:
    at = None if model.cfg.pooling != "none" else torch.tensor(inputs.lengths) - 1  # type: ignore[attr-defined]
    return Logits(torch.tensor([1, 2, 3]), torch.tensor([4, 0, 2]), at)


@pytest.mark.parametrize("key", ["llama-grouped", "gpt-neox", "gemma2", "bert-masked", "vit-classes"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_company_and_budget_change_nothing(key: str, seed: int) -> None:
    rng = random.Random(seed)
    model = model_of(key, double=True)
    inputs = inputs_for(model, seed)
    rule, target = rng.choice(RULE_KEYS), logits_of(model, inputs)
    sources = {
        f"source {i}": [draw_place(rng, model, inputs.lengths).name for _ in range(rng.randint(1, 2))] for i in range(7)
    }
    given_ = {"rule": rule, "baseline": inputs.others, "attention_mask": inputs.mask}
    whole = contributions(model, inputs.tokens, sources, target, **given_)
    width = inputs.lengths[0]
    shuffled = rng.sample(list(sources), len(sources))
    budget = rng.randint(1, 8) * bytes_of(model, width)  # from one prompt at a time to all and several sources
    other = contributions(
        model, inputs.tokens, {name: sources[name] for name in shuffled}, target, budget=budget, **given_
    )
    back = [shuffled.index(name) for name in sources]
    size = float(whole.values.abs().max())
    assert_close(other.values[back], whole.values, 1e-4, size)
    for i, (name, places) in enumerate(sources.items()):
        alone = decompose(model, inputs.tokens, places, **given_).relevant
        rows = torch.arange(3)
        read = alone if target.at is None else alone[rows, target.at]
        assert target.wrong is not None
        difference = (read[rows, target.right] - read[rows, target.wrong]).float()
        assert_close(whole.values[i], difference, 1e-4, size)
        one = contributions(model, inputs.tokens[:1], {name: places}, target.rows(0, 1), **first_of(given_))
        assert_close(one.values[0], whole.values[i, :1], 1e-4, size)


def first_of(options: dict) -> dict:
    return {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def test_the_mean_baseline_is_that_of_all_prompts_whatever_the_budget() -> None:
    model = model_of("llama-grouped")
    inputs = inputs_for(model)
    target = logits_of(model, inputs)
    found = [
        contributions(model, inputs.tokens, ["a0.h1", "m0"], target, baseline="mean", budget=budget).values
        for budget in (bytes_of(model, 6), 400 * 2**20)
    ]
    assert_close(found[0], found[1])


@pytest.mark.parametrize("stop_at", [1, 5])
def test_a_stop_keeps_what_is_done_and_marks_the_rest(stop_at: int) -> None:
    model = model_of("llama-grouped")
    inputs = inputs_for(model)
    target = logits_of(model, inputs)
    sources = all_nodes(model.cfg)
    seen: list[Progress] = []

    def progress(step: Progress) -> bool:
        seen.append(step)
        return len(seen) < stop_at

    budget = 3 * bytes_of(model, 6)  # one source of all three prompts at a time
    whole = contributions(model, inputs.tokens, sources, target)
    found = contributions(model, inputs.tokens, sources, target, budget=budget, progress=progress)
    assert len(seen) == stop_at
    assert seen[-1].total == len(sources)
    assert not found.complete
    assert whole.complete
    done = ~found.values.isnan()
    assert int(done.all(1).sum()) == stop_at
    assert_close(found.values[done], whole.values[done])
    assert_close(found.whole, whole.whole)


def test_a_stop_in_the_first_batch_of_prompts_leaves_the_others_untouched() -> None:
    model = model_of("llama-grouped")
    inputs = inputs_for(model)
    runs = []
    found = contributions(
        model, inputs.tokens, ["a0.h0", "a0.h1"], logits_of(model, inputs), budget=bytes_of(model, 6),
        progress=lambda step: runs.append(step.done),
    )  # fmt: skip
    assert runs == [1, 2, 3, 4, 5, 6]  # None does not stop
    assert found.complete
    found = contributions(
        model, inputs.tokens, ["a0.h0", "a0.h1"], logits_of(model, inputs), budget=bytes_of(model, 6),
        progress=lambda step: False,
    )  # fmt: skip
    assert found.values.isnan().sum(0).tolist() == [1, 2, 2]
    assert found.whole.isnan().tolist() == [False, True, True]


def test_contributions_to_a_task_are_those_to_its_logit_difference() -> None:
    model = model_of("gpt2")
    inputs = inputs_for(model)
    right, wrong = torch.tensor([[1], [2], [3]]), torch.tensor([[4], [0], [2]])
    names = ["a", "b", "c"]
    lengths = torch.tensor([6, 5, 4])
    task = Task("random", "Random", inputs.tokens, inputs.others, lengths, right, wrong, names, names)
    for rule in RULE_KEYS:
        found = task_contributions(model, task, rule=rule)
        target = Logits(right[:, 0], wrong[:, 0], lengths - 1)
        expected = contributions(model, inputs.tokens, all_nodes(model.cfg), target, rule=rule, baseline=inputs.others)
        assert found.sources == expected.sources
        assert_close(found.values, expected.values)
        assert_close(found.whole, expected.whole)


@pytest.mark.parametrize("rule", RULE_KEYS)
def test_what_is_kept_before_the_first_source_is_irrelevant(rule: str) -> None:
    model = model_of("gpt-neo")
    tokens = inputs_for(model).tokens
    keep = ["blocks.0.attn.hook_z", "blocks.1.hook_resid_pre", "blocks.2.hook_mlp_out"]
    found = decompose(model, tokens, ["a2.h0"], rule=rule, keep=keep)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, keep)
    for name in keep[:2]:
        assert torch.equal(found[name][0], torch.zeros_like(cache[name]))
        assert_close(found[name][1], cache[name])
    assert float(found[keep[2]][0].abs().max()) > 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_a_sweep_carries_sources_in_any_order(rule: Rule) -> None:
    model = model_of("gpt-neo", double=True)
    tokens = inputs_for(model).tokens
    names = ["m2", "a0.h1", "a3.h0", "resid4", "input@1", "a2.h2"]
    prompts = Prompts.run(model, tokens, None)
    sweep = Sweep(rule, prompts, sources_of(names, model.cfg), baseline_of(prompts, "zero"))
    with torch.no_grad():
        found = sweep.in_given_order(sweep.logits(sweep.run()[0]).relevant)
    alone = [decompose(model, tokens, [name], rule=rule.key).relevant for name in names]
    assert_close(found, torch.stack(alone), 1e-8)
