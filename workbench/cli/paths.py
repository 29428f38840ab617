"""``workbench paths``: what paths of each length, kind and pattern carry of an answer, and the strongest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    complain,
    console,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
    stoppable,
)
from workbench.cli.pictures import OutFolder, PictureFormats, checked_folder, picture_formats, write_pictures

if TYPE_CHECKING:
    from workbench.circuits.progress import Progress
    from workbench.models import Transformer
    from workbench.paths import Ensemble, PatternError, TopPaths
    from workbench.pathways import Found, Request

BY = ("length", "kind")


def paths(
    text: Annotated[str, typer.Argument(help="The text; for a vision model an image file or the number of a sample.")],
    model: Annotated[str, typer.Option(help="Name, local folder or hub id.")] = "smollm2-135m",
    target: Annotated[str, typer.Option(help="A word or a class; the model's own first answer if left out.")] = "",
    against: Annotated[str, typer.Option(help="A second answer, which is subtracted.")] = "",
    keep: Annotated[
        int | None, typer.Option(help="Longest length that is told apart; 8, or all of a model with fewer.", min=0)
    ] = None,
    by: Annotated[str, typer.Option(help="length, or kind: attentions and MLPs counted apart as well.")] = "length",
    query: Annotated[
        list[str] | None, typer.Option(help="A pattern such as 'embed .* a9.h6 m*'; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(help="Single paths to look for; 0 for none.", min=0)] = 20,
    budget: Annotated[int, typer.Option(help="How long to look for them, in ends of paths that are followed.")] = 400,
    longest: Annotated[int | None, typer.Option(help="Sublayers on the longest of them; all if left out.")] = None,
    at: Annotated[int | None, typer.Option(help="Position of the answer, negative from the end; the last.")] = None,
    gradient: Annotated[bool, typer.Option("--gradient", help="Split the gradient by length as well.")] = False,
    out: OutFolder = None,
    format: PictureFormats = "svg",
    as_json: AsJson = False,
) -> None:
    """Split an answer by the paths that lead to it: by length, by kind, by pattern, and one by one."""
    from workbench import pathways
    from workbench.models import load
    from workbench.paths import PatternError

    formats, out = picture_formats(format), checked_folder(out)
    if by not in BY:
        raise ValueError(f"Paths are split by length or by kind, not by '{by}'.")
    with progress_bar() as bar:
        loaded = load(model, progress=bar)
    queries = tuple(query or ())
    request = pathways.Request(
        model, text, target, against, keep, by == "kind", queries, top, budget, longest, at, gradient
    )
    try:
        pathways.check(request, loaded)
    except PatternError as error:
        _point(error)
        raise typer.Exit(2) from None
    found = _work(request, loaded)
    files = write_pictures(out, pathways.pictures(found), found.to_json(), formats) if out is not None else []
    if as_json:
        print_json(found.to_json() | {"files": files})
        return
    _print(found)
    for file in files:
        say(f"Wrote {file}")


def _point(error: PatternError) -> None:
    """The reason, and the pattern with a caret under the place where it goes wrong."""
    complain(f"Error: {error.reason}")
    # Character by character, so that the caret stays under its place.
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in error.pattern)
    lines = console(stderr=True)
    lines.print(f"  {shown}", soft_wrap=True)
    lines.print(f"  {' ' * error.place}^", soft_wrap=True)


def _work(request: Request, model: Transformer) -> Found:
    """What was found, with Ctrl-C as a stop that keeps what is done."""
    from workbench import pathways
    from workbench.circuits.progress import Stopped

    try:
        with progress_bar() as bar, stoppable() as pressed:

            def step(at: Progress) -> bool:
                bar(at.done, at.total, at.what)
                return not pressed()

            found = pathways.run(request, model, progress=step)
    except Stopped:
        raise InterruptionError("Stopped before there was anything to keep.") from None
    if not found.complete:
        complain("Stopped: what is shown is not complete.")
    return found


def _print(found: Found) -> None:
    ens = found.lengths
    whole = float(ens.value.mean())
    print_facts(
        [
            ("model", ens.model),
            ("target", f"{ens.target}: {number(whole)} {ens.unit}"),
            ("held", ens.rule.partition(": ")[2]),
            *(("", note) for note in found.notes),
        ]
    )
    values, biases = ens.by_length.tolist(), ens.bias_by_length
    running = 0.0
    rows = []
    for i, (label, value, count) in enumerate(zip(ens.labels, values, ens.counts, strict=True)):
        running += value
        bias = None if biases is None else float(biases[i]) + (float(ens.readout_bias.mean()) if i == 0 else 0.0)
        rows.append([label, number(value), number(bias), number(running), _many(count)])
    columns = ["sublayers", "carry#", "of it from biases#", "sum so far#", "paths from the embedding#"]
    if biases is None or not (bool(biases.any()) or bool(ens.readout_bias.any())):
        columns, rows = [columns[0], columns[1], *columns[3:]], [[row[0], row[1], *row[3:]] for row in rows]
    print_table(columns, rows, "By length (0: the direct path)")
    if found.kinds is not None:
        _print_kinds(found.kinds)
    if found.queries:
        told = [
            (one.pattern, number(carried := float(one.contribution.mean())), _share(carried, whole), _many(one.n_paths))
            for one in found.queries
        ]
        print_table(["pattern", "carry#", "share#", "paths#"], told, "Patterns")
    if found.top is not None:
        _print_top(found.top, whole)
    if found.gradient is not None:
        mass = found.gradient
        told_mass = [(str(i), number(size)) for i, size in enumerate(mass.mass.mean(0).tolist())]
        told_mass.append(("whole", number(float(mass.whole.mean()))))
        print_table(["sublayers", "norm#"], told_mass, "Gradient by length")


def _print_kinds(ens: Ensemble) -> None:
    assert ens.kinds is not None
    table = ens.kinds.tolist()
    columns = ["attentions \\ MLPs", *(f"{j}#" for j in range(len(table)))]
    rows = [
        [str(i), *(number(value) if i + j <= ens.keep else "" for j, value in enumerate(row))]
        for i, row in enumerate(table)
    ]
    print_table(columns, rows, "By kind")


def _print_top(top: TopPaths, whole: float) -> None:
    rows = [(str(i), number(one.mean), _share(one.mean, whole), one.name) for i, one in enumerate(top.paths)]
    print_table(["#", "carries#", "share#", "path"], rows, "Strongest paths")
    sure = "No other path carries more." if top.proven else "A search found them; others may carry as much."
    say(f"Together {_share(sum(one.mean for one in top.paths), whole)} of the target. {sure}")


def _share(value: float, whole: float) -> str:
    return f"{value / whole:.1%}" if whole else "–"


def _many(count: int) -> str:
    """A number of paths, which may pass what floats hold."""
    digits = str(count)
    return f"{count:,}" if len(digits) <= 6 else f"{digits[0]}.{digits[1]}e{len(digits) - 1}"
