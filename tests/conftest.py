from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other on few cores

import hypothesis
import pytest
import torch

from tests import micro
from workbench.models import Transformer, from_hf, load
from workbench.models.families.samples import SAMPLES
from workbench.models.registry import installed

torch.set_num_threads(min(2, os.cpu_count() or 1))

# No test asserts seconds: machines are shared.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session", params=SAMPLES, ids=lambda sample: sample.key)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Transformer]:
    """(Hugging Face model, ours) of every sample of every family."""
    hf = request.param.model()
    return hf, from_hf(hf)


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.save(tmp_path_factory.mktemp("models") / "micro-llama")


@pytest.fixture(scope="session")
def model(micro_folder: Path) -> Transformer:
    """A grouped micro LLaMA with a tokenizer."""
    return load(micro_folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, headless; `make test` leaves the browser tests out where there is none and says how to get it."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: install it (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    ).split()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def smol() -> Transformer:
    """The real default model; `make test` fetches it before it runs the tests."""
    if not installed("smollm2-135m"):
        pytest.fail("SmolLM2-135M is missing: run 'workbench models get smollm2-135m' (make test does).")
    return load("smollm2-135m")
