"""The Attention page's logic, without a browser."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from tests import digits
from tests.app import driving
from tests.app.driving import frame, offer, parameter, ready
from workbench import inspection, observing
from workbench.app import attention_ask as ask
from workbench.circuits.progress import ProgressFn
from workbench.models import Transformer, fresh, registry

TEXT = "When Mary and John went to the store, Mary and John gave a drink to"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the page offer one model alone."""

    def use(model: Transformer) -> Transformer:
        return offer(monkeypatch, model, TEXT)

    return use


def script() -> None:
    from workbench.app import attention

    attention.page()


def opened(**parameters: str) -> AppTest:
    return ready(driving.opened(script, parameters))


def headings(app: AppTest) -> list[str]:
    return [one.value for one in app.subheader]


def patterns(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """The whole patterns [layer, head, query, key], as the model makes them."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names)
    return torch.stack([cache[name][0] for name in names]).double()


def test_without_any_input_all_heads_are_there_and_those_that_stand_out(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    assert not app.error
    whole = patterns(model, model.to_tokens(TEXT))
    previous = whole.diagonal(-1, 2, 3).mean(-1)  # weight on the token before
    best = int(previous.argmax())
    layer, head = divmod(best, model.cfg.n_heads)
    button = next(one for one in app.button if (one.key or "").startswith("top-previous-"))
    assert button.label == f"{layer}.{head}  ·  {float(previous.max()):.2f}"


def test_a_click_on_a_head_shows_its_numbers_and_a_click_on_the_ground_takes_it_back(
    use: Any, model: Transformer
) -> None:
    use(model)
    app = opened(text=TEXT)
    app.session_state["attention-heads-0"] = {"selected": {"id": "a1.h2", "kind": "head"}}
    ready(app.run())
    assert parameter(app, "head") == ["a1.h2"]
    assert "Head 1.2" in headings(app)
    whole = patterns(model, model.to_tokens(TEXT))
    rows = torch.special.entr(whole).sum(-1).mean(-1)
    table = frame(app, "statistic").set_index("statistic")
    assert float(table.loc["Entropy (nats)", "head"]) == pytest.approx(float(rows[1, 2]), rel=0.01)
    assert float(table.loc["Entropy (nats)", "mean of all"]) == pytest.approx(float(rows.mean()), rel=0.01)
    rank = 1 + int((rows > rows[1, 2]).sum())
    assert table.loc["Entropy (nats)", "among all heads"] == f"{rank} of {rows.numel()}"
    app.session_state["attention-heads-0"] = {"selected": None}
    ready(app.run())
    assert parameter(app, "head") == []


def test_a_head_stays_selected_when_the_view_changes(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    app.session_state["attention-heads-0"] = {"selected": {"id": "a1.h2", "kind": "head"}}
    ready(app.run())
    for view in ("map", "curves", "census", "heads"):
        app.session_state["attention-view"] = view
        ready(app.run())
        assert parameter(app, "head") == ["a1.h2"], view
        assert "Head 1.2" in headings(app), view
        assert not app.error, view


def test_the_strongest_of_a_kind_can_be_taken_and_left(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    button = next(one for one in app.button if (one.key or "").startswith("top-induction-"))
    name = str(button.key).removeprefix("top-induction-")
    button.click()
    ready(app.run())
    assert parameter(app, "head") == [name]
    next(one for one in app.button if one.label == "Close").click()
    ready(app.run())
    assert parameter(app, "head") == []
    assert "Heads that stand out" in headings(app)


def test_the_map_shows_what_the_address_asks_for_and_outlines_the_head(
    use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(model)
    asked: list[str] = []
    draw = observing.measure_map

    def measure_map(observation: Any, key: str, *rest: Any, **named: Any) -> Any:
        asked.append(key)
        return draw(observation, key, *rest, **named)

    monkeypatch.setattr(observing, "measure_map", measure_map)
    app = opened(text=TEXT, view="map", measure="induction", head="a0.h1")
    assert asked[-1] == "induction"
    assert "Head 0.1" in headings(app)
    app.selectbox(key="measure").set_value("largest")
    ready(app.run())
    assert asked[-1] == "largest"
    assert parameter(app, "measure") == ["largest"]


def test_the_census_has_every_head_with_its_scores(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="census")
    table = frame(app, "Previous token")
    assert [*table["head"]] == [f"{layer}.{head}" for layer in range(2) for head in range(model.cfg.n_heads)]
    whole = patterns(model, model.to_tokens(TEXT))
    assert [*table["Previous token"]] == pytest.approx(whole.diagonal(-1, 2, 3).mean(-1).flatten().tolist(), rel=1e-4)
    entropy = torch.special.entr(whole).sum(-1).mean(-1).flatten().tolist()
    assert [*table["Entropy (nats)"]] == pytest.approx(entropy, rel=1e-4)


def test_pairs_of_tokens_come_on_demand(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, head="a0.h1")
    assert not any("as a query looks at" in one.value.columns for one in app.dataframe)
    app.toggle(key="pairs").set_value(True)
    ready(app.run())
    table = frame(app, "as a query looks at")
    known = model.text.pieces(list(dict.fromkeys(model.to_tokens(TEXT)[0].tolist())))
    assert len(table) == len(known)


def test_a_long_text_is_zoomed_to_single_tokens(use: Any, model: Transformer) -> None:
    numbers = use(fresh(replace(model.cfg, n_ctx=128), name="numbers"))
    tokens = " ".join(str(i % 50) for i in range(90))
    app = opened(tokens=tokens, head="a1.h0", zoom="10-19")
    assert not app.error
    assert app.slider(key="zoom-90").value == (10, 19)
    app.slider(key="zoom-90").set_value((0, 89))
    ready(app.run())
    assert parameter(app, "zoom") == []
    for wrong in ("90-91", "5", "9-3", "-1-4", "0-99999"):
        assert opened(tokens=tokens, head="a1.h0", zoom=wrong).slider(key="zoom-90").value == (0, 89)
    assert numbers.tokenizer is None


def test_another_model_with_fewer_heads_forgets_the_head(use: Any, model: Transformer) -> None:
    use(model)
    for head in ("a7.h0", "a0.h99", "m1", "<script>", "a0.h1.h2"):
        app = opened(text=TEXT, head=head)
        assert not app.error
        assert "Heads that stand out" in headings(app)


def test_an_image_shows_one_patch_and_any_other_after_a_click(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="4", head="a2.h1")
    assert "Head 2.1" in headings(app)
    app.session_state["attention-pattern"] = {"selected": {"id": "q6", "kind": "cell"}}
    ready(app.run())
    assert parameter(app, "query") == ["q6"]
    assert not app.error
    assert app.selectbox(key="attention-from-17").value == 6
    given = inspection.see(vision, inspection.sample(vision, 4)[0])
    whole = patterns(vision, given.tensor)
    rows = torch.special.entr(whole).sum(-1).mean(-1)
    table = frame(app, "statistic").set_index("statistic")
    assert float(table.loc["Entropy (nats)", "head"]) == pytest.approx(float(rows[2, 1]), rel=0.01)


def test_the_patch_that_looks_can_be_chosen_without_a_head(use: Any) -> None:
    use(digits.vision())
    app = opened(sample="4")
    assert app.selectbox(key="attention-from-17").options[:3] == ["cls", "patch (0, 0)", "patch (0, 1)"]
    app.selectbox(key="attention-from-17").set_value(3)
    ready(app.run())
    assert parameter(app, "query") == ["q3"]


@pytest.mark.parametrize("view", ["heads", "map", "curves", "census"])
def test_every_view_of_every_kind_of_model_can_be_downloaded(use: Any, model: Transformer, view: str) -> None:
    for one in (model, digits.vision(), digits.encoder()):
        use(one)
        for head in ("", "a1.h0"):
            app = opened(view=view, text="Mary and John went to the store and Mary", head=head)
            assert not app.error, app.error
            assert app.get("download_button")


@pytest.mark.parametrize("curve", ["position", "layers", "distance", "length", "sinks"])
def test_every_curve_of_every_kind_of_model_is_drawn(use: Any, model: Transformer, curve: str) -> None:
    for one in (model, digits.vision(), digits.encoder()):
        use(one)
        app = opened(view="curves", curve=curve, text="Mary and John went to the store and Mary", head="a1.h0")
        assert not app.error, app.error
        files = app.selectbox(key="attention-download-what").options
        assert len(files) >= 2 or app.info  # the curve and the head's pattern; or why there is no curve


def test_the_context_grows_in_a_text_of_ones_own_with_adaptive_temperature_too(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(view="curves", curve="length", of="own", adaptive="true", text=TEXT)
    assert not app.error
    assert "Largest weight by length" in app.selectbox(key="attention-download-what").options


def test_a_model_with_little_room_has_a_shorter_example(use: Any, model: Transformer) -> None:
    use(model)
    assert model.cfg.n_ctx < len(ask.TEXT.split()) * 2
    app = opened(**{"look-at": "a-folder"})
    assert not app.error
    assert app.text_area(key="text").value == registry.MODELS[0].example


def test_images_have_no_context_that_grows(use: Any) -> None:
    use(digits.vision())
    app = opened(view="curves", curve="length")
    assert parameter(app, "curve") == ["position"]
    assert not app.error


@pytest.mark.parametrize(
    "parameters",
    [
        {"view": "nonsense", "measure": "no such measure", "head": "a99.h99", "of": "?", "query": "q999"},
        {"text": " "},
        {"text": "word " * 4000},
        {"text": "Mary"},
        {"view": "curves", "curve": "length", "text": "Mary", "of": "own"},
        {"view": "curves", "curve": "distance", "text": "Mary"},
        {"view": "curves", "curve": "sinks", "text": "Mary and John"},
        {"view": "map", "text": "Mary"},
    ],
)
def test_an_address_that_makes_no_sense_is_one_sentence_at_most(
    use: Any, model: Transformer, parameters: dict[str, str]
) -> None:
    use(model)
    assert len(opened(**parameters).error) <= 1


def test_tokens_are_shown_letter_by_letter(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text="Mary <script>alert(1)</script> ![x](http://example.com/x.png) **bold** went", head="a1.h0")
    said = [one.value for kind in (app.caption, app.markdown, app.error) for one in kind]
    assert not any("<script>" in one or "![x](" in one for one in said)


def test_a_model_whose_rows_need_not_sum_to_one_is_refused_in_one_sentence(use: Any, model: Transformer) -> None:
    use(model.with_attention("sigmoid"))
    app = opened(text=TEXT)
    assert len(app.error) == 1
    assert "sum to 1" in app.error[0].value


def test_a_stop_ends_the_work_and_it_can_be_started_again(
    use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(model)
    observe = observing.observe
    begun, go = threading.Event(), threading.Event()

    def slow(model: Any, tokens: Any, *, progress: ProgressFn, **named: Any) -> Any:
        def step(at: Any) -> bool | None:
            going = progress(at)
            if not go.is_set():
                begun.set()
                while progress(at) is not False:
                    time.sleep(0.02)
                return False
            return going

        return observe(model, tokens, progress=step, **named)

    monkeypatch.setattr(observing, "observe", slow)
    monkeypatch.setattr("workbench.app.background._PATIENCE", 600)
    app = AppTest.from_function(script, default_timeout=60)
    app.query_params["text"] = "Mary and Tom went to the garden and Mary"  # no other test's work
    app.run()
    assert begun.wait(60)
    (stop,) = [button for button in app.button if button.label == "Stop"]
    stop.click()
    app.run()
    ready(app)
    assert "Stopped" in app.warning[0].value
    go.set()
    next(button for button in app.button if button.label == "Start again").click()
    app.run()
    ready(app)
    assert not app.warning
    assert "Heads that stand out" in headings(app)


def test_the_passage_is_long_and_the_example_repeats_itself(model: Transformer) -> None:
    assert len(ask.PASSAGE.split()) > 250
    assert ask.TEXT.count("night watchman Edmund") == 3
