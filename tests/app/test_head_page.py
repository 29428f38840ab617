"""The Head page's logic, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from tests import digits
from workbench import inspection
from workbench.app import state
from workbench.circuits import tasks
from workbench.head import answer_places, copy_score, look_at_head
from workbench.jobs import Request, run_discovery
from workbench.live import one_prompt, switch_off
from workbench.models import Transformer, registry
from workbench.runs import Run, RunStore

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    return RunStore()


@pytest.fixture
def run(store: RunStore, model: Transformer, micro_folder: Path) -> Run:
    return run_discovery(model, Request(str(micro_folder), "ioi", n=6, edges=60, with_curve=False), store)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, store: RunStore) -> Any:
    """Makes the page offer one model alone."""

    def use(model: Transformer) -> Transformer:
        monkeypatch.setattr(registry, "names", lambda *_: ["mine"])
        monkeypatch.setattr(registry, "find", lambda _: registry.NamedModel("mine", "Mine", "A model."))
        monkeypatch.setattr(state, "model", lambda _: model)
        return model

    return use


def script() -> None:
    from workbench.app import head

    head.page()


def opened(**parameters: str) -> AppTest:
    app = AppTest.from_function(script, default_timeout=60)
    for name, parameter in parameters.items():
        app.query_params[name] = parameter
    app.run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.title, app.markdown, app.caption, app.subheader, app.error, app.warning, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind).replace("\\", "")


def table(app: AppTest, column: str) -> Any:
    """The table that has this column."""
    return next(frame.value for frame in app.dataframe if column in frame.value.columns)


def test_a_head_on_any_text_shows_what_it_writes_and_the_answer_without_it(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(layer="1", head="2")
    assert app.title[0].value == "Head 1.2"
    given = inspection.read(model, TEXT)
    found = look_at_head(model, given, 1, 2)
    assert table(app, "raises")["logit"].tolist() == pytest.approx([one.logit for one in found.raised])
    assert table(app, "attention")["attention"].tolist() == pytest.approx([one.share for one in found.sources[:6]])
    effect = switch_off(model, one_prompt(model, given), ["a1.h2"], "mean")
    assert table(app, "after")["after"].tolist() == pytest.approx([one.after for one in effect.answers])
    assert app.selectbox(key="by").options == ["its mean", "nothing"]
    app.selectbox(key="by").select("zero").run()
    nothing = switch_off(model, one_prompt(model, given), ["a1.h2"], "zero")
    assert table(app, "after")["after"].tolist() == pytest.approx([one.after for one in nothing.answers])


def test_a_head_of_a_run_shows_the_metric_without_it_and_its_edges(use: Any, model: Transformer, run: Run) -> None:
    use(model)
    layer, head = run.circuit().heads[0]
    app = opened(run=run.id, layer=str(layer), head=str(head), prompt="2")
    task = tasks.load("ioi", model, n=6)
    effect = switch_off(model, task, [f"a{layer}.h{head}"], "resample", prompt=2)
    assert float(app.metric[0].value.replace("\N{MINUS SIGN}", "-")) == pytest.approx(effect.after, rel=0.01)
    assert table(app, "after")["after"].tolist() == pytest.approx([one.after for one in effect.answers])
    edges = table(app, "score")
    values = run.scores.values
    into = edges[edges[""] == "reads into values"]
    column = run.graph.reader_index[f"a{layer}.h{head}<v>"]
    best = values[:, column].abs().max()
    assert abs(into["score"].iloc[0]) == pytest.approx(float(best))
    places = answer_places(task.clean, task.right, task.wrong)
    score = copy_score(model, task.clean, layer, head, where=places)
    assert f"{score:.0%}" in [metric.value for metric in app.metric]
    assert "In its circuit" in str(app.main) or app.get("page_link")


@pytest.mark.parametrize(
    "parameters",
    [
        {"layer": "99", "head": "-4", "at": "10000"},
        {"layer": "one", "head": "a1.h1", "at": "x", "by": "nonsense", "prompt": "7"},
        {"text": " "},
        {"text": "word " * 4000},
    ],
)
def test_an_address_that_makes_no_sense_leaves_no_traceback(
    use: Any, model: Transformer, parameters: dict[str, str]
) -> None:
    use(model)
    app = opened(**parameters)
    assert len(app.error) <= 1


@pytest.mark.parametrize("which", ["nothing-like-it", "../../etc"])
def test_an_unknown_run_is_one_sentence(use: Any, model: Transformer, which: str) -> None:
    use(model)
    app = opened(run=which)
    assert len(app.error) == 1
    assert "There is no run" in app.error[0].value


def test_a_corrupted_text_of_another_length_is_one_sentence(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(layer="1")
    app.text_input(key="other").set_value("Too short").run()
    app.selectbox(key="by").select("resample").run()
    assert not app.exception
    assert any("patching needs equally many" in str(w.value) for w in app.warning)


def test_an_image_model_has_heads_too(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(layer="1", head="1", sample="3")
    assert app.title[0].value == "Head 1.1"
    assert "answers through further layers" in words(app)
    given = inspection.see(vision, inspection.sample(vision, 3)[0])
    effect = switch_off(vision, one_prompt(vision, given), ["a1.h1"], "mean")
    assert table(app, "after")["after"].tolist() == pytest.approx([one.after for one in effect.answers])


def test_a_model_of_vectors_says_why_there_are_no_words(use: Any) -> None:
    use(digits.encoder())
    text = words(opened())
    assert "gives vectors, not words" in text
    assert "gives vectors, not answers" in text


def decomposition(app: AppTest) -> dict[str, str]:
    """What the link to the Decomposition page asks there."""
    found = [link.proto for link in app.get("page_link") if link.proto.label == "What feeds it"]
    return dict(parse_qsl(found[0].query_string)) if found else {}


def test_a_head_leads_to_what_feeds_its_queries(use: Any, model: Transformer, run: Run) -> None:
    use(model)
    asked = {"look-at": "mine", "explained": "place", "from": "own"}
    app = opened(layer="1", head="2", text="Mary and John went", at="1")
    assert decomposition(app) == asked | {"place": "a1.h2<q>@1", "text": "Mary and John went"}
    app = opened(run=run.id, layer="1", head="2", prompt="3")
    clean = run.info.prompts["clean"][3]
    assert decomposition(app) == asked | {"look-at": run.info.load_name, "place": "a1.h2<q>@-1", "text": clean}
    assert not decomposition(opened(layer="1", head="2", text="Mary " * 400))  # too long for an address
    use(digits.vision())
    assert decomposition(opened(layer="1", head="2", sample="4"))["sample"] == "4"
