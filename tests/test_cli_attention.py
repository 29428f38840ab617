"""``workbench attention``: the table, the JSON, the figures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import micro
from tests.figures.helpers import parse
from workbench import cli
from workbench.models import load

TEXT = "When Mary went home, John slept."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.save(tmp_path_factory.mktemp("model"))


def test_the_table_names_the_best_head_of_each_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attention", TEXT, "--model", str(folder), "--top", "2"]) == 0
    shown = capsys.readouterr().out
    for words in ("Previous token", "Induction", "Copy suppression", "mean entropy", "nats", "2 layers of 4 heads"):
        assert words in shown


def test_json_has_what_the_model_s_own_pattern_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attention", TEXT, "--model", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = load(str(folder))
    _, cache = model.run_with_cache(model.to_tokens(TEXT), lambda name: name.endswith("hook_pattern"))
    for layer in range(2):
        pattern = cache["pattern", layer][0].double()
        entropy = -(pattern * pattern.clamp(min=1e-300).log()).sum(-1).mean(-1)
        assert found["statistics"]["means"]["entropy"][layer] == pytest.approx(entropy.tolist(), rel=1e-4)
        before = pattern.diagonal(-1, -2, -1).mean(-1)
        assert found["census"]["scores"]["previous"][layer] == pytest.approx(before.tolist(), rel=1e-4)
    assert found["tokens"] == model.to_str_tokens(TEXT)
    assert found["files"] == []


def test_the_figures_are_written_in_every_format_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    given = ["attention", TEXT, "--model", str(folder), "--out", str(out), "--format", "svg,png,pdf,html", "--json"]
    assert cli.main(given) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert sorted(files) == sorted(str(file) for file in out.iterdir())
    assert json.loads((out / "result.json").read_text())["model"] == load(str(folder)).name
    for name in ("heads", "entropy", "sink_mass", "position", "layers", "kind_induction"):
        parse((out / f"{name}.svg").read_text())
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<svg" in (out / f"{name}.html").read_text()


def test_json_alone_writes_no_pictures(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["attention", TEXT, "--model", str(folder), "--out", str(tmp_path), "--format", "json"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_an_image_is_shown_under_its_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["attention", "33", "--model", "digits-vit", "--out", str(tmp_path)]) == 0
    assert "First token" in capsys.readouterr().out
    assert "<image" in (tmp_path / "heads.svg").read_text()


def test_what_cannot_be_read_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a_file"
    file.write_text("kept")
    refused = [
        (["", "--model", str(folder)], "empty"),
        (["a", "--model", str(folder)], "one token"),
        (["Mary went home. " * 400, "--model", str(folder)], "reads at most"),
        (["a digit", "--model", "digits-vit"], "image file or the number"),
        ([TEXT, "--model", str(folder), "--out", str(file)], "is a file"),
        ([TEXT, "--model", str(folder), "--out", str(file / "below")], "is a file"),
        ([TEXT, "--model", str(folder), "--format", "gif"], "format of a figure 'gif'"),
        ([TEXT, "--model", str(tmp_path / "nowhere")], "nowhere"),
    ]
    for given, words in refused:
        assert cli.main(["attention", *given]) == 2, given
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
    assert file.read_text() == "kept"
