"""``workbench attention``: the table, the JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import micro
from workbench import cli
from workbench.models import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.save(tmp_path_factory.mktemp("model"))


def test_the_table_names_the_best_head_of_each_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attention", "When Mary went home, John slept.", "--model", str(folder), "--top", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("Previous token", "Induction", "mean entropy", "nats", "2 layers of 4 heads"):
        assert words in shown


def test_json_has_what_the_model_s_own_pattern_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "When Mary went home, John slept."
    assert cli.main(["attention", text, "--model", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = load(str(folder))
    _, cache = model.run_with_cache(model.to_tokens(text), lambda name: name.endswith("hook_pattern"))
    for layer in range(2):
        pattern = cache["pattern", layer][0].double()
        entropy = -(pattern * pattern.clamp(min=1e-300).log()).sum(-1).mean(-1)
        assert found["statistics"]["means"]["entropy"][layer] == pytest.approx(entropy.tolist(), rel=1e-4)
        before = pattern.diagonal(-1, -2, -1).mean(-1)
        assert found["census"]["scores"]["previous"][layer] == pytest.approx(before.tolist(), rel=1e-4)


def test_what_cannot_be_read_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attention", "", "--model", str(folder)]) == 2
    assert cli.main(["attention", "a digit", "--model", "digits-vit"]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 2
    assert "reads images" in shown[1]
