"""``workbench known``: models whose circuit is known, and how well methods find it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from workbench.cli.console import AsJson, number, print_json, print_table, progress_bar, stoppable

known = typer.Typer(help="List models whose circuit is known, or examine a method on them.", no_args_is_help=True)


@known.command("list")
def known_list(as_json: AsJson = False) -> None:
    """List the models whose circuit is known."""
    from workbench.circuits.known import known_models

    rows = [{"key": record.key, "title": record.title, "kind": record.kind} for record in known_models()]
    if as_json:
        print_json(rows)
        return
    print_table(["name", "kind", "what it computes"], [(row["key"], row["kind"], row["title"]) for row in rows])


@known.command("check")
def known_check(
    names: Annotated[list[str] | None, typer.Argument(help="Names, as the list has them; all if left out.")] = None,
    method: Annotated[str, typer.Option(help="Key of the method.")] = "eap-ig",
    n: Annotated[int, typer.Option(help="Pairs of inputs.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the controls.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a method on models whose circuit is known, and say how well it finds it."""
    from workbench.circuits import methods
    from workbench.circuits.known import known_models
    from workbench.models.lookup import pick

    pick(methods(), method, "method")
    records = known_models()
    chosen = [pick(records, name, "known model") for name in names] if names else records
    rows: list[dict[str, Any]] = []
    with progress_bar() as step, stoppable() as stop:
        for done, record in enumerate(chosen):
            step(done, len(chosen), "examining")
            rows.append(_examined(record, method, n, seed))
            step(done + 1, len(chosen), "examining")
            if stop():
                break
    if as_json:
        print_json(rows)
        return
    columns = ["name", "edges#", "true#", "AUROC#", "untrained#", "AP#", "chance#", "node AUROC#", ""]
    print_table(columns, [_row(row) for row in rows], title=f"{method} on {n} pairs of inputs")


def _examined(record: Any, method: str, n: int, seed: int) -> dict[str, Any]:
    """Figures of one model, or why there are none."""
    from workbench.circuits.known.examine import examine

    try:
        made = record.load()
        # Pairs of equal length cannot show the edges that carry the length alone.
        shown = made.true_edges - made.length_edges
        found = examine(made.model, made.task(n, seed), shown, method, seed=seed)
    except ValueError as error:
        return {"key": record.key, "error": str(error)}
    figures = {key: value for key, value in asdict(found).items() if key not in ("scores", "untrained", "truth")}
    return {"key": record.key, **figures, "truth": asdict(found.truth), "untrained": asdict(found.untrained)}


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    if "error" in row:
        return (row["key"], "", "", "", "", "", "", "", row["error"])
    truth, untrained = row["truth"], row["untrained"]
    return (
        row["key"],
        truth["n_edges"],
        truth["n_true"],
        number(truth["auroc"]),
        number(untrained["auroc"]),
        number(truth["average_precision"]),
        number(truth["chance_average_precision"]),
        number(truth["node_auroc"]),
        "",
    )
