"""The Decomposition page in a real browser: click words and heads, ask what feeds a head, download."""

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


def test_click_words_and_a_head_then_ask_what_feeds_its_queries(
    page: Any, server: str, micro_folder: Path, tmp_path: Path
) -> None:
    page.goto(f"{server}/decomposition?{urlencode({'look-at': micro_folder})}")
    page.locator(".wb-cell[data-id=s1]").click()
    page.wait_for_url("**chosen=input%401**")
    page.locator(".wb-chosen[data-id=s1]").wait_for()
    settled(page)
    page.locator(".wb-cell[data-id=s3]").focus()
    page.keyboard.press("Enter")
    page.locator(".wb-chosen[data-id=s3]").wait_for()
    settled(page)

    page.get_by_text("Heads and MLPs", exact=True).first.click()
    page.wait_for_url("**view=map**")
    page.locator(".wb-cell-head[data-id='a1.h2']").click()
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for()
    settled(page)
    assert page.locator(".wb-outline").count() == 1
    assert page.locator(".wb-outline").evaluate("mark => mark.nextElementSibling === null")  # no cell covers it
    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "map.svg"
    started.value.save_as(file)
    assert started.value.suggested_filename.endswith("-decomposition-heads-and-mlps.svg")
    drawn = {mark.get("data-id") for mark in ElementTree.parse(file).getroot().iter()}
    assert {"a0.h0", "a1.h2", "m0", "m1"} <= drawn

    # A link to the view opens the view: what was chosen is outlined again, and can be taken out and clicked anew.
    page.goto(page.url)
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for()
    settled(page)
    page.get_by_role("button", name="head 1.2").click()
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for(state="detached")
    settled(page)
    page.locator(".wb-cell-head[data-id='a1.h2']").click()
    page.locator(".wb-chosen[data-id='a1.h2']").wait_for()
    settled(page)

    page.get_by_text("Words", exact=True).first.click()
    page.locator(".wb-chosen[data-id=s1]").wait_for()
    settled(page)
    page.get_by_role("button", name="queries").click()
    page.wait_for_url("**place=a1.h2**")
    page.get_by_text("a1.h2<q>@-1").first.wait_for()


def test_patches_can_be_chosen_too(page: Any, server: str, tmp_path: Path) -> None:
    vision = digits.saved(digits.vision(), tmp_path)
    page.goto(f"{server}/decomposition?{urlencode({'look-at': vision, 'sample': 3})}")
    page.locator(".wb-cell[data-id=s6]").click()
    page.locator(".wb-chosen[data-id=s6]").wait_for()
    page.locator("[class*=st-key-chosen-input]", has_text="patch (1, 2)").wait_for()
