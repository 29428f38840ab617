"""The examination of methods on models whose circuit is known, and its command."""

from __future__ import annotations

import json

import pytest

from workbench import cli
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import examine

BY_KEY = {record.key: record for record in known_models()}


@pytest.mark.parametrize("key", ["frac-prevs", "induction", "caesar"])
def test_a_method_finds_a_circuit_that_gradients_show_and_the_controls_do_not(key: str) -> None:
    made = BY_KEY[key].load()
    found = examine(made.model, made.task(32), made.true_edges, "eap-ig")
    assert found.truth.auroc == 1
    assert found.truth.missed == []
    assert found.faithfulness == pytest.approx(1, abs=1e-4)
    assert found.random_auroc == pytest.approx(0.5, abs=0.2)
    assert found.untrained.auroc < 1


def test_the_commands_list_and_examine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in listed} == set(BY_KEY)
    assert cli.main(["known", "check", "frac-prevs", "length", "--n", "16", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["truth"]["auroc"] == 1
    assert "same on nearly all inputs" in second["error"]
    assert cli.main(["known", "check", "frac-prevs", "--n", "16"]) == 0
    assert "frac-prevs" in capsys.readouterr().out


def test_an_unknown_model_or_method_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["known", "check", "frac-prev"]) == 2
    assert "did you mean 'frac-prevs'" in capsys.readouterr().err
    assert cli.main(["known", "check", "--method", "magic"]) == 2
    assert "There is no method 'magic'" in capsys.readouterr().err
