"""``workbench paths`` and ``workbench lens``: tables, JSON, figures, stops, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import micro
from tests.figures.helpers import parse
from workbench import cli, lens, pathways, reading
from workbench.circuits.progress import Progress, Stopped
from workbench.models import Transformer, load
from workbench.models.zoo import digits
from workbench.paths.effects import effects
from workbench.paths.ensemble_scale import ensemble_scale
from workbench.paths.pruning import prune

TEXT = "When Mary went home, John slept."
TARGETS = ["--target", " Mary", "--against", " John"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.save(tmp_path_factory.mktemp("model"), "gpt2")


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load(str(folder))


def difference(model: Transformer, right: str, wrong: str) -> float:
    """What the model's own forward says."""
    tokens = model.to_tokens(TEXT)
    with torch.no_grad():
        logits = model(tokens)[0, -1].double()
    return float(logits[model.text.single(right)] - logits[model.text.single(wrong)])


def test_lengths_and_patterns_sum_to_what_the_model_says(
    folder: Path, model: Transformer, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["paths", TEXT, "--model", str(folder), *TARGETS, "--by", "kind", "--query", ".*", "--query", "embed .*"]
    assert cli.main([*given, "--query", "bias .*", "--top", "4", "--gradient", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole = difference(model, " Mary", " John")
    assert sum(found["lengths"]["by_length"]) == pytest.approx(whole, rel=1e-4)
    assert sum(map(sum, found["kinds"]["kinds"])) == pytest.approx(
        whole - sum(found["kinds"]["readout_bias"]), rel=1e-3, abs=1e-4
    )
    everything, start, bias = (one["contribution"][0] for one in found["queries"])
    assert everything == pytest.approx(whole, rel=1e-4)
    assert start + bias == pytest.approx(whole, rel=1e-3)
    assert len(found["top"]["paths"]) == 4
    assert found["tokens"] == model.to_str_tokens(TEXT)
    assert found["gradient"]["rule"] == "tangent"
    assert found["complete"]
    assert found["files"] == []


def test_the_table_has_lengths_patterns_and_paths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["paths", TEXT, "--model", str(folder), *TARGETS, "--keep", "2", "--query", "embed m*", "--top", "3"]
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    for words in ("3+", "of it from biases", "embed m*", "Strongest paths", "Together", "held"):
        assert words in shown


def test_the_figures_of_paths_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["paths", TEXT, "--model", str(folder), "--by", "kind", "--query", "embed .*", "--gradient"]
    assert cli.main([*given, "--out", str(tmp_path / "new"), "--format", "svg,pdf", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert sorted(files) == sorted(str(file) for file in (tmp_path / "new").iterdir())
    for name in ("lengths", "positions", "kinds", "queries", "flow", "top", "gradient"):
        parse((tmp_path / "new" / f"{name}.svg").read_text())
        assert (tmp_path / "new" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_classifier_has_no_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["paths", "33", "--model", "digits-vit", "--top", "2", "--out", str(tmp_path)]) == 0
    assert "class 7" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "lengths.svg", "flow.svg", "top.svg"}
    assert cli.main(["lens", "33", "--model", "digits-vit", "--out", str(tmp_path / "lens")]) == 0
    assert "m2" in capsys.readouterr().out


def test_a_pattern_that_does_not_parse_is_shown_with_a_caret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["paths", TEXT, "--model", str(folder), "--query", "embed  (a7.h1"]) == 2
    first, pattern, caret = capsys.readouterr().err.rstrip("\n").split("\n")
    assert "does not exist" in first
    assert pattern == "  embed  (a7.h1"
    assert pattern[caret.index("^") :] == "a7.h1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["paths", "", *TARGETS], "empty"),
        (["paths", TEXT, "--target", "nosuchwordatall"], "nosuchwordatall"),
        (["paths", TEXT, "--target", " Mary", "--against", "Mary"], "the same answer"),
        (["paths", TEXT, "--against", " Mary"], "give the target too"),
        (["paths", TEXT, "--keep", "99"], "keep 0 to 4"),
        (["paths", TEXT, "--longest", "99"], "0 to 4"),
        (["paths", TEXT, "--at", "99"], "no position 99"),
        (["paths", TEXT, "--by", "colour"], "by length or by kind"),
        (["paths", TEXT, "--budget", "0"], "'budget'"),
        (["paths", TEXT, "--format", "gif"], "format of a figure 'gif'"),
        (["lens", "  "], "empty"),
        (["lens", TEXT, "--target", "nosuchwordatall"], "nosuchwordatall"),
        (["lens", TEXT, "--against", " Mary"], "give the target too"),
        (["lens", TEXT, "--at", "-99"], "no position -99"),
        (["lens", TEXT, "--k", "999999"], "how many answers"),
        (["lens", TEXT, "--tuned", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    given: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*given, "--model", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_a_stop_keeps_what_there_is(model: Transformer) -> None:
    request = pathways.Request(text=TEXT, target=" Mary", kinds=True, queries=("embed .*",), top=5)
    seen: list[Progress] = []

    def until(n: int) -> pathways.Found:
        seen.clear()
        return pathways.run(request, model, progress=lambda at: (seen.append(at), len(seen) < n)[1])

    with pytest.raises(Stopped):
        until(1)
    first = until(2)
    assert not first.complete
    assert first.queries == ()
    assert first.kinds is first.top is None
    assert set(pathways.pictures(first)) == {"lengths", "positions"}
    later = until(4 + 2)
    assert not later.complete
    assert later.kinds is not None
    assert later.top is not None
    assert json.dumps(later.to_json())


def test_the_last_place_of_a_lens_is_the_model_s_own_answer(
    folder: Path, model: Transformer, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["lens", TEXT, "--model", str(folder), "--target", " Mary", "--target", " John", "--against", " John"]
    assert cli.main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        own = model(model.to_tokens(TEXT))[0, -1].softmax(-1)
    ids = [model.text.single(word) for word in (" Mary", " John")]
    assert found["logit"]["probs"][-1][0][-1] == pytest.approx(own[ids].tolist(), rel=1e-4)
    assert found["logit"]["ranks"][-1][0][-1] == [1 + int((own > own[i]).sum()) for i in ids]
    assert sum(row[0] for row in found["direct"]["values"]) == pytest.approx(
        difference(model, " Mary", " John"), rel=1e-3, abs=1e-4
    )


def test_a_trained_lens_stands_beside_the_logit_lens(
    folder: Path, model: Transformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = lens.train_lens(model, [TEXT] * 4, steps=2, width=8)
    trained.save(tmp_path / "small.lens.safetensors")
    given = ["lens", TEXT, "--model", str(folder), "--tuned", str(tmp_path / "small.lens.safetensors")]
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "tuned lens: first" in shown
    assert "stays from" in shown
    names = {file.stem for file in (tmp_path / "out").iterdir()}
    assert names == {"result", "lens", "entropy", "tuned", "probabilities", "ranks", "direct", "heads"}
    if trained.held_out:
        assert reading.training_picture(trained).data["rows"]


def test_experiments_over_texts_are_drawn(model: Transformer) -> None:
    texts = [TEXT, "John went home.", "Mary slept, John went home."]
    early = lens.exit_curve(model, texts)
    figure = reading.exit_picture(early)
    assert figure.data["lines"][0]["y"] == pytest.approx(early.settled.mean.tolist())
    changed = [lens.layer_curve(model, texts, change) for change in ("skip", "swap")]
    drawn = reading.layers_picture(changed).data["lines"]
    assert drawn[0]["y"] == pytest.approx(changed[0].increase.tolist())
    assert len(drawn[1]["x"]) == 1
    found = lens.spectra(model, texts)
    assert reading.spectra_picture(found).data["lines"][0]["y"] == pytest.approx(found.low["resid"].mean[:, 2].tolist())
    with pytest.raises(ValueError, match="no curve"):
        reading.exit_picture([])


def test_cuts_and_weights_are_drawn_with_their_intervals() -> None:
    model, parts = load("digits-vit"), digits.split()
    images, labels = parts.test[:80], parts.test_labels[:80]
    pruned = prune(model, images, labels, most=2)
    for of, column in (("loss", 0), ("accuracy", 1)):
        rows = {row["name"]: row for row in pathways.pruning_picture(pruned, of).data["rows"]}  # type: ignore[arg-type]
        whole = next(iter(rows.values()))
        assert [whole["low"], whole["high"]] == pytest.approx(list(pruned.report.interval(of)))  # type: ignore[arg-type]
        for i, name in enumerate(pruned.components):
            row = rows[f"without {name}"]
            assert row["after"] - row["before"] == pytest.approx(float(pruned.alone[i, column]), abs=1e-6)
            assert [row["low"], row["high"]] == pytest.approx(pruned.alone_intervals[i, column].tolist())
    scale = ensemble_scale(model, images, labels, steps=3)
    (row,) = pathways.scaling_picture(scale).data["rows"]
    assert (row["before"], row["after"]) == (scale.report["loss_before"], scale.report["loss_after"])
    weights = pathways.weights_picture(scale).data["values"]
    assert weights[scale.components[0]] == pytest.approx(float(scale.by_component[0]) - 1)
    found = effects(model, images, labels)
    lines = {line["name"]: line for line in pathways.effects_picture(found).data["lines"]}
    assert lines["gives directly"]["y"] == pytest.approx(found.direct.double().mean(1).tolist(), rel=1e-4, abs=1e-5)
    assert lines["gives directly"]["x"] == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_sublayers_stand_half_a_layer_behind(model: Transformer) -> None:
    found = reading.run(reading.Request(text=TEXT, sublayers=True, at=-2), model)
    line = reading.pictures(found)["ranks"].data["lines"][0]
    assert line["x"] == [0, 0.5, 1, 1.5, 2]
    assert line["y"] == found.logit.ranks[:, 0, -2, 0].tolist()
    with pytest.raises(ValueError, match="was not read"):
        reading.curves_picture([found.logit], at=99)
