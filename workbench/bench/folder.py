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
from workbench.runs.files import canonical_json, write_json
from workbench.runs.held import held as folder_held

SETTINGS, CELLS = "bench.json", "cells"


@contextmanager
def held(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Work on a benchmark's folder alone, with the settings that it began with.

    Raises:
        RunError: it began with others, somebody works on it, or it cannot be written.
    """
    with folder_held(folder, settings, what="benchmark", file=SETTINGS, option="--out"):
        (folder / CELLS).mkdir(exist_ok=True)
        yield


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
