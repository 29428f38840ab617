"""The Model page in a real browser: choose a model, click a head, click a patch, download."""

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


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.saved(digits.vision(), tmp_path_factory.mktemp("vision"))


def titled(page: Any, words: str) -> None:
    """Wait for a figure whose title holds the words."""
    page.locator(".wb-title", has_text=words).first.wait_for()


def test_a_click_on_a_head_shows_it_before_and_after_and_the_link_does_too(
    page: Any, server: str, micro_folder: Path, tmp_path: Path
) -> None:
    page.goto(f"{server}/model?{urlencode({'look-at': micro_folder, 'attention': 'sparsemax'})}")
    page.locator(".wb-cell-head").nth(2).click()
    page.get_by_role("heading", name="Head 1.2").wait_for()
    page.wait_for_url("**head=a1.h2**")
    page.locator(".wb-cell").first.wait_for(state="attached")
    settled(page)
    cells = page.locator(".wb-cell").count()
    assert cells > 100
    # Hovering a cell marks its row and column in both panels.
    page.locator(".wb-cell").first.hover()
    assert page.locator(".wb-mark:not([display=none])").count() == 4

    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "head.svg"
    started.value.save_as(file)
    assert started.value.suggested_filename == f"{micro_folder.name}-layer-1.svg"
    assert "Layer 1" in "".join(ElementTree.parse(file).getroot().itertext())

    page.goto(page.url)
    page.get_by_role("heading", name="Head 1.2").wait_for()
    page.locator(".wb-cell").nth(cells - 1).wait_for(state="attached")
    settled(page)
    assert page.locator(".wb-cell").count() == cells


def test_a_click_on_a_patch_asks_where_it_looks(page: Any, server: str, vision: Path) -> None:
    page.goto(
        f"{server}/model?{urlencode({'look-at': vision, 'attention': 'temperature', 'temperature-temperature': 3})}"
    )
    titled(page, "from cls")
    settled(page)
    page.locator("[data-id=q6]").first.click()
    titled(page, "from patch (1, 1)")
    page.wait_for_url("**query=q6**")
    settled(page)
    page.locator(".wb-cell-head[data-id='a2.h1']").click()
    titled(page, "Head 2.1 from patch (1, 1): ")
    page.get_by_role("heading", name="Head 2.1").wait_for()
    page.locator("text.wb-title ~ g", has_text="after: Temperature (temperature 3) in all heads").first.wait_for()


def test_a_folder_can_be_typed_and_choices_live_in_the_address(page: Any, server: str, vision: Path) -> None:
    page.goto(f"{server}/model?{urlencode({'look-at': 'no-such-model'})}")
    page.get_by_text("There is no model 'no-such-model'").wait_for()
    box = page.get_by_role("combobox", name="Model")
    box.fill(str(vision))
    box.press("Enter")
    page.get_by_text("8x8 pixels, grey, as 16 patches of 2x2 after cls").wait_for()
    page.get_by_role("spinbutton", name="sample").fill("12")
    page.get_by_role("spinbutton", name="sample").press("Enter")
    page.get_by_text("Sample 12 of").wait_for()
    page.wait_for_url("**sample=12**")


def test_the_pages_lead_to_each_other_and_keep_their_own_choices(page: Any, server: str, micro_folder: Path) -> None:
    page.goto(f"{server}/model?{urlencode({'look-at': micro_folder})}")
    page.locator(".wb-cell-head").first.wait_for()
    page.get_by_role("link", name="Circuits", exact=True).click()
    page.get_by_role("button", name="Discover").wait_for()
    assert "look-at" not in page.url
    page.get_by_text("Find the circuit").first.wait_for()
