"""``workbench models show``, ``check`` and ``swap``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests import digits
from workbench import cli

TEXT = "When Mary and John went to the store, John gave a drink to"


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def models(capsys):
    def run(*arguments: object) -> Result:
        status = cli.main(["models", *map(str, arguments)])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def vision(tmp_path_factory) -> Path:
    return digits.saved(digits.vision(), tmp_path_factory.mktemp("vision"))


def one_line(result: Result, words: str) -> None:
    assert result.status == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert words in result.err


def test_show_tells_sizes_and_choices(models, micro_folder) -> None:
    shown = models("show", micro_folder)
    assert shown.status == 0
    assert "4 a layer of width 8, sharing 2 of keys and values" in shown.out
    told = models("show", micro_folder, "--json").json
    assert told["config"]["n_layers"] == 2
    assert told["parameters"] > 10_000
    assert told["facts"]["Layers"] == "2"


def test_check_says_what_was_compared_and_how_closely(models, micro_folder) -> None:
    assert "Compared with Hugging Face over 2 layers" in models("check", micro_folder).out
    told = models("check", micro_folder, "--json", "--text", TEXT).json
    assert told["positions"] == 14
    assert max(told["logits"], told["residual"], told["pattern"], told["gradient"]) < 1e-4


def test_check_of_a_model_made_here_says_that_there_is_nothing_to_compare(models, vision) -> None:
    one_line(models("check", vision), "nothing to compare it with")


def test_swap_prints_answers_numbers_and_heads(models, micro_folder) -> None:
    said = models("swap", micro_folder, TEXT, "--attention", "sparsemax", "--heads", "0.1,1.3")
    assert said.status == 0
    assert "Sparsemax in heads 0.1, 1.3" in said.out
    for words in ("Entropy of the answer", "KL divergence", "0.1", "moved"):
        assert words in said.out


def test_swap_as_json_holds_everything(models, micro_folder) -> None:
    arguments = ("--attention", "temperature", "--option", "temperature=2", "--json")
    told = models("swap", micro_folder, TEXT, *arguments).json
    assert told["attention"] == "temperature"
    assert told["options"] == {"temperature": 2.0}
    assert told["file"] is None
    assert told["input"] == TEXT
    assert len(told["heads"]["change"]) == 2
    assert all(0 <= one["after"] <= 1 for one in told["answers"])


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".html", ".json"])
def test_swap_writes_the_pattern_that_moved_most(models, micro_folder, tmp_path, suffix: str) -> None:
    file = tmp_path / f"pattern{suffix}"
    said = models("swap", micro_folder, TEXT, "--attention", "sparsemax", "--heads", "1.2", "--export", file)
    assert "head 1.2, whose pattern moved most" in said.out
    data = file.read_bytes()
    if suffix == ".svg":
        assert "Head 1.2" in "".join(ElementTree.fromstring(data).itertext())
    if suffix == ".json":
        read = json.loads(data)
        assert (read["layer"], read["head"]) == (1, 2)
        assert len(read["patterns"]) == 2


def test_swap_reads_a_sample_or_a_file_for_a_vision_model(models, vision, tmp_path) -> None:
    told = models("swap", vision, "3", "--attention", "sparsemax", "--json").json
    assert told["positions"][:2] == ["cls", "0,0"]
    assert told["input"].startswith("sample 3: ")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    told = models("swap", vision, tmp_path / "red.png", "--attention", "relu", "--json").json
    assert told["input"] == "red.png"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TEXT, "--attention", "sparsmax"), "did you mean 'sparsemax'?"),
        ((TEXT, "--attention", "softmax"), "has that attention already"),
        ((TEXT, "--attention", "sparsemax", "--heads", "5"), "'5' is not a head; write layer.head"),
        ((TEXT, "--attention", "sparsemax", "--heads", "9.9"), "There is no head 9.9"),
        ((TEXT, "--attention", "temperature", "--option", "temperature"), "write name=value"),
        ((TEXT, "--attention", "temperature", "--option", "heat=2"), "has no option 'heat'"),
        ((TEXT, "--attention", "temperature", "--option", "temperature=-1"), "must lie in"),
        (("", "--attention", "sparsemax"), "The prompt is empty"),
        ((TEXT, "--attention", "sparsemax", "--export", "x.gif"), "There is no format 'gif'"),
    ],
)
def test_bad_input_is_one_line(models, micro_folder, arguments: tuple[str, ...], words: str) -> None:
    one_line(models("swap", micro_folder, *arguments), words)


@pytest.mark.parametrize(
    ("given", "words"), [("9999", "There are the samples 0 to"), ("no.png", "Cannot read 'no.png'")]
)
def test_an_image_that_is_not_there_is_one_line(models, vision, given: str, words: str) -> None:
    one_line(models("swap", vision, given, "--attention", "sparsemax"), words)


def test_an_unknown_model_is_one_line(models) -> None:
    for command in (("show", "smollm2"), ("check", "smollm2"), ("swap", "smollm2", "x", "--attention", "relu")):
        one_line(models(*command), "did you mean 'smollm2-135m'?")
