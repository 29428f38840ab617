"""The Known circuits page's logic, without a browser."""

from __future__ import annotations

import random
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from workbench.app import known
from workbench.circuits import discover, methods
from workbench.circuits.known import known_models
from workbench.circuits.known.examine import examine_made
from workbench.circuits.known.programs import bundled, find
from workbench.known_view import try_program
from workbench.models.lookup import pick


def script() -> None:
    from workbench.app import known

    known.page()


def opened(choices: dict[str, object] | None = None, **address: str) -> AppTest:
    """The page at an address, with choices made; the binding to the address is the browser's part, tested there."""
    app = AppTest.from_function(script, default_timeout=120)
    for name, parameter in address.items():
        app.query_params[name.replace("_", "-")] = parameter
    for name, choice in (choices or {}).items():
        app.session_state[name] = choice
    return ran(app)


def ran(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception
    return app


def press(app: AppTest) -> AppTest:
    app.button[0].click()
    return ran(app)


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.markdown, app.caption, app.title, app.subheader, app.error, app.warning, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def at(app: AppTest, name: str) -> str | None:
    """A value in the address."""
    found = app.query_params.get(name)
    return found[0] if isinstance(found, list) else found


def tried(app: AppTest) -> list[list[str]]:
    """The rows of the table of inputs and answers, without their names."""
    shown = next(one.value for one in reversed(app.dataframe) if "model" in one.value.iloc[:, 0].tolist())
    rows: list[list[str]] = shown.iloc[:, 1:].to_numpy().tolist()
    return rows


def edges(app: AppTest) -> list[Any]:
    """The tables of edges of what is selected."""
    return [one.value for one in app.dataframe if "carries" in one.value]


def test_the_first_visit_says_what_to_do_and_has_one_main_button() -> None:
    app = opened()
    assert "press **Examine**" in words(app)
    assert [b.label for b in app.button] == ["Examine"]
    assert not app.error
    assert not app.metric
    word, answers, right = tried(app)
    assert answers == right == sorted(word)


def test_one_click_shows_what_was_found_beside_the_controls() -> None:
    app = press(opened())
    assert not app.error
    assert [m.value for m in app.metric] == ["7 of 7", "100%"]
    auroc = app.table[0].value.to_numpy().tolist()[0]
    assert auroc[:2] == ["AUROC", "1"]
    assert 0 < float(auroc[2]) < 1
    assert float(auroc[3]) == pytest.approx(0.5, abs=0.15)
    assert ["4 edges of those chosen" in warning.value for warning in app.warning] == [True]
    assert at(app, "examined") == f"sort {methods()[0].key} 64 0 absolute"
    assert "Click a node or an edge" in words(app)
    assert app.selectbox(key="known-download-what").options == ["Hits and misses", "ROC", "Precision and recall"]


def test_edges_without_a_score_are_not_counted_as_chosen() -> None:
    app = press(opened({"known-n": 16}, known="hist", known_method="eap"))
    made = pick(known_models(), "hist", "known model").load()
    scores = discover(made.model, made.task(16), "eap")
    scored = {name for name in made.true_edges if scores.values[scores.graph.edge(name)] != 0}
    assert app.metric[0].value == f"{len(scored)} of 4"
    assert len(scored) < 4


def test_the_slider_compares_other_numbers_of_edges_and_examines_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def spy(made: Any, method: str, **settings: Any) -> Any:
        asked.append((method, settings))
        return examine_made(made, method, **settings)

    monkeypatch.setattr(known, "examine_made", spy)
    app = press(opened({"known-n": 9, "known-seed": 77, "known-ranking": "signed"}, known="maximum"))
    assert asked == [(methods()[0].key, {"n": 9, "seed": 77, "ranking": "signed"})]
    before = app.metric[0].value
    app.slider[0].set_value(2)
    ran(app)
    assert app.metric[0].value == "2 of 6" != before
    assert at(app, "best") == "2"
    assert len(asked) == 1


def test_another_choice_shows_no_result_that_it_did_not_ask_for() -> None:
    app = press(opened())
    other = methods()[1].key
    app.selectbox(key="known-method").set_value(other)
    ran(app)
    assert not app.metric
    assert "press **Examine**" in words(app)
    assert at(app, "known-method") == other


def test_a_link_opens_the_same_view_with_what_the_node_reads_and_writes() -> None:
    link = {"known": "hist", "known_method": "eap", "examined": "hist eap 64 0 absolute", "part": "a0.h0", "best": "8"}
    app = opened(**link)
    assert "Head 0.0" in words(app)
    reads, writes = edges(app)
    named = dict(zip(reads["edge"], reads["carries"], strict=True))
    assert named["input as q"] == named["input as k"] == "tokens: a b c"
    assert writes["carries"].tolist() == ["hist_share (a number)"]
    assert app.slider[0].value == 8
    app = opened(**(link | {"part": "m0->logits"}))
    assert edges(app)[0]["carries"].tolist() == ["hist: 0 1 2 3 4 5 6 7 8"]


@pytest.mark.parametrize("part", ["a9.h9", "<b>", "m0->m0"])
def test_a_part_that_is_not_there_is_passed_over(part: str) -> None:
    app = opened(known="hist", known_method="eap", examined="hist eap 64 0 absolute", part=part, best="99999")
    assert "Click a node or an edge" in words(app)
    assert not app.error


def test_edges_that_no_pair_can_show_are_named() -> None:
    app = press(opened(known="shuffle-dyck"))
    assert app.metric[0].value.endswith(" of 18")
    made = pick(known_models(), "shuffle-dyck", "known model").load()
    assert len(made.true_edges) == 18 + len(made.length_edges)
    for edge in made.length_edges:
        assert f"`{edge}`" in words(app)


def test_a_program_without_pairs_is_one_sentence_and_can_still_be_tried() -> None:
    app = press(opened(known="length"))
    assert len(app.error) == 1
    assert "same on nearly all inputs" in app.error[0].value
    assert tried(app)[1] == ["8"] * 8


def test_a_learned_program_is_shown_beside_its_figures_with_nothing_to_press() -> None:
    app = opened(known="learned-reverse")
    assert not app.button
    assert [m.value for m in app.metric] == ["99.61%", "99.79%"]
    assert bundled(find("reverse")).text.strip() == app.code[0].value.strip()
    assert app.selectbox(key="known-kind").value == "program"
    app = opened(known="learned-hist", part="num_attn_0_1")
    assert app.code[0].value.startswith("def num_attn_0_1(")
    assert "`tokens`" in words(app)


def test_an_input_is_answered_beside_what_it_should_be() -> None:
    app = opened(known="hist", **{"try": "a b a"})
    assert tried(app) == [["a", "b", "a"], ["2", "1", "2"], ["2", "1", "2"]]
    app = opened(known="learned-hist", **{"try": "<s> 1 0 1"})
    assert tried(app)[0] == ["<s>", "1", "0", "1"]
    assert tried(app)[1][1:] == tried(app)[2][1:] == ["2", "1", "2"]
    assert tried(app)[2][0] == ""


def test_only_positions_that_are_asked_are_counted() -> None:
    program = bundled(find("sort"))
    source = random.Random(1)
    drawn = (" ".join(program.task.draw(source)) for _ in range(3000))
    text = next(text for text in drawn if try_program(program, text).errors == 1)
    asked = sum(one is not None for one in program.task.oracle(text.split()))
    assert asked < len(text.split())
    app = opened(known="learned-sort", **{"try": text})
    assert app.warning[0].value == f"1 answer of {asked} differs from what it should be."


@pytest.mark.parametrize("key", [record.key for record in known_models() if record.kind == "program"])
def test_a_learned_program_starts_with_an_input_that_it_does(key: str) -> None:
    assert not opened(known=key).warning


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("hist", "a z", "'z' is not a token of 'hist'; it knows a b c."),
        ("hist", "a " * 9, "'hist' reads at most 8 tokens; these are 9."),
        ("hist", "  ", "Write tokens with spaces between them"),
        ("learned-hist", "<s> 9", "'9' is not a word of 'hist'"),
        ("learned-hist", "<s>" + " 1" * 8, "1 to 8 words, not 9"),
        ("hist", "<b>x</b>", "'<b>x</b>' is not a token"),
    ],
)
def test_bad_input_is_one_sentence(key: str, text: str, said: str) -> None:
    app = opened(known=key)
    app.text_input[0].set_value(text)
    ran(app)
    assert len(app.error) == 1
    assert said in app.error[0].value.replace("\\", "")


def test_an_input_that_the_program_is_not_meant_for_has_no_right_answer() -> None:
    app = opened(known="learned-sort", **{"try": "3 1 2"})
    assert len(tried(app)) == 2
    assert "start with" in words(app)
    app = opened(known="sort-unique", **{"try": "1 1 1"})
    assert len(tried(app)) == 2
    assert "not meant for this input" in words(app)


@pytest.mark.parametrize("which", ["sorrt", "../../etc/passwd", "<script>alert(1)</script>"])
def test_an_unknown_model_in_the_address_is_one_sentence_until_another_is_chosen(which: str) -> None:
    app = opened(known=which)
    assert len(app.error) == 1
    assert f"There is no known model '{which}'" in app.error[0].value.replace("\\", "")
    ran(app)
    assert len(app.error) == 1
    app.selectbox(key="known-compiled").set_value("hist")
    ran(app)
    assert not app.error
    assert at(app, "known") == "hist"


def test_an_unknown_method_in_the_address_is_one_sentence() -> None:
    app = opened(known="hist", known_method="magic", examined="hist magic 64 0 absolute")
    assert len(app.error) == 1
    assert "There is no method 'magic'" in app.error[0].value
    assert not app.metric


def test_every_kind_can_be_chosen() -> None:
    app = opened()
    for kind in app.selectbox(key="known-kind").options:
        assert kind
    for kind in dict.fromkeys(record.kind for record in known_models()):
        app.selectbox(key="known-kind").set_value(kind)
        ran(app)
        shown = pick(known_models(), at(app, "known") or "", "known model")
        assert shown.kind == kind
