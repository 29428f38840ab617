"""``workbench export`` and ``workbench runs``: what was found before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import (
    AsJson,
    Store,
    complain,
    head_named,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
)
from workbench.runs import Run, RunInfo, RunStore

if TYPE_CHECKING:
    from workbench.export import Exportable

RunName = Annotated[str, typer.Argument(help="Id of a run, the start of it, or a run's folder.")]
RunId = Annotated[str, typer.Argument(help="Id of a run, whole.")]
RunsFolder = Annotated[Path | None, typer.Option("--store", help="The run store; the user's own if left out.")]

FIGURES = ("circuit", "curve", "attention")

runs = typer.Typer(help="List, show, rename or delete runs.", invoke_without_command=True)


def export(
    run: RunName,
    format: Annotated[
        str | None,
        typer.Option(
            help="svg, png, pdf, html, json, graphml, dot, eap-ig, eap-ig-pt, mib, mib-nodes or mib-circuits; "
            "else what --out ends with, or svg."
        ),
    ] = None,
    figure: Annotated[str, typer.Option(help="What to show: circuit, curve or attention.")] = "circuit",
    head: Annotated[str | None, typer.Option(help="Layer and head of the attention, such as 9.6.")] = None,
    prompt: Annotated[int, typer.Option(help="Which prompt of the run the attention is on, from 0.")] = 0,
    edges: Annotated[int | None, typer.Option(help="Edges before pruning; the run's own if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file; by default named after the run, here.")] = None,
    store: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's circuit, curve or attention to a file."""
    from workbench import export as files
    from workbench.cli.interchange import FORMS, export_foreign
    from workbench.views import circuit_view, curve_view

    if format in {form.key for form in FORMS}:
        if figure != "circuit":
            raise ValueError(f"Only a circuit can be written as {format}; choose another --format for the {figure}.")
        written = export_foreign(RunStore(store).open(run), str(format), edges, out)
        print_json(written) if as_json else say(f"Wrote {written['file']} ({written['bytes'] / 1000:,.0f} kB)")
        return
    kinds = {record.key: record for record in files.FORMATS}
    key = format or (out.suffix.lstrip(".").lower() if out is not None and out.suffix else "svg")
    if key not in kinds:
        files.export(files.Exportable(), key)  # says what is wrong and what is close
    if figure not in FIGURES:
        raise ValueError(f"Unknown figure '{figure}'; choose one of {', '.join(FIGURES)}.")
    if figure != "circuit" and kinds[key].needs == "circuit":
        raise ValueError(f"Only a circuit can be written as {key}; choose another --format for the {figure}.")
    found = RunStore(store).open(run)
    path = out or Path(f"{found.id}{'' if figure == 'circuit' else '-' + figure}{kinds[key].extension}")
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder; name a file, such as {path / (found.id + kinds[key].extension)}.")
    if figure == "circuit":
        shown = circuit_view(found, edges)
    else:
        shown = curve_view(found) if figure == "curve" else _attention(found, head, prompt)
    data = files.export(shown, key)
    files.write(path, data)
    if as_json:
        print_json({"run": found.id, "file": str(path), "format": key, "figure": figure, "bytes": len(data)})
    else:
        say(f"Wrote {path} ({len(data) / 1000:,.0f} kB)")


def _attention(run: Run, head: str | None, prompt: int) -> Exportable:
    """The pattern of one head on one clean prompt of the run; needs the model."""
    from workbench import jobs
    from workbench.views import attention_view, prompt_of

    layer, index = _place(head, run)
    prompt_of(run, prompt)  # a wrong number is said before the model is loaded
    with progress_bar() as bar:
        model = jobs.model_of(run, bar)
    return attention_view(run, model, layer, index, prompt=prompt)


def _place(head: str | None, run: Run) -> tuple[int, int]:
    """Layer and head out of ``9.6`` or ``a9.h6``.

    Raises:
        ValueError: it is neither, or the model has no such head.
    """
    if head is None:
        raise ValueError("Say which head's attention to show, such as --head 9.6.")
    layer, index = head_named(head)
    graph = run.graph
    if layer >= graph.n_layers or index >= graph.n_heads:
        size = f"layers 0 to {graph.n_layers - 1} and heads 0 to {graph.n_heads - 1}"
        raise ValueError(f"There is no head {head}: the model has {size}.")
    return layer, index


@runs.callback()
def runs_default(context: typer.Context, store: Store = None, as_json: AsJson = False) -> None:
    """List, show, rename or delete runs."""
    if context.invoked_subcommand is None:
        runs_list(store, as_json)


@runs.command("list")
def runs_list(store: Store = None, as_json: AsJson = False) -> None:
    """List the runs, newest first."""
    folder = RunStore(store)
    found, broken = folder.scan()
    unfinished = [info.id for info in found if info.status == "interrupted"]
    for sentence in broken:
        complain(sentence)
    if as_json:
        print_json([_summary(info) for info in found])
    elif not found:
        say(f"No runs in {folder.root}; make one with: workbench discover")
    else:
        rows = [_summary_row(info) for info in found]
        print_table(
            ["run", "status", "model", "task", "edges#", "faithful#", "CMD#", "CPR#", "when (UTC)", "title"], rows
        )
        if unfinished:
            say(f"Go on with an interrupted run: workbench discover --resume {unfinished[0]}")


def _summary(info: RunInfo) -> dict[str, Any]:
    """A run without its long parts."""
    long = ("prompts", "curve", "graph", "scores", "check", "pid")
    areas = {key: (info.curve or {}).get(key) for key in ("cmd", "cpr")}
    return {key: value for key, value in info.to_json().items() if key not in long} | areas


def _summary_row(info: RunInfo) -> tuple[object, ...]:
    report: Mapping[str, Any] = info.report or {}
    curve: Mapping[str, Any] = info.curve or {}
    return (
        info.id,
        _status(info),
        info.model.get("name", ""),
        info.task.get("name", ""),
        report.get("n_edges", "–"),
        number(report.get("faithfulness"), 2),
        number(curve.get("cmd")),
        number(curve.get("cpr"), 2),
        info.created[:16].replace("T", " "),
        "" if info.title == info.id else info.title,
    )


def _status(info: RunInfo) -> str:
    """The status; while it runs, how far it is."""
    done, total = info.progress.get("done"), info.progress.get("total")
    return f"running {done}/{total}" if info.status == "running" and total else info.status


@runs.command("show")
def runs_show(run: RunName, store: Store = None, as_json: AsJson = False) -> None:
    """Show what a run was asked and what it found."""
    found = RunStore(store).open(run)
    if as_json:
        print_json(found.info.to_json())
        return
    info = found.info
    from workbench.cli.discovery import print_run

    facts = [("Title", info.title), ("Status", _status(info)), ("Error", info.error)]
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    facts += [("Began", info.created), ("Ended", info.finished), ("Versions", versions)]
    print_facts(facts)
    print_run(found)


@runs.command("rename")
def runs_rename(
    run: RunId,
    title: Annotated[str, typer.Argument(help="The new title; the id stays.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Give a run a title."""
    info = RunStore(store).rename(run, title)
    if as_json:
        print_json({"run": info.id, "title": info.title})
    else:
        say(f"{info.id} is now called: {info.title}")


@runs.command("delete")
def runs_delete(
    run: Annotated[list[str], typer.Argument(help="Ids of runs, whole.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs for good."""
    folder = RunStore(store)
    for name in run:
        folder.folder_of(name)  # a name that is wrong is said before anything is deleted
    deleted = [folder.delete(name) for name in run]
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"Deleted {', '.join(deleted)}")
