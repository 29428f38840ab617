"""``workbench bench``: methods against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    complain,
    number,
    print_table,
    progress_bar,
    say,
    stoppable,
)

if TYPE_CHECKING:
    from workbench.bench import BenchTable
    from workbench.circuits import Progress
    from workbench.circuits.activations import Ablation


def bench(
    methods: Annotated[str, typer.Option(help="Keys of methods with commas, or all.")] = "eap,eap-ig",
    tasks: Annotated[str, typer.Option(help="Keys of tasks with commas, or none.")] = "ioi",
    models: Annotated[str, typer.Option(help="Names, local folders or hub ids with commas, or none.")] = "smollm2-135m",
    known: Annotated[str, typer.Option(help="Models whose circuit is known, with commas, or all.")] = "none",
    n: Annotated[int, typer.Option(help="Pairs of prompts.")] = 32,
    seeds: Annotated[str, typer.Option(help="Seeds of the prompts, with commas.")] = "0",
    ablation: Annotated[str, typer.Option(help="What edges outside a circuit carry.")] = "resample",
    untrained: Annotated[int, typer.Option(help="Random models of the shape of each known one.", min=1)] = 3,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="An option of a method, as method.name=value.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for cells, table and figure; the same one goes on.")] = Path(
        "bench"
    ),
    as_json: AsJson = False,
) -> None:
    """Run methods on tasks, models and known models; write a table and a figure."""
    from workbench.bench import run, save
    from workbench.circuits import methods as every

    chosen = [record.key for record in every()] if methods.strip() == "all" else _listed(methods)
    with stoppable() as stop, progress_bar() as bar:

        def progress(step: Progress) -> bool:
            bar(step.done, step.total, step.what)
            return not stop()

        table = run(
            chosen,
            _listed(tasks),
            _listed(models),
            known=_listed(known),
            n=n,
            seeds=_numbers(seeds),
            ablation=cast("Ablation", ablation),  # run() refuses other words
            options=_options(settings or []),
            untrained=untrained,
            out=out,
            progress=progress,
        )
    paths = save(table, out)
    if as_json:
        typer.echo(table.to_json(), nl=False)
    else:
        _print(table)
        say(f"Wrote {', '.join(path.name for path in paths)} in {out}")
    if not table.complete:
        raise InterruptionError(f"Stopped; {len(table.cells)} cells are kept in {out}, the same command goes on.")


def _listed(text: str) -> list[str]:
    """``a,b`` as ``["a", "b"]``; ``none`` as nothing."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    return [] if names == ["none"] else names


def _numbers(text: str) -> list[int]:
    """``0,1`` as ``[0, 1]``.

    Raises:
        ValueError: a part is no whole number.
    """
    try:
        return [int(part) for part in _listed(text)]
    except ValueError:
        raise ValueError(f"'--seeds {text}' is not whole numbers with commas; write for example --seeds 0,1.") from None


def _options(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """``["eap-ig.steps=3"]`` as ``{"eap-ig": {"steps": 3}}``.

    Raises:
        ValueError: an entry of another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        method, dot, option = name.rpartition(".")
        if not (equals and dot and method and option):
            raise ValueError(f"'--set {pair}' is not method.name=value; write for example --set eap-ig.steps=3.")
        try:
            found.setdefault(method, {})[option] = json.loads(value)
        except ValueError:
            found.setdefault(method, {})[option] = value
    return found


def _print(table: BenchTable) -> None:
    """The cells, for people."""
    tasks = [cell for cell in table.cells if cell.kind == "task" and cell.reason is None]
    if tasks:
        keys = ("cmd", "cpr", "accuracy", "seconds")
        rows = [(c.model, c.task, c.method, c.seed, *(number(c.figures.get(key)) for key in keys)) for c in tasks]
        print_table(["model", "task", "method", "seed#", "CMD#", "CPR#", "accuracy#", "seconds#"], rows)
    known = [cell for cell in table.cells if cell.kind == "known" and cell.reason is None]
    if known:
        keys = ("auroc", "average_precision", "node_auroc", "untrained_auroc")
        rows_known = [(c.model, c.method, c.seed, *(number(c.figures.get(key)) for key in keys)) for c in known]
        print_table(["known model", "method", "seed#", "AUROC#", "AP#", "node AUROC#", "random weights#"], rows_known)
    for cell in table.refused:
        complain(f"{cell.method} on {cell.task}, {cell.model}, seed {cell.seed}: {cell.reason}")
