"""The settings that a page asks for are those of the methods, whatever methods there are; and how a command goes on."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from workbench import jobs
from workbench.circuits import Method, methods, tasks
from workbench.cli import main
from workbench.models import Transformer
from workbench.options import cost_of, duration, options_of, readiness
from workbench.runs import RunStore


@pytest.mark.parametrize("record", methods(), ids=lambda record: record.key)
def test_every_setting_of_every_method_is_asked_for_with_a_word_about_it(record: Method) -> None:
    found = {option.name: option for option in options_of(record)}
    assert set(found) == set(record.options) - {"ablation"}
    for name, option in found.items():
        assert option.default == record.options[name]
        assert option.help.endswith(".")
        assert len(option.help) > 5
        if option.kind == "choice":
            assert option.default in option.choices
        assert (option.kind == "switch") == isinstance(option.default, bool)


def a_method(
    model: Any,
    task: Any,
    *,
    steps: int = 3,
    how: Literal["fast", "slow"] = "fast",
    rate: float = 0.5,
    least: float | None = None,
    tidy: bool = True,
    start: str = "eap",
    note: str = "",
    ablation: str = "zero",
    budget: int = 1,
    progress: Any = None,
    resume: Any = None,
    keep: Any = None,
) -> None:
    """A method.

    Args:
        steps: how often; not too often.
        how, rate: what of it. More words
            over two lines.
        least: the least ``number``.

    Returns:
        Nothing.
    """


def test_kinds_come_from_types_and_help_from_the_docstring() -> None:
    found = {o.name: o for o in options_of(Method("a", "A", "none", "nobody", a_method))}
    kinds = {name: option.kind for name, option in found.items()}
    assert kinds == {
        "steps": "whole",
        "how": "choice",
        "rate": "number",
        "least": "number",
        "tidy": "switch",
        "start": "choice",
        "note": "text",
    }
    assert found["how"].choices == ("fast", "slow")
    assert "eap-ig" in found["start"].choices
    assert found["steps"].help == "How often."
    assert found["rate"].help == found["how"].help == "What of it."
    assert found["least"].help == "The least number."
    assert set(found) < set(inspect.signature(a_method).parameters)


def test_a_cost_counts_a_backward_as_two_forwards(model: Transformer) -> None:
    record = Method("a", "A", "some", "nobody", a_method, passes=lambda _, options: (options["steps"] + 1, 2))
    cost = cost_of(record, model, {"steps": 5}, 10.0)
    assert cost is not None
    assert (cost.forwards, cost.backwards, cost.seconds) == (6, 2, 100.0)
    assert cost.words == "about 6 forwards and 2 backwards, roughly 100 s"
    assert cost_of(replace(record, passes=None), model, {}, 1.0) is None
    assert [duration(s) for s in (0.1, 90, 600, 7200, 10**6)] == ["1 s", "90 s", "10 min", "2 h", "12 days"]


def test_learned_masks_cost_their_steps_on_a_few_prompts_and_where_they_start(model: Transformer) -> None:
    known = {record.key: record for record in methods()}
    cost = cost_of(known["edge-pruning"], model, {"steps": 20, "prompts": 8}, 2.0, pairs=32)
    assert cost is not None
    assert (cost.forwards, cost.seconds) == (20 * 10 * 8 / 32, 100.0)
    started = cost_of(known["learned-ranking"], model, {"start": "eap", "steps": 20, "prompts": 99}, 2.0, pairs=32)
    alone = cost_of(known["eap"], model, {}, 2.0)
    assert started is not None
    assert alone is not None
    assert started.seconds == pytest.approx(alone.seconds + 20 * 10 * 2.0)
    free = cost_of(known["random"], model, {}, 2.0)
    assert free is not None
    assert free.words == "next to nothing"


def test_optimal_ablation_costs_what_learning_its_constants_takes(model: Transformer) -> None:
    known = {record.key: record for record in methods()}
    for key in ("eap", "learned-ranking"):
        plain, optimal = (
            cost_of(known[key], model, {"ablation": kind}, 2.0, pairs=32, at_once=8) for kind in ("mean", "optimal")
        )
        assert plain is not None
        assert optimal is not None
        # 200 steps of two forwards and a backward of 8 of 32 pairs, and the means before.
        assert optimal.forwards - plain.forwards == pytest.approx(1 + 200 * 2 * 8 / 32)
        assert optimal.backwards - plain.backwards == pytest.approx(200 * 8 / 32)
        assert optimal.seconds - plain.seconds == pytest.approx(2.0 * (1 + 200 * 4 * 8 / 32))


def test_readiness_is_the_self_check(model: Transformer) -> None:
    task = tasks.load("ioi", model, n=5)
    found = readiness(model, task)
    assert found.check == task.check(model)
    assert found.seconds > 0
    assert found.at_once == 5


# -- the command line goes on --------------------------------------------------------------------------------------


@pytest.fixture
def stopped(model: Transformer, micro_folder: Path, tmp_path: Path) -> tuple[RunStore, str]:
    """A run that was stopped after its scores."""
    store = RunStore(tmp_path / "runs")
    request = jobs.Request(str(micro_folder.resolve()), "ioi", n=4, method="eap", edges=40, with_curve=False)
    run = jobs.run_discovery(model, request, store, lambda step: step.what != "judging the circuit")
    assert run.info.status == "stopped"
    return store, run.id


def test_the_same_command_goes_on_and_says_so(
    stopped: tuple[RunStore, str], micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, which = stopped
    asked = ["discover", "--model", str(micro_folder), "--n", "4", "--method", "eap", "--edges", "40", "--no-curve"]
    assert main([*asked, "--out", str(store.root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == which
    assert "was stopped: going on where it ended (all edges were scored)" in err
    assert store.open(which).info.status == "done"
    assert main([*asked, "--out", str(store.root)]) == 0
    assert "found before" in capsys.readouterr().err


def test_resume_needs_no_repetition_and_refuses_other_settings(
    stopped: tuple[RunStore, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, which = stopped
    out = ["--out", str(store.root)]
    for option, words in (
        (["--edges", "50"], "edges: 40 then, 50 now"),
        (["--set", "ablation=mean"], "ablation: 'resample' then, 'mean' now"),
        (["--greedy"], "construction: 'top' then, 'greedy' now"),
    ):
        assert main(["discover", "--resume", which, *option, *out]) == 2
        assert words in capsys.readouterr().err
    assert main(["runs", "show", which, *out]) == 0
    assert f"workbench discover --resume {which}" in capsys.readouterr().out
    assert main(["discover", "--resume", which, "--edges", "40", *out]) == 0
    assert store.open(which).info.status == "done"
    assert main(["discover", "--greedy", "--threshold", "1", *out]) == 2
