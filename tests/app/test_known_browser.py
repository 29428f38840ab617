"""The Known circuits page in a real browser: examine, click a node, look, download."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.app.test_browser import page, server, settled
from workbench.circuits.known import known_models
from workbench.models.lookup import pick

__all__ = ["page", "server"]

SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.browser


def test_examine_click_a_node_move_the_slider_download(page: Any, server: str, tmp_path: Path) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(server)
    page.get_by_role("link", name="Known circuits").click()
    page.get_by_text("How far to trust a method").wait_for()
    settled(page)
    page.get_by_role("button", name="Examine").click()
    page.locator(".wb-edge").first.wait_for()
    page.wait_for_url("**examined=sort**")
    settled(page)
    true = pick(known_models(), "sort", "known model").load().true_edges
    shown = page.locator(".wb-edge").evaluate_all("marks => marks.map(mark => mark.dataset.id)")
    assert set(shown) == true
    page.locator(".wb-title", has_text="7 of 7 true edges found").wait_for()
    page.locator(".wb-series[data-id=untrained]").first.wait_for(state="attached")
    assert not any(slider.is_visible() for slider in page.locator(".wb-slider").all())

    page.locator(".wb-node[data-id='a1.h0'], .wb-node[data-id='m1']").first.click()
    page.wait_for_url("**part=*")
    settled(page)
    part = page.url.split("part=")[1].split("&")[0]
    page.get_by_text("reads", exact=True).wait_for()
    assert page.locator(".wb-node.wb-selected").get_attribute("data-id") == part

    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "hits.svg"
    started.value.save_as(file)
    drawn = {e.get("data-id") for e in ElementTree.parse(file).getroot().iter(f"{SVG}path") if e.get("data-id")}
    assert drawn == true

    # A link to the view opens the view.
    link = page.url
    assert said == []
    page.goto(link)
    page.locator(".wb-node.wb-selected").wait_for()
    assert page.locator(".wb-node.wb-selected").get_attribute("data-id") == part


def test_a_learned_program_s_module_shows_its_function(page: Any, server: str) -> None:
    page.goto(f"{server}/known?known=learned-hist")
    page.locator(".wb-node[data-id=num_attn_0_1]").click()
    page.wait_for_url("**part=num_attn_0_1**")
    page.get_by_role("heading", name="num_attn_0_1").wait_for()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download the program").click()
    assert started.value.suggested_filename == "hist.py"
