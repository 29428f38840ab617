"""What every command shares: where text goes, progress, and how Ctrl-C asks for a stop."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
Store = Annotated[
    Path | None,
    typer.Option("--out", "--store", help="The run store: a folder of run folders; the user's own if left out."),
]

_WIDE = 160  # columns where nobody sees a terminal: a script's table should not be broken


INTERRUPTED = 130  # exit status that shells give a program ended by Ctrl-C


class InterruptionError(Exception):
    """Ctrl-C ended a command; the message says what became of its work."""


def console(stderr: bool = False) -> Console:
    """A console on the present standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False, markup=False, emoji=False)


def plain(text: object) -> str:
    """Text from a model, a file or a user on one line, without characters that could drive a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(text).split()))


def say(text: object) -> None:
    """A line on standard output."""
    console().print(Text(plain(text)), soft_wrap=True)


def complain(text: object) -> None:
    """A line on standard error."""
    console(stderr=True).print(Text(plain(text)), soft_wrap=True)


def print_json(data: Any) -> None:
    """Data as JSON on standard output; NaN and infinities become null."""
    from workbench.runs.files import finite

    sys.stdout.write(json.dumps(finite(data), indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> None:
    """A table on standard output; columns whose name ends with ``#`` hold numbers and are set right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name.rstrip("#"), justify="right" if name.endswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console().print(table)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and what is to be said of them, one a line; those with nothing to say are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            table.add_row(name, Text(plain(value)))
    console().print(table)


Say = Callable[[int, int, str], None]


@contextlib.contextmanager
def progress_bar() -> Iterator[Say]:
    """A bar with the time left on standard error, one line for each kind of step; gone when all is done."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    target = console(stderr=True)
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        lines: dict[str, Any] = {}

        def step(done: int, total: int, what: str) -> None:
            unit = 1e6 if total > 1e6 else 1  # bytes are shown as megabytes
            if what not in lines:
                lines[what] = bar.add_task(what + (" (MB)" if unit > 1 else ""))
            bar.update(lines[what], completed=int(done / unit), total=max(int(total / unit), 1))

        yield step


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the first press asks to stop at the next step, the second stops at once."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def press(_number: int, _frame: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        complain("Stopping after this step; press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def head_named(text: str) -> tuple[int, int]:
    """Layer and head out of ``9.6`` or ``a9.h6``.

    Raises:
        ValueError: it is neither.
    """
    layer, _, head = text.lower().removeprefix("a").partition(".")
    head = head.removeprefix("h")
    if not (layer.isdecimal() and head.isdecimal()):
        raise ValueError(f"'{text}' is not a head; write layer.head, such as 9.6.")
    return int(layer), int(head)


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:,.{digits}f}"
