"""Every task by an oracle of its own: pairs of equal length, answers of one token, right what it should be."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits

from tests.circuits.task_models import bpe, text_model, word_pieces
from workbench.circuits import tasks
from workbench.circuits.tasks import words
from workbench.models import Transformer, from_hf, load
from workbench.models.families.samples import find

N = 100


@pytest.fixture(scope="module")
def decoder() -> Transformer:
    return text_model("llama-grouped", bpe())


@pytest.fixture(scope="module")
def masked() -> Transformer:
    return text_model("bert-masked", word_pieces())


@pytest.fixture(scope="module")
def classifier() -> Transformer:
    return text_model("bert-classes", word_pieces())


@pytest.fixture(scope="module")
def encoder() -> Transformer:
    return text_model("bert", word_pieces())


@pytest.fixture(scope="module")
def vit() -> Transformer:
    return load("digits-vit")


# --- what each prompt asks for, worked out from its text alone ----------------------------------------------------


def _parameter(text: str) -> set[str]:
    defined = re.findall(r"\w+", text.split("(")[1].split(")")[0])[1:]
    described = re.findall(r":param (\w+):", text)
    assert len(described) == 2
    return {defined[2]}


def _pronoun(text: str) -> set[str]:
    known = dict.fromkeys("Mary Sarah Anna Emma Alice Susan Helen Linda Maria Elizabeth Jennifer".split(), "she")
    known |= dict.fromkeys("John Tom James Paul Peter Robert William George Henry Edward Joseph".split(), "he")
    return {known[name] for name in re.findall(r"\w+", text) if name in known}


def _verb(text: str) -> set[str]:
    return {"are", "were"} if text.split()[1].endswith("s") else {"is", "was"}


def _letter(text: str) -> set[str]:
    _, first, second, third, begun = text.split()
    assert begun == f"({first[0]}{second[0]}"
    return {third[0]}


def _capital(text: str) -> set[str]:
    known = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana", "Peru": "Lima"}
    known |= {"Spain": "Madrid", "Germany": "Berlin", "Canada": "Ottawa", "Norway": "Oslo", "Kenya": "Nairobi"}
    return {known[word] for word in re.findall(r"\w+", text) if word in known}


def _tens(text: str) -> set[str]:
    *worked, asked = text.split("\n")
    for line in worked:
        a, b, total = map(int, re.findall(r"\d+", line))
        assert a + b == total
    a, b = map(int, re.findall(r"\d+", asked))
    assert 20 <= a + b < 100
    return {str((a + b) // 10)}


def _sum(text: str) -> set[str]:
    a, b = map(int, re.findall(r"\d+", text.split("\n")[-1]))
    return {str(a + b)}


def _colour(text: str) -> set[str]:
    told, asked = text.split(". As I said, the ")
    return {dict(re.findall(r"the (\w+) is (\w+)", told.lower()))[asked.split()[0]]}


def _feeling(text: str) -> set[str]:
    good = {"great", "wonderful", "brilliant", "excellent", "beautiful", "fantastic", "lovely", "perfect", "amazing"}
    liked = bool({*good, "delightful"} & {*re.findall(r"\w+", text.split("Review: ")[-1])})
    return {"positive"} if liked else {"negative"}


ORACLES: dict[str, Callable[[str], set[str]]] = {
    "docstring": _parameter,
    "gendered-pronoun": _pronoun,
    "agreement": _verb,
    "acronyms": _letter,
    "capital-of-country": _capital,
    "arithmetic": _tens,
    "binding": _colour,
    "sentiment": _feeling,
}


def _said(model: Transformer, ids: torch.Tensor) -> set[str]:
    return {model.tokenizer.decode([int(i)]).strip() for i in ids if i >= 0}


@pytest.mark.parametrize("name", ORACLES)
def test_right_is_what_the_prompt_asks_for_and_not_what_the_corrupted_one_asks_for(
    decoder: Transformer, name: str
) -> None:
    task, oracle = tasks.load(name, decoder, n=40), ORACLES[name]
    judged = 0
    for i in range(40):
        right, wrong = _said(decoder, task.right[i]), _said(decoder, task.wrong[i])
        assert right
        assert wrong
        assert not right & wrong
        for text, same in ((task.clean_text[i], True), (task.corrupted_text[i], False)):
            if asked := oracle(text):
                judged += 1
                assert (right == asked) if same else not right & asked
    assert judged > 20


@pytest.mark.parametrize("name", ["ioi", "greater-than", "induction", *ORACLES])
def test_a_decoders_pairs_are_unlike_each_other_equally_long_and_the_same_by_seed(
    decoder: Transformer, name: str
) -> None:
    task = tasks.load(name, decoder, n=N, seed=2)
    pairs = list(zip(task.clean_text, task.corrupted_text, strict=True))
    assert len(set(pairs)) > N / 2 if name in ("ioi", "greater-than", "induction") else len(set(pairs)) == N
    for i, (one, other) in enumerate(pairs):
        ids = decoder.text.ids(one)
        assert len(ids) == len(decoder.text.ids(other)) == int(task.lengths[i])
        assert one != other
        for answer in (*task.right[i], *task.wrong[i]):
            said = decoder.tokenizer.decode([int(answer)]) if answer >= 0 else ""
            assert not said or decoder.text.ids(one + said) == [*ids, int(answer)]
    fewer, again = (tasks.load(name, decoder, n=9, seed=2) for _ in range(2))
    assert (again.clean_text, again.spec) == (fewer.clean_text, fewer.spec)
    assert fewer.clean_text == task.clean_text[:9]
    assert tasks.load(name, decoder, n=9, seed=3).clean_text != fewer.clean_text
    assert task.spec == {"name": name, "n": N, "seed": 2} | {k: v for k, v in task.spec.items() if k == "length"}


@pytest.mark.parametrize("name", ["ioi", *ORACLES])
def test_who_answers_right_is_above_0_and_who_answers_wrong_below(decoder: Transformer, name: str) -> None:
    task = tasks.load(name, decoder, n=8)
    for answers, sign in ((task.right, 1), (task.wrong, -1)):
        logits = torch.zeros(8, decoder.cfg.d_vocab)
        logits.scatter_(1, answers.clamp(min=0), 5.0)
        logits[:, 0] = 0.0  # where padding of answers went
        assert bool((task.score(logits) * sign > 0).all())
        assert bool((task.first(logits) == (sign > 0)).all())


def test_what_the_corrupted_prompt_keeps(decoder: Transformer) -> None:
    """All but the one word that matters, where one word does."""
    for name in ("gendered-pronoun", "agreement", "acronyms", "capital-of-country", "binding"):
        task = tasks.load(name, decoder, n=30)
        for one, other in zip(task.clean_text, task.corrupted_text, strict=True):
            assert sum(a != b for a, b in zip(one.split(), other.split(), strict=True)) == 1, name
    for one, other in zip(
        *(lambda t: (t.clean_text, t.corrupted_text))(tasks.load("arithmetic", decoder, n=30)), strict=True
    ):
        assert one.rsplit("+", 1)[0] == other.rsplit("+", 1)[0]


def test_both_answers_are_asked_for_equally_often(decoder: Transformer) -> None:
    for name in ("gendered-pronoun", "agreement", "sentiment"):
        asked = [frozenset(_said(decoder, row)) for row in tasks.load(name, decoder, n=40).right]
        assert sorted(asked.count(one) for one in set(asked)) == [20, 20], name


def test_options_are_kept_and_do_what_they_say(decoder: Transformer) -> None:
    other = tasks.load("agreement", decoder, n=30, attractor="other")
    assert other.spec["attractor"] == "other"
    for text in other.clean_text:
        subject, between = text.split()[1], text.split()[-1]
        assert subject.endswith("s") != between.endswith("s")
    assert tasks.load("binding", decoder, n=3, things=4).clean_text[0].count(" is ") == 4
    assert tasks.load("arithmetic", decoder, n=3, shots=0).clean_text[0].count("\n") == 0


def test_a_tokenizer_of_two_digit_numbers_is_asked_for_the_whole_sum() -> None:
    model = text_model("llama-grouped", bpe(digits=False))
    task = tasks.load("arithmetic", model, n=50)
    for i, text in enumerate(task.clean_text):
        assert text.endswith("=")
        assert _said(model, task.right[i]) == _sum(text)
        assert _said(model, task.wrong[i]) == _sum(task.corrupted_text[i])


@pytest.mark.parametrize("name", ["agreement", "capital-of-country"])
def test_a_masked_model_is_asked_at_the_mask(masked: Transformer, name: str) -> None:
    task = tasks.load(name, masked, n=N)
    place = masked.tokenizer.mask_token_id
    assert task.at is not None
    for i, text in enumerate(task.clean_text):
        assert task.clean[i, task.at[i]] == task.corrupted[i, task.at[i]] == place
        assert task.at[i] < task.lengths[i] - 2  # [SEP] and at least a full stop come after
        asked = {answer.lower() for answer in ORACLES[name](text)}
        assert not asked or _said(masked, task.right[i]) == asked
    answers = task.answers(masked)
    for i in (0, 7):  # alone and without padding
        alone = masked(task.clean[i : i + 1, : int(task.lengths[i])])
        torch.testing.assert_close(answers[i], alone[0, task.at[i]], rtol=1e-4, atol=1e-4)


def test_a_classifier_is_asked_for_its_classes(classifier: Transformer) -> None:
    task = tasks.load("sentiment", classifier, n=20)
    for i, text in enumerate(task.clean_text):
        assert classifier.cfg.labels is not None
        label = classifier.cfg.labels[int(task.right[i])].lower()
        assert label == _feeling(text).pop()
    alone = torch.cat([classifier(task.clean[i : i + 1, : int(task.lengths[i])]) for i in range(20)])
    torch.testing.assert_close(task.answers(classifier), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        task.metric(alone), alone.gather(1, task.right)[:, 0] - alone.gather(1, task.wrong)[:, 0]
    )
    assert 0 <= task.check(classifier).accuracy <= 1


def test_digits_are_held_out_images_with_the_labels_of_the_data(vit: Transformer) -> None:
    task = tasks.load("digits", vit, n=N, seed=1)
    assert task.clean.shape == task.corrupted.shape == (N, 1, 8, 8)
    assert set(task.lengths.tolist()) == {17}
    data = load_digits()
    images = torch.tensor(data.images).float()
    for pixels, classes in ((task.clean, task.right), (task.corrupted, task.wrong)):
        for picture, of in zip(pixels, classes, strict=True):
            found = (images == picture[0] * 16).flatten(1).all(1).nonzero().flatten().tolist()
            assert int(of) in {int(data.target[i]) for i in found}
    assert not bool((task.right == task.wrong).any())
    check = task.check(vit)
    assert check.accuracy > 0.95
    assert check.metric_corrupted < 0 < check.metric_clean
    assert torch.equal(task.rows(3, 9).clean, task.clean[3:9])
    logits = vit(task.clean[:4])
    expected = torch.stack(
        [row[r] - row[w] for row, r, w in zip(logits, task.right[:4, 0], task.wrong[:4, 0], strict=True)]
    )
    torch.testing.assert_close(task.rows(0, 4).metric(logits), expected)


def test_similarity_is_the_cosine_of_mean_vectors_over_real_tokens(encoder: Transformer) -> None:
    task = tasks.load("sentence-similarity", encoder, n=N)
    assert len({*zip(task.clean_text, task.corrupted_text, strict=True)}) == N
    assert task.lengths.tolist() == [len(encoder.text.ids(text)) for text in task.corrupted_text]
    out = task.answers(encoder)
    for i in (0, 1, 50):  # each alone, without padding and without our pooling
        vector = encoder(task.clean[i : i + 1, : int(task.lengths[i])])[0].mean(0)
        expected = float(vector @ task.extra["reference"][i]) / float(vector.norm() * task.extra["reference"][i].norm())
        assert float(task.metric(out)[i]) == pytest.approx(expected, abs=1e-5)
        assert float(task.rows(i, i + 1).score(out[i : i + 1])) == pytest.approx(expected, abs=1e-5)
    for clean, corrupted in zip(task.clean_text, task.corrupted_text, strict=True):
        (_, who, did, *rest), (_, who2, did2, *rest2) = clean.split(), corrupted.split()
        assert who != who2
        assert did != did2
        assert rest[1] != rest2[1]


@pytest.mark.parametrize(
    ("kind", "known"), [("decoder", 11), ("masked", 2), ("classifier", 1), ("vit", 1), ("encoder", 1)]
)
def test_a_model_is_offered_the_tasks_that_fit(kind: str, known: int, request: pytest.FixtureRequest) -> None:
    model: Transformer = request.getfixturevalue(kind)
    offered = [record.key for record in tasks.for_model(model)]
    assert len(offered) == known
    for name in tasks.names():
        if name in offered:
            assert len(tasks.load(name, model, n=2)) == 2
        else:
            with pytest.raises(ValueError, match=rf"The task '{name}' asks a .*; use .*can be asked: {offered[0]}"):
                tasks.load(name, model, n=2)


def test_a_tokenizer_without_the_words_is_told_in_one_sentence(model: Transformer) -> None:
    with pytest.raises(
        ValueError, match=r"has only \d of our \d+ countries and capitals .* needs 4; use tasks\.from_pairs"
    ):
        tasks.load("capital-of-country", model)
    with pytest.raises(ValueError, match="no class for each of the digits"):
        tasks.load("digits", from_hf(find("vit-classes").model()))


def test_names_of_women_and_men_are_none_of_the_others() -> None:
    assert not {*words.WOMEN} & {*words.MEN}
    assert {*words.WOMEN, *words.MEN} <= {*words.NAMES}
