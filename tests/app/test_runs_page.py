"""The Runs page's logic, without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from workbench.runs import RunStore, RunWriter

REQUEST: dict[str, Any] = {
    "model": {"name": "micro", "fingerprint": "f00"},
    "task": {"name": "ioi", "n": 4, "seed": 3},
    "method": "eap-ig",
    "settings": {"options": {"steps": 5}, "edges": 9},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    return RunStore()


def made(store: RunStore, faithfulness: float = 0.5, **changes: Any) -> RunWriter:
    writer = store.begin(**(REQUEST | changes), n_edges=9)
    writer.finish("done", report={"faithfulness": faithfulness}, curve={"cmd": 1 - faithfulness})
    return writer


@pytest.fixture
def three(store: RunStore) -> list[str]:
    """Runs of three methods; the second is the most faithful."""
    methods = {"eap-ig": 0.5, "exact": 0.9, "eap": 0.2}
    return [made(store, value, method=key).id for key, value in methods.items()]


def script() -> None:
    from workbench.app import runs

    runs.page()


def opened(choices: dict[str, object] | None = None, **parameters: str) -> AppTest:
    app = AppTest.from_function(script, default_timeout=60)
    for name, parameter in parameters.items():
        app.query_params[name] = parameter
    for name, choice in (choices or {}).items():
        app.session_state[name] = choice
    app.run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.title, app.markdown, app.caption, app.subheader, app.error, app.warning, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind).replace("\\", "")


def shown(app: AppTest) -> list[str]:
    """Ids of the runs on the page, in order."""
    return [str(box.key).removeprefix("pick-") for box in app.checkbox if str(box.key).startswith("pick-")]


def test_an_empty_store_says_what_to_do(store: RunStore) -> None:
    assert "Ask for a circuit first" in words(opened())


def test_runs_are_shown_newest_first_with_their_numbers_and_size(store: RunStore, three: list[str]) -> None:
    app = opened()
    assert shown(app) == three[::-1]
    assert "90% faithful · CMD 0.100" in words(app)
    size = sum(file.stat().st_size for file in store.root.rglob("*"))
    total = sum(store.disk_use(name) for name in three)
    assert total == sum(file.stat().st_size for name in three for file in (store.root / name).iterdir()) <= size
    assert f"3 runs, {total / 1e3:,.0f} kB" in words(app)


@pytest.mark.parametrize(
    ("order", "places"), [("oldest", [0, 1, 2]), ("faithful", [1, 0, 2]), ("cmd", [1, 0, 2]), ("nonsense", [2, 1, 0])]
)
def test_the_order_is_the_address_s(store: RunStore, three: list[str], order: str, places: list[int]) -> None:
    assert shown(opened(order=order)) == [three[i] for i in places]


@pytest.mark.parametrize(
    ("search", "places"), [("exact", [1]), ("EAP micro", [2, 0]), ("ioi exact eap", []), ("steps", [2, 1, 0])]
)
def test_a_search_wants_every_word(store: RunStore, three: list[str], search: str, places: list[int]) -> None:
    assert shown(opened({"q": search})) == [three[i] for i in places]


def test_choices_narrow_the_list(store: RunStore, three: list[str]) -> None:
    assert shown(opened(**{"only-method": "exact"})) == [three[1]]
    assert shown(opened(**{"only-status": "done"})) == three[::-1]
    assert shown(opened(**{"only-task": "no-such-task"})) == three[::-1]


def test_two_that_are_chosen_can_be_compared(store: RunStore, three: list[str]) -> None:
    app = opened({f"pick-{three[0]}": True})
    assert "Choose one more" in words(app)
    app.checkbox(key=f"pick-{three[2]}").check().run()
    links = [link.proto.query_string for link in app.get("page_link")]
    assert f"run={three[2]}&with={three[0]}" in links
    app.checkbox(key=f"pick-{three[1]}").check().run()
    assert "two can be compared" in words(app)


def test_a_run_is_renamed(store: RunStore, three: list[str]) -> None:
    app = opened()
    app.text_input(key=f"runs-title-{three[1]}").set_value("The **best**").run()
    app.button(key=f"rename-{three[1]}").click().run()
    assert store.open(three[1]).info.title == "The **best**"
    assert not app.exception
    app.text_input(key=f"runs-title-{three[1]}").set_value("x" * 300).run()
    app.button(key=f"rename-{three[1]}").click().run()
    assert "1 to 200 characters" in words(app)


def test_a_run_is_deleted_only_when_it_was_said_twice(store: RunStore, three: list[str]) -> None:
    app = opened()
    assert app.button(key=f"delete-{three[1]}").disabled
    app.checkbox(key=f"runs-sure-{three[1]}").check().run()
    app.button(key=f"delete-{three[1]}").click().run()
    assert not app.exception
    assert [info.id for info in store.list()] == [three[2], three[0]]
    assert shown(app) == [three[2], three[0]]


def test_a_run_at_work_cannot_be_deleted(store: RunStore) -> None:
    writer = store.begin(**REQUEST, n_edges=9)
    app = opened()
    assert app.checkbox(key=f"runs-sure-{writer.id}").disabled
    writer.release()


def test_a_damaged_run_is_shown_with_its_sentence_and_can_be_deleted(store: RunStore, three: list[str]) -> None:
    (store.root / three[0] / "run.json").write_text("{")
    app = opened()
    assert shown(app) == [three[2], three[1]]
    assert any("is damaged" in str(w.value) for w in app.warning)
    app.checkbox(key=f"runs-sure-{three[0]}").check().run()
    app.button(key=f"delete-{three[0]}").click().run()
    assert not (store.root / three[0]).exists()


def test_many_runs_are_paged(store: RunStore) -> None:
    for seed in range(23):
        made(store, task=REQUEST["task"] | {"seed": seed})
    assert len(shown(opened())) == 20
    assert len(shown(opened(page="1"))) == 3
    assert len(shown(opened(page="99"))) == 3
    assert len(shown(opened(page="<b>"))) == 20


def test_titles_and_errors_are_shown_as_text(store: RunStore) -> None:
    writer = store.begin(**REQUEST, n_edges=9)
    writer.finish("failed", error="[link](http://x) <b>", title="**bold**")
    app = opened()
    assert r"\*\*bold\*\*" in next(link.proto.label for link in app.get("page_link"))
    assert any(r"\[link\]" in str(caption.value) for caption in app.caption)
    data = json.loads((writer.folder / "run.json").read_text())
    (writer.folder / "run.json").write_text(json.dumps(data | {"created": "long ago"}))
    assert "long ago" in words(opened())
