"""Tasks from a file: CSV or JSON Lines with the columns ``clean``, ``corrupted``, ``right`` and ``wrong``."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from workbench.circuits.task import Metric, Task
from workbench.circuits.tasks.pairs import from_pairs
from workbench.models import Transformer

COLUMNS = ("clean", "corrupted", "right", "wrong")
SUFFIXES = (".csv", ".jsonl")
_SEPARATOR = "|"
_Row = tuple[int, dict[str, Any]]


def from_file(
    model: Transformer, path: str | Path, *, n: int | None = None, seed: int = 0, metric: Metric = "logit-diff"
) -> Task:
    """A task from a file of somebody's own pairs.

    CSV has a header; several answers of a cell are separated by ``|``, and spaces in front of answers count. JSON Lines
    has one object on each line; an answer is a text or a list of texts. Further columns are ignored.

    Args:
        model: gives the tokenizer.
        path: the file, UTF-8; ``.csv`` or ``.jsonl``.
        n: how many pairs to take, drawn by ``seed``, in the order of the file; None takes all of them.
        seed: see ``n``.
        metric: as in :func:`from_pairs`.

    Raises:
        ValueError: the file is not there, is empty or is neither form, a column is missing or there twice, a line
            cannot be read; or what :func:`from_pairs` refuses. Lines are named by their number.
    """
    path = Path(path)
    rows = list(_read(path))
    if not rows:
        raise ValueError(f"The task file {path.name} holds no pairs; write one a line, with {_listed(COLUMNS)}.")
    if n is not None and n < len(rows):
        rows = [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), n))]
    columns = {name: [row[name] for _, row in rows] for name in COLUMNS}
    where = [f"line {line} of {path.name}" for line, _ in rows]
    spec: dict[str, Any] = {"name": name_of(path), "n": len(rows), "seed": seed, "file": str(path.resolve())}
    if metric != "logit-diff":
        spec["metric"] = metric
    return from_pairs(model, **columns, metric=metric, name=spec["name"], title=path.stem, spec=spec, where=where)


def is_file(name: str) -> bool:
    """Whether a task's name is that of a file."""
    return name.lower().endswith(SUFFIXES)


def name_of(path: Path) -> str:
    """What results call a file's task: its name without ending, in letters that a folder may have."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "custom"


def find(name: str) -> Path:
    """The file of that name.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"There is no task file '{name}'; give the path of a {' or '.join(SUFFIXES)} file.")
    return path


def _read(path: Path) -> Iterator[_Row]:
    """The lines of a file, each with its number and all columns."""
    if not is_file(path.name):
        raise ValueError(f"The task file {path.name} is neither {' nor '.join(SUFFIXES)}; save it as one of these.")
    try:
        text = find(str(path)).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The task file {path.name} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"The task file {path.name} cannot be read ({error.strerror}).") from None
    if not text.strip():
        raise ValueError(f"The task file {path.name} is empty; write pairs with {_listed(COLUMNS)}.")
    rows = _csv(text, path.name) if path.suffix.lower() == ".csv" else _json_lines(text, path.name)
    return _telling(rows, path.name)


def _telling(rows: Iterator[_Row], file: str) -> Iterator[_Row]:
    """Lines whose two sides differ.

    Raises:
        ValueError: naming the line whose prompts or answers are the same on both sides.
    """
    for number, row in rows:
        if row["clean"] == row["corrupted"]:
            raise ValueError(f"Line {number} of {file} has the same clean and corrupted prompt; change what matters.")
        right, wrong = ({row[s]} if isinstance(row[s], str) else set(row[s]) for s in ("right", "wrong"))
        if right & wrong:
            raise ValueError(
                f"Line {number} of {file} has {_listed(sorted(right & wrong))} both as right and as wrong."
            )
        yield number, row


def _csv(text: str, file: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begin = 1
    header: list[str] | None = None
    try:
        for cells in reader:
            line, begin = begin, reader.line_num + 1
            if not cells or not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                _check_header(header, file)
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"Line {line} of {file} has {len(cells)} cells where the header has {len(header)}; "
                    "put texts with commas into double quotes."
                )
            row: dict[str, Any] = dict(zip(header, cells, strict=True))
            yield line, row | {side: row[side].split(_SEPARATOR) for side in ("right", "wrong")}
    except csv.Error as error:
        raise ValueError(f"Line {begin} of {file} is no CSV ({error}); check its quotes.") from None


def _check_header(header: list[str], file: str) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(f"The header of {file} has {_listed(twice)} more than once; name each column once.")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"The header of {file} lacks {_listed(missing)}; the first line must name the columns {_listed(COLUMNS)}."
        )


def _json_lines(text: str, file: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"Line {number} of {file}"
        try:
            row = json.loads(line, object_pairs_hook=partial(_unique, where))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON ({error.msg} at character {error.pos + 1}).") from None
        except RecursionError:
            raise ValueError(f"{where} is nested too deeply; write texts and lists of texts.") from None
        if not isinstance(row, dict):
            raise ValueError(f'{where} is no object; write {{"clean": ..., "corrupted": ..., ...}}.')
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(f"{where} lacks {_listed(missing)}; each line needs {_listed(COLUMNS)}.")
        for name in COLUMNS:
            answers = row[name] if name in ("right", "wrong") and isinstance(row[name], list) else [row[name]]
            if not all(isinstance(entry, str) for entry in answers):
                lists = " or a list of texts" if name in ("right", "wrong") else ""
                raise ValueError(f"{where} has a '{name}' that is no text{lists}: {json.dumps(row[name])[:40]}.")
            if any("\ud800" <= letter <= "\udfff" for entry in answers for letter in entry):
                raise ValueError(f"{where} has a '{name}' with half a letter (a lone surrogate); mend its escapes.")
        yield number, row


def _unique(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} has {_listed(twice)} more than once; name each column once.")
    return dict(pairs)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
