"""The Paths page's logic, without a browser."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from tests import digits
from tests.app import driving
from tests.app.driving import frame, offer, parameter, ready
from workbench import pathways
from workbench.app.model_detail import escaped
from workbench.app.paths_detail import count
from workbench.app.paths_weights import parsed
from workbench.circuits import tasks
from workbench.circuits.progress import ProgressFn
from workbench.models import Transformer

TEXT = "When Mary and John went to the store, John gave a drink to"
DEPTH = 4  # of the micro model: two layers, each attention and MLP


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the page offer one model alone."""

    def use(model: Transformer) -> Transformer:
        return offer(monkeypatch, model, TEXT)

    return use


def script() -> None:
    from workbench.app import paths

    paths.page()


def opened(**parameters: str) -> AppTest:
    return ready(driving.opened(script, parameters))


def metric(app: AppTest, label: str) -> float:
    """The number of a metric, as it is written."""
    found = next(one.value for one in app.metric if label in one.label)
    return float(found.replace("−", "-").removesuffix("%"))


def headings(app: AppTest) -> list[str]:
    return [one.value for one in app.subheader]


def click(app: AppTest, figure: str, mark: str | None) -> AppTest:
    app.session_state[figure] = {"selected": None if mark is None else {"id": mark, "kind": "mark"}}
    return ready(app.run())


def press(app: AppTest, label: str) -> AppTest:
    next(one for one in app.button if one.label == label).click()
    return ready(app.run())


def difference(model: Transformer, text: str = TEXT) -> float:
    """Logit of the model's first answer, less that of its second."""
    best = model(model.to_tokens(text))[0, -1].topk(2).values
    return float(best[0] - best[1])


def stream(model: Transformer, text: str = TEXT) -> dict[str, torch.Tensor]:
    """What enters the final norm at the last position, and what each sublayer wrote there."""
    last = model.cfg.n_layers - 1
    names = [f"blocks.{last}.hook_resid_post"]
    names += [f"blocks.{layer}.hook_{part}_out" for layer in range(last + 1) for part in ("attn", "mlp")]
    _, cache = model.run_with_cache(model.to_tokens(text), names)
    found = {"final": cache[names[0]][0, -1]}
    for layer in range(last + 1):
        found[f"a{layer}"] = cache[f"blocks.{layer}.hook_attn_out"][0, -1]
        found[f"m{layer}"] = cache[f"blocks.{layer}.hook_mlp_out"][0, -1]
    return found


# -- lengths ---------------------------------------------------------------------------------------------------


def test_the_lengths_add_up_to_what_the_model_says(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    assert not app.error
    table = frame(app, "sum so far")
    assert list(table["length"]) == [str(length) for length in range(DEPTH + 1)]
    assert sum(table["logits"]) == pytest.approx(difference(model), rel=1e-4)
    # Two layers of four heads: so many ways to pass some of four sublayers.
    assert list(table["paths"]) == ["1", "10", "33", "40", "16"]


def test_a_task_is_asked_about_its_own_pair(use: Any, model: Transformer) -> None:
    use(model)
    app = opened()
    assert parameter(app, "from") == ["ioi"]
    assert parameter(app, "explained") == ["task"]
    task = tasks.load("ioi", model, n=8)
    logits = model(model.to_tokens(task.clean_text[0]))[0, -1]
    own = float(logits[task.right[0, 0]] - logits[task.wrong[0, 0]])
    assert sum(frame(app, "sum so far")["logits"]) == pytest.approx(own, rel=1e-3)
    assert any(one.value == escaped(task.clean_text[0]) for one in app.caption)


def test_longer_paths_are_one_bar(use: Any, model: Transformer) -> None:
    use(model)
    whole, cut = frame(opened(text=TEXT), "sum so far"), frame(opened(text=TEXT, keep="1"), "sum so far")
    assert list(cut["length"]) == ["0", "1", "2+"]
    assert cut["logits"][1] == pytest.approx(whole["logits"][1], abs=1e-4)
    assert cut["logits"][2] == pytest.approx(sum(whole["logits"][2:]), abs=1e-4)


def test_a_bar_leads_to_a_query_of_the_same_paths(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    carried = frame(app, "sum so far")["logits"][2]
    click(app, "paths-lengths", "2")
    assert parameter(app, "length") == ["2"]
    assert "Length 2" in headings(app)
    assert metric(app, "carries") == pytest.approx(carried, rel=0.01)
    press(app, "As a query")
    assert parameter(app, "pattern") == [".{2}"]
    assert metric(app, "carry") == pytest.approx(carried, rel=0.01)
    assert frame(app, "pattern")["paths"][0] == "33"


def test_kinds_add_up_to_lengths(use: Any, model: Transformer) -> None:
    use(model)
    lengths = frame(opened(text=TEXT), "sum so far")["logits"]
    app = opened(text=TEXT, kinds="true")
    carried = 0.0
    for attentions, mlps in ((1, 0), (0, 1)):
        click(app, "paths-kinds", f"{attentions},{mlps}")
        carried += metric(app, "carries")
    assert carried == pytest.approx(lengths[1], abs=0.01)
    assert "0 attentions, 1 MLP" in headings(app)


def test_positions_are_what_the_model_says_there(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="positions")
    click(app, "paths-positions", "1,3")
    logits = model(model.to_tokens(TEXT))[0]
    first, second = logits[-1].topk(2).indices.tolist()
    assert sum(frame(app, "length")["logits"]) == pytest.approx(float(logits[3, first] - logits[3, second]), abs=1e-3)


# -- queries and single paths ----------------------------------------------------------------------------------


def test_everything_is_the_forward_pass_and_patterns_stay_to_compare(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="query", pattern=".*", patterns="embed;bias .*")
    assert metric(app, "carry") == pytest.approx(difference(model), rel=0.01)
    assert metric(app, "of logit") == 100
    assert list(frame(app, "pattern")["pattern"]) == [".*", "embed", "bias .*"]
    press(app, "`embed m*`")
    assert list(frame(app, "pattern")["pattern"]) == ["embed m*", ".*", "embed", "bias .*"]
    click(app, "paths-queries", "embed")
    assert parameter(app, "pattern") == ["embed"]
    press(app, "Forget the others")
    assert list(frame(app, "pattern")["pattern"]) == ["embed"]


@pytest.mark.parametrize(("pattern", "place"), [("embed a9.h6 m*", 6), ("embed (a", 6), ("m* &", 3)])
def test_a_pattern_that_does_not_parse_is_shown_with_a_caret(
    use: Any, model: Transformer, pattern: str, place: int
) -> None:
    use(model)
    app = opened(text=TEXT, view="query", pattern=pattern)
    assert len(app.error) == 1
    first, second = app.code[0].value.split("\n")
    assert first == pattern
    assert second.index("^") == place
    assert not app.metric


def test_top_paths_are_proven_and_sum_to_the_answer_where_all_are_asked(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="top", longest="1", k="50")
    table = frame(app, "path")
    assert all(len(path.split()) <= 2 for path in table["path"])
    lengths = frame(opened(text=TEXT), "sum so far")["logits"]
    assert sum(table["logits"]) == pytest.approx(lengths[0] + lengths[1], abs=1e-3)
    assert any("Proven" in one.value for one in app.caption)


def test_a_path_and_a_head_can_be_followed(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="top")
    table = frame(app, "path")
    click(app, "paths-flow", "path 1")
    assert app.code[0].value == table["path"][1]
    name = next(word for path in table["path"] for word in path.split() if ".h" in word)
    click(app, "paths-flow", name)
    assert f"Through {name}".replace(".", "\\.") in headings(app)
    through = [x for path, x in zip(table["path"], table["logits"], strict=True) if name in path.split()]
    assert metric(app, "paths through it") == pytest.approx(sum(through), rel=0.01, abs=1e-3)
    press(app, "All such paths")
    assert parameter(app, "pattern") == [f".* {name} .*"]


def test_a_stop_keeps_the_paths_that_were_found(use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    use(model)
    follow = pathways.follow
    begun, go = threading.Event(), threading.Event()

    def slow(asked: Any, model: Any, progress: ProgressFn) -> Any:
        def step(at: Any) -> bool | None:
            going = progress(at)
            if not go.is_set() and at.done == 2:
                begun.set()
                while progress(at) is not False:
                    time.sleep(0.02)
                return False
            return going

        return follow(asked, model, step)

    monkeypatch.setattr(pathways, "follow", slow)
    monkeypatch.setattr("workbench.app.background._PATIENCE", 600)
    app = AppTest.from_function(script, default_timeout=60)
    app.query_params["text"] = "Mary and Tom went to the garden and Mary"  # no other test's work
    app.query_params["view"] = "top"
    app.run()
    assert begun.wait(60)
    press(app, "Stop")
    assert "what was finished is shown" in app.warning[0].value
    assert len(frame(app, "path"))
    go.set()
    press(app, "Start again")
    assert not app.warning


# -- weights ---------------------------------------------------------------------------------------------------


def test_a_cut_component_is_missing_from_what_the_final_norm_reads(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="weights", weights="m1:0;a0:0.5")
    parts = stream(model)
    first, second = model(model.to_tokens(TEXT))[0, -1].topk(2).indices.tolist()
    changed = parts["final"] - parts["m1"] - 0.5 * parts["a0"]
    logits = model.unembedding(model.ln_final(changed[None, None]))[0, 0]
    assert metric(app, "−") == pytest.approx(float(logits[first] - logits[second]), rel=0.01)
    share = 100 * float(logits.softmax(-1)[first])
    assert metric(app, "probability") == pytest.approx(share, abs=0.06)
    assert parameter(app, "weights") == ["m1:0;a0:0.5"] or parameter(app, "weights") == ["a0:0.5;m1:0"]


def test_a_bar_cuts_and_brings_back(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="weights")
    own = difference(model)
    assert metric(app, "−") == pytest.approx(own, rel=0.01)
    click(app, "paths-direct-0", "m0")
    assert parameter(app, "weights") == ["m0:0"]
    assert metric(app, "−") != pytest.approx(own, rel=0.01)
    click(app, "paths-direct-1", "m0")
    assert parameter(app, "weights") == []
    assert metric(app, "−") == pytest.approx(own, rel=0.01)


def test_what_speaks_against_the_answer_can_be_cut_at_once(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="weights", level="head")
    press(app, "Cut what speaks against it")
    table = frame(app, "weight")
    assert set(table["weight"][table["direct"] < 0]) == {0.0}
    assert set(table["weight"][table["direct"] >= 0]) == {1.0}
    assert len(table) == 1 + 2 * (4 + 1)
    # The weights stay while another view is looked at.
    app.session_state["paths-view"] = "lengths"
    ready(app.run())
    app.session_state["paths-view"] = "weights"
    ready(app.run())
    assert list(frame(app, "weight")["weight"]) == list(table["weight"])
    press(app, "All back to 1")
    assert set(frame(app, "weight")["weight"]) == {1.0}


def test_direct_contributions_and_their_biases_add_up(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="3", view="weights")
    table = frame(app, "weight")
    names = set(table["component"])
    assert names == {"embed", *(f"{part}{layer}" for layer in range(3) for part in "am")}
    norm, weight = vision.ln_final, vision.unembedding.weight
    pixels = _sample(vision, 3)
    _, cache = vision.run_with_cache(pixels, ["blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"])
    first, second = vision(pixels)[0].topk(2).indices.tolist()
    final, wrote = cache["blocks.2.hook_resid_post"][0, 0], cache["blocks.2.hook_mlp_out"][0, 0]
    scale = (final.var(unbiased=False) + 1e-6).sqrt()
    held = (wrote - wrote.mean()) / scale * norm.weight
    value = float(held @ (weight[first] - weight[second]))
    assert float(table.set_index("component").loc["m2", "direct"]) == pytest.approx(value, rel=1e-3)


def _sample(vision: Transformer, number: int) -> torch.Tensor:
    from workbench import inspection

    return inspection.sample(vision, number)[0]


# -- other models and bad input --------------------------------------------------------------------------------


def test_a_classifier_has_classes_and_no_positions(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="3", view="positions")
    best = vision(_sample(vision, 3))[0].topk(2).values
    assert sum(frame(app, "sum so far")["logits"]) == pytest.approx(float(best[0] - best[1]), rel=1e-3)
    assert parameter(app, "view") == []
    app = opened(sample="3", explained="class", **{"right-class": "7", "wrong-class": "2"})
    logits = vision(_sample(vision, 3))[0]
    assert sum(frame(app, "sum so far")["logits"]) == pytest.approx(float(logits[7] - logits[2]), rel=1e-3)


def test_a_model_that_gives_vectors_is_refused_in_a_sentence(use: Any) -> None:
    use(digits.encoder())
    app = opened()
    assert "gives a vector" in app.error[0].value
    assert not app.metric


@pytest.mark.parametrize(
    "parameters",
    [
        {"view": "nothing", "length": "x", "keep": "999"},
        {"kinds": "true", "kind": "9,9"},
        {"view": "positions", "cell": "7,1000"},
        {"view": "query", "patterns": "embed (;;m*"},
        {"view": "top", "path": "path 900", "k": "0", "budget": "x"},
        {"view": "top", "path": "a99.h9"},
        {"view": "weights", "weights": "m1:nan;zzz:0;a0:1e9;:;m0"},
    ],
)
def test_an_address_that_makes_no_sense_is_no_trouble(use: Any, model: Transformer, parameters: dict[str, str]) -> None:
    use(model)
    app = opened(text=TEXT, **parameters)
    assert not app.error
    assert app.metric


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"explained": "tokens", "right": "Mary store"}, "Mary"),
        ({"explained": "tokens", "right": "Mary", "wrong": "Mary"}, "same"),
        ({"explained": "tokens", "wrong": "Mary"}, "target"),
    ],
)
def test_answers_that_are_none_are_refused_in_a_sentence(
    use: Any, model: Transformer, parameters: dict[str, str], said: str
) -> None:
    use(model)
    for view in ("lengths", "query", "top"):
        app = opened(text=TEXT, view=view, **parameters)
        assert said in app.error[0].value, view


def test_weights_in_an_address_are_read_with_care() -> None:
    assert parsed("a3:0;m5:1.5") == {"a3": 0.0, "m5": 1.5}
    assert parsed("a3:-4;m5:inf;m6:nan;;x") == {"a3": 0.0}
    assert parsed("a0.h1:7") == {"a0.h1": 2.0}


def test_numbers_of_paths_are_short() -> None:
    assert count(9999) == "9999"
    assert count(4_100_000) == "4.1 · 10⁶"
    assert count(10**39 + 10**38) == "1.1 · 10³⁹"
