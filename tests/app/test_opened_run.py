"""The Circuits page with a run opened: the form follows it, and other circuits of its scores are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests import micro
from tests.app.test_circuits_page import asking, finished, only_micro, opened, store, words  # noqa: F401 - fixtures
from workbench import jobs
from workbench.app import ask, state
from workbench.circuits import evaluate, tasks
from workbench.circuits.activations import graph_of
from workbench.jobs import Request, run_discovery
from workbench.models import Transformer, load, registry
from workbench.runs import Run, RunStore


def at(app: AppTest, name: str) -> str:
    """A value in the page's address."""
    value = app.query_params[name]
    return value if isinstance(value, str) else value[0]


def discover(app: AppTest) -> None:
    next(button for button in app.button if button.label == "Discover").click().run(timeout=60)
    assert not app.error


@pytest.fixture
def run(store: RunStore, only_micro: None, model: Transformer) -> Run:  # noqa: F811
    return run_discovery(model, Request("micro", "ioi", n=6, seed=3, method="eap", edges=60, ranking="signed"), store)


def test_the_form_shows_what_the_opened_run_was_asked(run: Run) -> None:
    app = opened(run=run.id)
    assert app.selectbox(key="method").value == "eap"
    assert app.selectbox(key="task").value == "ioi"
    assert [app.number_input(key=key).value for key in ("edges", "n", "seed")] == [60, 6, 3]
    assert app.selectbox(key="ranking").value == "signed"
    assert "This is what the opened run was asked." in words(app)
    assert "edges to score" not in words(app)


def test_options_of_the_method_follow_too(store: RunStore, only_micro: None, model: Transformer) -> None:  # noqa: F811
    request = Request("micro", "induction", n=5, method="atp", edges=9, options={"graddrop": False}, ablation="mean")
    run = run_discovery(model, replace(request, construction="greedy", with_curve=False), store)
    app = opened(run=run.id)
    assert app.toggle(key="atp-graddrop").value is False
    assert app.selectbox(key="ablation").value == "mean"
    assert app.selectbox(key="construction").value == "greedy"
    assert app.selectbox(key="task").value == "induction"
    assert "This is what the opened run was asked." in words(app)


def test_a_change_says_whether_the_scores_are_used_again(run: Run, store: RunStore) -> None:  # noqa: F811
    app = opened(run=run.id)
    app.number_input(key="edges").set_value(20).run()
    assert "nothing is scored again" in words(app)
    app.number_input(key="seed").set_value(4).run()
    assert "A new search; the opened run stays as it is." in words(app)
    app.number_input(key="seed").set_value(3).run()
    discover(app)
    other = finished(store, at(app, "run"))
    assert other.id != run.id
    assert other.info.scores_from == run.id
    assert other.circuit().edges == run.scores.top(20, "signed").edges


def test_own_prompts_of_an_opened_run_come_back_into_the_table(
    store: RunStore,  # noqa: F811
    only_micro: None,  # noqa: F811
    model: Transformer,
) -> None:
    made = tasks.load("ioi", model, n=2, seed=1)
    assert model.tokenizer is not None
    answers = {
        side: [model.tokenizer.decode(row.tolist()) for row in getattr(made, side)] for side in ("right", "wrong")
    }
    own = tasks.from_pairs(model, made.clean_text, made.corrupted_text, answers["right"], answers["wrong"])
    run = run_discovery(model, Request("micro", "own", method="eap", edges=20, with_curve=False), store, task=own)
    app = opened(run=run.id)
    assert app.selectbox(key="task").value == "own"
    rows: Any = app.session_state["own-rows"]
    assert [row["clean"] for row in rows] == made.clean_text
    assert [row["right"] for row in rows] == answers["right"]


def test_an_imported_run_leaves_method_and_page_alone(run: Run) -> None:
    file = run.folder / "run.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"method": "imported", "status": "stopped"}))
    app = opened(run=run.id)
    assert app.selectbox(key="method").value == "eap-ig"
    assert "go-on" not in [button.key for button in app.button]
    assert not app.error


def test_another_circuit_is_judged_without_a_search(run: Run, store: RunStore, model: Transformer) -> None:  # noqa: F811
    app = opened(run=run.id)
    app.number_input(key=f"other-edges-{run.id}").set_value(25).run()
    app.button(key="judge-other").click().run(timeout=60)
    assert not app.error
    other = finished(store, at(app, "run"))
    assert other.info.scores_from == run.id
    task = tasks.load("ioi", model, n=6, seed=3)
    assert other.report == evaluate(model, task, run.scores.top(25, "signed"))
    assert f"Scores taken over from run `{run.id}`" in words(opened(run=other.id))


def test_a_threshold_that_kept_nothing_offers_another(run: Run, store: RunStore, model: Transformer) -> None:  # noqa: F811
    request = replace(jobs.request_of(run), construction="threshold", threshold=1e6)
    with pytest.raises(ValueError, match="No edge reaches"):
        run_discovery(model, request, store)
    failed = next(info for info in store.list() if info.status == "failed")
    app = opened(run=failed.id)
    assert len(app.error) == 1
    assert "scores lie between" in app.error[0].value
    assert "go-on" not in [button.key for button in app.button]
    proposed = app.number_input(key=f"other-from-{failed.id}").value
    app.button(key="judge-other").click().run(timeout=60)
    assert not app.error
    other = finished(store, at(app, "run"))
    assert other.circuit().n_edges > 0
    assert other.info.settings["threshold"] == proposed


def test_a_method_s_own_ablation_gives_way_to_a_choice(store: RunStore, only_micro: None) -> None:  # noqa: F811
    app = asking(method="hisp", n=4, edges=30)
    assert "hisp scores edges by zero ablation; the circuit is judged by resample." in words(app)
    discover(app)
    (info,) = store.list()
    assert (info.settings["options"]["ablation"], info.settings["ablation"]) == ("zero", "resample")
    app = asking(method="hisp", n=4, edges=30, **{"own-ablation": "resample"})
    discover(app)
    chosen = next(one for one in store.list() if one.id != info.id)
    assert (chosen.settings["options"]["ablation"], chosen.settings["ablation"]) == ("resample", "resample")
    again = opened(run=chosen.id)
    assert again.selectbox(key="own-ablation").value == "resample"
    assert opened(run=info.id).selectbox(key="own-ablation").value == "method"


def test_the_default_size_follows_the_model(
    store: RunStore,  # noqa: F811
    only_micro: None,  # noqa: F811
    model: Transformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = load(micro.save(tmp_path / "deep", layers=3))
    models = {"micro": model, "deep": deep}
    monkeypatch.setattr(registry, "names", lambda *_: list(models))
    monkeypatch.setattr(state, "model", models.__getitem__)
    monkeypatch.setattr(state, "at_hand", lambda name, wait=True: models[name])
    small = graph_of(model).n_edges
    assert small < Request.edges
    app = opened()
    assert app.number_input(key="edges").value == small
    app.selectbox(key="model").select("deep").run()
    assert app.number_input(key="edges").value == min(graph_of(deep).n_edges, Request.edges)
    app.number_input(key="edges").set_value(50).run()
    app.selectbox(key="model").select("micro").run()
    assert app.number_input(key="edges").value == 50


def test_pressing_discover_before_the_model_is_there_takes_the_model_s_size(
    store: RunStore,  # noqa: F811
    model: Transformer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "names", lambda *_: ["micro"])
    monkeypatch.setattr(state, "model", lambda name: model)
    monkeypatch.setattr(ask, "_tasks_for", lambda name: tasks.records())
    app = asking(method="eap", n=4)
    assert app.number_input(key="edges").value == Request.edges
    discover(app)
    (info,) = store.list()
    assert info.n_edges == graph_of(model).n_edges
