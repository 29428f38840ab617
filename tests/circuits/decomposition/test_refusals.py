"""What cannot be decomposed is refused in one sentence that says why and what to do, before anything is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.circuits.decomposition.cases import inputs_for, model_of
from workbench.circuits import Task
from workbench.circuits.decomposition import (
    Logits,
    Metric,
    Similarity,
    contributions,
    decompose,
    node,
    rule,
    task_contributions,
)
from workbench.models import Transformer
from workbench.models.mechanisms import MECHANISMS
from workbench.models.transformer import Transformer as Runs

TOKENS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
TARGET = Logits(torch.tensor([1, 2]), at=torch.tensor([3, 3]))


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Transformer:
    """A model that must not be run."""
    model = model_of("llama-grouped")

    def run(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was run before the input was refused")

    monkeypatch.setattr(Runs, "forward", run)
    return model


def refusal(run: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        run()
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith((".", "]", "'", "?"))
    return said


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("b3.h1", "'b3.h1' names no place"),
        ("", "'' names no place"),
        ("a1.h1<q>", "names no place"),
        ("a9.h0", "layers 0 to 1"),
        ("a0.h7", "heads 0 to 3"),
        ("m2", "layers 0 to 1"),
        ("resid3", "layers 0 to 1"),
        ("a0.h0@x", "'x' is no position"),
        ("a0.h0@", "'' is no position"),
        ("a0.h0@4", "prompt 0 does not have: it has 4, 0 to 3"),
        ("input@2-9", "prompt 0 does not have"),
        ("m0@-5", "prompt 0 does not have"),
        ("m0@3-1", "prompt 0 does not have"),
    ],
)
def test_a_place_that_does_not_exist(llama: Transformer, place: str, says: str) -> None:
    assert says in refusal(lambda: decompose(llama, TOKENS, [place]))
    assert says in refusal(lambda: contributions(llama, TOKENS, ["a0.h0", place], TARGET))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("logits", "names no place"),
        ("a7.h0", "layers 0 to 1"),
        ("a1.h9<q>", "heads 0 to 3"),
        ("m1<q>", "only heads have queries"),
        ("a1.h0<z>", "names no place"),
        ("a1.h0<q>@7", "prompt 0 does not have"),
        ("m1@0-9", "prompt 0 does not have"),
    ],
)
def test_a_target_that_does_not_exist(llama: Transformer, target: str, says: str) -> None:
    assert says in refusal(lambda: contributions(llama, TOKENS, ["a0.h0"], target))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a1.h0", "a0.h1"),
        ("a1.h0", "a1.h0"),
        ("a1.h0", "a1.h2<q>"),
        ("m1", "a1.h0"),
        ("m1", "m1"),
        ("resid1", "m0"),
        ("resid2", "resid1"),
        ("a0.h0", "resid0"),
    ],
)
def test_a_source_that_does_not_come_before_the_target(llama: Transformer, source: str, target: str) -> None:
    for sources in (["a0.h0", source], {"both": ["input", source]}):
        said = refusal(lambda sources=sources: contributions(llama, TOKENS, sources, target))
        assert "does not come before the target" in said
        assert f"'{target}'" in said
    assert node(target, llama).name == target


def test_no_source_and_sources_that_are_one_text(llama: Transformer) -> None:
    for sources in ([], {}, [[]], {"nothing": []}):
        assert "no source" in refusal(lambda sources=sources: contributions(llama, TOKENS, sources, TARGET))
    assert "no source" in refusal(lambda: decompose(llama, TOKENS, []))
    assert "write ['a0.h0']" in refusal(lambda: decompose(llama, TOKENS, "a0.h0"))
    assert "write ['a0.h0']" in refusal(lambda: contributions(llama, TOKENS, "a0.h0", TARGET))


def test_an_unknown_rule_baseline_or_activation(llama: Transformer) -> None:
    assert "shapley" in refusal(lambda: decompose(llama, TOKENS, ["input"], rule="shaply"))
    assert "paper" in refusal(lambda: rule("papers"))
    assert "zero, mean" in refusal(lambda: decompose(llama, TOKENS, ["input"], baseline="median"))
    assert "not int" in refusal(lambda: decompose(llama, TOKENS, ["input"], baseline=0))  # type: ignore[arg-type]
    for other in (TOKENS[:, :3], TOKENS[:1], TOKENS[0]):
        for run in (
            lambda other=other: decompose(llama, TOKENS, ["input"], baseline=other),
            lambda other=other: contributions(llama, TOKENS, ["input"], TARGET, baseline=other),
        ):
            assert "baseline of the same length for each prompt" in refusal(run)
    assert "no activation" in refusal(lambda: decompose(llama, TOKENS, ["input"], keep=["blocks.0.mlp.hook_post"]))


def test_prompts_that_the_model_cannot_read(llama: Transformer) -> None:
    assert "batch" in refusal(lambda: decompose(llama, TOKENS[0], ["input"]))
    assert "batch" in refusal(lambda: contributions(llama, TOKENS[0], ["input"], TARGET))
    assert "no prompt" in refusal(lambda: decompose(llama, TOKENS[:0], ["input"]))
    for mask in (torch.ones(2, 3), torch.ones(1, 4)):
        assert "[2, 4]" in refusal(lambda mask=mask: decompose(llama, TOKENS, ["input"], attention_mask=mask))
    for mask in ([[1, 1, 1, 1], [0, 1, 1, 1]], [[1, 1, 1, 1], [1, 0, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]):
        said = refusal(
            lambda mask=mask: contributions(llama, TOKENS, ["input"], TARGET, attention_mask=torch.tensor(mask))
        )
        assert said.startswith("Prompt 1 is not padded on the right")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"at": None}, "logits at every position"),
        ({"at": torch.tensor([3, 4])}, "position 4 of prompt 1, which has 0 to 3"),
        ({"at": torch.tensor([-1, 3])}, "position -1 of prompt 0"),
        ({"at": torch.tensor([3])}, "[2]; got [1]"),
        ({"right": torch.tensor([1])}, "'right' is one token for each of the 2 prompts"),
        ({"right": torch.tensor([1, 64])}, "'right' names a token that does not exist"),
        ({"wrong": torch.tensor([-1, 0])}, "'wrong' names a token that does not exist"),
        ({"right": torch.tensor([1.0, 2.0])}, "'right' is one token"),
    ],
)
def test_logits_that_the_prompts_do_not_have(llama: Transformer, change: dict, says: str) -> None:
    assert says in refusal(lambda: contributions(llama, TOKENS, ["input"], replace(TARGET, **change)))


def test_targets_of_another_kind_of_model() -> None:
    sentences, classes, llama = model_of("bert"), model_of("bert-classes"), model_of("llama-grouped")
    assert "gives no logits" in refusal(lambda: contributions(sentences, TOKENS, ["input"], TARGET))
    assert "leave out 'at'" in refusal(lambda: contributions(classes, TOKENS, ["input"], TARGET))
    right = Logits(torch.tensor([1, 5]))
    assert "class that does not exist" in refusal(lambda: contributions(classes, TOKENS, ["input"], right))
    vectors = torch.randn(2, 32)
    assert "not vectors" in refusal(lambda: contributions(llama, TOKENS, ["input"], Similarity(vectors)))
    for wrong in (vectors[:1], vectors[:, :5]):
        said = refusal(lambda wrong=wrong: contributions(sentences, TOKENS, ["input"], Similarity(wrong)))
        assert "[2, 32]" in said
    task = Task("t", "T", TOKENS, TOKENS, torch.tensor([4, 4]), TOKENS[:, :1], TOKENS[:, 1:2], ["a", "b"], ["a", "b"])
    said = refusal(lambda: contributions(llama, torch.cat((TOKENS, TOKENS)), ["input"], Metric(task)))
    assert "task has 2 prompts" in said
    assert "nothing to compare 'resid1' with" in refusal(lambda: task_contributions(llama, task, ["a0.h0", "resid1"]))
    assert "prompt 0 does not have" in refusal(lambda: task_contributions(llama, task, ["a0.h0@4"]))


@pytest.mark.parametrize("mechanism", [m.key for m in MECHANISMS])
def test_a_rule_that_the_attention_does_not_admit(mechanism: str) -> None:
    model = model_of("llama-grouped").with_attention(mechanism)
    record = next(m for m in MECHANISMS if m.key == mechanism)
    for key in ("shapley", "frozen", "tangent", "paper", "exact"):
        run = lambda key=key: decompose(model, TOKENS, ["input"], rule=key)  # noqa: E731
        if record.values is not None:
            assert "no rule" in refusal(run)
        elif key != "exact" and mechanism in ("gated", "cosine", "linear", "differential"):
            said = refusal(run)
            assert f"'{mechanism}'" in said
            assert "admits 'exact'" in said
        else:
            run()


def test_a_budget_too_small_for_one_source(llama: Transformer) -> None:
    for budget in (0, -5, 1000):
        said = refusal(lambda budget=budget: contributions(llama, TOKENS, ["input"], TARGET, budget=budget))
        assert re.search(r"too small for one source: one prompt of 4 positions takes", said)
    task = Task("t", "T", TOKENS, TOKENS, torch.tensor([4, 4]), TOKENS[:, :1], TOKENS[:, 1:2], ["a", "b"], ["a", "b"])
    assert "too small" in refusal(lambda: task_contributions(llama, task, budget=1000))


def test_an_encoder_with_padding_before_the_text() -> None:
    model = model_of("bert-masked")
    inputs = inputs_for(model)
    assert inputs.mask is not None
    said = refusal(lambda: decompose(model, inputs.tokens, ["input"], attention_mask=inputs.mask.flip(1)))
    assert "Prompt 1 is not padded on the right" in said
    said = refusal(lambda: decompose(model, inputs.tokens, ["input@4"], attention_mask=inputs.mask))
    assert "prompt 1 does not have: it has 4, 0 to 3" in said
