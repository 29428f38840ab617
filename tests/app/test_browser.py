"""The Circuits page in a real browser: discover, watch, click, look, download."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlparse
from xml.etree import ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`workbench app` as a user starts it, with a run store of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    env = {**os.environ, "WORKBENCH_RUNS": str(folder / "runs")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "app", "--port", str(port)], env=env, stdout=log, stderr=log
        )
        try:
            yield _wait_for(f"http://127.0.0.1:{port}", process, folder / "log")
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).read()
        except OSError:
            time.sleep(0.25)
        else:
            return url
    raise AssertionError(f"The app did not come up: {log.read_text()}")


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """A fresh page that fails the test if a script fails or anything is asked of another host."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(120_000)
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    elsewhere = [
        url for url in asked if urlparse(url).scheme in ("http", "https") and urlparse(url).hostname != "127.0.0.1"
    ]
    assert errors == []
    assert elsewhere == []


def settled(page: Any) -> None:
    """Wait until the page's script has run through, so that nothing is put in anew under the pointer."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def test_discover_click_a_head_see_its_pattern_download_the_svg(
    page: Any, server: str, micro_folder: Path, tmp_path: Path
) -> None:
    page.goto(f"{server}/?{urlencode({'model': micro_folder, 'n': 6, 'edges': 60})}")
    page.get_by_role("button", name="Discover").click()
    page.locator(".wb-node").first.wait_for()
    run = page.url.split("run=")[1].split("&")[0]
    assert run.startswith("ioi-eap-ig-")

    page.locator(".wb-node[data-kind=head]").first.click()
    page.locator(".wb-cell").first.wait_for()
    head = page.locator(".wb-node.wb-selected").get_attribute("data-id")
    assert f"node={head}" in page.url
    layer, index = head[1:].split(".h")
    page.get_by_role("heading", name=f"Head {layer}.{index}").wait_for()
    assert page.locator(".wb-node.wb-dim, .wb-edge.wb-dim").count() > 0

    # A second click moves the selection in the graph, beside it and in the address alike.
    other = page.locator(".wb-node[data-kind=head]").last
    other.click()
    second = other.get_attribute("data-id")
    assert second != head
    page.wait_for_url(f"**node={second}**")
    layer, index = second[1:].split(".h")
    page.get_by_role("heading", name=f"Head {layer}.{index}").wait_for()
    settled(page)
    assert page.locator(".wb-node.wb-selected").get_attribute("data-id") == second

    settled(page)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download", exact=True).click()
    file = tmp_path / "circuit.svg"
    started.value.save_as(file)
    assert started.value.suggested_filename == f"{run}.svg"
    drawn = ElementTree.parse(file).getroot()
    assert drawn.tag == f"{SVG}svg"
    edges = {e.get("data-id") for e in drawn.iter() if "wb-edge" in (e.get("class") or "").split()}
    shown = page.locator(".wb-edge").evaluate_all("marks => marks.map(mark => mark.dataset.id)")
    assert edges == set(shown)
    assert edges


def test_a_link_to_a_view_opens_the_same_view_and_the_slider_thins_it(
    page: Any, server: str, micro_folder: Path
) -> None:
    page.goto(f"{server}/?{urlencode({'model': micro_folder, 'n': 6, 'edges': 60})}")
    page.get_by_role("button", name="Discover").click()
    page.locator(".wb-node").first.wait_for()
    page.locator(".wb-node[data-kind=head]").last.click()
    page.locator(".wb-cell").first.wait_for()
    page.goto(page.url)
    page.locator(".wb-node.wb-selected").wait_for()
    page.locator(".wb-cell").first.wait_for()

    total = page.locator(".wb-edge").count()
    page.locator(".wb-slider").first.fill("5")
    assert page.locator(".wb-edge:not([display=none])").count() == 5
    assert page.locator(".wb-slider-count").first.inner_text() == f"5 of {total} edges"


def test_choices_live_in_the_address(page: Any, server: str) -> None:
    page.goto(f"{server}/?{urlencode({'task': 'induction', 'method': 'eap', 'edges': 77})}")
    assert page.get_by_role("spinbutton", name="Edges").input_value() == "77"
    page.get_by_text("A list of words starts to repeat").wait_for()
    page.get_by_role("spinbutton", name="Edges").fill("88")
    page.get_by_role("spinbutton", name="Edges").press("Enter")
    page.wait_for_url("**edges=88**")


def test_an_unknown_model_is_said_in_the_page(page: Any, server: str) -> None:
    page.goto(f"{server}/?{urlencode({'model': 'smollm2-135'})}")
    page.get_by_role("button", name="Discover").click()
    page.get_by_text("did you mean 'smollm2-135m'?").wait_for()


def found(page: Any, server: str, folder: Path, **choices: object) -> str:
    """The id of a run that the page was asked for."""
    page.goto(f"{server}/?{urlencode({'model': folder, 'n': 6, 'edges': 60, **choices})}")
    page.get_by_role("button", name="Discover").click()
    page.locator(".wb-node").first.wait_for()
    return str(page.url.split("run=")[1].split("&")[0])


def choose(page: Any, label: str, option: str) -> None:
    """Choose from a list as a person does."""
    from playwright.sync_api import TimeoutError as TooLong

    for _ in range(10):  # a run of the page that comes late closes the list
        page.get_by_role("combobox", name=label).first.click()
        try:
            page.get_by_role("option", name=option, exact=True).first.click(timeout=6000)
        except TooLong:
            continue
        break
    else:
        raise AssertionError(f"'{option}' could not be chosen from '{label}'.")
    settled(page)


def test_change_the_method_ablate_a_head_open_it_and_compare_two_runs(
    page: Any, server: str, micro_folder: Path
) -> None:
    page.goto(f"{server}/?{urlencode({'model': micro_folder, 'n': 6, 'edges': 60, 'seed': 5})}")
    page.get_by_text("of 6 pairs").wait_for()  # how well the model does it, before anything is found
    choose(page, "Method", "Edge attribution patching")
    page.wait_for_url("**method=eap**")
    page.get_by_role("button", name="Discover").click()
    page.locator(".wb-node").first.wait_for()
    first = page.url.split("run=")[1].split("&")[0]
    assert first.startswith("ioi-eap-")
    assert not first.startswith("ioi-eap-ig")

    mark = page.locator(".wb-node[data-kind=head]").last
    head = mark.get_attribute("data-id")
    mark.click()
    page.get_by_role("button", name="Ablate it now").click()
    page.wait_for_url(f"**off={head}**")
    page.locator(".wb-node.wb-ablated").wait_for()
    assert page.locator(".wb-node.wb-ablated").get_attribute("data-id") == head
    page.get_by_text("right above wrong").wait_for()
    page.goto(page.url)  # the view can be sent to a colleague
    page.locator(".wb-node.wb-ablated").wait_for()
    page.get_by_role("button", name="Put it back").click()
    page.locator(".wb-node.wb-ablated").wait_for(state="detached")
    assert "off=" not in page.url

    page.get_by_role("link", name="Open this head").click()
    layer, index = head[1:].split(".h")
    page.get_by_role("heading", name=f"Head {layer}.{index}").wait_for()
    page.locator(".wb-cell").first.wait_for()
    page.get_by_role("heading", name="Without it").wait_for()
    assert f"run={first}" in page.url
    page.get_by_role("link", name="In its circuit").click()
    page.locator(".wb-node.wb-selected").wait_for()
    assert page.locator(".wb-node.wb-selected").get_attribute("data-id") == head

    second = found(page, server, micro_folder, seed=5, method="hisp")
    page.goto(f"{server}/runs")
    for which in (first, second):
        page.locator(f".st-key-pick-{which} label").first.click()
        settled(page)
    page.get_by_role("link", name="Compare the two").click()
    page.get_by_role("heading", name="hisp and eap").wait_for()
    page.locator(".wb-figure").nth(1).wait_for()
    choose(page, "View", "Difference")
    page.get_by_role("img", name="of their edges").wait_for()
    settled(page)
    assert page.locator(".wb-figure").count() == 1
