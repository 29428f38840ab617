from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import jobs
from workbench.circuits import Progress, discover, evaluate, faithfulness_curve, tasks
from workbench.circuits.graph import Scores
from workbench.jobs import Request
from workbench.models import Transformer
from workbench.runs import RunError, RunStore

REQUEST = Request("micro", "ioi", n=4, seed=1, method="eap", edges=60)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def wait(store: RunStore, name: str) -> str:
    """The status that a run ends with."""
    for _ in range(600):
        if (status := store.open(name).info.status) != "running":
            return status
        time.sleep(0.05)
    raise AssertionError("the run does not end")


def test_a_job_keeps_what_the_pieces_give_alone(model: Transformer, store):
    run = jobs.run_discovery(model, REQUEST, store)
    task = tasks.load("ioi", model, n=4, seed=1)
    scores = discover(model, task, method="eap")
    assert run.info.status == "done"
    assert torch.equal(run.scores.values, scores.values)
    assert run.scores.complete
    assert run.report == evaluate(model, task, scores.top(60))
    assert run.report.n_edges > 0
    assert run.curve == faithfulness_curve(model, task, scores)
    assert run.info.prompts["clean"] == task.clean_text
    assert run.info.prompts["corrupted"] == task.corrupted_text
    assert run.info.check is not None
    assert run.info.check["accuracy"] == task.check(model).accuracy
    assert set(run.info.timings) == {"check", "discover", "evaluate", "curve"}


def test_ranking_and_ablation_reach_discovery_circuit_and_evaluation(model, store):
    run = jobs.run_discovery(model, replace(REQUEST, ranking="signed", ablation="zero", with_curve=False), store)
    task = tasks.load("ioi", model, n=4, seed=1)
    scores = discover(model, task, method="eap", ablation="zero")
    assert torch.equal(run.scores.values, scores.values)
    assert run.circuit().edges == scores.top(60, ranking="signed").edges != scores.top(60).edges
    assert run.report == evaluate(model, task, scores.top(60, ranking="signed"), ablation="zero")
    assert run.curve is None


def test_a_model_that_cannot_do_the_task_is_warned_about_in_the_run(model, store):
    run = jobs.run_discovery(model, replace(REQUEST, n=16, with_curve=False), store)
    warning = tasks.load("ioi", model, n=16, seed=1).check(model).warning
    assert warning is not None
    assert run.info.note == warning


def test_the_same_request_finds_its_earlier_run_and_fresh_works_anew(model, store, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(jobs, "discover", lambda *a, **k: calls.append(1) or discover(*a, **k))
    first = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    again = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    assert (again.id, again.info.created, len(calls)) == (first.id, first.info.created, 1)
    fresh = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store, fresh=True)
    assert (fresh.id, len(calls)) == (first.id, 2)
    assert fresh.info.created > first.info.created
    assert jobs.run_discovery(model, replace(REQUEST, seed=2, with_curve=False), store).id != first.id


def test_an_option_left_out_is_the_same_request_as_its_default(model, store):
    plain = replace(REQUEST, method="eap-ig", with_curve=False)
    named = replace(plain, options={"steps": 5, "ablation": "resample"})
    first = jobs.run_discovery(model, plain, store)
    assert jobs.run_discovery(model, named, store).info.created == first.info.created
    assert jobs.run_discovery(model, replace(plain, options={"steps": 4}), store).id != first.id


def test_a_damaged_earlier_run_is_done_again(model, store):
    first = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    (first.folder / "scores.safetensors").unlink()
    again = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    assert torch.equal(again.scores.values, jobs.discover(model, tasks.load("ioi", model, n=4, seed=1), "eap").values)


@pytest.mark.parametrize("how", ["progress", "stop", "cancel"])
@pytest.mark.parametrize("when", ["scoring edges", "checking faithfulness"])
def test_a_stopped_job_keeps_what_was_finished(model, store, how, when):
    reached = threading.Event()

    def progress(step: Progress) -> bool:
        if step.what == when and not reached.is_set():
            reached.set()
            if how == "cancel":
                store.request_cancel(store.list()[0].id)
        return not (how == "progress" and reached.is_set())

    stop = reached.is_set if how == "stop" else None
    run = jobs.run_discovery(model, replace(REQUEST, method="eap-ig"), store, progress, stop)
    assert run.info.status == "stopped"
    assert run.info.finished is not None
    assert run.info.prompts["clean"]
    if when == "checking faithfulness":
        assert run.scores.complete
        assert run.report is not None
    else:
        assert run.report is None
    assert run.curve is None
    whole = jobs.run_discovery(model, replace(REQUEST, method="eap-ig"), store)
    assert (whole.id, whole.info.status) == (run.id, "done")


def test_scores_of_the_prompts_that_were_finished_are_kept_when_stopped(model, store, monkeypatch):
    task = tasks.load("ioi", model, n=4, seed=1)
    partial = discover(model, task.rows(0, 2), method="eap")

    def half(model: Any, task: Any, method: str, progress: Any, **options: Any) -> Scores:
        assert progress(Progress(1, 2, "scoring edges")) is False
        return replace(partial, complete=False)

    monkeypatch.setattr(jobs, "discover", half)
    run = jobs.run_discovery(model, REQUEST, store, stop=lambda: True)
    assert (run.info.status, run.scores.complete, run.scores.n_examples) == ("stopped", False, 2)
    assert torch.equal(run.scores.values, partial.values)


def test_progress_reaches_the_run_folder_while_the_job_works(model, store):
    seen: list[dict[str, Any]] = []
    jobs.run_discovery(model, REQUEST, store, lambda step: seen.append(store.list()[0].progress))
    assert seen[0] == {"done": 1, "total": 1, "what": "scoring edges"}


def test_a_job_in_a_thread_gives_the_same_run(model, store):
    name = jobs.start(model, REQUEST, store)
    assert wait(store, name) == "done"
    there = store.open(name)
    here = jobs.run_discovery(model, REQUEST, RunStore(store.root.parent / "other"))
    assert here.id == name
    assert torch.equal(there.scores.values, here.scores.values)
    assert there.report == here.report
    assert jobs.start(model, REQUEST, store) == name
    assert store.open(name).info.created == there.info.created


def test_a_job_in_a_thread_hears_a_cancel_file(model, store, monkeypatch):
    going = threading.Event()

    def endless(model: Any, task: Any, method: str, progress: Any, **options: Any) -> Scores:
        scores = discover(model, task, method)
        while progress(Progress(1, 2, "scoring edges")):
            going.set()
            time.sleep(0.01)
        return replace(scores, complete=False)

    monkeypatch.setattr(jobs, "discover", endless)
    name = jobs.start(model, REQUEST, store)
    assert going.wait(10)
    with pytest.raises(RunError, match="being worked on already"):
        jobs.start(model, REQUEST, store)
    store.request_cancel(name)
    assert wait(store, name) == "stopped"
    assert not store.open(name).scores.complete


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("Too   many\nedges."), "Too many edges."),
        (RuntimeError("boom"), "RuntimeError: boom"),
        (MemoryError(), "The memory did not suffice; ask for fewer prompts or a smaller batch."),
    ],
)
def test_a_failure_is_kept_in_one_sentence_with_what_was_finished(model, store, monkeypatch, error, text):
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(jobs, "evaluate", fail)
    with pytest.raises(type(error)):
        jobs.run_discovery(model, REQUEST, store)
    (info,) = store.list()
    assert (info.status, info.error) == ("failed", text)
    assert store.open(info.id).scores.complete
    assert wait(store, jobs.start(model, REQUEST, store)) == "failed"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"task": "oi"}, "did you mean 'ioi'"),
    ({"method": "eap-gi"}, "did you mean 'eap-ig'"),
    ({"options": {"steps": 3}}, "has no option 'steps'"),
    ({"ranking": "best"}, "Unknown ranking 'best'"),
    ({"ablation": "none"}, "Unknown ablation 'none'"),
    ({"n": 0}, "at least one pair"),
    ({"edges": 0}, "at least one edge"),
    ({"edges": 10**6}, "1,000,000 edges are more than"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
@pytest.mark.parametrize("begin", [jobs.run_discovery, jobs.start])
def test_bad_input_is_refused_before_any_work_and_leaves_no_run(model, store, change, text, begin):
    with pytest.raises(ValueError, match=text) as caught:
        begin(model, replace(REQUEST, **change), store)
    assert "\n" not in str(caught.value)
    assert store.list() == []


def test_a_run_makes_its_model_and_prompts_again(model, micro_folder, store):
    run = jobs.run_discovery(model, replace(REQUEST, model=str(micro_folder), with_curve=False), store)
    again = jobs.model_of(run)
    assert again.fingerprint == model.fingerprint
    task = jobs.task_of(run, again)
    assert task.clean_text == run.info.prompts["clean"]
    assert evaluate(again, task, run.circuit()) == run.report


def test_a_run_whose_model_or_prompts_are_no_longer_the_same_says_so(model, micro_folder, store):
    run = jobs.run_discovery(model, replace(REQUEST, model=str(micro_folder), with_curve=False), store)
    other = replace(run.info, model=run.info.model | {"fingerprint": "0"})
    with pytest.raises(ValueError, match="is not the model of run"):
        jobs.model_of(replace(run, info=other))
    changed = replace(run.info, task=run.info.task | {"seed": 2})
    with pytest.raises(ValueError, match="makes other prompts"):
        jobs.task_of(replace(run, info=changed), model)


def test_own_prompts_make_a_run_of_their_own_that_cannot_be_made_again(model, store):
    made = tasks.load("ioi", model, n=4, seed=1)
    own = tasks.from_pairs(
        model,
        clean=made.clean_text[:2],
        corrupted=made.corrupted_text[:2],
        right=[model.tokenizer.decode(row.tolist()) for row in made.right[:2]],
        wrong=[model.tokenizer.decode(row.tolist()) for row in made.wrong[:2]],
    )
    run = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store, task=own)
    assert run.id.startswith("custom-eap-")
    assert run.info.prompts["clean"] == made.clean_text[:2]
    with pytest.raises(ValueError, match="prompts of somebody's own"):
        jobs.task_of(run, model)
