"""Targets as a person writes them, and words against a task's metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests import digits
from tests.circuits.decomposition.test_words import wordpiece
from workbench.circuits import tasks
from workbench.circuits.decomposition import Logits, Metric, Node, Similarity, phrases
from workbench.circuits.decomposition.answers import answer, answer_index, answer_name
from workbench.models import Transformer, from_hf, sentence_embeddings
from workbench.models.families.samples import find

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def masked() -> Transformer:
    """A masked model of Hugging Face's class, with a tokenizer of its kind."""
    return wordpiece(from_hf(find("bert-masked").model()))


def test_a_bare_word_has_its_space_and_a_quoted_one_is_as_it_stands(model: Transformer) -> None:
    assert answer_index(model, "Mary") == model.to_single_token(" Mary")
    assert answer_index(model, "'a'") == model.to_single_token("a")
    assert answer_name(model, answer_index(model, "Mary")) == " Mary"


def test_a_logit_difference_is_read_at_the_last_position(model: Transformer) -> None:
    tokens = model.to_tokens(TEXT)
    target, note = answer(model, tokens, "logit: Mary - John")
    assert isinstance(target, Logits)
    assert (int(target.right), int(target.wrong)) == (model.to_single_token(" Mary"), model.to_single_token(" John"))  # type: ignore[arg-type]
    assert int(target.at) == tokens.shape[1] - 1  # type: ignore[arg-type]
    assert target.name == "logit of Mary − John"
    assert note == ""
    alone, _ = answer(model, tokens, "logit: Mary")
    assert isinstance(alone, Logits)
    assert alone.wrong is None


def test_a_masked_model_is_asked_at_its_mask(masked: Transformer) -> None:
    tokens = masked.to_tokens("the [MASK] is very unhappy")
    target, note = answer(masked, tokens)
    assert isinstance(target, Logits)
    assert tokens[0, int(target.at)] == masked.tokenizer.mask_token_id  # type: ignore[arg-type]
    logits = masked(tokens)[0, int(target.at)]  # type: ignore[arg-type]
    assert [int(target.right), int(target.wrong)] == logits.topk(2).indices.tolist()  # type: ignore[arg-type]
    assert "first choice of the missing word" in note


@pytest.mark.parametrize("text", ["the fox", "the [MASK] is [MASK]"])
def test_a_masked_model_needs_one_mask(masked: Transformer, text: str) -> None:
    with pytest.raises(ValueError, match=r"masks and needs one: write \[MASK\] where the word is missing"):
        answer(masked, masked.to_tokens(text))


def test_classes_go_by_name_or_number() -> None:
    vision = digits.vision()
    image = torch.rand(1, 1, 8, 8)
    target, _ = answer(vision, image, "class: 7 - 1")
    assert isinstance(target, Logits)
    assert (int(target.right), int(target.wrong), target.at) == (7, 1, None)  # type: ignore[arg-type]
    vision.cfg = replace(vision.cfg, labels=tuple("abcdefghij"))
    assert answer(vision, image, "class: c")[0].name == "class c"
    with pytest.raises(ValueError, match="class 'zz'"):
        answer(vision, image, "class: zz")
    vision.cfg = replace(vision.cfg, labels=None)
    assert answer_index(vision, "4") == 4
    with pytest.raises(ValueError, match=r"There is no answer 12: vit has 0 to 9\."):
        answer(vision, image, "class: 12")
    with pytest.raises(ValueError, match="'cat' is no answer: those of vit are the numbers 0 to 9"):
        answer(vision, image, "class: cat")


def test_a_similarity_holds_the_other_sentence() -> None:
    bert = wordpiece(digits.encoder())
    target, _ = answer(bert, bert.to_tokens("the fox"), "", "the unhappy fox")
    assert isinstance(target, Similarity)
    torch.testing.assert_close(target.vectors, sentence_embeddings(bert, "the unhappy fox"))


def test_a_place_is_a_target(model: Transformer) -> None:
    target, _ = answer(model, model.to_tokens(TEXT), "a1.h2<q>@-1")
    assert isinstance(target, Node)
    assert (target.site.layer, target.site.heads, target.part) == (1, (2,), "q")


def test_words_against_a_tasks_metric_are_what_the_metric_loses(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=1)
    tokens = task.clean
    places = [[f"input@{i}"] for i in range(tokens.shape[1])]
    groups = phrases.Groups(model, tokens, places, Metric(task), rule="exact")

    def without(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[:, 2:4] = 0
        return resid

    last = int(task.last[0])
    plain, less = (model(tokens, taps)[:, last] for taps in ({}, {"blocks.0.hook_resid_pre": without}))
    (found,) = groups([[2, 3]])
    assert found == pytest.approx(float(task.score(plain)[0] - task.score(less)[0]), abs=1e-4)
