"""``python -m workbench.circuits.known.programs [TASK ...] [--out FOLDER]``: learn the programs again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from workbench.circuits.known.programs import EPOCHS, LEARNED, ProgramTask, agreement, emit, find, learn, names

_INTERRUPTED = 130  # exit status that shells give a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn the programs that are asked for, one after the other; 0, or 1 for a name that is no task."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.circuits.known.programs",
        description="Learn the programs that come with the workbench.",
    )
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help=f"which: {', '.join(names())}; all where none is given"
    )
    parser.add_argument("--out", type=Path, default=LEARNED, help="where the files go; into the package by default")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="rounds through the examples")
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        # All names are looked up first: a slip should not show after ten minutes of training.
        for task in [find(key) for key in given.tasks or names()]:
            console.print(_made(task, given.out, given.epochs, console), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        print("Interrupted; the program that was being learned is as it was before.", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _made(task: ProgramTask, out: Path, epochs: int, console: Console) -> str:
    """Learn one program: what to say about it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(task.key, total=None)
        learned = learn(
            task, seed=task.seed, epochs=epochs, progress=lambda p: bar.update(line, completed=p.done, total=p.total)
        )
    text = emit(learned.program, learned.figures["accuracy"])
    card = learned.card() | {"agreement": agreement(learned, text)}
    _write(out / f"{task.module}.py", text)
    _write(out / f"{task.module}.card.json", json.dumps(card, indent=1) + "\n")
    figures = ", ".join(f"{name} {figure:.4f}" for name, figure in card["figures"].items())
    return f"{task.key}: {figures}; {card['seconds']} s, {len(card['edges'])} edges, in '{out}'"


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written ({error.strerror or error}).") from error


if __name__ == "__main__":
    sys.exit(main())
