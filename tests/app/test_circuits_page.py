"""The Circuits page's logic, without a browser."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import torch
from streamlit.testing.v1 import AppTest

import workbench.app
from tests import micro
from workbench.app import ask, own_prompts, state
from workbench.circuits import Circuit, Method, evaluate, methods, tasks
from workbench.circuits.greedy import greedy
from workbench.jobs import Request, run_discovery, task_of
from workbench.models import Transformer, load, registry
from workbench.runs import Run, RunStore

MAIN = Path(workbench.app.__file__).with_name("main.py")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(state, "at_hand", lambda *_, **__: None)  # as where no model was fetched yet
    return RunStore()


@pytest.fixture
def run(store: RunStore, model: Transformer, micro_folder: Path) -> Run:
    return run_discovery(model, Request(str(micro_folder), "ioi", n=6, edges=60), store)


@pytest.fixture
def only_micro(store: RunStore, monkeypatch: pytest.MonkeyPatch, model: Transformer) -> None:
    """The page offers the micro model alone: AppTest cannot type a folder into the list, the browser test does."""
    monkeypatch.setattr(registry, "names", lambda *_: ["micro"])
    monkeypatch.setattr(state, "model", lambda name: model)
    monkeypatch.setattr(state, "at_hand", lambda name, wait=True: model)


def opened(**parameters: str) -> AppTest:
    """The page at an address."""
    return _page(parameters, {})


def asking(**choices: object) -> AppTest:
    """The page with choices made; the binding to the address is the browser's part, tested there."""
    return _page({}, choices)


def _page(parameters: dict[str, str], choices: dict[str, object]) -> AppTest:
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    for name, parameter in parameters.items():
        app.query_params[name] = parameter
    for name, choice in choices.items():
        app.session_state[name] = choice
    app.run()
    assert not app.exception, app.exception
    return app


def finished(store: RunStore, which: str) -> Run:
    """A run once it is done."""
    for _ in range(600):
        if (run := store.open(which)).info.status != "running":
            assert run.info.status == "done", run.info.error
            return run
        time.sleep(0.05)
    raise AssertionError("the run does not end")


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.markdown, app.caption, app.title, app.subheader, app.error, app.warning, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def test_the_first_view_says_what_to_do_with_one_main_button(store: RunStore) -> None:
    app = opened()
    assert "fetched when you press Discover" in words(app)
    assert "press **Discover**" in words(app)
    assert [b.label for b in app.button] == ["Discover"]
    assert not app.warning
    assert app.selectbox(key="model").value == "smollm2-135m"
    assert not app.error


def test_a_run_in_the_address_is_shown_with_its_numbers(run: Run) -> None:
    app = opened(run=run.id)
    assert run.report is not None
    assert app.metric[0].value == f"{run.report.faithfulness:.0%}"
    assert "Click a head" in words(app)
    assert "ioi · eap-ig · 60 edges" in words(app).replace("\\", "")
    assert f"{run.info.model['name']} · 6 pairs" in words(app).replace("\\", "")


def test_a_selected_head_shows_its_edges_and_pattern(run: Run) -> None:
    layer, head = run.circuit().heads[0]
    app = opened(run=run.id, node=f"a{layer}.h{head}")
    assert f"Head {layer}.{head}" in words(app)
    prompt = app.selectbox(key="prompt")
    assert len(prompt.options) == 6
    (feeds,) = [link.proto.query_string for link in app.get("page_link") if link.proto.label == "What feeds it"]
    asked = dict(parse_qsl(feeds))
    assert (asked["place"], asked["text"]) == (f"a{layer}.h{head}<q>@-1", run.info.prompts["clean"][0])
    into = [e for e in run.circuit().edges if e.split("->")[1].startswith(f"a{layer}.h{head}<")]
    assert len(app.dataframe[0].value) == min(12, len(into))
    assert "Attention" in app.selectbox(key="download-what").options
    prompt.select_index(2).run()
    assert not app.exception


def test_an_edge_shows_its_score(run: Run) -> None:
    edge = max(run.circuit().edges, key=run.circuit().score)
    app = opened(run=run.id, node=edge)
    assert app.metric[0].value == f"{run.circuit().score(edge):.3g}"


def test_a_selection_that_the_circuit_does_not_hold_is_passed_over(run: Run) -> None:
    assert "Click a head" in words(opened(run=run.id, node="a99.h99"))


@pytest.mark.parametrize("which", ["nothing-like-it", "../../etc", "<script>alert(1)</script>"])
def test_an_unknown_run_is_one_sentence(store: RunStore, which: str) -> None:
    app = opened(run=which)
    assert len(app.error) == 1
    assert "There is no run" in app.error[0].value


def test_more_edges_than_the_graph_has_is_one_sentence(store: RunStore, only_micro: None) -> None:
    app = asking(edges=100_000)
    app.button[0].click().run(timeout=60)
    assert len(app.error) == 1
    assert "100,000 edges are more than" in app.error[0].value


def test_a_failed_and_a_stopped_run_say_so(run: Run) -> None:
    file = run.folder / "run.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"status": "failed", "error": "The disk is full."}))
    assert "This run failed: The disk is full." in words(opened(run=run.id))
    settings = said["settings"] | {"construction": "threshold", "threshold": 1e6}
    with pytest.raises(ValueError, match="edge") as reason:
        run.scores.above(1e6)
    failed = {"status": "failed", "error": str(reason.value), "settings": settings, "report": None, "curve": None}
    file.write_text(json.dumps(said | failed))
    app = opened(run=run.id)
    assert [str(reason.value) in e.value for e in app.error] == [True]
    assert "go-on" not in [b.key for b in app.button]
    file.write_text(json.dumps(said | {"status": "stopped", "report": None, "curve": None}))
    text = words(opened(run=run.id))
    assert "This run was stopped" in text
    assert "The circuit was not run" in text


def test_a_damaged_run_is_said_and_the_page_goes_on(run: Run) -> None:
    (run.folder / "scores.safetensors").write_bytes(b"broken")
    app = opened(run=run.id)
    assert len(app.error) == 1
    assert "scores.safetensors" in app.error[0].value
    (run.folder / "run.json").write_text("{")
    app = opened()
    assert "Discover" in [b.label for b in app.button]
    assert len(app.warning) == 1


def test_a_title_is_shown_as_text_not_as_markup(run: Run, store: RunStore) -> None:
    store.rename(run.id, "**bold** <b>x</b> [link](http://x)")
    label = next(b.label for b in opened(run=run.id).button if "bold" in b.label)
    assert r"\*\*bold\*\*" in label
    assert r"\[link\]" in label
    assert r"\<b\>" in label


@pytest.mark.parametrize("record", methods(), ids=lambda record: record.key)
def test_settings_are_those_of_the_method(store: RunStore, only_micro: None, record: Method) -> None:
    app = asking(method=record.key)
    widgets: list[Any] = [*app.number_input, *app.selectbox, *app.toggle, *app.text_input]
    shown = {w.key: w.value for w in widgets if str(w.key).startswith(f"{record.key}-")}
    wanted = {f"{record.key}-{name}": value for name, value in record.options.items() if name != "ablation"}
    assert shown == wanted
    if "ablation" in record.options:
        own = record.options["ablation"] != "resample"  # as hisp's, whose own comes first
        offered = [o.partition(":")[0] for o in app.selectbox(key="own-ablation" if own else "ablation").options]
        assert offered == [*(["its own"] if own else []), *record.ablations]
    assert record.cost[1:] in words(app).replace("\\", "")


def test_the_chosen_settings_reach_the_run(store: RunStore, only_micro: None) -> None:
    app = asking(task="induction", method="eap", edges=77, n=9, seed=3, ablation="mean")
    app.button[0].click().run(timeout=60)
    assert not app.error
    (info,) = store.list()
    assert (info.task["name"], info.task["n"], info.seed) == ("induction", 9, 3)
    assert (info.method, info.n_edges) == ("eap", 77)
    assert info.settings["options"] == {"ablation": "mean"}


def test_a_method_gets_the_options_that_were_set_and_its_own_defaults(store: RunStore, only_micro: None) -> None:
    app = asking(method="atp", n=4, edges=30, **{"atp-graddrop": False})
    app.button[0].click().run(timeout=60)
    assert not app.error
    (info,) = store.list()
    assert info.settings["options"] == {"qk_fix": True, "graddrop": False, "ablation": "resample"}


def test_what_cannot_be_served_is_said_before_the_button_is_pressed(store: RunStore, only_micro: None) -> None:
    choices: dict[str, object] = {"method": "activation-patching", "n": 4, "activation-patching-direction": "denoising"}
    assert "choose ablation" not in words(asking(**choices))
    said = words(asking(**choices, ablation="mean")).replace("\\", "")
    assert "which the ablation 'mean' has not; choose ablation='resample' or direction='noising'" in said
    assert not store.list()


def test_numbers_are_asked_for_within_their_range(store: RunStore, only_micro: None) -> None:
    fields = {field.key: (field.min, field.max) for field in asking(method="edge-pruning").number_input}
    assert fields["edge-pruning-steps"][0] == 1
    assert fields["edge-pruning-prompts"][0] == 1
    least, most = fields["edge-pruning-target"]
    assert least is not None
    assert most is not None
    assert 0 < least < most < 1


def test_optimal_ablation_is_in_the_cost_of_scores_or_of_the_check(
    store: RunStore, only_micro: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = ask._ready
    monkeypatch.setattr(ask, "_ready", lambda *given: replace(ready(*given), seconds=1.0, at_once=4))
    plain = words(asking(method="eap", n=4, ablation="mean"))
    assert "scoring takes about 2 forwards and 1 backward, roughly 4 s" in plain
    assert "30 circuits, roughly 45 s" in plain
    # Learning takes 401 forwards and 200 backwards of all four prompts: 801 s where a forward takes one.
    both = words(asking(method="eap", n=4, ablation="optimal"))
    assert "scoring takes about 403 forwards and 201 backwards, roughly 13 min" in both
    assert "30 circuits, roughly 45 s" in both
    check = words(asking(method="information-flow", n=4, ablation="optimal"))
    assert "scoring takes about 1 forward, roughly 1 s" in check
    assert "30 circuits, roughly 14 min" in check


@pytest.mark.parametrize(("construction", "more"), [("greedy", {"edges": 20}), ("threshold", {"threshold": 1e-3})])
def test_a_circuit_is_chosen_as_asked(
    store: RunStore, only_micro: None, construction: str, more: dict[str, Any]
) -> None:
    app = asking(method="eap", n=4, construction=construction, **more)
    app.button[0].click().run(timeout=60)
    assert not app.error
    (info,) = store.list()
    run = finished(store, info.id)
    wanted = greedy(run.scores, 20) if construction == "greedy" else run.scores.above(1e-3)
    assert run.circuit().edges == wanted.edges
    assert run.report is not None
    assert run.report.n_edges == wanted.n_edges > 0


def test_a_model_that_is_loaded_shows_its_own_tasks_at_once(
    store: RunStore, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real at_hand
    monkeypatch.setenv("WORKBENCH_RUNS", str(store.root))
    of_kind = registry.find("smollm2-135m")
    fitting = [record for record in tasks.for_model(model) if record.key != "ioi"]
    monkeypatch.setattr(registry, "names", lambda *_: ["micro"])
    monkeypatch.setattr(registry, "installed", lambda name: True)
    monkeypatch.setattr(registry, "find", lambda name: of_kind)
    monkeypatch.setattr(state, "_loaded", lambda name: model)
    monkeypatch.setattr(tasks, "for_model", lambda model: fitting)
    ask._fitting.clear()
    try:
        task = opened().selectbox(key="task")
    finally:
        ask._fitting.clear()
    assert task.options == [*(record.title for record in fitting), "Your own prompts"]
    assert task.value == fitting[0].key


def test_no_other_task_is_searched_than_the_one_that_is_shown(
    store: RunStore, only_micro: None, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = asking(n=4, edges=30, method="eap", task="induction")
    fitting = [record for record in tasks.for_model(model) if record.key != "induction"]
    monkeypatch.setattr(tasks, "for_model", lambda model: fitting)  # known only after the page was drawn
    ask._fitting.clear()
    try:
        app.button[0].click().run(timeout=60)
        assert any("cannot be asked the task 'induction'" in str(w.value) for w in app.warning)
        assert not store.list()
        app.button[0].click().run(timeout=60)
    finally:
        ask._fitting.clear()
    assert not app.error
    (info,) = store.list()
    assert info.task["name"] == fitting[0].key


def test_a_choice_outlives_a_visit_to_another_page() -> None:
    def script() -> None:
        import streamlit as st

        from workbench.app import state

        if st.toggle("elsewhere"):
            st.query_params.clear()  # as Streamlit does on another page
        else:
            state.choice("Task", {"a": "A", "b": "B"}, "task")

    app = AppTest.from_function(script).run()
    app.selectbox(key="task").select("b").run()
    app.toggle[0].set_value(True).run()
    assert "task" not in app.session_state
    app.toggle[0].set_value(False).run()
    assert app.selectbox(key="task").value == "b"


def test_tasks_are_those_that_the_model_can_be_asked_and_how_well_it_does_is_said_first(
    store: RunStore, only_micro: None, model: Transformer
) -> None:
    app = asking(n=6)
    titles = [record.title for record in tasks.for_model(model)]
    assert app.selectbox(key="task").options == [*titles, "Your own prompts"]
    assert "Digits" not in titles
    check = tasks.load("ioi", model, n=6).check(model)
    assert f"the right answer on {check.accuracy:.0%} of 6 pairs" in words(app)
    assert "forwards" in words(app)
    assert not store.list()


@pytest.mark.parametrize(("name", "value"), [("task", "digits"), ("task", "<b>"), ("method", "eap-gi")])
def test_what_the_address_cannot_have_is_said_and_the_page_goes_on(
    store: RunStore, only_micro: None, name: str, value: str
) -> None:
    app = opened(**{name: value})
    assert any(value in str(w.value).replace("\\", "") for w in app.warning)
    assert "Discover" in [b.label for b in app.button]


def test_own_prompts_of_the_table_make_a_run_that_can_be_made_again(
    store: RunStore, only_micro: None, model: Transformer, micro_folder: Path
) -> None:
    made = tasks.load("ioi", model, n=2, seed=1)
    rows = [
        {
            "clean": made.clean_text[i],
            "corrupted": made.corrupted_text[i],
            "right": model.tokenizer.decode(made.right[i].tolist()),
            "wrong": model.tokenizer.decode(made.wrong[i].tolist()),
        }
        for i in range(2)
    ]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(own_prompts, "rows", lambda: rows)
    try:
        app = asking(task="own", method="eap", edges=40)
        assert "Your own prompts" in [expander.label for expander in app.expander]
        app.button[0].click().run(timeout=60)
    finally:
        monkey.undo()
    assert not app.error
    (info,) = store.list()
    run = finished(store, info.id)
    assert run.info.prompts["clean"] == made.clean_text
    assert torch.equal(task_of(run, model).right, made.right)


def test_a_line_of_own_prompts_that_cannot_be_used_is_named(model: Transformer) -> None:
    bad = {"clean": "Mary gave", "corrupted": "Mary gave a ball", "right": " Mary", "wrong": " John"}
    with pytest.raises(ValueError, match="Row 1 of the table"):
        own_prompts.task_from(model, [bad])
    with pytest.raises(ValueError, match="lacks 'wrong'"):
        own_prompts.task_from(model, [{"file": "mine.csv", "text": "clean,corrupted,right\na,b,c\n"}])
    with pytest.raises(ValueError, match="The table is empty"):
        own_prompts.task_from(model, [])


def test_a_file_that_is_no_text_is_one_sentence(store: RunStore, only_micro: None) -> None:
    app = asking(task="own")
    app.file_uploader(key="own-file").upload("mine.csv", b"\xff\xfe\x00\x9d").run()
    assert not app.exception
    assert "The task file mine.csv is not UTF-8 text" in words(app).replace("\\", "")
    app.button[0].click().run(timeout=60)
    assert "is not UTF-8 text" in app.error[0].value
    assert not store.list()


def test_a_file_of_own_prompts_is_a_task_that_hangs_on_no_file(model: Transformer) -> None:
    text = "clean,corrupted,right,wrong\n John gave a, Mary gave a, Mary| John, Tom\n"
    task = own_prompts.task_from(model, [{"file": "ioi.csv", "text": text}])
    assert task.name == "own-ioi"
    assert "file" not in task.spec
    assert (task.right >= 0).sum() == 2


# -- switched off ----------------------------------------------------------------------------------------------


def test_a_head_that_is_switched_off_shows_what_that_does(run: Run, model: Transformer, only_micro: None) -> None:
    layer, head = run.circuit().heads[0]
    name = f"a{layer}.h{head}"
    app = opened(run=run.id, node=name)
    app.button(key=f"switch-{name}").click().run()
    assert app.query_params["off"] == name
    assert "The next token of prompt 0:" in words(app).replace("\\", "")
    task = tasks.load("ioi", model, n=6)
    graph = run.graph
    mask = graph.mask.clone()
    mask[graph.writer_index[name]] = False
    after = evaluate(model, task, Circuit(graph, mask)).metric
    assert float(app.metric[0].value.replace("\N{MINUS SIGN}", "-")) == pytest.approx(after, rel=0.01)
    app.button(key=f"switch-{name}").click().run()
    assert "off" not in app.query_params


def test_several_parts_are_off_at_once_and_can_be_put_back(run: Run, only_micro: None) -> None:
    edge = max(run.circuit().edges, key=run.circuit().score)
    app = opened(run=run.id, off=f"a0.h0,{edge},nonsense,a99.h1,logits")
    assert app.query_params["off"] in (f"a0.h0,{edge}", [f"a0.h0,{edge}"])
    assert {b.key for b in app.button if str(b.key).startswith("back-")} == {"back-a0.h0", f"back-{edge}", "back-all"}
    app.button(key="back-a0.h0").click().run()
    assert app.query_params["off"] == edge
    app.button(key=f"back-{edge}").click().run()
    assert "off" not in app.query_params


def test_parts_of_a_run_whose_model_is_gone_are_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run.folder / "run.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"model": said["model"] | {"fingerprint": "0"}}))
    app = opened(run=run.id, off="a0.h0")
    assert any("is not the model of run" in str(w.value) for w in app.warning)


# -- two runs --------------------------------------------------------------------------------------------------


@pytest.fixture
def other(store: RunStore, model: Transformer, micro_folder: Path) -> Run:
    return run_discovery(model, Request(str(micro_folder), "ioi", n=6, edges=60, method="eap"), store)


@pytest.mark.parametrize("view", ["sides", "difference"])
def test_two_runs_are_compared(run: Run, other: Run, view: str) -> None:
    app = opened(run=run.id, view=view, **{"with": other.id})
    one, two = run.circuit().edges, other.circuit().edges
    assert app.metric[0].value == f"{len(one & two) / len(one | two):.0%}"
    facts = app.dataframe[0].value
    assert facts["eap-ig"].tolist()[3].startswith("eap-ig (steps 5")
    assert facts["eap"].tolist()[6] == f"{other.report.faithfulness:.2f}"
    files = app.selectbox(key="compare-what").options
    assert len(files) == (2 if view == "sides" else 3)


def test_a_run_is_not_compared_with_itself(run: Run) -> None:
    app = opened(run=run.id, **{"with": run.id})
    assert "not compared with itself" in words(app)
    assert "Faithfulness" in words(app)
    assert "with" not in app.query_params


@pytest.mark.parametrize("which", ["nothing-like-it", "../../etc"])
def test_a_comparison_with_a_run_that_is_not_there_is_one_sentence(run: Run, which: str) -> None:
    app = opened(run=run.id, **{"with": which})
    assert len(app.error) == 1
    assert "There is no run" in app.error[0].value


def test_runs_of_unlike_models_are_told_apart_without_a_picture(run: Run, store: RunStore, tmp_path: Path) -> None:
    deep = load(micro.save(tmp_path / "deep", layers=3))
    deeper = run_discovery(deep, Request(str(tmp_path / "deep"), "ioi", n=4, edges=60, method="eap"), store)
    app = opened(run=run.id, **{"with": deeper.id})
    assert any("have other nodes" in str(w.value) for w in app.warning)
    assert not app.metric


def test_an_interrupted_run_goes_on_from_the_page(run: Run, store: RunStore, only_micro: None) -> None:
    file = run.folder / "run.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"status": "interrupted", "report": None, "curve": None}))
    app = opened(run=run.id)
    app.button(key="go-on").click().run(timeout=60)
    assert not app.error
    again = finished(store, run.id)
    assert again.info.created == run.info.created
    assert again.report == run.report
    assert again.curve == run.curve
