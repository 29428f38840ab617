"""What the tests of a page's logic share: one model on offer, a page once its work is done, what stands on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from workbench.app import state
from workbench.models import Transformer, registry


def offer(monkeypatch: pytest.MonkeyPatch, model: Transformer, example: str = "") -> Transformer:
    """Makes a page offer one model alone."""
    monkeypatch.setattr(registry, "names", lambda *_: ["mine"])
    monkeypatch.setattr(registry, "find", lambda _: registry.NamedModel("mine", "Mine", "A model.", example=example))
    monkeypatch.setattr(state, "model", lambda _: model)
    return model


def ready(app: AppTest, seconds: int = 30) -> AppTest:
    """The page once all its work is done: a page that waits is drawn again by its timer, which a test has not."""
    for _ in range(4 * seconds):
        assert not app.exception, app.exception
        if not any(button.label == "Stop" for button in app.button):
            return app
        time.sleep(0.25)
        app.run()
    raise AssertionError("The work did not end.")


def opened(script: Callable[[], None], parameters: dict[str, str]) -> AppTest:
    """The page that a script draws, at an address with these parameters, its work not yet done."""
    app = AppTest.from_function(script, default_timeout=60)
    for name, given in parameters.items():
        app.query_params[name] = given
    return app.run()


def parameter(app: AppTest, name: str) -> list[str]:
    """What the address says."""
    found: Any = app.query_params.get(name, [])
    return [found] if isinstance(found, str) else list(found)


def frame(app: AppTest, column: str) -> Any:
    """The first table with this column."""
    return next(one.value for one in app.dataframe if column in one.value.columns)
