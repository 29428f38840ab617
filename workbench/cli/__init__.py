"""The command line: ``workbench --help``.

Commands live in modules by topic. Whatever takes long to import (torch, the figures) is imported by the command
that needs it, so that ``--help`` and the run list answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from workbench.cli import (
    attention,
    bench,
    decompose,
    discovery,
    examine,
    interchange,
    keep,
    known,
    lens,
    library,
    models,
    paths,
    programs,
)
from workbench.cli.console import INTERRUPTED, InterruptionError, complain, say

app = typer.Typer(
    name="workbench",
    help="Find the circuit that a language model uses, check it, look at it, export it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(library.app)
app.add_typer(models.models, name="models")
app.command()(library.tasks)
app.command()(library.methods)
app.command()(discovery.discover)
app.command()(discovery.evaluate)
app.command()(keep.export)
app.command("import")(interchange.import_file)
app.command()(examine.examine)
app.command()(decompose.decompose)
app.command()(attention.attention)
app.command()(paths.paths)
app.command()(lens.lens)
app.command()(bench.bench)
app.add_typer(known.known, name="known")
app.command("learn-program")(programs.learn_program)
app.add_typer(keep.runs, name="runs")


def _version(wanted: bool) -> None:
    if wanted:
        from workbench.runs.store import version

        say(f"workbench {version()}")
        raise typer.Exit


@app.callback()
def workbench(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the circuit that a language model uses, check it, look at it, export it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 for a failure, 2 for bad input, 130 for Ctrl-C.

    An error is one line on standard error. With ``WORKBENCH_DEBUG=1`` its traceback is shown too.
    """
    # Waiting threads sleep instead of spinning. Spinning starves whatever else computes on the same cores: on two
    # cores a second busy process made a forward pass 15 times slower, not 2. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        if status == INTERRUPTED:  # typer's answer to a KeyboardInterrupt
            raise InterruptionError("Stopped.")
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, InterruptionError) as error:
        complain(str(error) or "Stopped.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("WORKBENCH_DEBUG", "0") not in ("", "0"):
            import traceback

            traceback.print_exc()
        # typer brings its own click from version 0.29 on and took another's before: told by what it can do
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _fail(error.format_message(), int(error.exit_code))
        if isinstance(error, ValueError):
            return _fail(str(error), 2)
        kind = type(error).__name__
        return _fail(f"{kind}: {error} (set WORKBENCH_DEBUG=1 to see where it comes from)", 1)


def _fail(text: str, status: int) -> int:
    if text:  # a bare group shows its help and has nothing to add
        complain(f"Error: {text}")
    return status
