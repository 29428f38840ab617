"""The Paths page and the Lens page in a real browser: click, follow, weigh, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest

from tests import digits
from tests.app.test_browser import choose, page, server, settled

__all__ = ["page", "server"]

pytestmark = pytest.mark.browser

TEXT = "When Mary and John went to the store, John gave a drink to"


def test_from_a_length_to_its_paths_and_to_a_head(page: Any, server: str, micro_folder: Path, tmp_path: Path) -> None:
    page.goto(f"{server}/paths?{urlencode({'look-at': micro_folder, 'text': TEXT})}")
    page.locator("[data-id='2']").first.wait_for()
    settled(page)
    page.locator("[data-id='2']").first.click()
    page.wait_for_url("**length=2**")
    page.locator(".wb-chosen[data-id='2']").wait_for()
    settled(page)
    page.get_by_role("button", name="As a query").click()
    page.wait_for_url("**pattern=.%7B2%7D**")
    settled(page)

    # A mistake is shown with a caret, and mended.
    field = page.get_by_role("textbox", name="Pattern")
    field.fill("embed a9.h6")
    field.press("Enter")
    page.get_by_text("does not exist").wait_for()
    assert page.locator("pre").inner_text().splitlines()[1].index("^") == len("embed ")
    field.fill("embed a1.h2")
    field.press("Enter")
    page.locator("[data-id='embed a1.h2']").wait_for()
    settled(page)

    page.get_by_text("Top paths", exact=True).first.click()
    page.locator(".wb-node[data-kind=head]").first.wait_for()
    settled(page)
    name = page.locator(".wb-node[data-kind=head]").first.get_attribute("data-id")
    page.locator(".wb-node[data-kind=head]").first.click()
    page.get_by_role("heading", name=f"Through {name}").wait_for()
    settled(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "top.svg"
    started.value.save_as(file)
    assert "-paths-" in started.value.suggested_filename
    assert name in {mark.get("data-id") for mark in ElementTree.parse(file).getroot().iter()}
    page.get_by_role("link", name="Open this head").click()
    page.wait_for_url("**/head?**")


def test_a_weight_that_is_typed_changes_the_answer(page: Any, server: str, micro_folder: Path) -> None:
    page.goto(f"{server}/paths?{urlencode({'look-at': micro_folder, 'text': TEXT, 'view': 'weights'})}")
    page.locator("[data-id=m1]").wait_for()
    page.wait_for_timeout(2000)  # the table is laid out when its script has come
    settled(page)
    before = page.locator("[data-testid=stMetricValue]").first.inner_text()
    _type_weight(page, 0, "0", "%3A0")
    settled(page)
    assert page.locator("[data-testid=stMetricValue]").first.inner_text() != before
    # Once more: the table keeps what was typed.
    _type_weight(page, 1, "0.5", "%3A0.5")
    assert sorted(one.split("%3A")[1] for one in page.url.split("weights=")[1].split("&")[0].split("%3B")) == [
        "0",
        "0.5",
    ]


def _type_weight(page: Any, row: int, text: str, said: str) -> None:
    """Type into the last column until the address says so: the table is a canvas that is laid out when it likes."""
    table = page.locator("[data-testid=stDataFrame]").first
    for _ in range(10):
        table.scroll_into_view_if_needed()
        box = table.bounding_box()
        page.mouse.dblclick(box["x"] + box["width"] - 40, box["y"] + 52 + 35 * row)
        page.wait_for_timeout(500)  # until its editor is open, with what is there selected
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_timeout(2000)
        if said in page.url:
            return
    raise AssertionError(f"The weight {text} did not arrive: {page.url}")


def test_the_lens_in_a_browser(page: Any, server: str, micro_folder: Path, tmp_path: Path) -> None:
    page.goto(f"{server}/lens?{urlencode({'look-at': micro_folder, 'text': TEXT})}")
    cell = page.locator("[data-id='m0,2']")
    cell.wait_for()
    settled(page)
    cell.click()
    page.locator(".wb-chosen[data-id='m0,2']").wait_for()
    page.get_by_role("heading", name="First answers behind layer 0").wait_for()
    settled(page)
    page.get_by_text("Direct attribution", exact=True).first.click()
    page.locator("[data-id='a1.h1']").first.wait_for()
    settled(page)
    page.locator("[data-id='a1.h1']").first.click()
    page.wait_for_url("**part=a1.h1**")
    settled(page)
    choose(page, "Format", "JSON")
    page.wait_for_timeout(1000)  # the choice begins another run of the page
    settled(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "parts.json"
    started.value.save_as(file)
    assert "a1.h1" in json.dumps(json.loads(file.read_text()))

    vision = digits.saved(digits.vision(), tmp_path)
    page.goto(f"{server}/lens?{urlencode({'look-at': vision, 'sample': 3})}")
    page.locator("[data-id='m1,0']").wait_for()
    settled(page)
    page.locator("[data-id='m1,0']").click()
    page.get_by_role("heading", name="First answers behind layer 1").wait_for()
