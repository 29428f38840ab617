"""``python -m workbench.models.zoo [KEY ...] [--out FOLDER]``: train the models of the zoo again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from workbench.models.registry import ZOO
from workbench.models.zoo import ZooModel, find, make, names

_INTERRUPTED = 130  # exit status that shells give a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the models that are asked for, one after the other; 0, or 1 where one was not good enough."""
    return run(arguments, names(), lambda key: find(key), ZOO, "python -m workbench.models.zoo")


def run(
    arguments: Sequence[str] | None, known: Sequence[str], find: Callable[[str], ZooModel], home: Path, program: str
) -> int:
    """The command that trains models again.

    Args:
        arguments: of the command line; those of this process if None.
        known: names of all models.
        find: the record of a name.
        home: where their folders go if nothing else is said.
        program: what the command is called.

    Returns:
        Its exit status.
    """
    parser = argparse.ArgumentParser(prog=program, description="Train the small models that come with the workbench.")
    parser.add_argument("keys", nargs="*", metavar="KEY", help=f"which: {', '.join(known)}; all where none is given")
    parser.add_argument("--out", type=Path, default=home, help="where their folders go; into the package by default")
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        # All names are looked up first: a slip should not show after ten minutes of training.
        for record in [find(key) for key in given.keys or known]:
            console.print(_made(record, given.out, console), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        print("Interrupted; the model that was in training is as it was before.", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _made(record: ZooModel, out: Path, console: Console) -> str:
    """Train one model: what to say about it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(record.key, total=record.schedule.steps, loss=float("nan"))
        card = make(
            record, out, progress=lambda step, steps, loss: bar.update(task, completed=step, total=steps, loss=loss)
        )
    figures = ", ".join(f"{name} {figure:.4f}" for name, figure in card["figures"].items())
    return f"{record.key}: {figures}; {card['seconds']} s, {card['bytes']:,} bytes in '{out / record.key}'"


if __name__ == "__main__":
    sys.exit(main())
