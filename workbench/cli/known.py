"""``workbench known``: models whose circuit is known, and how well methods find it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import (
    AsJson,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
    stoppable,
)

if TYPE_CHECKING:
    from workbench.circuits.known.examine import Examination

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


@known.command("show")
def known_show(
    name: Annotated[str, typer.Argument(help="Name, as the list has it.")],
    as_json: AsJson = False,
) -> None:
    """Show what a model computes, its sizes and the edges of its circuit."""
    from workbench.circuits.known import known_models
    from workbench.models.lookup import pick

    record = pick(known_models(), name, "known model")
    made = record.load()
    about: dict[str, Any] = {"key": record.key, "title": record.title, "kind": record.kind}
    about |= _of_model(made) if record.examinable else _of_program(made)
    if as_json:
        print_json(about)
        return
    facts = [("Name", record.key), ("Computes", record.title), ("Kind", record.kind)]
    print_facts([*facts, *((_label(key), _plain(value)) for key, value in about.items() if key not in _NOT_FACTS)])
    if "program" in about:
        say("")
        for line in about["program"].splitlines():
            say(line)
    say("")
    rows = [(edge["name"], edge.get("carries", ""), edge.get("note", "")) for edge in about["edges"]]
    say(f"The {len(rows)} edges of its circuit:")
    print_table(["edge", "carries", ""] if record.examinable else ["edge", "", ""], rows)


_NOT_FACTS = ("key", "title", "kind", "edges", "program")


def _of_model(made: Any) -> dict[str, Any]:
    """Sizes, program and edges of a compiled or trained model."""
    from workbench import known_view
    from workbench.circuits.activations import graph_of

    cfg, high = made.model.cfg, known_view.compiled_of(made)
    edges = []
    for name in sorted(made.true_edges):
        edge: dict[str, Any] = {"name": name, "length_only": name in made.length_edges}
        if name in made.length_edges:
            edge["note"] = "depends on the length only: pairs of one length do not show it"
        if high is not None:
            edge["carries"] = ", ".join(known_view.carried(high, name))
        edges.append(edge)
    sizes = {
        "layers": cfg.n_layers,
        "heads": cfg.n_heads,
        "dimensions": cfg.d_model,
        "hidden": cfg.d_mlp,
        "causal": cfg.causal,
        "all_edges": graph_of(made.model).n_edges,
    }
    if high is not None:
        sizes |= {"tokens": list(high.vocab), "longest_input": high.max_len}
        sizes["program"] = known_view.listing(high.program)
    return sizes | {"edges": edges}


def _of_program(program: Any) -> dict[str, Any]:
    """Words, accuracy and data flow of a learned program."""
    task, card = program.task, program.card
    return {
        "words": list(task.words),
        "answers": list(task.classes),
        "longest_input": task.length,
        "causal": task.causal,
        "accuracy": card["figures"]["accuracy"],
        "accuracy_in_the_paper": card["paper"],
        "whole_inputs": card["figures"]["whole"],
        "edges": [{"name": name} for name in sorted(program.true_edges)],
    }


def _label(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _plain(value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2%}"
    return " ".join(map(str, value)) if isinstance(value, list) else value


@known.command("check")
def known_check(
    names: Annotated[list[str] | None, typer.Argument(help="Names, as the list has them; all if left out.")] = None,
    method: Annotated[str, typer.Option(help="Key of the method.")] = "eap-ig",
    n: Annotated[int, typer.Option(help="Pairs of inputs.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the inputs and of the controls.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A folder for the figures: hits and misses, and the curves.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the figures: svg, png, pdf, html, json, graphml or dot; else svg.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a method on models whose circuit is known, and say how well it finds it."""
    from workbench.circuits import methods
    from workbench.circuits.known import known_models
    from workbench.models.lookup import pick

    pick(methods(), method, "method")
    every = known_models()
    chosen = [pick(every, name, "known model") for name in names or []] or [one for one in every if one.examinable]
    for record in chosen:
        if not record.examinable:
            raise ValueError(f"'{record.key}' is a learned program: it has no model to run a method on.")
    kind = _checked(out, format)
    rows: list[dict[str, Any]] = []
    with progress_bar() as step, stoppable() as stop:
        for done, record in enumerate(chosen):
            step(done, len(chosen), "examining")
            rows.append(_examined(record, method, n, seed, out, kind))
            step(done + 1, len(chosen), "examining")
            if stop():
                break
    if as_json:
        print_json(rows)
        return
    columns = ["name", "edges#", "true#", "AUROC#", "untrained#", "AP#", "chance#", "node AUROC#", ""]
    print_table(columns, [_row(row) for row in rows], title=f"{method} on {n} pairs of inputs")
    if out is not None:
        say(f"Wrote {sum(len(row.get('files', [])) for row in rows)} files to {out}")


def _checked(out: Path | None, format: str | None) -> str:
    """The figures' format, and their folder made: what is wrong with either is said before the work.

    Raises:
        ValueError: an unknown format, a format without a folder, or a folder that cannot be made.
    """
    from workbench.export import FORMATS
    from workbench.models.lookup import pick

    if format is not None:
        pick(FORMATS, format, "format")
        if out is None:
            raise ValueError("Say with --out in which folder the figures are to be.")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise ValueError(f"Cannot make the folder '{out}' ({reason}); choose another for --out.") from error
    return format or "svg"


def _examined(record: Any, method: str, n: int, seed: int, out: Path | None, kind: str) -> dict[str, Any]:
    """Figures of one model, or why there are none."""
    from workbench.circuits.known.examine import examine_made

    try:
        found = examine_made(record.load(), method, n=n, seed=seed)
    except ValueError as error:
        return {"key": record.key, "error": str(error)}
    figures = {key: value for key, value in asdict(found).items() if key not in ("scores", "untrained", "truth")}
    row = {"key": record.key, **figures, "truth": asdict(found.truth), "untrained": asdict(found.untrained)}
    return row if out is None else row | {"files": _written(record.key, found, seed, out, kind)}


def _written(key: str, found: Examination, seed: int, out: Path, kind: str) -> list[str]:
    """Write the figures; the files' names. What is no circuit has no GraphML and no DOT."""
    from workbench import export, known_view
    from workbench.models.lookup import pick

    format = pick(export.FORMATS, kind, "format")
    shown = {"circuit": known_view.hits(key, found, seed=seed)}
    if format.needs != "circuit":
        curves = known_view.curves(key, found, seed=seed)
        shown |= dict(zip(("roc", "precision-recall"), curves.values(), strict=True))
    files = []
    for name, picture in shown.items():
        path = out / f"{key}-{found.method}-{name}{format.extension}"
        files.append(str(export.write(path, export.export(picture, kind))))
    return files


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
