"""``workbench attention``: what every head does with a text, and what kind of head it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import (
    AsJson,
    InterruptionError,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
    stoppable,
)

if TYPE_CHECKING:
    from workbench.attention import Census, Statistics
    from workbench.circuits.progress import Progress
    from workbench.models import Transformer


def attention(
    text: Annotated[str, typer.Argument(help="The text that is attended to.")],
    model: Annotated[str, typer.Option(help="Name, local folder or hub id of a text model.")] = "smollm2-135m",
    top: Annotated[int, typer.Option(help="Heads of each kind.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Of the random tokens that induction heads are found on.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print the census of heads, and the entropy and the sinks of their attention."""
    from workbench import attention as observatory
    from workbench.models import load

    with progress_bar() as bar:
        loaded = load(model, progress=bar)
    if loaded.images is not None:
        raise ValueError(f"{loaded.name} reads images, not text; see workbench models show, or attention.statistics.")
    found, census = _observe(loaded, text, seed)
    if as_json:
        print_json({"statistics": found.to_dict(), "census": census.to_dict()})
        return
    layers, heads, _, positions = found.shape
    idle, flat, peaked = observatory.idle_heads(found), observatory.uniform(found), observatory.collapsed(found)
    print_facts(
        [
            ("model", f"{found.model}: {layers} layers of {heads} heads"),
            ("tokens", positions),
            ("mean entropy", f"{number(float(found.entropy.nanmean()))} nats"),
            ("mass on the first token", f"{float(found.sink_mass.nanmean()):.0%}"),
            ("idle heads", f"{len(idle)} of {layers * heads}: concentrated on short values"),
            ("uniform heads", ", ".join(head.name for head in flat[:top])),
            ("collapsed heads", ", ".join(head.name for head in peaked[:top])),
        ]
    )
    print_table(("kind", "scored by", *(f"{i + 1}." for i in range(top))), _rows(census, top), "Heads by what they do")
    for note in (*found.notes, *census.notes):
        say(note)


def _observe(model: Transformer, text: str, seed: int) -> tuple[Statistics, Census]:
    """Statistics of the text and the census, with Ctrl-C as a stop."""
    from workbench import attention as observatory
    from workbench.circuits.progress import Stopped

    try:
        with progress_bar() as bar, stoppable() as pressed:

            def step(at: Progress) -> bool:
                bar(at.done, at.total, at.what)
                return not pressed()

            return (
                observatory.statistics(model, text, progress=step),
                observatory.census(model, text, seed=seed, progress=step),
            )
    except Stopped:
        raise InterruptionError("Stopped before there was anything to keep.") from None


def _rows(census: Census, top: int) -> list[list[str]]:
    """A row for each kind of head that was measured."""
    from workbench.attention import DETECTORS

    return [
        [kind.title, kind.formula, *(f"{head.name} {head.value:.2f}" for head in census.top(kind.key, top))]
        for kind in DETECTORS
        if census.scores[kind.key] is not None
    ]
