"""Searches that are cut off and gone on with: what they give is what they would have given."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import micro
from tests.circuits.test_attribution import random_task
from workbench.circuits import Stopped, discover, neuron_edges, neuron_scores, partial, position_scores, tasks
from workbench.circuits.activations import graph_of
from workbench.circuits.edge_pruning import edge_pruning
from workbench.circuits.graph import Scores
from workbench.circuits.mask_training import Batches
from workbench.circuits.progress import Progress
from workbench.circuits.refine import refine
from workbench.circuits.subnetwork_probing import subnetwork_probing
from workbench.cli import main
from workbench.jobs import Request, run_discovery
from workbench.models import Transformer, from_hf
from workbench.runs import Run, RunStore, RunWriter

LEARNED: dict[str, Callable[..., Scores]] = {
    "edge-pruning": edge_pruning,
    "subnetwork-probing": subnetwork_probing,
    "learned-ranking": refine,
}
STEPS = 7  # passes of three batches: two whole ones and a part


class KilledError(Exception):
    """What a process does not live to tell."""


@pytest.fixture(autouse=True)
def after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "SECONDS", -1.0)


def kept_until(n: int, run: Callable[..., Any]) -> list[Any]:
    """What a search handed out before it died while it handed out the ``n``-th."""
    handed: list[Any] = []

    def keep(found: Any) -> None:
        if len(handed) == n - 1:
            raise KilledError
        handed.append(found)

    with pytest.raises(KilledError):
        run(keep=keep)
    return handed


def learn(key: str, model: Transformer, n: int = 6, **options: Any) -> Scores:
    task = tasks.load("ioi", model, n=n)
    return LEARNED[key](model, task, **{"steps": STEPS, "prompts": 2, "learning_rate": 0.3} | options)


@pytest.fixture
def without_a_break(model: Transformer, key: str, after_every_step: None) -> tuple[Scores, list[Scores]]:
    """A training from its beginning to its end, and what it handed out."""
    handed: list[Scores] = []
    return learn(key, model, keep=handed.append), handed


@pytest.mark.parametrize("key", LEARNED)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=3))
def test_a_training_that_is_killed_and_gone_on_with_is_one_that_was_not(
    model: Transformer, without_a_break: tuple[Scores, list[Scores]], key: str, cuts: list[int]
) -> None:
    whole, before = without_a_break
    extra = len(before) - STEPS  # of the method that a ranking starts from
    resume = None
    for cut in sorted(set(cuts)):  # each process goes on from what the one before had handed out
        steps_before = 0 if resume is None else int(resume.state["step"])
        n = cut - steps_before + (extra if resume is None else 0)
        resume = kept_until(n + 1, lambda resume=resume, **options: learn(key, model, resume=resume, **options))[-1]
        assert int(resume.state["step"]) == cut
        assert not resume.complete
        assert torch.equal(resume.values, before[extra + cut - 1].values)
    seen: list[tuple[int, int]] = []
    done = learn(key, model, resume=resume, progress=lambda p: seen.append((p.done, p.total)))
    assert torch.equal(done.values, whole.values)
    assert done.complete
    assert (done.settings, done.n_examples, done.state) == (whole.settings, whole.n_examples, {})
    assert seen == [(step, STEPS) for step in range(max(cuts) + 1, STEPS + 1)]  # nothing is done twice


def stop_at(step: int) -> Callable[[Any], bool]:
    return lambda p: not (p.what.startswith("learning") and p.done == step)


@pytest.mark.parametrize("key", LEARNED)
def test_a_stopped_training_hands_out_its_last_step(model: Transformer, key: str) -> None:
    handed: list[Scores] = []
    stopped = learn(key, model, progress=stop_at(5), keep=handed.append)
    assert int(handed[-1].state["step"]) == 5
    assert torch.equal(handed[-1].values, stopped.values)
    assert torch.equal(learn(key, model, resume=handed[-1]).values, learn(key, model).values)
    finished: list[Scores] = []
    learn(key, model, resume=handed[-1], keep=finished.append)
    assert torch.equal(learn(key, model, resume=finished[-1]).values, finished[-1].values)


@pytest.mark.parametrize("key", LEARNED)
def test_a_training_goes_on_from_the_file_of_a_run(model: Transformer, key: str, tmp_path: Path) -> None:
    identity: Any = {"model": {"fingerprint": "f"}, "task": {"name": "ioi"}, "method": key, "settings": {}}
    writer = RunStore(tmp_path).begin(**identity)
    learn(key, model, progress=stop_at(4), keep=writer.save_partial)
    read = writer.finish("stopped").partial
    assert read is not None
    assert partial.so_far(read) == "4 of 7 steps were learned"
    assert torch.equal(learn(key, model, resume=read).values, learn(key, model).values)


@pytest.mark.parametrize("key", LEARNED)
def test_another_training_is_refused_with_both_shown(model: Transformer, key: str) -> None:
    handed: list[Scores] = []
    result = learn(key, model, progress=stop_at(3), keep=handed.append)
    with pytest.raises(ValueError, match=r"other settings .*seed: 0 then, 1 now.*; use those, or start anew"):
        learn(key, model, resume=handed[-1], seed=1)
    with pytest.raises(ValueError, match="steps: 7 then, 9 now"):
        learn(key, model, resume=handed[-1], steps=9)
    with pytest.raises(ValueError, match=r"settings \(pairs of prompts: 6 then, 4 now\)"):
        learn(key, model, n=4, resume=handed[-1])
    with pytest.raises(ValueError, match="took 2 prompts at a time, and 1 fit into the budget now"):
        learn(key, model, resume=handed[-1], budget=1)
    learn(key, model, progress=stop_at(3), keep=handed.append, budget=1)
    assert torch.equal(learn(key, model, resume=handed[-1]).values, learn(key, model, budget=1).values)
    with pytest.raises(ValueError, match=f"do not say how far '{key}' had come; give what 'keep' was given"):
        learn(key, model, resume=result)
    other = next(name for name in LEARNED if name != key)
    with pytest.raises(ValueError, match=f"method: '{key}' then, '{other}' now"):
        learn(other, model, resume=handed[-1])


def test_batches_go_through_all_prompts_before_any_comes_again(model: Transformer) -> None:
    batches = Batches(model, tasks.load("ioi", model, n=6), "resample", prompts=2, budget=10**9, seed=0)
    for _ in range(3):
        assert len({id(batches.next()) for _ in range(3)}) == 3


def test_a_ranking_keeps_what_the_method_that_it_starts_from_had_found(model: Transformer) -> None:
    # Two of four prompts: sums and means are then the same numbers.
    task = tasks.load("ioi", model, n=4)
    run = lambda **options: refine(model, task, start="eap", steps=4, budget=1, **options)  # noqa: E731
    handed = kept_until(3, run)
    assert [(part.method, part.n_examples) for part in handed] == [("eap", 1), ("eap", 2)]
    seen: list[str] = []
    again = run(resume=handed[-1], progress=lambda p: seen.append(p.what))
    assert seen == ["scoring edges"] * 2 + ["learning the ranking"] * 4
    assert torch.equal(again.values, run().values)
    with pytest.raises(ValueError, match="ablation: 'resample' then, 'zero' now"):
        run(resume=handed[-1], ablation="zero")
    stopped: list[Scores] = []
    with pytest.raises(Stopped, match="'eap' had a ranking to start from"):
        run(progress=lambda p: p.done < 3, keep=stopped.append)
    assert stopped[-1].n_examples == 3


@pytest.mark.parametrize(
    ("key", "options"),
    [("atp", {}), ("atp", {"graddrop": False, "qk_fix": False}), ("hisp", {}), ("hisp", {"normalise": True})],
)
def test_scores_of_nodes_go_on_though_those_of_edges_are_no_means(key: str, options: dict[str, Any]) -> None:
    model, task = from_hf(micro.hugging_face("gpt2")), random_task(batch=4)
    run = lambda task=task, **more: discover(model, task, key, budget=1, **options, **more)  # noqa: E731
    whole, handed = run(), kept_until(4, run)
    for n, part in enumerate(handed, 1):
        # What is handed out is what the method says of these prompts alone, and not the mean of what it says of each.
        torch.testing.assert_close(part.values, run(task.rows(0, n)).values, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(run(resume=part).values, whole.values, atol=1e-6, rtol=1e-4)
    alone = torch.stack([run(task.rows(i, i + 1)).values for i in range(4)]).mean(0)
    assert float((alone - whole.values).abs().max()) > 1e-3 * float(whole.values.abs().max())
    stopped: list[Scores] = []
    found = run(progress=lambda p: p.done < p.total / 2, keep=stopped.append)
    assert stopped[-1].n_examples == found.n_examples < 4
    with pytest.raises(ValueError, match="do not say how far"):
        run(resume=found)


def of_neurons(model: Transformer, task: Any, **options: Any) -> Any:
    return neuron_scores(model, task, layers=[1], **options)


def of_edges_of_neurons(model: Transformer, task: Any, **options: Any) -> Any:
    return neuron_edges(model, task, 0, **options)


@pytest.mark.parametrize("score", [position_scores, of_neurons, of_edges_of_neurons])
def test_positions_and_neurons_go_on_with_the_prompts_that_are_left(score: Any) -> None:
    model, task = from_hf(micro.hugging_face("gpt2")), random_task(batch=4)
    run = lambda task=task, **options: score(model, task, steps=2, budget=1, **options)  # noqa: E731
    whole, handed = run(), kept_until(4, run)
    for n, part in enumerate(handed, 1):
        torch.testing.assert_close(part.values, run(task.rows(0, n)).values, atol=1e-6, rtol=1e-4)
        assert (part.n_examples, part.complete) == (n, False)
        totals: list[int] = []
        done = run(resume=part, progress=lambda p, totals=totals: totals.append(p.total))
        torch.testing.assert_close(done.values, whole.values, atol=1e-6, rtol=1e-4)
        assert totals == [2 * (4 - n)] * 2 * (4 - n)
        assert (done.n_examples, done.complete, done.settings) == (4, True, whole.settings)
    with pytest.raises(ValueError, match="ablation: 'resample' then, 'zero' now"):
        run(resume=handed[0], ablation="zero")
    with pytest.raises(ValueError, match="had scored 3 prompts; this task has 2"):
        run(task.rows(0, 2), resume=handed[-1])


def test_prompts_of_another_length_are_not_gone_on_with() -> None:
    model = from_hf(micro.hugging_face("gpt2"))
    handed = kept_until(2, lambda **options: position_scores(model, random_task(), budget=1, **options))
    n, sizes = len(graph_of(model).writers), list(graph_of(model).mask.shape)
    assert sizes[0] == n
    with pytest.raises(ValueError, match=rf"prompts of another length: \[7, {n}, .*\] then, \[5, {n}, .*\] now"):
        position_scores(model, random_task(length=5), resume=handed[0])


@pytest.mark.parametrize("key", LEARNED)
def test_the_stop_button_keeps_the_last_step(model: Transformer, tmp_path: Path, key: str) -> None:
    store, said = RunStore(tmp_path), list[str]()
    options = {"steps": STEPS, "prompts": 2}
    request = Request("micro", "ioi", n=6, seed=0, method=key, edges=40, with_curve=False, options=options)

    def press(step: Progress) -> None:
        if step.what.startswith("learning") and step.done == 3:
            store.request_cancel(store.list()[0].id)

    run = run_discovery(model, request, store, press)
    assert run.info.status == "stopped"
    assert run.can_go_on
    again = run_discovery(model, request, store, tell=said.append)
    assert again.info.status == "done"
    assert said == [f"Run {run.id} was stopped: going on where it ended (3 of 7 steps were learned)."]
    assert torch.equal(again.scores.values, discover(model, tasks.load("ioi", model, n=6), key, **options).values)


def ask(micro_folder: Path, store: Path, key: str, options: list[str]) -> list[str]:
    """The command of a search."""
    asked = ["discover", "--model", str(micro_folder), "--n", "6", "--edges", "40", "--no-curve", "--method", key]
    asked += [part for option in options for part in ("--set", option)]
    return [*asked, "--out", str(store)]


def gone_on(model: Transformer, folder: Path, key: str, options: list[str]) -> Run:
    """The only run of a store once it was gone on with: it found what it would have found without a break."""
    store = RunStore(folder)
    (info,) = store.list()
    assert info.status == "interrupted"
    assert main(["discover", "--resume", info.id, "--out", str(folder)]) == 0
    run = store.open(info.id)
    assert run.info.status == "done"
    given = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    whole = discover(model, tasks.load("ioi", model, n=6), key, **given)
    torch.testing.assert_close(run.scores.values, whole.values, atol=1e-6, rtol=1e-4)
    assert run.partial is None
    return run


@pytest.mark.parametrize(
    ("key", "options", "words"),
    [
        ("subnetwork-probing", ["steps=9", "prompts=2"], "(3 of 9 steps were learned)"),
        ("atp", ["budget=1"], "(3 prompts were scored)"),
    ],
)
def test_a_search_whose_process_ends_without_a_word_goes_on_from_its_last_scores(
    model: Transformer,
    micro_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    options: list[str],
    words: str,
) -> None:
    save, kept = RunWriter.save_partial, list[Scores]()

    def die(writer: RunWriter, scores: Scores) -> None:
        if len(kept) == 3:
            raise KilledError
        kept.append(scores)
        save(writer, scores)

    def nothing(*_: Any, **__: Any) -> None:
        raise OSError

    with monkeypatch.context() as dying:
        dying.setattr(RunWriter, "save_partial", die)
        dying.setattr(RunWriter, "finish", nothing)
        assert main(ask(micro_folder, tmp_path, key, options)) == 1
    gone_on(model, tmp_path, key, options)
    assert words in capsys.readouterr().err


def test_a_search_survives_kill_9(
    model: Transformer, micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is killed in the middle; ``discover --resume`` gives what it would have given."""
    key, options = "learned-ranking", ["steps=30", "prompts=2"]
    script = (
        # With another number of threads sums have other last bits, and ranks that are near each other may swap.
        f"import sys, time, torch; torch.set_num_threads({torch.get_num_threads()}); "
        "from workbench.circuits import partial; from workbench.runs import RunWriter; "
        "from workbench.cli import main; partial.SECONDS = -1.0; save = RunWriter.save_partial; "
        "RunWriter.save_partial = lambda *given: (save(*given), time.sleep(0.5)); main(sys.argv[1:])"
    )
    asked = ask(micro_folder, tmp_path, key, options)
    process = subprocess.Popen([sys.executable, "-c", script, *asked], stderr=subprocess.DEVNULL)
    store = RunStore(tmp_path)
    try:
        for _ in range(600):
            begun = store.list()
            if begun and (found := store.open(begun[0].id).partial) is not None and found.method == key:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait(20)
    gone_on(model, tmp_path, key, options)
    assert " of 30 steps were learned)" in capsys.readouterr().err
