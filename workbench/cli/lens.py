"""``workbench lens``: what a model would answer early, and what each part writes straight into the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    complain,
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
    from workbench.lens import TunedLens
    from workbench.models import Transformer
    from workbench.reading import Found, Request

_SHOWN = 12  # components; --json has them all


def lens(
    text: Annotated[str, typer.Argument(help="The text; for a vision model an image file or the number of a sample.")],
    model: Annotated[str, typer.Option(help="Name, local folder or hub id.")] = "smollm2-135m",
    target: Annotated[
        list[str] | None,
        typer.Option(help="An answer to follow; may be repeated. The model's own first answer if left out."),
    ] = None,
    against: Annotated[str, typer.Option(help="What direct attribution subtracts from the first target.")] = "",
    k: Annotated[int, typer.Option("--k", help="Most likely answers to keep.", min=1)] = 5,
    sublayers: Annotated[bool, typer.Option("--sublayers", help="Read behind each attention as well.")] = False,
    tuned: Annotated[Path | None, typer.Option(help="File of a trained lens, to read through as well.")] = None,
    at: Annotated[int | None, typer.Option(help="Position of the answer, negative from the end; the last.")] = None,
    out: OutFolder = None,
    format: PictureFormats = "svg",
    as_json: AsJson = False,
) -> None:
    """Read a model's answer behind every layer, and say which heads and MLPs write it."""
    from workbench import lens as lenses
    from workbench import reading
    from workbench.models import load

    formats, out = picture_formats(format), checked_folder(out)
    with progress_bar() as bar:
        loaded = load(model, progress=bar)
    trained = None if tuned is None else lenses.load_lens(tuned, loaded)
    file = "" if tuned is None else str(tuned)
    request = reading.Request(model, text, tuple(target or ()), against, k, sublayers, file, at)
    reading.check(request, loaded)
    found = _work(request, loaded, trained)
    files = write_pictures(out, reading.pictures(found), found.to_json(), formats) if out is not None else []
    if as_json:
        print_json(found.to_json() | {"files": files})
        return
    _print(found)
    for name in files:
        say(f"Wrote {name}")


def _work(request: Request, model: Transformer, tuned: TunedLens | None) -> Found:
    """What was found, with Ctrl-C as a stop that keeps what is done."""
    from workbench import reading
    from workbench.circuits.progress import Stopped

    try:
        with progress_bar() as bar, stoppable() as pressed:

            def step(at: Progress) -> bool:
                bar(at.done, at.total, at.what)
                return not pressed()

            found = reading.run(request, model, tuned=tuned, progress=step)
    except Stopped:
        raise InterruptionError("Stopped before there was anything to keep.") from None
    if not found.complete:
        complain("Stopped: what is shown is not complete.")
    return found


def _print(found: Found) -> None:
    both = [found.logit] if found.tuned is None else [found.logit, found.tuned]
    first = found.logit
    p = found.at
    words = [first.top_words.get(i, str(i)) for i in first.targets[0, p].tolist()]
    where = "" if not first.positions else f" at {first.names[0][first.positions[p]]!r}"
    print_facts([("model", first.model), ("read", f"{' and '.join(one.title for one in both)}{where}")])
    columns, rows = ["behind"], [[place] for place in first.places]
    for one in both:
        columns += [f"{one.title}: first", "p#", "entropy#"]
        for word in words:
            columns += [f"p({word.strip()})#", "rank#"]
        for i, row in enumerate(rows):
            best = int(one.top[i, 0, p, 0])
            row += [repr(one.top_words.get(best, str(best))), number(float(one.top_probs[i, 0, p, 0]))]
            row.append(number(float(one.entropy[i, 0, p]), 2))
            for column in range(len(words)):
                row += [number(float(one.probs[i, 0, p, column])), f"{int(one.ranks[i, 0, p, column]):,}"]
    print_table(columns, rows)
    settled = int(found.depth.settled[0, p])
    say(f"The first answer stays from {first.places[settled]} on.")
    if found.direct is not None:
        told = [(name, number(value)) for name, value in found.direct.top(_SHOWN)]
        whole = number(float(found.direct.whole[0]))
        print_table(["component", "logits#"], told)
        say(f"These write most straight into {found.direct.target}, {whole} in all.")
