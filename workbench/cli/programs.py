"""``workbench learn-program``: learn a discrete transformer and write it out as a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import AsJson, InterruptionError, print_facts, print_json, progress_bar, stoppable

if TYPE_CHECKING:
    from workbench.circuits.known.programs import Learned, ProgramTask
    from workbench.circuits.progress import Progress


def learn_program(
    task: Annotated[
        str,
        typer.Argument(help="What to learn: reverse, hist, double-hist, sort, most-freq, dyck-1, dyck-2 or induction."),
    ],
    out: Annotated[Path, typer.Option(help="The Python file.")],
    epochs: Annotated[int | None, typer.Option(help="Rounds through the examples; 32 if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of first weights, batches and noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn a task as a readable program and write it to a Python file that runs on its own."""
    from workbench.circuits.known import programs
    from workbench.export import write

    found = programs.find(task)
    if out.exists() and not force:
        raise ValueError(f"'{out}' is there already; choose another --out, or --force to replace it.")
    if not out.parent.is_dir():
        raise ValueError(f"There is no folder '{out.parent}'; make it or choose another --out.")
    with progress_bar() as bar, stoppable() as stopped:

        def step(progress: Progress) -> bool:
            bar(progress.done, progress.total, progress.what)
            return not stopped()

        learned = programs.learn(found, seed=seed, epochs=programs.EPOCHS if epochs is None else epochs, progress=step)
    text = programs.emit(learned.program, learned.figures["accuracy"])
    agreement = programs.agreement(learned, text)
    path = write(out, text)
    if as_json:
        print_json(learned.card() | {"agreement": agreement, "file": str(path)})
    else:
        _print(found, learned, agreement, path)
    if not learned.complete:
        raise InterruptionError(f"Stopped after {learned.steps:,} steps; the best program so far is in '{path}'.")


def _print(task: ProgramTask, learned: Learned, agreement: float, path: Path) -> None:
    card, figures = learned.card(), learned.figures
    print_facts(
        [
            ("Task", f"{task.key}: {task.description}"),
            ("Accuracy", f"{figures['accuracy']:.2%} of held-out answers; {task.paper:.2%} in the paper"),
            ("Without error", f"{figures['whole']:.2%} of held-out inputs"),
            ("As the network", f"{agreement:.2%} of held-out inputs"),
            ("Circuit", f"{len(card['live'])} variables, {len(card['edges'])} edges"),
            ("Training", f"{learned.steps:,} steps, {learned.seconds:.0f} s of processor time, seed {learned.seed}"),
            ("File", str(path)),
        ]
    )
