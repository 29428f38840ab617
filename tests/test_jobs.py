from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench import jobs
from workbench.circuits import Method, Progress, discover, evaluate, faithfulness_curve, partial, tasks
from workbench.circuits.activations import Ablation, graph_of
from workbench.circuits.graph import Scores
from workbench.circuits.greedy import greedy
from workbench.circuits.partial import Partial
from workbench.circuits.sweep import BUDGET
from workbench.jobs import Request
from workbench.models import Transformer
from workbench.runs import RunError, RunStore

registry = sys.modules["workbench.circuits.methods"]  # the package's `methods` is the function
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
    ({"options": {"budget": "abc"}}, "'budget' of the method 'eap' takes a whole number, not 'abc'"),
    ({"options": {"budget": -1}}, "'budget' of the method 'eap' takes 1 or more, not -1"),
    ({"options": {"progress": 3}}, "has no option 'progress'"),
    ({"options": {"resume": 3}}, "has no option 'resume'"),
    ({"options": {"keep": 3}}, "has no option 'keep'"),
    ({"method": "eap-ig", "options": {"steps": 1.5}}, "'steps' of the method 'eap-ig' takes a whole number, not 1.5"),
    ({"method": "eap-ig", "options": {"steps": [1]}}, r"whole number, not \[1\]"),
    ({"method": "eap-ig", "options": {"steps": True}}, "whole number, not True"),
    ({"method": "acdc", "options": {"threshold": "abc"}}, "'threshold' .* takes a number or null, not 'abc'"),
    ({"method": "acdc", "options": {"threshold": float("nan")}}, "takes a number or null, not nan"),
    ({"method": "acdc", "options": {"order": "up"}}, "takes reverse, forward, not 'up'"),
    ({"method": "relp", "options": {"attention_rule": "maybe"}}, "takes true or false, not 'maybe'"),
    ({"method": "relp", "options": {"attention_rule": 1}}, "takes true or false, not 1"),
    ({"method": "random", "options": {"seed": "x"}}, "takes a whole number, not 'x'"),
    ({"task": "digits", "edges": 10**6}, "digits"),
    ({"ranking": "best"}, "Unknown ranking 'best'"),
    ({"ablation": "none"}, "Unknown ablation 'none'"),
    ({"n": 0}, "at least one pair"),
    ({"edges": 0}, "at least one edge"),
    ({"edges": 10**6}, "1,000,000 edges are more than"),
    ({"construction": "best"}, "Unknown construction 'best'"),
    ({"construction": "threshold"}, "give a threshold"),
    ({"metric": "loss"}, "measured by"),
    ({"method": "random", "options": {"ablation": "mean"}}, "takes no ablation"),
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


def own_prompts(model: Transformer) -> Any:
    made = tasks.load("ioi", model, n=4, seed=1)
    return tasks.from_pairs(
        model,
        clean=made.clean_text[:2],
        corrupted=made.corrupted_text[:2],
        right=[model.tokenizer.decode(row.tolist()) for row in made.right[:2]],
        wrong=[model.tokenizer.decode(row.tolist()) for row in made.wrong[:2]],
    )


def test_own_prompts_make_a_run_of_their_own_that_keeps_them(model, store):
    own = own_prompts(model)
    run = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store, task=own)
    assert run.id.startswith("custom-eap-")
    assert run.info.prompts["clean"] == own.clean_text
    again = jobs.task_of(store.open(run.id), model)
    assert torch.equal(again.clean, own.clean)
    assert torch.equal(again.right, own.right)
    assert torch.equal(again.wrong, own.wrong)


def test_own_prompts_whose_answers_were_not_kept_cannot_be_made_again(model, store):
    run = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store, task=own_prompts(model))
    info = replace(run.info, prompts={"clean": ["a"], "corrupted": ["b"]})
    with pytest.raises(ValueError, match="prompts of somebody's own"):
        jobs.task_of(replace(run, info=info), model)


# -- how the circuit is chosen, and from which prompts ---------------------------------------------------------


def test_a_circuit_can_be_grown_or_cut_at_a_score(model, store):
    plain = replace(REQUEST, with_curve=False)
    scores = jobs.run_discovery(model, plain, store).scores
    grown = jobs.run_discovery(model, replace(plain, construction="greedy", edges=12), store)
    assert grown.circuit().edges == greedy(scores, 12).edges
    assert len(grown.circuit().edges) == 12
    cut = float(scores.values.abs().flatten().topk(40).values[-1])
    above = jobs.run_discovery(model, replace(plain, construction="threshold", threshold=cut), store)
    assert above.circuit().edges == scores.above(cut).edges
    assert above.report == evaluate(model, tasks.load("ioi", model, n=4, seed=1), scores.above(cut))
    assert above.info.n_edges is None
    assert above.circuit(5).edges == scores.top(5).edges
    assert len({grown.id, above.id, jobs.run_discovery(model, plain, store).id}) == 3
    for run in (grown, above):
        asked = jobs.request_of(run)
        assert jobs.run_discovery(model, asked, store).info.created == run.info.created


@pytest.mark.parametrize(("threshold", "words"), [(1e9, "No edge reaches"), (-1.0, "keeps every edge")])
def test_a_threshold_that_keeps_nothing_or_everything_says_the_range(model, store, threshold, words):
    with pytest.raises(ValueError, match=rf"{words}.*lie between") as caught:
        jobs.run_discovery(model, replace(REQUEST, construction="threshold", threshold=threshold), store)
    assert "\n" not in str(caught.value)
    (info,) = store.list()
    assert info.status == "failed"
    assert store.open(info.id).scores.complete


def test_only_prompts_that_the_model_does(model, store):
    run = jobs.run_discovery(model, replace(REQUEST, only_done=True, with_curve=False), store)
    assert run.info.check is not None
    assert run.info.check["accuracy"] == 1
    assert jobs.request_of(run).only_done
    assert jobs.task_of(run, model).clean_text == run.info.prompts["clean"]


def test_hisp_keeps_its_own_ablation_unless_another_is_named():
    own = jobs.check(replace(REQUEST, method="hisp"))
    assert own == {"ablation": "zero", "normalise": False}
    assert jobs.check(replace(REQUEST, method="hisp", ablation="mean"))["ablation"] == "mean"
    assert jobs.check(replace(REQUEST, method="hisp", options={"ablation": "resample"}))["ablation"] == "resample"
    assert jobs.check(replace(REQUEST, ablation="zero"))["ablation"] == "zero"


@pytest.mark.parametrize("method", ["eap", "relp", "hisp", "atp", "eap-ig"])
def test_kl_is_warned_about_where_the_scores_are_nothing(model, store, method):
    asked = replace(REQUEST, method=method, metric="kl", with_curve=False)
    run = jobs.run_discovery(model, asked, store)
    size = jobs.run_discovery(model, replace(asked, metric=None), store).scores.values.abs().max()
    vanishes = bool(run.scores.values.abs().max() < 1e-4 * size)
    assert vanishes == ("gradient of kl is 0" in run.info.note)
    assert vanishes == (method != "eap-ig")


# -- going on --------------------------------------------------------------------------------------------------

LONG = replace(REQUEST, method="slow", n=3, with_curve=False)


def slow(
    model: Transformer,
    task: Any,
    *,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: Any = None,
    resume: Scores | None = None,
    keep: Any = None,
) -> Scores:
    """One edge at a time by the slow reference's arithmetic: the patched metric, as any long method would."""
    graph = graph_of(model)
    rest = Partial(graph, task, "slow", {"ablation": ablation}, resume, keep)
    for reader in reversed(range(len(graph.readers))):
        if not rest.open(reader):
            continue
        if progress is not None and progress(Progress(reader, len(graph.readers), "slowly")) is False:
            break
        SCORED.append(reader)
        rest.fill(reader, torch.arange(len(graph.writers)) * 0.01 - reader)
    return rest.result()


SCORED: list[int] = []


@pytest.fixture
def long_method(monkeypatch):
    """A method that hands its scores out after every reader."""
    record = Method("slow", "Slow", "many forwards", "nobody", slow, "patching")
    monkeypatch.setattr(registry, "_METHODS", [*registry._METHODS, record])
    monkeypatch.setattr(partial, "SECONDS", -1.0)
    SCORED.clear()


def test_a_stopped_search_goes_on_where_it_was(model, store, long_method):
    said: list[str] = []
    first = jobs.run_discovery(model, LONG, store, stop=lambda: len(SCORED) >= 5, tell=said.append)
    assert (first.info.status, len(SCORED), said) == ("stopped", 5, [])
    assert first.can_go_on
    again = jobs.run_discovery(model, LONG, store, tell=said.append)
    assert again.info.status == "done"
    assert again.info.created == first.info.created
    assert sorted(SCORED) == list(range(len(first.graph.readers)))  # none twice
    assert "was stopped: going on where it ended" in said[0]
    assert not (again.folder / "partial.safetensors").exists()
    whole = jobs.run_discovery(model, LONG, store, fresh=True)
    assert torch.equal(whole.scores.values, again.scores.values)
    assert len(SCORED) == 2 * len(first.graph.readers)


def test_a_curve_goes_on_circuit_by_circuit(model, store, monkeypatch):
    monkeypatch.setattr(sys.modules["workbench.circuits.evaluate"], "SECONDS", -1.0)
    asked, steps = replace(REQUEST, method="eap"), list[Progress]()

    def ended(step: Progress) -> None:
        if (step.what, step.done) == ("checking faithfulness", 7):
            raise OSError("the process was ended")  # no word to anybody, as after kill -9

    with pytest.raises(OSError, match="ended"):
        jobs.run_discovery(model, asked, store, ended)
    again = jobs.run_discovery(model, asked, store, steps.append)
    assert again.curve is not None
    done = [step.done for step in steps if step.what == "checking faithfulness"]
    assert done == list(range(7, done[-1] + 1))  # the one that it was ended in was not handed out
    assert not list(again.folder.glob("*.partial.*"))
    scores = discover(model, tasks.load("ioi", model, n=REQUEST.n, seed=REQUEST.seed), method="eap")
    whole = faithfulness_curve(model, tasks.load("ioi", model, n=REQUEST.n, seed=REQUEST.seed), scores)
    assert again.curve.faithfulness == pytest.approx(whole.faithfulness, abs=1e-5)
    assert again.curve.random == pytest.approx(whole.random, abs=1e-5)


def test_a_curve_under_way_of_other_scores_is_not_gone_on_with(model, store, monkeypatch):
    monkeypatch.setattr(sys.modules["workbench.circuits.evaluate"], "SECONDS", -1.0)
    asked, steps = replace(REQUEST, method="eap"), list[Progress]()
    stopped = jobs.run_discovery(model, asked, store, lambda s: s.what != "checking faithfulness" or s.done < 7)
    assert stopped.info.status == "stopped"
    assert list(stopped.folder.glob("curve.partial.*"))
    jobs.run_discovery(model, asked, store, steps.append, fresh=True)
    assert min(step.done for step in steps if step.what == "checking faithfulness") == 1


def test_scores_survive_kill_9(model, micro_folder, store, tmp_path):
    """A process of its own is killed in the middle of its search; this one goes on with what it had."""
    script = (
        "import sys, time; from workbench import jobs; from workbench.circuits import partial; "
        "from workbench.models import load; from workbench.runs import RunStore; partial.SECONDS = -1.0; "
        "folder, store = sys.argv[1:]; request = jobs.Request(folder, 'ioi', n=3, seed=1, method='exact', edges=60); "
        "jobs.run_discovery(load(folder), request, RunStore(store), lambda step: time.sleep(0.3))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(micro_folder), str(store.root)])
    try:
        for _ in range(600):
            begun = store.list()
            if begun and store.open(begun[0].id).partial is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait(20)
    (info,) = store.list()
    assert info.status == "interrupted"
    kept = store.open(info.id)
    assert kept.can_go_on
    found = kept.partial
    assert found is not None
    left = found.values.isnan() & found.graph.mask
    assert 0 < left.sum() < found.graph.n_edges

    request = Request(str(micro_folder), "ioi", n=3, seed=1, method="exact", edges=60)
    steps: list[Progress] = []
    run = jobs.run_discovery(model, request, store, steps.append)
    assert (run.id, run.info.status) == (info.id, "done")
    whole = discover(model, tasks.load("ioi", model, n=3, seed=1), method="exact")
    assert torch.allclose(run.scores.values, whole.values, atol=1e-6)
    assert next(s.total for s in steps if s.what == "patching edges") == int(left.any(0).sum())


def test_finished_steps_are_not_done_twice(model, store, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(jobs, "discover", lambda *a, **k: calls.append(1) or discover(*a, **k))
    stopped = jobs.run_discovery(model, REQUEST, store, lambda step: step.what != "checking faithfulness")
    assert (stopped.info.status, stopped.info.curve) == ("stopped", None)
    whole = jobs.run_discovery(model, REQUEST, store)
    assert (whole.info.status, len(calls)) == ("done", 1)
    assert whole.report == stopped.report
    assert whole.curve == faithfulness_curve(model, tasks.load("ioi", model, n=4, seed=1), whole.scores)


def test_partial_scores_of_other_settings_are_refused_with_both_shown(model, store, long_method):
    first = jobs.run_discovery(model, LONG, store, stop=lambda: len(SCORED) >= 5)
    other = replace(LONG, ablation="mean")
    second = jobs.run_discovery(model, other, store, stop=lambda: len(SCORED) >= 9)
    assert second.id != first.id
    (first.folder / "partial.safetensors").replace(second.folder / "partial.safetensors")
    with pytest.raises(ValueError, match="ablation: 'resample' then, 'mean' now") as caught:
        jobs.run_discovery(model, other, store)
    assert "\n" not in str(caught.value)


def test_a_run_is_gone_on_with_as_it_began(model, store):
    run = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    assert jobs.request_of(run) == replace(REQUEST, with_curve=False, options={"ablation": "resample"})
    jobs.check_same_request(run, {"task": "ioi", "edges": 60, "options": {"ablation": "resample"}})
    for given, words in [
        ({"edges": 61}, "edges: 60 then, 61 now"),
        ({"options": {"ablation": "mean"}}, "ablation: 'resample' then, 'mean' now"),
        ({"n": 4, "seed": 2}, "seed: 1 then, 2 now"),
    ]:
        with pytest.raises(ValueError, match=words):
            jobs.check_same_request(run, given)
