"""The Decomposition page's logic, without a browser."""

from __future__ import annotations

import gc
import re
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests import digits
from tests.app import driving
from tests.app.driving import offer, parameter, ready
from workbench import decomposing, inspection
from workbench.app.background import Work
from workbench.circuits import tasks
from workbench.circuits.decomposition import all_nodes, contributions
from workbench.circuits.decomposition.answers import answer
from workbench.circuits.progress import Progress, ProgressFn, Stopped
from workbench.models import Transformer
from workbench.undisturbed import undisturbed

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the page offer one model alone."""

    def use(model: Transformer) -> Transformer:
        return offer(monkeypatch, model)

    return use


def script() -> None:
    from workbench.app import decomposition

    decomposition.page()


def opened(**parameters: str) -> AppTest:
    return ready(driving.opened(script, parameters))


def table(app: AppTest, column: str = "source") -> dict[str, float]:
    """The first table with a column for sources, as a mapping."""
    frame = next(frame.value for frame in app.dataframe if column in frame.value.columns)
    return dict(zip(frame[column], frame[frame.columns[1]], strict=True))


def metrics(app: AppTest) -> dict[str, float]:
    said = {m.label.replace("\\", ""): m.value.replace("\N{MINUS SIGN}", "-").replace(",", "") for m in app.metric}
    return {label: float(value) for label, value in said.items()}


def test_without_any_input_the_page_explains_the_models_own_answer(use: Any, model: Transformer) -> None:
    use(model)
    app = opened()
    tokens = model.to_tokens(TEXT)
    logits = model(tokens)[0, -1]
    first, second = logits.topk(2).values.tolist()
    label, value = next(iter(metrics(app).items()))
    assert label.startswith("logit of")
    assert value == pytest.approx(first - second, rel=0.01)
    assert not app.error


def test_the_map_has_every_head_and_mlp_by_the_asked_rule(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(view="map", rule="tangent", against="zero")
    tokens = model.to_tokens(TEXT)
    target, _ = answer(model, tokens)
    found = contributions(model, tokens, all_nodes(model.cfg), target, rule="tangent")
    values = dict(zip(found.sources, found.mean.tolist(), strict=True))
    best = sorted(values, key=lambda name: -abs(values[name]))[:8]
    assert table(app) == pytest.approx({name: values[name] for name in best})


def test_chosen_sources_of_all_kinds_come_from_the_address(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(chosen="input@1,a1.h2,m0,a9.h9,input@99,nonsense", rule="exact", against="zero")
    assert parameter(app, "chosen") == ["input@1,a1.h2,m0"]  # what there is none of is left out
    tokens = model.to_tokens(TEXT)
    target, _ = answer(model, tokens)
    found = contributions(model, tokens, ["input@1", "a1.h2", "m0"], target, rule="exact")
    expected = dict(zip(["Mary", "head 1.2", "MLP 0"], found.mean.tolist(), strict=True))
    assert table(app) == pytest.approx(expected)


def test_a_click_chooses_a_word_and_taking_it_out_forgets_it(use: Any, model: Transformer) -> None:
    use(model)
    app = opened()
    app.session_state["decomposition-words-0"] = {"selected": {"id": "s1", "kind": "word"}}
    ready(app.run())
    assert parameter(app, "chosen") == ["input@1"]
    ready(app.run())  # the click is still there, and counts once
    assert parameter(app, "chosen") == ["input@1"]
    app.button(key="chosen-input@1").click()
    ready(app.run())
    assert parameter(app, "chosen") == []


def test_another_text_forgets_chosen_words_and_keeps_heads(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(chosen="input@1,a1.h2")
    app.text_area(key="text").set_value("Mary and John went to")
    ready(app.run())
    assert parameter(app, "chosen") == ["a1.h2"]


def test_what_chosen_sources_give_together_less_their_sum_is_their_interaction(
    use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(model)
    run = decomposing.run

    def together(request: Any, *rest: Any, **named: Any) -> Any:
        return replace(run(request, *rest, **named), values=(1.0, 2.5), together=5.0)

    app = opened()
    monkeypatch.setattr(decomposing, "run", together)
    app.query_params["chosen"] = "a0.h1,m1"
    ready(app.run())
    shown = metrics(app)
    assert (shown["together"], shown["interaction"]) == (5.0, 1.5)


def test_a_chosen_heads_queries_become_the_target(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(chosen="a1.h2")
    app.button(key="feeds-<q>").click()
    ready(app.run())
    assert parameter(app, "place") == ["a1.h2<q>@-1"]
    assert parameter(app, "explained") == ["place"]
    assert app.text_input(key="place").value == "a1.h2<q>@-1"
    assert metrics(app)["a1.h2<q>@-1"] == 1  # the whole of it


def test_a_tasks_prompt_is_explained_by_its_own_answers(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(**{"from": "ioi", "prompt": "2"})
    task = tasks.load("ioi", model, n=8)
    label, value = next(iter(metrics(app).items()))
    right, wrong = (model.text.pieces([int(side[2, 0])])[0].strip() for side in (task.right, task.wrong))
    assert label == f"logit of {right} − {wrong}"
    logits = model(task.clean)[2, task.last[2]]
    assert value == pytest.approx(float(logits[task.right[2, 0]] - logits[task.wrong[2, 0]]), rel=0.01)


def test_one_token_or_another_can_be_asked(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(explained="tokens", right="Mary", wrong="John")
    assert "logit of Mary − John" in metrics(app)


def test_an_image_has_patches_and_classes(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="4", explained="class", **{"right-class": "3", "wrong-class": "5"})
    logits = vision(inspection.sample(vision, 4)[0])[0]
    assert metrics(app)["class 3 − 5"] == pytest.approx(float(logits[3] - logits[5]), rel=0.01)
    app.session_state["decomposition-patches-0"] = {"selected": {"id": "s5", "kind": "patch"}}
    ready(app.run())
    assert parameter(app, "chosen") == ["input@6"]
    assert [*table(app)] == ["patch (1, 1)"]


def test_two_sentences_are_explained_by_their_similarity(use: Any) -> None:
    use(digits.encoder())
    app = opened(text="Mary and John", other="Mary went to the store")
    assert any("similarity" in label for label in metrics(app))
    app = opened(text="Mary and John", explained="place", place="a1.h0")
    assert metrics(app)["a1.h0"] == 1


@pytest.mark.parametrize("view", ["input", "map", "tree"])
def test_every_view_of_every_kind_of_model_can_be_downloaded(use: Any, model: Transformer, view: str) -> None:
    for one in (model, digits.vision(), digits.encoder()):
        use(one)
        app = opened(view=view, text="Mary and John went", other="Mary gave")
        assert not app.error, app.error
        assert app.get("download_button")


@pytest.mark.parametrize(
    "parameters",
    [
        {"view": "nonsense", "rule": "no such rule", "against": "x", "explained": "?", "from": "?", "prompt": "-1"},
        {"text": " "},
        {"text": "word " * 4000},
        {"explained": "place", "place": "a99.h1<q>"},
        {"explained": "place", "place": "<script>"},
        {"explained": "tokens", "right": "supercalifragilistic", "wrong": "Mary"},
        {"chosen": "a0.h0," * 500},
    ],
)
def test_an_address_that_makes_no_sense_is_one_sentence_at_most(
    use: Any, model: Transformer, parameters: dict[str, str]
) -> None:
    use(model)
    assert len(opened(**parameters).error) <= 1


def test_a_source_behind_the_target_is_one_sentence(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(explained="place", place="a0.h1", chosen="a1.h2")
    assert len(app.error) == 1
    assert "does not come before" in app.error[0].value.replace("\\", "")


def test_a_stop_keeps_what_is_finished_and_it_can_be_started_again(
    use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(model)
    run = decomposing.run
    two, slowly = threading.Event(), threading.Event()

    def slow(request: Any, model: Any, progress: ProgressFn, **named: Any) -> Any:
        def step(at: Progress) -> bool | None:
            going = progress(at)
            if at.done == 2 and not slowly.is_set():
                two.set()
                while progress(at) is not False:
                    time.sleep(0.02)
                return False
            return going

        return run(request, model, step, **named)

    monkeypatch.setattr(decomposing, "run", slow)
    monkeypatch.setattr("workbench.app.decomposition._AT_ONCE", 1)
    monkeypatch.setattr("workbench.app.background._PATIENCE", 600)
    app = AppTest.from_function(script, default_timeout=60)
    app.query_params["view"] = "map"
    app.query_params["text"] = "Mary and Tom went"  # no other test's work
    app.run()
    assert two.wait(60)  # a page does not wait for any source
    (stop,) = [button for button in app.button if button.label == "Stop"]
    stop.click()
    app.run()
    ready(app)
    assert "what was finished is shown" in app.warning[0].value
    assert len(table(app)) == 2
    slowly.set()
    next(button for button in app.button if button.label == "Start again").click()
    app.run()
    ready(app)
    assert not app.warning
    assert len(table(app)) == 8


# -- work that a page waits for --------------------------------------------------------------------------------


def steps(going: threading.Event, seen: list[int]) -> Any:
    def do(progress: ProgressFn) -> str:
        for i in range(200):
            seen.append(i)
            going.wait(0.05)
            if progress(Progress(i + 1, 200, "steps")) is False:
                if i == 0:
                    raise Stopped
                return f"stopped after {i + 1}"
        return "all"

    return do


def test_work_ends_with_its_result_or_its_error() -> None:
    def fail(_: ProgressFn) -> str:
        raise ValueError("wrong")

    good, bad = Work(lambda _: "done"), Work(fail)
    good.look(10)
    bad.look(10)
    assert good.done
    assert good.result == "done"
    assert good.error is None
    assert bad.done
    assert bad.result is None
    assert str(bad.error) == "wrong"


def test_collections_leave_out_what_was_there_until_the_last_work_ends() -> None:
    assert gc.get_freeze_count() == 0
    with undisturbed():
        with undisturbed():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_work_that_is_stopped_keeps_what_is_finished() -> None:
    seen: list[int] = []
    work = Work(steps(threading.Event(), seen))
    while len(seen) < 3:
        work.look(0.01)
    work.stop()
    work.look(10)
    assert work.done
    assert work.result is not None
    assert int(re.findall(r"\d+", work.result)[0]) < 200
    at_once = Work(steps(threading.Event(), []))
    at_once.stop()
    at_once.look(10)
    assert at_once.done
    assert at_once.error is None


def test_work_that_nobody_looks_at_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.app.background._PATIENCE", 0.2)
    seen: list[int] = []
    work = Work(steps(threading.Event(), seen))
    deadline = time.monotonic() + 30
    while not work.done and time.monotonic() < deadline:
        time.sleep(0.05)  # looks away
    assert work.done
    assert work.abandoned
    assert len(seen) < 200


def test_the_time_that_is_left_is_not_known_at_first() -> None:
    work: Work[str] = Work(lambda _: "done")
    assert work.remaining is None
