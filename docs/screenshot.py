"""Make the pictures of ``docs/img``: the Circuits page with SmolLM2's circuit for indirect objects, the Model,
Decomposition, Attention, Paths and Lens pages.

Needs Chromium. Run it from the repository: ``.venv/bin/python docs/screenshot.py``. The run is made once and found
again by its settings.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "img"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run".split()
SETTINGS = ["--task", "ioi", "--method", "eap-ig", "--edges", "500", "--n", "32"]
HEAD = "a23.h3"
DECOMPOSITION = "view=map&from=ioi&against=zero&chosen=a23.h3,a23.h0"


def main() -> None:
    """Find the circuit, open the page on it, select a head, take the picture."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "workbench", "discover", *SETTINGS, "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    run, head = found["id"], os.environ.get("HEAD_TO_SHOW", HEAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "workbench", "app", "--port", str(port)])
    try:
        _wait_for(url)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
            )
            page = browser.new_page(viewport={"width": 1500, "height": 1120})
            page.set_default_timeout(120_000)
            IMAGES.mkdir(exist_ok=True)
            _take(page, f"{url}/?run={run}&node={head}&mute=true", ".wb-cell", "circuits.png")
            page.set_viewport_size({"width": 1500, "height": 1000})
            _take(page, f"{url}/model?look-at=digits-vit", "svg", "model.png")
            _take(page, f"{url}/decomposition?{DECOMPOSITION}", ".wb-cell-head", "decomposition.png")
            _take(page, f"{url}/attention?head=a17.h4", ".wb-cell-head", "attention.png")
            _take(page, f"{url}/paths?length=2", ".wb-cell-head", "paths.png")
            _take(page, f"{url}/lens", ".wb-cell-head", "lens.png")
            browser.close()
    finally:
        server.terminate()


def _take(page: Any, address: str, shown: str, name: str) -> None:
    """A picture of a page, when the figure that it is about has been drawn."""
    page.goto(address)
    page.locator(shown).first.wait_for()
    page.get_by_role("button", name="Download", exact=True).wait_for()
    time.sleep(2)  # curves draw themselves in
    page.screenshot(path=IMAGES / name)


def _wait_for(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).read()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("The app did not come up.")


if __name__ == "__main__":
    main()
