"""``workbench app``, ``tasks`` and ``methods``: the page, and what there is to choose from."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from workbench.cli.console import AsJson, number, print_json, print_table, progress_bar, say


def app(
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    as_json: AsJson = False,
) -> None:
    """Open the workbench as a page for the browser."""
    page = Path(__file__).resolve().parents[1] / "app" / "main.py"
    if importlib.util.find_spec("streamlit") is None or not page.is_file():
        raise ValueError("The page is not installed; install the workbench again with: pip install mi-workbench")
    _check_free(host, port)
    url = f"http://{host}:{port}"
    if as_json:
        print_json({"url": url})
    else:
        say(f"The workbench opens at {url} (Ctrl-C ends it).")
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(page)]
    command += [f"--server.port={port}", f"--server.address={host}", "--server.headless=true"]
    command += ["--browser.gatherUsageStats=false", "--server.fileWatcherType=none", "--client.toolbarMode=minimal"]
    # The form follows the run that is opened: its widgets have defaults and are filled all the same.
    command += ["--global.disableWidgetStateDuplicationWarning=true"]
    _become(command, quiet=as_json)


def _become(command: list[str], quiet: bool) -> NoReturn:
    """Go on as another program, so that whatever ends us ends it; ``quiet`` keeps it off standard output."""
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if os.name == "posix":
        os.execv(command[0], command)
    raise typer.Exit(subprocess.call(command))  # elsewhere a program cannot be replaced in its process


def _check_free(host: str, port: int) -> None:
    """See that a server could listen there.

    Raises:
        ValueError: the port is taken (the next free one is named), not allowed, or the address is not this machine's.
    """
    try:
        _listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = next((p for p in range(port + 1, min(port + 100, 65536)) if _is_free(host, p)), None)
            hint = f"try: workbench app --port {free}" if free else "choose another with --port."
            raise ValueError(f"Port {port} is in use; {hint}") from None
        reason = error.strerror or str(error)
        raise ValueError(f"Cannot listen on {host}:{port} ({reason}); choose another --host or --port.") from None


def _is_free(host: str, port: int) -> bool:
    try:
        _listen(host, port)
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        if os.name == "posix":  # a port that was just left counts as free, as it does for the server
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def tasks(
    names: Annotated[list[str] | None, typer.Argument(help="Only these tasks, or files of one's own pairs.")] = None,
    model: Annotated[str | None, typer.Option(help="Also measure how well this model does each task.")] = None,
    n: Annotated[int, typer.Option(help="Pairs of prompts to measure on.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the pairs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List the tasks; with a model, how well it does them."""
    from workbench.circuits import tasks as library

    if n < 1:
        raise ValueError(f"A task needs at least one prompt; got --n {n}.")
    rows: list[dict[str, Any]] = [
        {"key": name, "title": r.title, "kinds": list(r.kinds), "description": r.description, "reference": r.reference}
        for name, r in [(name, library.get(name)) for name in names or library.names()]
    ]
    if model is not None:
        _measure(rows, model, n, seed)
        if len(rows) == 1 and "error" in rows[0]:
            raise ValueError(rows[0]["error"])
    if as_json:
        print_json(rows)
        return
    if model is None:
        print_table(
            ["task", "title", "asks a", "what it asks"],
            [(r["key"], r["title"], _kinds(r), r["description"]) for r in rows],
        )
        return
    columns = ["task", "right above wrong#", "top-1#", "metric#", "corrupted#", "metric is the mean", "an example"]
    print_table(columns, [_measured_row(row) for row in rows])


def _measure(rows: list[dict[str, Any]], model: str, n: int, seed: int) -> None:
    """Add to every row an example and the self-check, or why the model cannot be asked."""
    from workbench.circuits import tasks as library
    from workbench.models import load

    with progress_bar() as bar:
        loaded = load(model, progress=bar)
        for i, row in enumerate(rows):
            bar(i, len(rows), "checking tasks")
            if len(rows) > 1 and library.kind_of(loaded) not in row["kinds"]:
                row["error"] = f"asks a {_kinds(row)}"
                continue
            try:
                task = library.load(row["key"], loaded, n=n, seed=seed)
                row |= {"example": task.clean_text[0], "metric_name": task.metric_name}
                row["check"] = asdict(task.check(loaded))
            except ValueError as error:
                row["error"] = str(error)


def _kinds(row: dict[str, Any]) -> str:
    """The kinds of model that a task asks, in words."""
    from workbench.circuits import tasks as library

    return " or ".join(library.KIND_NAMES[kind] for kind in row["kinds"])


def _measured_row(row: dict[str, Any]) -> tuple[object, ...]:
    if "error" in row:
        return (row["key"], "", "", "", "", "", row["error"])
    check = row["check"]
    values = (f"{check['accuracy']:.0%}", f"{check['top1']:.0%}")
    means = (number(check["metric_clean"]), number(check["metric_corrupted"]))
    return (row["key"], *values, *means, row["metric_name"], row["example"])


def methods(
    model: Annotated[str | None, typer.Option(help="Also say which of them can serve this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods that find circuits; with a model, which of them can serve it."""
    from workbench.circuits import methods as all_methods

    rows: list[dict[str, Any]] = [
        {"key": m.key, "title": m.title, "cost": m.cost, "reference": m.reference, "options": m.options}
        for m in all_methods()
    ]
    if model is not None:
        from workbench.models import load

        with progress_bar() as bar:
            loaded = load(model, progress=bar)
        for row, record in zip(rows, all_methods(), strict=True):
            row["serves"] = record.serves(loaded) or "yes"
    if as_json:
        print_json(rows)
        return
    if model is not None:
        print_table(["method", "title", f"serves {model}"], [(m["key"], m["title"], m["serves"]) for m in rows])
        return
    print_table(
        ["method", "title", "cost", "options", "reference"],
        [
            (m["key"], m["title"], m["cost"], ", ".join(f"{k}={v}" for k, v in m["options"].items()), m["reference"])
            for m in rows
        ],
    )
