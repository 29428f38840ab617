"""Somebody's own prompts on the Circuits page: a small table, or a file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from workbench.circuits import Task, tasks
from workbench.models import Transformer

DESCRIPTION = (
    "Pairs of prompts with equally many tokens. Each answer is one token, mostly with a space in front; several are "
    "separated by |."
)
COLUMNS = ("clean", "corrupted", "right", "wrong")
EXAMPLE = [
    {
        "clean": "When Mary and John went to the store, John gave a drink to",
        "corrupted": "When Mary and John went to the store, Mary gave a drink to",
        "right": " Mary",
        "wrong": " John",
    },
    {
        "clean": "When Tom and Anna went to the park, Tom gave a ball to",
        "corrupted": "When Tom and Anna went to the park, Anna gave a ball to",
        "right": " Anna",
        "wrong": " Tom",
    },
]
_MOST = 2_000_000  # characters of a file
_MOST_MIB = 8  # as many characters of four bytes


def begin_with(pairs: list[dict[str, str]]) -> None:
    """Put pairs into the table, in place of what is there and of a file; to be called before it is drawn."""
    st.session_state["own-start"] = pairs
    # Another table is another widget: what was typed into the one before is not typed into this one.
    st.session_state["own-tables"] = int(st.session_state.get("own-tables", 0)) + 1
    st.session_state["own-rows"] = pairs
    st.session_state.pop("own-upload", None)


def edit() -> None:
    """The table and the upload; what is there is kept for :func:`rows`."""
    upload = st.file_uploader(
        "A CSV or JSON Lines file with the columns clean, corrupted, right and wrong",
        type=["csv", "jsonl"],
        key=f"own-file{_table()}",
        max_upload_size=_MOST_MIB,
        help="It stays on this machine.",
    )
    if upload is not None:
        st.session_state["own-upload"] = (upload.name, upload.getvalue())
        st.caption("The file is used. Take it out to write into a table instead.")
        return
    st.session_state.pop("own-upload", None)
    columns = {name: st.column_config.TextColumn(name, required=True) for name in COLUMNS}
    table: Any = st.data_editor(
        st.session_state.get("own-start", EXAMPLE),
        num_rows="dynamic",
        key=f"own-table{_table()}",
        width="stretch",
        hide_index=True,
        column_config=columns,
    )
    st.session_state["own-rows"] = [
        {name: str(row.get(name) or "") for name in COLUMNS} for row in table if any(row.get(n) for n in COLUMNS)
    ]


def _table() -> str:
    """What tells this table from those before it."""
    n = st.session_state.get("own-tables", 0)
    return f"-{n}" if n else ""


def rows() -> list[dict[str, str]]:
    """The pairs of the table, or one row that names the file and holds its text.

    Raises:
        ValueError: the file is not UTF-8 text.
    """
    if (upload := st.session_state.get("own-upload")) is not None:
        return [read(*upload)]
    return list(st.session_state.get("own-rows", EXAMPLE))


def read(name: str, data: bytes) -> dict[str, str]:
    """A file as :func:`task_from` takes it.

    Raises:
        ValueError: it is not UTF-8 text.
    """
    try:
        return {"file": name, "text": data.decode("utf-8")}
    except UnicodeDecodeError as error:
        raise ValueError(f"The task file {name} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None


def task_from(model: Transformer, given: list[dict[str, str]]) -> Task:
    """A task of what :func:`rows` gave.

    Raises:
        ValueError: a pair cannot be used; its line is named.
    """
    if given and "file" in given[0]:
        return _from_file(model, given[0]["file"], given[0]["text"])
    if not given:
        raise ValueError("The table is empty; write at least one pair of prompts.")
    answers = {side: [row[side].split("|") for row in given] for side in ("right", "wrong")}
    clean, corrupted = ([row[side] for row in given] for side in ("clean", "corrupted"))
    where = [f"row {i + 1} of the table" for i in range(len(given))]
    return tasks.from_pairs(model, clean, corrupted, answers["right"], answers["wrong"], where=where)


def _from_file(model: Transformer, name: str, text: str) -> Task:
    if len(text) > _MOST:
        raise ValueError(f"The file has {len(text):,} characters; give one of at most {_MOST:,}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(text.encode("utf-8"))
        task = tasks.from_file(model, path)
    # The file is gone: the run keeps the prompts themselves, under a name that is no task's of ours.
    called = f"own-{task.name}" if task.name in tasks.names() else task.name
    spec = {key: value for key, value in task.spec.items() if key != "file"}
    return replace(task, name=called, spec={**spec, "name": called})
