from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.figures.helpers import NASTY, synthetic
from workbench.circuits.graph import Circuit, Graph
from workbench.export import to_html, write
from workbench.figures import Figure, attention_pattern, circuit_graph

pytestmark = pytest.mark.browser

# Two chains that share only the ends.
EDGES = ["input->a0.h0<v>", "a0.h0->a1.h0<q>", "a1.h0->logits", "input->a0.h1<v>", "a0.h1->logits"]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a figure's HTML page; the page must stay free of errors and dialogs."""
    trouble: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))

    def open_(figure: Figure) -> Any:
        page.goto(write(tmp_path / "figure.html", to_html(figure)).as_uri())
        return page

    yield open_
    page.close()
    assert trouble == []


def ids(page: Any, selector: str) -> set[str]:
    found: list[str] = page.eval_on_selector_all(selector, "marks => marks.map((mark) => mark.dataset.id)")
    return set(found)


def test_a_click_lifts_the_paths_and_escape_or_the_ground_clears(show: Any) -> None:
    page = show(circuit_graph(Circuit.from_edges(Graph(3, 2, has_mlp=False), EDGES)))
    page.locator('.wb-node[data-id="a1.h0"]').click()
    assert ids(page, ".wb-dim") == {"a0.h1", "input->a0.h1<v>", "a0.h1->logits"}
    assert ids(page, ".wb-selected") == {"a1.h0"}
    assert page.locator(".wb-detail").inner_text() == "Head 1.0: 1 edge in, 1 edge out"
    page.keyboard.press("Escape")
    assert ids(page, ".wb-dim") == set()
    assert page.locator(".wb-detail").inner_text() == ""
    page.locator('.wb-node[data-id="a0.h1"]').click()
    assert "a1.h0" in ids(page, ".wb-dim")
    page.locator(".wb-title").click()
    assert ids(page, ".wb-dim") == set()


def test_the_page_lifts_what_the_drawing_lifts(show: Any) -> None:
    circuit = synthetic(6, 4).top(60)
    node = next(name for name in circuit.nodes if name.startswith("a2."))
    drawn = show(circuit_graph(circuit, selected=node, shown=45))
    expected = [ids(drawn, f"{state}:not([display])") for state in (".wb-dim", ".wb-near", ".wb-selected")]
    page = show(circuit_graph(circuit, shown=45))
    page.locator(f'.wb-node[data-id="{node}"]').click()
    assert [ids(page, f"{state}:not([display])") for state in (".wb-dim", ".wb-near", ".wb-selected")] == expected
    assert expected[1]


def test_the_slider_hides_weak_edges_and_moves_nothing(show: Any) -> None:
    circuit = synthetic().top(40)
    page = show(circuit_graph(circuit))
    before = page.locator(".wb-nodes").inner_html()
    page.locator(".wb-slider").fill("7")
    assert page.locator(".wb-edge:not([display])").count() == 7
    assert page.locator(".wb-slider-count").inner_text() == f"7 of {circuit.n_edges} edges"
    assert page.locator(".wb-shown").text_content() == f"the strongest 7 of {circuit.n_edges} edges are shown"
    assert page.locator(".wb-node.wb-off").count() > 0
    page.locator(".wb-slider").fill(str(circuit.n_edges))
    assert page.locator(".wb-nodes").inner_html() == before
    assert page.locator(".wb-shown").text_content() == ""


def test_a_node_answers_the_keyboard(show: Any) -> None:
    page = show(circuit_graph(Circuit.from_edges(Graph(3, 2, has_mlp=False), EDGES)))
    page.locator('.wb-node[data-id="a0.h1"]').focus()
    page.keyboard.press("Enter")
    assert ids(page, ".wb-selected") == {"a0.h1"}


def test_hovering_a_cell_or_a_token_marks_its_row_and_column(show: Any) -> None:
    n = len(NASTY)
    figure = attention_pattern(torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None], NASTY)
    page = show(figure)
    page.locator('.wb-cell[data-id="4,2"]').hover()
    marks = {m: page.locator(f'.wb-mark[data-axis="{m}"]') for m in ("query", "key")}
    cell = page.locator('.wb-cell[data-id="4,2"]')
    assert marks["query"].get_attribute("y") == cell.get_attribute("y")
    assert marks["key"].get_attribute("x") == cell.get_attribute("x")
    page.locator('.wb-token[data-axis="query"][data-index="6"]').hover()
    assert marks["key"].get_attribute("display") == "none"
    assert float(marks["query"].get_attribute("y")) > float(cell.get_attribute("y"))


def test_detach_silences_the_figure(show: Any) -> None:
    page = show(circuit_graph(Circuit.from_edges(Graph(3, 2, has_mlp=False), EDGES)))
    page.evaluate(
        """() => {
          window.calls = [];
          const copy = document.querySelector("svg").cloneNode(true);
          const box = document.createElement("div");
          box.append(copy);
          document.body.prepend(box);
          window.box = box;
          window.handle = attach(box, (id, kind) => window.calls.push([id, kind]));
          const click = (id) => box.querySelector(`[data-id="${id}"]`).dispatchEvent(
            new MouseEvent("click", { bubbles: true }));
          click("a0.h1");
          click("a1.h0->logits");
          window.handle.select(null);
          window.handle.detach();
          click("a1.h0");
        }"""
    )
    assert page.evaluate("window.calls") == [["a0.h1", "head"], ["a1.h0->logits", "edge"]]
    assert page.evaluate("window.box.querySelectorAll('.wb-dim').length") == 0
