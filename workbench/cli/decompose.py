"""``workbench decompose``: what words, patches, heads or MLPs give to an answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from workbench.decomposing import Compared, Request, Result
    from workbench.models import Transformer

_SHOWN = 20  # rows of a table; --json has them all


def decompose(
    text: Annotated[str, typer.Argument(help="The text; for a vision model an image file or the number of a sample.")],
    model: Annotated[str, typer.Option(help="Name, local folder or hub id.")] = "smollm2-135m",
    target: Annotated[
        str,
        typer.Option(
            help="'logit: Mary - John', 'class: 7', 'similarity', or a place such as a9.h6<q>@-1; "
            "the model's own answer if left out."
        ),
    ] = "",
    to: Annotated[str, typer.Option(help="A second text, for the similarity of an encoder of sentences.")] = "",
    sources: Annotated[
        str, typer.Option(help="words, tokens, patches, heads, mlps or nodes (heads and MLPs).")
    ] = "words",
    source: Annotated[
        list[str] | None,
        typer.Option(help="One source: a phrase of the text, or a place such as a9.h6 or input@2-5; may be repeated."),
    ] = None,
    rule: Annotated[str, typer.Option(help="Key of a decomposition rule; see the documentation.")] = "",
    baseline: Annotated[str, typer.Option(help="What sources are compared with: zero, mean or blank.")] = "",
    tree: Annotated[bool, typer.Option("--tree", help="Join neighbouring words or patches to a tree as well.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put occlusion, integrated gradients and SHAP beside the rules.")
    ] = False,
    out: OutFolder = None,
    format: PictureFormats = "svg",
    as_json: AsJson = False,
) -> None:
    """Split an answer into what each word, patch, head or MLP gives to it."""
    from workbench import decomposing
    from workbench.models import load

    formats, out = picture_formats(format), checked_folder(out)
    with progress_bar() as bar:
        loaded = load(model, progress=bar)
    request = _request(loaded, model, text, target, to, source or sources, rule, baseline, tree)
    decomposing.check(request, loaded)
    result, beside = _work(request, loaded, compare)
    files = _write(result, beside, out, formats) if out is not None else []
    if as_json:
        compared = {"compared": [one.to_json() for one in beside[1]]} if beside else {}
        print_json(result.to_json() | compared | {"files": files})
        return
    _print(result)
    if beside:
        _print_compared(*beside)
    for file in files:
        say(f"Wrote {file}")


def _request(
    loaded: Transformer,
    model: str,
    text: str,
    target: str,
    to: str,
    sources: str | list[str],
    rule: str,
    baseline: str,
    tree: bool,
) -> Request:
    from workbench.decomposing import Request

    vision = loaded.images is not None
    return Request(
        model=model,
        text="" if vision else text,
        image=text if vision else "",
        other=to,
        sources=sources if isinstance(sources, str) else tuple(sources),
        target=target,
        rule=rule,
        baseline=baseline,
        tree=tree,
    )


def _work(
    request: Request, model: Transformer, compare: bool
) -> tuple[Result, tuple[tuple[str, ...], list[Compared]] | None]:
    """The result, with Ctrl-C as a stop that keeps what is done."""
    from workbench import decomposing
    from workbench.circuits.progress import Stopped

    try:
        with progress_bar() as bar, stoppable() as pressed:

            def step(at: Progress) -> bool:
                bar(at.done, at.total, at.what)
                return not pressed()

            result = decomposing.run(request, model, step)
            found = decomposing.compare(request, model, (), step) if compare and result.complete else None
    except Stopped:
        raise InterruptionError("Stopped before there was anything to keep.") from None
    if not result.complete:
        complain("Stopped: what is shown is not complete.")
    return result, found


def _write(
    result: Result, beside: tuple[tuple[str, ...], list[Compared]] | None, out: Path, formats: list[str]
) -> list[str]:
    from workbench import decomposing

    meta: dict[str, Any] = result.to_json()
    if beside:
        meta["compared"] = [one.to_json() for one in beside[1]]
    return write_pictures(out, decomposing.pictures(result), meta, formats)


def _print(result: Result) -> None:
    asked = asdict(result.request)
    print_facts(
        [
            ("Model", asked["model"]),
            ("Target", f"{result.target}: {number(result.whole)} {result.unit}"),
            ("Rule", f"{asked['rule']}, baseline {asked['baseline']}"),
            *(("", note) for note in result.notes),
        ]
    )
    in_order = result.kind in ("words", "tokens", "places")
    order = list(range(len(result.names)))
    if not in_order:
        order.sort(key=lambda i: -abs(result.values[i]) if result.values[i] == result.values[i] else 0.0)
        order = order[:_SHOWN]
    rows = [(result.names[i], number(result.values[i]), _bar(result, i)) for i in order]
    print_table([result.kind, f"{result.unit}#", ""], rows)
    if len(order) < len(result.names):
        say(f"and {len(result.names) - len(order)} weaker; --json has them all")
    if result.together == result.together:
        total = sum(result.values)
        say(
            f"Sum of the parts {number(total)}, all at once {number(result.together)} (so interactions "
            f"{number(result.together - total)}), the target itself {number(result.whole)}."
        )
    if result.tree:
        merges = [(k + 1, one.name, number(one.value), number(one.interaction)) for k, one in enumerate(result.tree)]
        print_table(["#", "joined", f"{result.unit}#", "interaction#"], merges[-_SHOWN:], "Tree")


def _bar(result: Result, i: int) -> str:
    """A bar of text: the sign and the size of a value."""
    top = max((abs(value) for value in result.values if value == value), default=0.0)
    value = result.values[i]
    length = 0 if value != value or not top else round(12 * abs(value) / top)
    return ("+" if value > 0 else "-") * length


def _print_compared(names: tuple[str, ...], found: list[Compared]) -> None:
    rows = []
    for one in found:
        best = sorted(range(len(names)), key=lambda i: -one.values[i])[:3]
        areas = (one.curves.deletion_area, one.curves.insertion_area) if one.curves else (None, None)
        rows.append((one.key, *map(number, areas), one.missing or ", ".join(names[i] for i in best)))
    print_table(["method", "deletion#", "insertion#", "strongest"], rows, "Compared (small deletion, large insertion)")
