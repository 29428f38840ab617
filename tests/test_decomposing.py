"""``workbench.decomposing``: one request, one result, its pictures; and ``workbench decompose``."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from tests import digits
from tests.circuits.decomposition.test_words import wordpiece
from workbench import cli, decomposing
from workbench.circuits.decomposition import words
from workbench.circuits.decomposition.contributions import bytes_of
from workbench.circuits.progress import Stopped
from workbench.decomposing import Request, Result, plan
from workbench.models import Transformer, load, save, sentence_embeddings

TEXT = "When Mary and John went to the store, John gave a drink to"


def ask(model: Transformer, progress: Any = None, **asked: Any) -> Result:
    request = Request(**{"model": model.name, "text": TEXT} | asked)
    decomposing.check(request, model)
    return decomposing.run(request, model, progress)


@pytest.fixture(scope="module")
def vision() -> Transformer:
    return digits.vision()


@pytest.fixture(scope="module")
def bert() -> Transformer:
    return wordpiece(digits.encoder())


# -- what is found ----------------------------------------------------------------------------------------------


def test_the_default_target_is_the_models_own_answer_and_says_so(model: Transformer) -> None:
    found = ask(model)
    logits = model(model.to_tokens(TEXT))[0, -1]
    first, second = logits.topk(2).values.tolist()
    assert found.whole == pytest.approx(first - second, abs=1e-4)
    assert found.notes[0].startswith("The target is the model's own first choice of the next word, ")
    assert (found.request.rule, found.request.baseline) == ("shapley", "mean")
    assert found.complete


def test_a_words_occlusion_is_what_the_model_loses_without_it(model: Transformer) -> None:
    found = ask(model, target="logit: Mary - John", rule="exact", baseline="zero")
    tokens = model.to_tokens(TEXT)
    right, wrong = (model.to_single_token(word) for word in (" Mary", " John"))
    at = found.names.index("store")
    ((first, last),) = [
        (int(place[6:].split("-")[0]), int(place.split("-")[-1].split("@")[-1])) for place in found.places[at]
    ]

    def without(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[:, first : last + 1] = 0
        return resid

    with_all, with_less = (model(tokens, taps)[0, -1] for taps in ({}, {"blocks.0.hook_resid_pre": without}))
    lost = (with_all - with_less)[right] - (with_all - with_less)[wrong]
    assert found.values[at] == pytest.approx(float(lost), abs=1e-4)
    assert found.whole == pytest.approx(float(with_all[right] - with_all[wrong]), abs=1e-4)


def test_the_mean_leaves_out_the_first_position_of_a_causal_model(model: Transformer, bert: Transformer) -> None:
    found = ask(model, sources=["m0"], target="logit: Mary - John", rule="exact")
    tokens = model.to_tokens(TEXT)

    def mean(x: torch.Tensor) -> torch.Tensor:
        return x[:, 1:].mean(1, keepdim=True).expand_as(x)

    lost = (model(tokens) - model(tokens, {"blocks.0.hook_mlp_out": mean}))[0, -1]
    right, wrong = (model.to_single_token(word) for word in (" Mary", " John"))
    assert found.values[0] == pytest.approx(float(lost[right] - lost[wrong]), abs=1e-4)
    cut = words.words(bert, "the unhappy fox")
    assert (plan.against(model, cut, "mean"), plan.against(bert, cut, "mean")) == ("rest", "mean")
    assert math.isfinite(ask(model, text="Mary").values[0])  # no other position


def test_the_similarity_is_the_one_of_the_sentences_and_its_frozen_parts_add_up(bert: Transformer) -> None:
    found = ask(bert, text="the unhappy fox", other="the fox is very unhappy", rule="frozen", baseline="zero")
    one, other = sentence_embeddings(bert, ["the unhappy fox", "the fox is very unhappy"])
    assert found.whole == pytest.approx(float(one @ other), abs=1e-5)
    assert (found.unit, found.special) == ("cosine", (0, 4))
    assert sum(found.values) == pytest.approx(found.together, abs=1e-5)


def test_patches_of_the_top_class(vision: Transformer) -> None:
    found = ask(vision, text="", image="5", tree=True)
    logits = vision(plan.inspection.sample(vision, 5)[0])[0]
    first, second = logits.topk(2)
    assert found.whole == pytest.approx(float(first[0] - first[1]), abs=1e-4)
    assert found.target == f"class {int(second[0])} − {int(second[1])}"
    assert (found.kind, found.grid, found.special) == ("patches", (4, 4), ())
    assert found.places == tuple((f"input@{i}",) for i in range(1, 17))  # position 0 is no patch
    assert len(found.tree) == 15
    assert torch.tensor(found.image).shape == (1, 8, 8)


@pytest.mark.parametrize(("sources", "n"), [("heads", 8), ("mlps", 2), ("nodes", 10), ("tokens", 14)])
def test_sources_of_every_kind(model: Transformer, sources: str, n: int) -> None:
    found = ask(model, sources=sources)
    assert (found.kind, len(found.values)) == (sources, len(found.names))
    assert len(found.names) == (n if sources != "tokens" else model.to_tokens(TEXT).shape[1])
    assert all(math.isfinite(value) for value in found.values)


def test_phrases_and_places_stand_side_by_side(model: Transformer) -> None:
    found = ask(model, sources=["Mary and John", "John#2", "a1.h0@-1", "input@0-1"])
    assert found.kind == "places"
    assert found.names == ("Mary and John", "John#2", "a1.h0@-1", "input@0-1")
    assert all(place[0].startswith(("input@", "a1.h0")) for place in found.places)


def test_listed_sources_are_asked_together_too(model: Transformer) -> None:
    listed = ["Mary", "a1.h2", "m0"]
    found = ask(model, sources=listed, target="logit: Mary - John", rule="exact", baseline="zero")
    tokens = model.to_tokens(TEXT)
    mary = int(found.places[0][0].removeprefix("input@"))

    def without(index: tuple[Any, ...]) -> Any:
        def taken(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[index] = 0
            return x

        return taken

    taps = {
        "blocks.0.hook_resid_pre": without((slice(None), mary)),
        "blocks.1.attn.hook_z": without((slice(None), slice(None), 2)),
        "blocks.0.hook_mlp_out": without(()),
    }
    lost = (model(tokens) - model(tokens, taps))[0, -1]
    right, wrong = (model.to_single_token(word) for word in (" Mary", " John"))
    assert found.together == pytest.approx(float(lost[right] - lost[wrong]), abs=1e-4)
    single = ask(model, sources=["a1.h2"], target="logit: Mary - John")
    assert single.together == single.values[0]


@pytest.mark.parametrize(
    ("sources", "target", "names"),
    [
        ("nodes", "a1.h0<q>", ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]),
        ("heads", "m0", ["a0.h0", "a0.h1", "a0.h2", "a0.h3"]),
        ("mlps", "m1", ["m0"]),
    ],
)
def test_of_all_heads_and_mlps_those_before_the_target_are_asked(
    model: Transformer, sources: str, target: str, names: list[str]
) -> None:
    found = ask(model, sources=sources, target=target)
    assert list(found.names) == names
    figure = decomposing.pictures(Result.from_json(found.to_json()))["map"]
    assert {mark.get("data-id") for mark in ElementTree.fromstring(figure.svg).iter()} >= set(names)
    assert "Grey: comes after the target." in figure.caption


def test_a_map_without_a_number_is_no_picture(model: Transformer) -> None:
    found = ask(model, sources="nodes")
    lost = replace(found, values=(math.nan,) * len(found.values))
    assert decomposing.pictures(lost) == {}
    some = replace(found, values=(math.nan, *found.values[1:]))
    assert "Grey: too large to be a number." in decomposing.pictures(some)["map"].caption


def test_a_later_head_can_be_the_target(model: Transformer) -> None:
    found = ask(model, target="a1.h0<q>@-1", rule="exact")
    assert found.unit == "share of the activation"
    assert found.whole == 1


def test_a_result_goes_to_json_and_back(model: Transformer) -> None:
    found = ask(model, text="Mary went to the store", tree=True)
    data = json.loads(json.dumps(found.to_json()))
    assert Result.from_json(data) == found
    data["values"][0] = None
    assert math.isnan(Result.from_json(data).values[0])


def test_every_result_has_its_pictures(model: Transformer, vision: Transformer) -> None:
    wanted = {
        "words": ask(model, text="Mary went to the store", tree=True),
        "map": ask(model, sources="nodes"),
        "bars": ask(model, sources=["Mary", "m0"]),
        "patches": ask(vision, text="", image="5", tree=True),
    }
    for key, found in wanted.items():
        made = decomposing.pictures(Result.from_json(found.to_json()))
        assert next(iter(made)) == key
        assert ("tree" in made) == bool(found.tree)
        for figure in made.values():
            ElementTree.fromstring(figure.svg)
            assert found.request.model in figure.caption
            assert "Rule shapley" in figure.caption


def test_stopping_keeps_what_is_done(model: Transformer) -> None:
    request = Request(model=model.name, text=TEXT)
    small = decomposing.run(
        request, model, lambda at: at.done < 4, budget=3 * bytes_of(model, model.to_tokens(TEXT).shape[1])
    )
    assert not small.complete
    assert 4 <= sum(math.isfinite(value) for value in small.values) <= 6
    assert any(math.isnan(value) for value in small.values)
    assert "Stopped before the end." in decomposing.pictures(small)["words"].caption
    tree = decomposing.run(
        Request(model=model.name, text=TEXT, tree=True),
        model,
        lambda at: not (at.what == "joining groups" and at.done > 2),
    )
    assert (len(tree.tree), tree.complete) == (3, False)


# -- comparison -------------------------------------------------------------------------------------------------


def test_methods_are_judged_on_the_same_words(model: Transformer) -> None:
    request = Request(model=model.name, text="Mary went to the store", target="logit: Mary - John")
    names, found = decomposing.compare(request, model, ["shapley", "occlusion"])
    assert names == ("Mary", "went", "to", "the", "store")
    occlusion = decomposing.run(Request(**{**vars(request), "rule": "exact"}), model)
    assert found[1].values == pytest.approx(occlusion.values, abs=1e-5)
    for one in found:
        assert one.curves is not None
        assert len(one.curves.deletion) == 6
        assert one.curves.deletion[0] == one.curves.insertion[-1] == pytest.approx(occlusion.whole, abs=1e-5)
    with pytest.raises(ValueError, match="did you mean 'shap'"):
        decomposing.compare(request, model, ["shapp"])
    with pytest.raises(Stopped):
        decomposing.compare(request, model, ["shapley"], lambda at: False)


def test_a_missing_package_leaves_the_other_methods(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    request = Request(model=model.name, text="Mary went", target="logit: Mary - John")
    _, (missing, there) = decomposing.compare(request, model, ["integrated-gradients", "occlusion"])
    assert missing.missing == "captum is not installed; get it with: pip install 'mi-workbench[attribution]'"
    assert missing.curves is None
    assert there.curves is not None


# -- bad input ----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("model", {"text": " "}, "The text is empty: write at least one word."),
    ("model", {"sources": "word"}, "Unknown sources 'word'; choose one of words, tokens, patches"),
    ("model", {"sources": []}, "There is no source: name at least one place or phrase"),
    ("model", {"sources": ["Peter"]}, "'Peter' is not in the text"),
    ("model", {"sources": ["sto"]}, "'sto' is merged with its neighbour by the tokenizer"),
    ("model", {"sources": ["input@90"]}, "'input@90' names positions that prompt 0 does not have"),
    ("model", {"sources": ["a9.h0"]}, "'a9.h0' does not exist: this model has layers 0 to 1."),
    ("model", {"sources": "patches"}, "reads text, which has no patches"),
    ("model", {"sources": "heads", "tree": True}, "A tree joins neighbouring words or patches"),
    ("model", {"rule": "shaply"}, "There is no decomposition rule 'shaply'; did you mean 'shapley'?"),
    ("model", {"rule": "frozen", "tree": True}, "The rule 'frozen' is linear"),
    ("model", {"baseline": "none"}, "Unknown baseline 'none'; choose one of zero, mean, blank."),
    ("model", {"target": "logit: Marry - John"}, "'Marry' is not one token for this model"),
    ("model", {"target": "logit:"}, "'logit:' names no answer"),
    ("model", {"target": "Mary - John"}, "'Mary - John' is no target; write 'logit: Mary - John'"),
    ("model", {"target": "class: 7"}, "answers with words; write a target such as 'logit: Mary - John'"),
    ("model", {"target": "a0.h0", "sources": "nodes"}, "None of the heads and MLPs comes before the target 'a0.h0'"),
    ("model", {"target": "a0.h0", "sources": ["m1"]}, "'m1' does not come before the target 'a0.h0'"),
    ("model", {"target": "similarity", "other": "x"}, "is no encoder of text"),
    ("model", {"other": "a second text"}, "A second text is compared by similarity"),
    ("bert", {"text": "the fox"}, "A similarity needs a second text to compare with; give one."),
    ("bert", {"text": "the fox", "target": "logit: fox"}, "gives vectors, no logits; ask for 'similarity'"),
    ("vision", {"text": ""}, "reads images: give the number of a sample, such as 33, or an image file."),
    ("vision", {"image": "99999"}, "There are the samples 0 to"),
    ("vision", {"image": "no/such.png"}, "Cannot read 'no/such.png' (no such file or directory)"),
    ("vision", {"image": "5", "sources": "tokens"}, "reads images, which have no words; choose patches."),
    ("vision", {"image": "5", "target": "class: 12"}, "12"),
    ("vision", {"image": "5", "target": "logit: 7"}, "answers with classes; write a target such as 'class: 7'"),
]


@pytest.mark.parametrize(("which", "asked", "told"), BAD, ids=[f"{w}-{a}" for w, a, _ in BAD])
def test_a_bad_request_is_one_sentence(request, which: str, asked: dict[str, Any], told: str) -> None:
    model = request.getfixturevalue(which)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ask(model, **asked)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# -- the command ----------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def decompose(capsys):
    def run(*arguments: object) -> Ran:
        status = cli.main(["decompose", *map(str, arguments)])
        return Ran(status, *capsys.readouterr())

    return run


def test_the_command_prints_what_each_word_gives(decompose, micro_folder: Path) -> None:
    found = decompose("Mary went to the store", "--model", micro_folder, "--target", "logit: Mary - John", "--tree")
    assert found.status == 0, found.err
    assert "logit of Mary − John" in found.out
    assert "shapley, baseline mean" in found.out
    assert "Sum of the parts" in found.out
    model = load(micro_folder)
    result = ask(model, text="Mary went to the store", target="logit: Mary - John")
    line = next(line for line in found.out.splitlines() if line.startswith("store "))
    assert f"{result.values[-1]:.3f}" in line


def test_the_command_prints_json_alone_and_writes_figures(decompose, micro_folder: Path, tmp_path: Path) -> None:
    found = decompose(
        "Mary went", "--model", micro_folder, "--json", "--out", tmp_path, "--format", "svg,png", "--tree"
    )
    assert found.status == 0, found.err
    data = json.loads(found.out)
    assert data["names"] == ["Mary", "went"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "result.json",
        "tree.png",
        "tree.svg",
        "words.png",
        "words.svg",
    ]
    assert json.loads((tmp_path / "result.json").read_text())["values"] == data["values"]
    assert sorted(data["files"]) == sorted(str(path) for path in tmp_path.iterdir())
    ElementTree.parse(tmp_path / "words.svg")


def test_the_command_reads_images_and_takes_phrases(decompose, micro_folder: Path, tmp_path: Path) -> None:
    folder = digits.saved(digits.vision(), tmp_path)
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")
    found = decompose(tmp_path / "grey.png", "--model", folder, "--rule", "frozen")
    assert found.status == 0, found.err
    assert "patch (3, 2)" in found.out
    found = decompose(TEXT, "--model", micro_folder, "--source", "the store", "--source", "m1")
    assert found.status == 0, found.err
    assert "the store" in found.out


def test_the_command_compares(decompose, micro_folder: Path) -> None:
    found = decompose("Mary went", "--model", micro_folder, "--compare")
    assert found.status == 0, found.err
    for key in ("shapley", "occlusion", "integrated-gradients", "shap"):
        assert key in found.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["", "--rule", "shapley"], "The text is empty"),
        (["Mary went", "--rule", "shaply"], "did you mean 'shapley'"),
        (["Mary went", "--source", "Jo"], "'Jo' is not in the text"),
        (["Mary went", "--format", "gif"], "format of a figure 'gif'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(decompose, micro_folder: Path, arguments: list[str], told: str) -> None:
    found = decompose(*arguments, "--model", micro_folder)
    assert found.status == 2
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert told in found.err


def test_a_similarity_by_command(decompose, bert: Transformer, tmp_path: Path) -> None:
    save(bert, tmp_path / "bert")
    found = decompose("the unhappy fox", "--model", tmp_path / "bert", "--to", "the fox is unhappy", "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["unit"] == "cosine"
