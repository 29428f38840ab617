"""Tasks: pairs of equal length, metrics, self-checks, errors."""

from __future__ import annotations

import pytest
import torch

from workbench.circuits import tasks
from workbench.models import Transformer


@pytest.mark.parametrize("name", ["ioi", "greater-than", "induction"])
def test_pairs_have_equal_length_and_one_token_answers(model: Transformer, name: str) -> None:
    task = tasks.load(name, model, n=12, seed=3)
    assert len(task) == 12
    assert task.clean.shape == task.corrupted.shape
    for i in range(12):
        clean, corrupted = (model.text.ids(t) for t in (task.clean_text[i], task.corrupted_text[i]))
        assert len(clean) == len(corrupted) == int(task.lengths[i])
        assert task.clean[i, : len(clean)].tolist() == clean
        right, wrong = ({int(t) for t in ids[i] if t >= 0} for ids in (task.right, task.wrong))
        assert right
        assert wrong
        assert not right & wrong
    again = tasks.load(name, model, n=12, seed=3)
    assert torch.equal(again.clean, task.clean)
    assert again.spec == task.spec
    assert tasks.load(name, model, n=12, seed=4).clean_text != task.clean_text


def test_ioi_asks_for_both_people_in_both_orders_and_corrupts_only_the_actor(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=40)
    first_is_right = 0
    for i, (clean, corrupted) in enumerate(zip(task.clean_text, task.corrupted_text, strict=True)):
        a, b = clean.split(), corrupted.split()
        differ = [j for j in range(len(a)) if a[j] != b[j]]
        assert len(differ) == 1
        right, wrong = (model.tokenizer.decode(ids[i]).strip() for ids in (task.right, task.wrong))
        assert a[differ[0]] == wrong
        assert a.count(wrong) == 2
        assert a.count(right) == 1
        assert b[differ[0]] not in (right, wrong)
        first_is_right += a.index(right) < a.index(wrong)
    assert first_is_right == 20
    assert len({text.split()[0] for text in task.clean_text}) > 2


def test_greater_than_by_digits_asks_for_the_tens_digit(model: Transformer) -> None:
    task = tasks.load("greater-than", model, n=20)
    for i, text in enumerate(task.clean_text):
        tens = int(text.split("year ")[1][2])
        right, wrong = (
            {model.tokenizer.decode([t]) for t in ids[i].tolist() if t >= 0} for ids in (task.right, task.wrong)
        )
        assert right == {str(d) for d in range(tens + 1, 10)}
        assert wrong == {str(d) for d in range(tens)}
        assert task.corrupted_text[i].split("year ")[1][2:4] == "01"


def test_induction_repeats_and_the_corrupted_prompt_holds_the_same_words(model: Transformer) -> None:
    task = tasks.load("induction", model, n=20)
    for i, (clean, corrupted) in enumerate(zip(task.clean_text, task.corrupted_text, strict=True)):
        words, other = clean.split(), corrupted.split()
        asked = len(words) - 8
        assert words[8:] == words[:asked]
        assert sorted(words) == sorted(other)
        assert model.tokenizer.decode(task.right[i]).strip() == words[asked]
        assert model.tokenizer.decode(task.wrong[i]).strip() == other[asked]


def test_metrics_are_what_they_say(model: Transformer) -> None:
    task = tasks.from_pairs(
        model,
        ["When Mary", "After John and Tom"],
        ["When John", "After Mary and Tom"],
        [" Mary", [" Mary", " Tom"]],
        [" John", " Paul"],
    )
    logits = torch.randn(2, task.clean.shape[1], model.cfg.d_vocab)
    mary, tom, paul, john = (model.to_single_token(w) for w in (" Mary", " Tom", " Paul", " John"))
    first, second = logits[0, task.lengths[0] - 1], logits[1, task.lengths[1] - 1]
    expected = [first[mary] - first[john], (second[mary] + second[tom]) / 2 - second[paul]]
    torch.testing.assert_close(task.metric(logits), torch.stack(expected))
    probabilities = tasks.from_pairs(
        model, ["When Mary"], ["When John"], [[" Mary", " Tom"]], [" John"], metric="prob-diff"
    )
    p = logits[:1, 1].softmax(-1)[0]
    torch.testing.assert_close(probabilities.metric(logits[:1])[0], p[mary] + p[tom] - p[john])


def test_the_self_check_warns_with_the_measured_accuracy(model: Transformer) -> None:
    check = tasks.load("ioi", model, n=16).check(model)
    assert check.accuracy < 0.75  # random weights
    assert check.warning is not None
    assert f"{check.accuracy:.0%} of 16" in check.warning


@pytest.mark.real
def test_smollm2_does_the_tasks(smol: Transformer) -> None:
    ioi = tasks.load("ioi", smol, n=100, seed=1).check(smol)
    assert ioi.top1 >= 0.95
    assert 4 < ioi.metric_clean < 6.5
    assert ioi.warning is None
    greater = tasks.load("greater-than", smol, n=32).check(smol)
    assert greater.accuracy > 0.95
    assert greater.metric_corrupted < 0 < greater.metric_clean
    induction = tasks.load("induction", smol, n=32).check(smol)
    assert induction.accuracy > 0.8


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["docstring", "gendered-pronoun", "agreement", "acronyms", "capital-of-country", "binding", "sentiment"]
)
def test_smollm2_does_the_new_tasks_and_the_corrupted_prompts_take_them_away(smol: Transformer, name: str) -> None:
    check = tasks.load(name, smol, n=16, seed=1).check(smol)
    assert check.accuracy >= 0.75
    assert check.metric_corrupted < 0.3 < check.metric_clean


def test_bad_pairs_are_named(model: Transformer) -> None:
    make = lambda **k: tasks.from_pairs(  # noqa: E731
        model, **{"clean": ["When Mary"], "corrupted": ["When John"], "right": [" Mary"], "wrong": [" John"]} | k
    )
    with pytest.raises(ValueError, match=r"Pair 1 differs in length: .* has 2 tokens .* has 4"):
        make(corrupted=["When John and Tom"])
    with pytest.raises(ValueError, match="clean prompt of pair 1 is empty"):
        make(clean=["  "])
    with pytest.raises(ValueError, match="is not one token"):
        make(right=[" Mary John"])
    with pytest.raises(ValueError, match="got 1 clean, 1 corrupted, 2 right, 1 wrong"):
        make(right=[" Mary", " Tom"])
    with pytest.raises(ValueError, match="no right answer"):
        make(right=[[]])
    with pytest.raises(ValueError, match="Unknown metric 'logits'"):
        make(metric="logits")
    with pytest.raises(ValueError, match="no task 'io'; did you mean 'ioi'"):
        tasks.load("io", model)
    with pytest.raises(ValueError, match="got n=0"):
        tasks.load("ioi", model, n=0)
    with pytest.raises(ValueError, match="no option 'templates'; it has template"):
        tasks.load("ioi", model, templates=1)
    with pytest.raises(ValueError, match=r"needs three \{\}"):
        tasks.load("ioi", model, template="When {} went")
