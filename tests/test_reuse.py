"""Another circuit of the same search costs no second search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench import jobs
from workbench.circuits import discover, evaluate, faithfulness_curve, partial, tasks
from workbench.circuits.greedy import greedy
from workbench.jobs import Request
from workbench.models import Transformer
from workbench.runs import RunStore

REQUEST = Request("micro", "ioi", n=4, seed=1, method="eap", edges=60)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were run."""
    ran: list[str] = []

    def counted(*arguments: object, **options: object) -> object:
        ran.append(str(options["method"]))
        return discover(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "discover", counted)
    return ran


def test_another_size_ranking_or_construction_takes_the_scores(
    model: Transformer, store: RunStore, searches: list[str]
) -> None:
    first, said = jobs.run_discovery(model, REQUEST, store), list[str]()
    task = tasks.load("ioi", model, n=4, seed=1)
    scores = discover(model, task, method="eap")
    for change, wanted in [
        ({"edges": 25}, scores.top(25)),
        ({"edges": 25, "ranking": "signed"}, scores.top(25, "signed")),
        ({"edges": 12, "construction": "greedy"}, greedy(scores, 12)),
        ({"construction": "threshold", "threshold": 1e-3}, scores.above(1e-3)),
    ]:
        run = jobs.run_discovery(model, replace(REQUEST, **change), store, tell=said.append)
        assert run.info.status == "done"
        assert run.id != first.id
        assert run.info.scores_from == first.id
        assert torch.equal(run.scores.values, scores.values)
        assert run.circuit().edges == wanted.edges
        assert run.report == evaluate(model, task, wanted)
        assert run.curve == faithfulness_curve(model, task, scores)
        assert "discover" not in run.info.timings
    assert searches == ["eap"]
    assert said == [f"Run {first.id} scored the same search: its scores are taken; --fresh scores anew."] * 4
    assert first.info.scores_from is None


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"n": 5},
        {"method": "eap-ig"},
        {"ablation": "mean"},
        {"metric": "prob-diff"},
        {"task": "induction"},
    ],
)
def test_another_search_is_searched(
    model: Transformer, store: RunStore, searches: list[str], change: dict[str, object]
) -> None:
    jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    run = jobs.run_discovery(model, replace(REQUEST, edges=25, with_curve=False, **change), store)  # type: ignore[arg-type]
    assert run.info.scores_from is None
    assert len(searches) == 2


def test_another_model_s_scores_are_not_taken(model: Transformer, store: RunStore, searches: list[str]) -> None:
    first = jobs.run_discovery(model, replace(REQUEST, with_curve=False), store)
    file = first.folder / "run.json"
    file.write_text(file.read_text().replace(model.fingerprint, "0" * len(model.fingerprint)))
    run = jobs.run_discovery(model, replace(REQUEST, edges=25, with_curve=False), store)
    assert (run.info.scores_from, len(searches)) == (None, 2)


def test_an_ablation_that_the_method_does_not_use_is_another_curve_of_the_same_scores(
    model: Transformer, store: RunStore, searches: list[str]
) -> None:
    request = replace(REQUEST, method="random")
    jobs.run_discovery(model, request, store)
    run = jobs.run_discovery(model, replace(request, ablation="zero"), store)
    task = tasks.load("ioi", model, n=4, seed=1)
    assert searches == ["random"]
    assert run.curve == faithfulness_curve(model, task, run.scores, ablation="zero")
    assert run.report == evaluate(model, task, run.circuit(), ablation="zero")


def test_scores_taken_over_name_the_run_that_found_them(
    model: Transformer, store: RunStore, searches: list[str]
) -> None:
    plain = replace(REQUEST, with_curve=False)
    first = jobs.run_discovery(model, plain, store)
    jobs.run_discovery(model, replace(plain, edges=25), store)
    store.delete(first.id)
    third = jobs.run_discovery(model, replace(plain, edges=26), store)
    assert (third.info.scores_from, len(searches)) == (first.id, 1)


def test_fresh_scores_anew(model: Transformer, store: RunStore, searches: list[str]) -> None:
    plain = replace(REQUEST, with_curve=False)
    jobs.run_discovery(model, plain, store)
    run = jobs.run_discovery(model, replace(plain, edges=25), store, fresh=True)
    assert (run.info.scores_from, len(searches)) == (None, 2)


def test_scores_that_cannot_be_read_are_passed_over(model: Transformer, store: RunStore, searches: list[str]) -> None:
    plain = replace(REQUEST, with_curve=False)
    first = jobs.run_discovery(model, plain, store)
    (first.folder / "scores.safetensors").write_bytes(b"broken")
    run = jobs.run_discovery(model, replace(plain, edges=25), store)
    assert (run.info.status, run.info.scores_from, len(searches)) == ("done", None, 2)


@pytest.mark.parametrize("threshold", [1e6, 0.0])
def test_a_threshold_that_gives_no_circuit_leaves_its_scores_to_the_next(
    model: Transformer, store: RunStore, searches: list[str], threshold: float
) -> None:
    request = replace(REQUEST, construction="threshold", threshold=threshold)
    with pytest.raises(ValueError, match=r"scores lie between .* and .*; the scores are kept") as caught:
        jobs.run_discovery(model, request, store)
    assert "\n" not in str(caught.value)
    (failed,) = store.list()
    assert (failed.status, failed.error) == ("failed", str(caught.value))
    low, high = (float(word) for word in str(caught.value).split("lie between ")[1].split(";")[0].split(" and "))
    scores = discover(model, tasks.load("ioi", model, n=4, seed=1), method="eap")
    key = scores.values.abs()[scores.graph.mask]
    assert low == pytest.approx(float(key.min()), rel=1e-2, abs=1e-9)
    assert high == pytest.approx(float(key.max()), rel=1e-2)
    run = jobs.run_discovery(model, replace(request, threshold=high / 2), store)
    assert (run.info.status, run.info.scores_from, len(searches)) == ("done", failed.id, 1)
    assert run.circuit().edges == scores.above(high / 2).edges


def test_a_search_that_was_stopped_is_gone_on_with_for_another_size(
    model: Transformer, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SECONDS", -1.0)  # hand scores out at every chance
    request, steps, said = replace(REQUEST, method="exact", with_curve=False), list[int](), list[str]()
    first = jobs.run_discovery(model, request, store, lambda step: step.what != "patching edges" or step.done < 5)
    kept = first.partial
    assert first.info.status == "stopped"
    assert kept is not None
    left = int((kept.values.isnan() & kept.graph.mask).any(0).sum())
    assert 0 < left < len(kept.graph.readers)
    run = jobs.run_discovery(
        model,
        replace(request, edges=25),
        store,
        lambda step: steps.append(step.total) if step.what == "patching edges" else None,
        tell=said.append,
    )
    assert run.info.status == "done"
    assert max(steps) == left
    assert said[0].startswith(f"Run {first.id} is the same search: going on where it is")
    whole = discover(model, tasks.load("ioi", model, n=4, seed=1), method="exact")
    assert torch.allclose(run.scores.values, whole.values, atol=1e-6)
    assert store.open(first.id).partial is not None  # it stays the other run's


def test_a_page_s_thread_takes_scores_too(model: Transformer, store: RunStore, searches: list[str]) -> None:
    import time

    first = jobs.run_discovery(model, REQUEST, store)
    name = jobs.start(model, replace(REQUEST, edges=25), store)
    for _ in range(600):
        if store.open(name).info.status != "running":
            break
        time.sleep(0.05)
    assert (store.open(name).info.status, store.open(name).info.scores_from) == ("done", first.id)
    assert len(searches) == 1
