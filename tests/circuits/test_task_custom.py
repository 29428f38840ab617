"""Tasks of one's own: files, functions, the KL metric, and the examples that a model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.circuits.task_models import text_model, word_pieces
from workbench.circuits import discover, evaluate, tasks
from workbench.circuits.progress import Stopped
from workbench.circuits.task import Task
from workbench.models import Transformer, load

ROWS = [
    {"clean": "When Mary", "corrupted": "When John", "right": " Mary", "wrong": [" John", " Tom"]},
    {"clean": "After John and Tom", "corrupted": "After Mary and Tom", "right": [" Tom"], "wrong": " Mary"},
    {"clean": "When Dan", "corrupted": "When Amy", "right": [" Dan"], "wrong": " Amy", "note": 3},
]


@pytest.fixture(scope="module")
def masked() -> Transformer:
    return text_model("bert-masked", word_pieces())


def _file(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _lines(folder: Path, *rows: Any) -> Path:
    return _file(folder, "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "pairs.jsonl")


# --- files --------------------------------------------------------------------------------------------------------


def test_both_kinds_of_file_give_the_task_that_from_pairs_gives(model: Transformer, tmp_path: Path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ("clean", "corrupted", "right", "wrong")}
    expected = tasks.from_pairs(model, **columns)
    cells = [
        "|".join(row[name]) if isinstance(row[name], list) else str(row[name])
        for row in ROWS
        for name in ("wrong", "clean", "right", "corrupted")
    ]
    rows = [",".join(cells[i : i + 4]) for i in range(0, 12, 4)]
    table = _file(tmp_path, "\ufeffWrong, clean,right ,corrupted\r\n" + "\r\n\r\n".join(rows) + "\r\n", "My pairs.csv")
    for path in (table, _lines(tmp_path, *ROWS[:1], "", *ROWS[1:])):
        task = tasks.from_file(model, path)
        assert torch.equal(task.clean, expected.clean)
        assert torch.equal(task.right, expected.right)
        assert torch.equal(task.wrong, expected.wrong)
        assert task.corrupted_text == expected.corrupted_text
    assert tasks.from_file(model, table).name == "my-pairs"


def test_load_takes_a_file_by_its_path_and_draws_from_it(model: Transformer, tmp_path: Path) -> None:
    names = ["Mary", "John", "Tom", "James", "Dan", "Sarah", "Amy", "Paul"]
    rows = [
        {"clean": f"When {a}", "corrupted": f"When {b}", "right": f" {a}", "wrong": f" {b}"}
        for a, b in zip(names, names[1:] + names[:1], strict=True)
    ]
    path = str(_lines(tmp_path, *rows))
    task = tasks.load(path, model, n=5, seed=1)
    assert len(task) == 5
    assert [names.index(text.split()[1]) for text in task.clean_text] == sorted(
        names.index(text.split()[1]) for text in task.clean_text
    )
    again = tasks.load(task.spec["file"], model, n=task.spec["n"], seed=task.spec["seed"])
    assert again.clean_text == task.clean_text
    assert tasks.load(path, model, n=5, seed=2).clean_text != task.clean_text
    assert len(tasks.load(path, model)) == 8
    assert tasks.get(path).key == "pairs"
    with pytest.raises(ValueError, match=r"There is no task file 'nothing\.csv'"):
        tasks.get("nothing.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"The task file pairs\.csv is empty; write pairs with 'clean', 'corrupted', 'right', 'wrong'"),
        (" \n\n", "is empty"),
        ("clean,corrupted,right,wrong\n", "holds no pairs"),
        ("clean,corrupted,right\na,b,c\n", "header of pairs.csv lacks 'wrong'; the first line must name the columns"),
        ("clean,corrupted,right,wrong,Right\na,b,c,d,e\n", "header of pairs.csv has 'right' more than once"),
        (
            "clean,corrupted,right,wrong\nWhen Mary,When Tom, Mary\n",
            "Line 2 of pairs.csv has 3 cells where the header has 4",
        ),
        ('clean,corrupted,right,wrong\n"When\nMary",When,a,b\nWhen "Mary",b,c,"d"e\n', "Line 4 of pairs.csv is no CSV"),
        (
            "clean,corrupted,right,wrong\n\nWhen Mary,When Tom, Mary, Mary John\n",
            "wrong answer of line 3 of pairs.csv: ' Mary John' is not one token",
        ),
        (
            "clean,corrupted,right,wrong\nWhen Mary,When Tom,, Tom\n",
            "right answer of line 2 of pairs.csv: '' is not one token",
        ),
        (
            "clean,corrupted,right,wrong\nWhen Mary,When Tom and, Mary, Tom\nWhen Amy,When Dan, Mary, Tom\n"
            "When Tom,When, Mary, Tom\n",
            r"Line 2 of pairs.csv differs in length: .* has 2 tokens and the corrupted .* has 3; patching needs "
            r"equally many \(the same of line 4 of pairs.csv\)",
        ),
        (
            "clean,corrupted,right,wrong\nWhen Mary,, Mary, Tom\n",
            "The corrupted prompt of line 2 of pairs.csv is empty",
        ),
    ],
)
def test_a_bad_csv_is_one_sentence_with_the_line(model: Transformer, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        tasks.from_file(model, _file(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((ROWS[0], '{"clean": '), r"Line 2 of pairs\.jsonl is no JSON \(.* at character \d+\)"),
        ((ROWS[0], "", "[1]"), r"Line 3 of pairs\.jsonl is no object"),
        (({**ROWS[0], "right": 3},), "Line 1 of pairs.jsonl has a 'right' that is no text or a list of texts: 3"),
        (({**ROWS[0], "clean": [" a"]},), "has a 'clean' that is no text: "),
        (({**ROWS[0], "wrong": []},), "Line 1 of pairs.jsonl has no wrong answer"),
        ((ROWS[1], {"clean": "a", "right": "b"}), "Line 2 of pairs.jsonl lacks 'corrupted', 'wrong'"),
        (('{"clean": "a", "clean": "b"}',), "Line 1 of pairs.jsonl has 'clean' more than once"),
        (
            ({**ROWS[0], "corrupted": ROWS[0]["clean"]},),
            "Line 1 of pairs.jsonl has the same clean and corrupted prompt",
        ),
        (({**ROWS[0], "wrong": ROWS[0]["right"]},), "Line 1 of pairs.jsonl has .* both as right and as wrong"),
        (({**ROWS[0], "clean": "\ud800"},), "Line 1 of pairs.jsonl has a 'clean' with half a letter"),
        (("[" * 100_000,), "Line 1 of pairs.jsonl is nested too deeply"),
    ],
)
def test_bad_json_lines_are_one_sentence_with_the_line(
    model: Transformer, tmp_path: Path, lines: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        tasks.from_file(model, _lines(tmp_path, *lines))


def test_a_file_that_cannot_be_read_is_one_sentence(model: Transformer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no task file '.*none\.csv'"):
        tasks.from_file(model, tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="There is no task file"):
        tasks.from_file(model, tmp_path / "folder.csv")
    with pytest.raises(ValueError, match=r"pairs\.txt is neither \.csv nor \.jsonl"):
        tasks.from_file(model, _file(tmp_path, "clean", "pairs.txt"))
    (tmp_path / "latin.csv").write_bytes("clean,corrupted,right,wrong\nÄ,b,c,d\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv is not UTF-8 text"):
        tasks.from_file(model, tmp_path / "latin.csv")
    with pytest.raises(ValueError, match="Unknown metric 'logits'"):
        tasks.from_file(model, _lines(tmp_path, *ROWS), metric="logits")  # type: ignore[arg-type]


# --- masked words, classes, and models that answer with neither ------------------------------------------------------


def test_a_masked_prompt_needs_one_mask_at_the_same_place(masked: Transformer) -> None:
    task = tasks.from_pairs(masked, ["the [MASK] near John"], ["the [MASK] near Mary"], ["key"], ["keys"])
    assert task.at is not None
    assert masked.tokenizer.convert_ids_to_tokens(task.clean[0].tolist()).index("[MASK]") == int(task.at[0])
    for clean, corrupted, have in (("the key", "the keys", "0 and 0"), ("[MASK] the", "the [MASK]", "1 and 1")):
        with pytest.raises(ValueError, match=rf"pair 1 need one \[MASK\] each, at the same place, .* they have {have}"):
            tasks.from_pairs(masked, [clean], [corrupted], ["key"], ["keys"])


def test_classes_are_named_and_models_without_words_refuse(masked: Transformer) -> None:
    classifier = text_model("bert-classes", word_pieces())
    task = tasks.from_pairs(classifier, ["the play"], ["the film"], ["positive"], [["negative", "mixed"]])
    assert (task.right.tolist(), task.wrong.tolist()) == ([[1]], [[3, 4]])
    with pytest.raises(ValueError, match=r"'positiv' of pair 1 is no class .*did you mean 'Positive'"):
        tasks.from_pairs(classifier, ["a"], ["b"], ["positiv"], ["negative"])
    with pytest.raises(ValueError, match="answers with no word"):
        tasks.from_pairs(load("digits-vit"), ["a"], ["b"], ["c"], ["d"])


# --- functions ----------------------------------------------------------------------------------------------------


def _first_logit(logits: Tensor) -> Tensor:
    return logits[:, 0]


def test_a_function_is_the_metric_and_its_tensors_go_with_the_rows(model: Transformer) -> None:
    clean, corrupted = ["When Mary", "After John and Tom", "When Dan"], ["When John", "After Mary and Tom", "When Amy"]
    weights = torch.randn(3, model.cfg.d_vocab, generator=torch.Generator().manual_seed(0))

    def weighted(logits: Tensor, batch: Task) -> Tensor:
        return (logits * batch.extra["weights"]).sum(-1)

    task = tasks.from_function(model, weighted, clean, corrupted, extra={"weights": weights})
    logits = torch.stack([model(model.to_tokens(text))[0, -1] for text in clean])
    expected = (logits * weights).sum(-1)
    torch.testing.assert_close(task.metric(model(task.clean)), expected, rtol=1e-4, atol=1e-4)
    parts = [part.score(part.answers(model)) for part in task.batches(2)]
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-4, atol=1e-4)
    back = task.select(torch.tensor([2, 0]))
    torch.testing.assert_close(back.score(logits[[2, 0]]), expected[[2, 0]], rtol=1e-4, atol=1e-4)
    check = task.check(model)
    other = torch.stack([model(model.to_tokens(text))[0, -1] for text in corrupted])
    above = expected > (other * weights).sum(-1)
    assert (check.accuracy, check.top1) == (pytest.approx(float(above.double().mean())),) * 2
    assert check.metric_clean == pytest.approx(float(expected.mean()), rel=1e-4)


def test_a_functions_task_is_told_from_others_by_its_spec(model: Transformer) -> None:
    make = lambda fn, **k: tasks.from_function(model, fn, ["When Mary"], ["When John"], **k).spec  # noqa: E731
    first = make(_first_logit)
    assert json.loads(json.dumps(first)) == first
    assert first == make(_first_logit)
    second = make(lambda logits: logits[:, 1])
    assert second["pairs"] not in (first["pairs"], make(lambda logits: logits[:, 2])["pairs"])
    assert (
        make(_first_logit, extra={"x": torch.zeros(1)})["pairs"]
        != make(_first_logit, extra={"x": torch.ones(1)})["pairs"]
    )
    assert make(_first_logit, at=[0])["pairs"] != first["pairs"]


def test_a_function_of_a_vision_models_logits_and_of_an_encoders_vectors() -> None:
    vit, encoder = load("digits-vit"), text_model("bert", word_pieces())
    images = tasks.load("digits", vit, n=4)
    task = tasks.from_function(vit, _first_logit, images.clean, images.corrupted)
    torch.testing.assert_close(task.score(task.answers(vit)), vit(images.clean)[:, 0])
    task = tasks.from_function(encoder, lambda x: x[:, 0].sum(-1), ["the key", "a"], ["the car", "b"])
    torch.testing.assert_close(task.metric(task.answers(encoder))[:1], encoder(task.clean[:1])[:, 0].sum(-1))


def test_bad_functions_are_named(model: Transformer) -> None:
    make = lambda fn, **k: tasks.from_function(  # noqa: E731
        model, fn, **{"clean": ["When Mary", "When Tom"], "corrupted": ["When John", "When Dan"]} | k
    )

    other = tasks.from_pairs(model, ["When Dan"] * 2, ["When Dan"] * 2, [" Tom"] * 2, [" Dan"] * 2).answers(model)[:1]

    def only_the_second(logits: Tensor, batch: Task) -> Tensor:
        bad = torch.tensor([text == "When Dan" for text in batch.clean_text])
        return torch.where(bad, torch.nan, logits[:, 0])

    with pytest.raises(ValueError, match=r"not a number \(NaN\) on example 2, on the corrupted prompt 'When Dan'"):
        make(lambda logits: torch.where((logits == other).all(-1), torch.nan, logits[:, 0]))
    with pytest.raises(ValueError, match=r"on example 2, on the clean prompt 'When Dan'"):
        make(only_the_second, clean=["When Mary", "When Dan"])
    with pytest.raises(ValueError, match=r"must give one number for each example, \[2\]; got the shape \[2, \d+\]"):
        make(lambda logits: logits)
    with pytest.raises(ValueError, match="got float"):
        make(lambda logits: 1.0)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        make(lambda logits: logits.argmax(-1))
    with pytest.raises(ValueError, match=r"failed on values of the shape \[2, \d+\] \(KeyError"):
        make(lambda logits, batch: batch.extra["nothing"])
    with pytest.raises(ValueError, match="takes 3 arguments"):
        make(lambda a, b, c: a)
    with pytest.raises(ValueError, match="must be a function of the logits, not str"):
        make("logits")
    with pytest.raises(ValueError, match="'x' needs one row for each of the 2 examples"):
        make(_first_logit, extra={"x": torch.zeros(3)})
    with pytest.raises(ValueError, match="as many clean as corrupted inputs, and at least one; got 1 and 2"):
        make(_first_logit, clean=["When Mary"])
    with pytest.raises(ValueError, match="'at' names a position that an example does not have"):
        make(_first_logit, at=[0, 9])
    with pytest.raises(ValueError, match="Pair 2 differs in length"):
        make(_first_logit, clean=["When Mary", "When Mary and"])


# --- metrics ------------------------------------------------------------------------------------------------------


def test_kl_is_minus_the_divergence_from_the_clean_run(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=7, metric="kl")
    plain = tasks.load("ioi", model, n=7)
    assert task.spec == {**plain.spec, "metric": "kl"}
    clean, other = plain.answers(model), plain.answers(model, "corrupted")
    expected = -F.kl_div(other.log_softmax(-1), clean.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(task.score(other), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(task.score(clean), torch.zeros(7), rtol=0, atol=1e-6)
    assert bool((task.score(other) < 0).all())
    parts = torch.cat([part.score(part.answers(model, "corrupted")) for part in task.batches(3)])
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-6)
    assert task.check(model).accuracy == plain.check(model).accuracy
    direct = tasks.from_pairs(model, plain.clean_text, plain.corrupted_text, [" Mary"] * 7, [" John"] * 7, metric="kl")
    torch.testing.assert_close(direct.score(other), expected, rtol=1e-4, atol=1e-6)


def test_other_metrics_can_be_asked_for(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=4)
    probabilities = task.with_metric("prob-diff")
    p = task.answers(model).softmax(-1)
    expected = p.gather(1, task.right)[:, 0] - p.gather(1, task.wrong)[:, 0]
    torch.testing.assert_close(probabilities.score(task.answers(model)), expected)
    assert probabilities.spec["metric"] == "prob-diff"
    assert task.with_metric("logit-diff") is task
    with pytest.raises(ValueError, match="measured by logit-diff, prob-diff, kl, not 'custom'"):
        task.with_metric("custom")
    with pytest.raises(ValueError, match="give the model as well"):
        task.with_metric("kl")
    similarity = tasks.load("sentence-similarity", text_model("bert", word_pieces()), n=2)
    with pytest.raises(ValueError, match="no right and wrong answers to measure 'kl' by"):
        similarity.with_metric("kl", model)


# --- examples that a model does -----------------------------------------------------------------------------------


def test_done_keeps_the_first_examples_that_the_model_does_and_no_others(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=12, seed=5, keep="done")
    assert len(task) == 12
    everything = tasks.load("ioi", model, n=192, seed=5)
    logits = torch.stack([model(model.to_tokens(text))[0, -1] for text in everything.clean_text])
    above = logits.gather(1, everything.right)[:, 0] > logits.gather(1, everything.wrong)[:, 0]
    done = [text for text, does in zip(everything.clean_text, above.tolist(), strict=True) if does]
    assert 12 < len(done) < 192
    assert task.clean_text == done[:12]
    assert task.check(model).accuracy == 1.0
    assert task.spec == {"name": "ioi", "n": 12, "seed": 5, "keep": "done"}
    again = tasks.load(task.spec["name"], model, n=12, seed=5, keep=task.spec["keep"])
    assert torch.equal(again.clean, task.clean)


def test_where_the_model_does_too_few_the_number_is_said(model: Transformer) -> None:
    vit = load("digits-vit")
    done = tasks.load("digits", vit, n=20, keep="done").check(vit)
    assert done.top1 <= done.accuracy == 1.0
    with pytest.raises(ValueError, match=r"does 'greater-than' on only \d+ of the 32 prompts .*, and 2 were asked for"):
        tasks.load("greater-than", _stubborn(model), n=2, keep="done")


def _stubborn(model: Transformer) -> Transformer:
    """The model with equal logits for all digits: no later year is ever above an earlier one."""
    from copy import deepcopy

    other = deepcopy(model)
    ids = [model.to_single_token(str(digit)) for digit in range(10)]
    other.unembedding.weight = torch.nn.Parameter(other.unembedding.weight.clone(), requires_grad=False)
    other.unembedding.weight[ids] = 0.0
    return other


def test_choosing_can_be_stopped_and_unknown_choices_are_named(model: Transformer) -> None:
    with pytest.raises(Stopped):
        tasks.load("ioi", model, n=40, keep="done", progress=lambda step: False)
    with pytest.raises(ValueError, match="'all' or those 'done', not 'some'"):
        tasks.load("ioi", model, keep="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"measured by .*, not 'logits'"):
        tasks.load("ioi", model, metric="logits")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no option 'colour'; it has template"):
        tasks.load("ioi", model, colour="red")


def test_a_nan_in_the_model_is_reported_with_the_example(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=5)
    assert task.check(model).n_examples == 5
    bad = tasks.from_function(
        model,
        lambda x, batch: x[:, 0] * batch.extra["k"],
        task.clean_text,
        task.corrupted_text,
        extra={"k": torch.ones(5)},
    )
    bad.extra["k"][3] = torch.nan  # type: ignore[index]
    with pytest.raises(ValueError, match=r"\(NaN\) on example 4, on the clean prompt"):
        bad.check(model, batch_size=2)


@pytest.mark.parametrize("key", ["eap", "eap-ig", "atp", "exact", "acdc", "path-patching", "activation-patching"])
def test_a_metric_that_fails_only_between_the_prompts_is_said_and_never_scored_0(key: str, model: Transformer) -> None:
    task = tasks.load("ioi", model, n=3)
    ends = torch.cat([task.answers(model), task.answers(model, "corrupted")])

    def fragile(logits: torch.Tensor, batch: Task) -> torch.Tensor:
        """A number at both ends, and none in between."""
        near = (logits[:, None].detach() - ends).abs().amax(-1).min(-1).values < 1e-3
        return torch.where(near, logits[:, 0], torch.nan)

    odd = tasks.from_function(model, fragile, task.clean_text, task.corrupted_text)
    assert odd.check(model).n_examples == 3
    options = {"threshold": 0.1} if key == "acdc" else {}
    if key in ("eap", "atp"):  # the only run with gradients is the clean one, where nothing is wrong
        found = discover(model, odd, key, **options)
        with pytest.raises(ValueError, match="not a number"):
            evaluate(model, odd, found.top(20))
        return
    with pytest.raises(ValueError, match="not a number"):
        discover(model, odd, key, **options)
