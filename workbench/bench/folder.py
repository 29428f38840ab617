"""The folder of a benchmark: its settings, a file for each finished cell, and what is made of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from workbench.bench.table import BenchTable, Cell
from workbench.runs.files import RUNNING, RunError, canonical_json, claim, write_json

SETTINGS, CELLS = "bench.json", "cells"


@contextmanager
def held(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Work on a benchmark's folder alone, with the settings that it began with.

    Raises:
        RunError: it began with others, somebody works on it, or it cannot be written.
    """
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        claim(folder)
    except OSError as error:
        raise RunError(f"Cannot write to '{folder}' ({error.strerror}); choose another folder with --out.") from None
    try:
        _same_settings(folder, settings)
        yield
    finally:
        (folder / RUNNING).unlink(missing_ok=True)


def _same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings, or refuse to go on with others."""
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(before, dict)
    except (OSError, ValueError, AssertionError):
        raise RunError(f"'{path}' cannot be read; choose another folder with --out.") from None
    now = json.loads(canonical_json(settings))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if keys:
        was, asked = (", ".join(f"{key} {_said(of.get(key))}" for key in keys) for of in (before, now))
        raise RunError(
            f"The benchmark in '{folder}' began with {was} and cannot go on with {asked}; ask for the same, or choose "
            "another folder with --out."
        )


def _said(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, list):
        return "/".join(map(str, value)) or "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def keep(folder: Path, cell: Cell) -> None:
    """Write a finished cell, whole or not at all."""
    about = "-".join(str(part) for part in cell.place)
    digest = hashlib.sha256(canonical_json(list(cell.place)).encode()).hexdigest()[:8]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", about).strip("-")[:80]
    write_json(folder / CELLS / f"{slug}-{digest}.json", asdict(cell))


def stored(folder: Path) -> list[Cell]:
    """The finished cells; a file that cannot be read is as good as none."""
    found = []
    names = {one.name for one in fields(Cell)}
    for path in sorted((folder / CELLS).glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            figures = {key: math.nan if value is None else float(value) for key, value in data["figures"].items()}
            found.append(Cell(**({key: value for key, value in data.items() if key in names} | {"figures": figures})))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def save(table: BenchTable, folder: str | Path) -> list[Path]:
    """Write the table as CSV, Markdown and JSON and the figure as SVG, PNG, PDF and HTML; their paths.

    Raises:
        ValueError: the folder cannot be written.
    """
    from workbench.export import Exportable, export, write
    from workbench.figures.bench import bench_figure

    folder = Path(folder).expanduser()
    texts = {"csv": table.to_csv(), "md": table.to_markdown(), "json": table.to_json()}
    paths = [write(folder / f"table.{key}", text) for key, text in texts.items()]
    if any(cell.reason is None for cell in table.cells):
        bundle = Exportable(None, bench_figure(table))
        paths += [write(folder / f"bench.{key}", export(bundle, key)) for key in ("svg", "png", "pdf", "html")]
    return paths
