"""The Attention page in a real browser: click heads, follow one through the views, hover tokens, download."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest

from tests import digits
from tests.app.test_browser import page, server, settled

__all__ = ["page", "server"]

pytestmark = pytest.mark.browser

TEXT = "When Mary and John went to the store, Mary and John gave a drink to"


def test_click_a_head_follow_it_through_the_views_and_download(
    page: Any, server: str, micro_folder: Path, tmp_path: Path
) -> None:
    page.goto(f"{server}/attention?{urlencode({'look-at': micro_folder, 'text': TEXT})}")
    page.get_by_text("Heads that stand out").wait_for()
    settled(page)
    page.locator(".wb-cell-head[data-id='a1.h2']").click()
    page.wait_for_url("**head=a1.h2**")
    page.get_by_role("heading", name="Head 1.2").wait_for()
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for()
    settled(page)

    # Hovering a token marks its row, or its column.
    for axis in ("query", "key"):
        page.locator(f".wb-token[data-axis={axis}]").nth(3).hover()
        mark = page.locator(f".wb-mark[data-axis={axis}]")
        mark.wait_for(state="visible")

    page.get_by_text("Map", exact=True).first.click()
    page.wait_for_url("**view=map**")
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for()
    settled(page)
    page.locator(".wb-cell-head[data-id='a0.h1']").click()
    page.get_by_role("heading", name="Head 0.1").wait_for()
    settled(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "map.svg"
    started.value.save_as(file)
    assert "-attention-" in started.value.suggested_filename
    drawn = {mark.get("data-id") for mark in ElementTree.parse(file).getroot().iter()}
    assert {"a0.h0", "a0.h1", "a1.h2"} <= drawn

    # The address opens the same view, and a head that was left can be clicked again.
    page.goto(page.url)
    page.locator(".wb-chosen[data-id='a0.h1']").wait_for()
    settled(page)
    page.get_by_role("button", name="Close").click()
    page.locator(".wb-chosen").wait_for(state="detached")
    settled(page)
    page.locator(".wb-cell-head[data-id='a0.h1']").click()
    page.locator(".wb-chosen[data-id='a0.h1']").wait_for()
    settled(page)

    page.get_by_role("link", name="Open this head").click()
    page.wait_for_url("**/head?**")
    page.get_by_role("heading", name="Head 0.1").wait_for()


def test_a_click_on_a_patch_shows_where_the_head_looks_from_there(page: Any, server: str, tmp_path: Path) -> None:
    vision = digits.saved(digits.vision(), tmp_path)
    page.goto(f"{server}/attention?{urlencode({'look-at': vision, 'sample': 3})}")
    page.get_by_text("Heads that stand out").wait_for()
    settled(page)
    page.locator(".wb-cell-head[data-id='a2.h1']").click()
    page.get_by_role("heading", name="Head 2.1").wait_for()
    settled(page)
    page.locator(".wb-cell[data-id=q6]").first.click()
    page.wait_for_url("**query=q6**")
