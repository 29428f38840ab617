"""``workbench attention``: what every head does with a text, what kind of head it is, and the figures of it."""

from __future__ import annotations

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
    from torch import Tensor

    from workbench.attention import Census
    from workbench.circuits.progress import Progress
    from workbench.figures import Picture
    from workbench.models import Transformer
    from workbench.observing import Observation


def attention(
    text: Annotated[str, typer.Argument(help="The text; for a vision model an image file or the number of a sample.")],
    model: Annotated[str, typer.Option(help="Name, local folder or hub id.")] = "smollm2-135m",
    top: Annotated[int, typer.Option(help="Heads of each kind.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Of the random tokens that induction heads are found on.")] = 0,
    out: OutFolder = None,
    format: PictureFormats = "svg",
    as_json: AsJson = False,
) -> None:
    """Print the census of heads, and the entropy and the sinks of their attention; write the figures."""
    from workbench import observing
    from workbench.models import load

    formats, out = picture_formats(format), checked_folder(out)
    if not text.strip():
        raise ValueError("The text is empty; give one of two tokens or more, or for a vision model an image file.")
    with progress_bar() as bar:
        loaded = load(model, progress=bar)
    given, picture = _taken(loaded, text)
    observation = _observe(loaded, given, seed)
    files = write_pictures(out, observing.pictures(observation, picture), observation.to_json(), formats) if out else []
    if as_json:
        print_json(observation.to_json() | {"files": files})
        return
    _print(observation, top)
    for file in files:
        say(f"Wrote {file}")


def _taken(model: Transformer, text: str) -> tuple[Tensor | str, Picture | None]:
    """What the model reads: a text, numbers of tokens where it has no tokenizer, or an image, with its picture.

    Raises:
        ValueError: there is no such image, or the text does not fit.
    """
    from workbench import inspection, observing
    from workbench.figures import Picture

    if model.images is not None:
        given = inspection.named(model, text)
        assert given.grid is not None
        assert given.image is not None
        prefix = given.names[: len(given.names) - given.grid[0] * given.grid[1]]
        return given.tensor, Picture(given.image, given.grid, prefix)
    tokens = text if model.tokenizer is not None else inspection.read(model, text).tensor
    observing.check(model, tokens)
    return tokens, None


def _observe(model: Transformer, given: Tensor | str, seed: int) -> Observation:
    """The observation, with Ctrl-C as a stop that keeps what is done."""
    from workbench import observing
    from workbench.circuits.progress import Stopped

    try:
        with progress_bar() as bar, stoppable() as pressed:

            def step(at: Progress) -> bool:
                bar(at.done, at.total, at.what)
                return not pressed()

            found = observing.observe(model, given, seed=seed, progress=step)
    except Stopped:
        raise InterruptionError("Stopped before there was anything to keep.") from None
    if not found.complete:
        complain("Stopped: what is shown is not complete.")
    return found


def _print(observation: Observation, top: int) -> None:
    from workbench import attention as observatory

    found, census = observation.statistics, observation.census
    layers, heads, _, positions = found.shape
    flat, peaked = observatory.uniform(found), observatory.collapsed(found)
    bound = observation.bound
    print_facts(
        [
            ("model", f"{found.model}: {layers} layers of {heads} heads"),
            ("tokens" if found.tokens is not None else "positions", positions),
            ("mean entropy", f"{number(float(found.entropy.nanmean()))} nats"),
            (
                "its lower bound",
                f"{number(float(bound.by_rows.nanmean()))} nats, by each row's logits" if bound else "",
            ),
            ("mass on the first token", f"{float(found.sink_mass.nanmean()):.0%}"),
            ("sink tokens", _sinks(observation, top)),
            ("idle heads", _idle(observation)),
            ("uniform heads", ", ".join(head.name for head in flat[:top])),
            ("collapsed heads", ", ".join(head.name for head in peaked[:top])),
        ]
    )
    print_table(("kind", "scored by", *(f"{i + 1}." for i in range(top))), _rows(census, top), "Heads by what they do")
    for note in observation.notes:
        say(note)


def _sinks(observation: Observation, top: int) -> str:
    """Keys that many heads park on, with the share of heads."""
    if observation.sinks is None:
        return ""
    words = observation.tokens
    return ", ".join(
        f"{one.position if words is None else repr(words[one.position])} in {one.share:.0%} of heads"
        for one in observation.sinks.tokens[:top]
    )


def _idle(observation: Observation) -> str:
    from workbench import attention as observatory

    try:
        idle = observatory.idle_heads(observation.statistics)
    except ValueError as error:
        return str(error)
    layers, heads, *_ = observation.statistics.shape
    return f"{len(idle)} of {layers * heads}: concentrated on short values"


def _rows(census: Census, top: int) -> list[list[str]]:
    """A row for each kind of head that was measured."""
    from workbench.attention import DETECTORS

    return [
        [kind.title, kind.formula, *(f"{head.name} {head.value:.2f}" for head in census.top(kind.key, top))]
        for kind in DETECTORS
        if census.scores[kind.key] is not None
    ]
