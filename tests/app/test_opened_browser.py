"""An opened run in a real browser: the form follows it, the slider's number is judged, a narrow window is used."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.test_browser import found, page, server, settled  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser


def test_the_form_follows_and_the_slider_s_number_is_judged_without_a_search(
    page: Any,  # noqa: F811
    server: str,  # noqa: F811
    micro_folder: Path,
) -> None:
    first = found(page, server, micro_folder, method="eap", seed=7)
    second = found(page, server, micro_folder, method="hisp", seed=8, edges=40)
    settled(page)
    assert page.get_by_role("combobox", name="Method").first.input_value() == "Head importance score for pruning"
    page.locator(f".st-key-run-{first} button").first.click()
    page.wait_for_url(lambda url: f"run={first}" in url and "seed=7" in url)
    settled(page)
    page.get_by_text("This is what the opened run was asked.").wait_for()
    assert page.get_by_role("combobox", name="Method").first.input_value() == "Edge attribution patching"
    assert page.get_by_role("spinbutton", name="Edges").first.input_value() == "60"
    assert second not in page.url

    settled(page)
    page.locator(".wb-slider").first.fill("30")
    page.get_by_role("button", name="Judge the best 30 edges").click()
    page.wait_for_url(lambda url: f"run={first}" not in url)
    page.get_by_text("Scores taken over from run").wait_for()
    assert page.get_by_role("spinbutton", name="Edges").first.input_value() == "30"


def test_the_picture_has_the_width_that_there_is(page: Any, server: str, micro_folder: Path) -> None:  # noqa: F811
    page.set_viewport_size({"width": 1100, "height": 900})
    found(page, server, micro_folder, method="eap", seed=7)
    settled(page)
    picture = page.locator(".wb-canvas svg").first

    def share() -> float:
        place = page.locator("[data-testid=stMainBlockContainer]").bounding_box()["width"]
        return float(picture.bounding_box()["width"] / place)

    assert share() > 0.85
    page.set_viewport_size({"width": 1600, "height": 900})
    for _ in range(100):
        if share() < 0.65:
            break
        time.sleep(0.1)
    assert 0.5 < share() < 0.65  # its details stand beside it
