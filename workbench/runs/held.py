"""A folder that one piece of work fills, step by step: held by one process, always with the settings it began with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.runs.files import RUNNING, RunError, canonical_json, claim, write_json


@contextmanager
def held(folder: Path, settings: Mapping[str, Any], *, what: str, file: str, option: str) -> Iterator[None]:
    """Work in a folder alone, with the settings that the work there began with.

    Args:
        folder: made if need be.
        settings: anything JSON can hold.
        what: what the work is called in messages.
        file: name of the file that keeps the settings.
        option: what chooses another folder.

    Raises:
        RunError: it began with other settings (both are said), somebody works on it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder)
    except OSError as error:
        raise RunError(f"Cannot write to '{folder}' ({error.strerror}); choose another folder with {option}.") from None
    try:
        _same_settings(folder, settings, what, file, option)
        yield
    finally:
        (folder / RUNNING).unlink(missing_ok=True)


def _same_settings(folder: Path, settings: Mapping[str, Any], what: str, file: str, option: str) -> None:
    """Note the settings, or refuse to go on with others."""
    path = folder / file
    if not path.exists():
        write_json(path, settings)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(before, dict)
    except (OSError, ValueError, AssertionError):
        raise RunError(f"'{path}' cannot be read; choose another folder with {option}.") from None
    now = json.loads(canonical_json(settings))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if keys:
        was, asked = (", ".join(f"{key} {_said(of.get(key))}" for key in keys) for of in (before, now))
        raise RunError(
            f"The {what} in '{folder}' began with {was} and cannot go on with {asked}; ask for the same, or choose "
            f"another folder with {option}."
        )


def _said(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, list):
        return "/".join(map(str, value)) or "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)
