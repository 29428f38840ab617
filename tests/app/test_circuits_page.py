"""The Circuits page's logic, without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import workbench.app
from workbench.app import state
from workbench.jobs import Request, run_discovery
from workbench.models import Transformer, registry
from workbench.runs import Run, RunStore

MAIN = Path(workbench.app.__file__).with_name("main.py")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    return RunStore()


@pytest.fixture
def run(store: RunStore, model: Transformer, micro_folder: Path) -> Run:
    return run_discovery(model, Request(str(micro_folder), "ioi", n=6, edges=60), store)


@pytest.fixture
def only_micro(monkeypatch: pytest.MonkeyPatch, model: Transformer) -> None:
    """The page offers the micro model alone: AppTest cannot type a folder into the list, the browser test does."""
    monkeypatch.setattr(registry, "names", lambda *_: ["micro"])
    monkeypatch.setattr(state, "model", lambda name: model)


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


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.markdown, app.caption, app.title, app.subheader, app.error, app.warning, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def test_the_first_view_says_what_to_do_with_one_main_button(store: RunStore) -> None:
    app = opened()
    assert "press **Discover**" in words(app)
    assert [b.label for b in app.button] == ["Discover"]
    assert app.selectbox(key="model").value == "smollm2-135m"
    assert not app.error


def test_a_run_in_the_address_is_shown_with_its_numbers(run: Run) -> None:
    app = opened(run=run.id)
    assert run.report is not None
    assert app.metric[0].value == f"{run.report.faithfulness:.0%}"
    assert "Click a head" in words(app)


def test_a_selected_head_shows_its_edges_and_pattern(run: Run) -> None:
    layer, head = run.circuit().heads[0]
    app = opened(run=run.id, node=f"a{layer}.h{head}")
    assert f"Head {layer}.{head}" in words(app)
    prompt = app.selectbox(key="prompt")
    assert len(prompt.options) == 6
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


def test_settings_are_those_of_the_method(store: RunStore) -> None:
    assert "steps" in {n.key for n in asking(method="eap-ig").number_input}
    assert "steps" not in {n.key for n in asking(method="eap").number_input}


def test_the_chosen_settings_reach_the_run(store: RunStore, only_micro: None) -> None:
    app = asking(task="induction", method="eap", edges=77, n=9, seed=3, ablation="mean")
    app.button[0].click().run(timeout=60)
    assert not app.error
    (info,) = store.list()
    assert (info.task["name"], info.task["n"], info.seed) == ("induction", 9, 3)
    assert (info.method, info.n_edges) == ("eap", 77)
    assert info.settings["options"] == {"ablation": "mean"}
