"""``workbench models``: which there are, what one is, how closely it agrees, and what another attention does to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import (
    AsJson,
    head_named,
    number,
    print_facts,
    print_json,
    print_table,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from workbench.inspection import Comparison
    from workbench.models import Transformer

ModelName = Annotated[str, typer.Argument(help="A name from the list, a local folder, or a hub id.")]

models = typer.Typer(
    help="List the models known by name, fetch, show or check one, or swap its attention.",
    invoke_without_command=True,
)


@models.callback()
def models_default(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models known by name, fetch, show or check one, or swap its attention."""
    if context.invoked_subcommand is None:
        models_list(as_json)


@models.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List the models that can be asked for by name."""
    from workbench.models import registry

    found: list[dict[str, Any]] = [
        {
            "key": record.key,
            "title": record.title,
            "description": record.description,
            "bundled": record.bundled,
            "installed": registry.installed(record.key),
            "download_bytes": record.wheel.download_bytes if record.wheel else 0,
        }
        for record in registry.MODELS
    ]
    if as_json:
        print_json(found)
        return
    print_table(["name", "", "MB#", "model"], [_model_row(model) for model in found])
    say("A local folder in Hugging Face form or a hub id also serves wherever a model is asked for.")


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    if model["bundled"]:
        return (model["key"], "bundled" if model["installed"] else "to train", "", model["description"])
    state = "fetched" if model["installed"] else "to fetch"
    return (model["key"], state, round(model["download_bytes"] / 1e6), model["description"])


@models.command("get")
def models_get(
    name: Annotated[str, typer.Argument(help="Name of the model, such as smollm2-135m.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it was fetched.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model, so that everything works offline afterwards; a bundled one is here anyway."""
    from workbench.models import registry

    with progress_bar() as bar:
        folder = registry.get(name, progress=bar, force=force)
    if as_json:
        print_json({"key": name, "folder": str(folder)})
    else:
        say(f"{name} is in {folder}")


@models.command("show")
def models_show(model: ModelName, as_json: AsJson = False) -> None:
    """Show the sizes and choices of a model."""
    from workbench import inspection

    loaded = _load(model)
    facts = inspection.facts(loaded)
    if as_json:
        n = sum(p.numel() for p in loaded.parameters())
        print_json({"model": loaded.name, "parameters": n, "facts": facts, "config": loaded.cfg.to_dict()})
    else:
        print_facts([("Model", loaded.name), *facts.items()])


@models.command("check")
def models_check(
    model: ModelName,
    text: Annotated[str | None, typer.Option(help="What both read; for a vision model an image file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a model with Hugging Face's own computation of it."""
    from dataclasses import asdict

    from workbench import inspection
    from workbench.models import registry

    if model in registry.names() and not inspection.is_native(model):
        with progress_bar() as bar:
            registry.get(model, progress=bar)
    found = inspection.parity(model, text)
    if as_json:
        print_json({"model": model} | asdict(found))
    else:
        say(inspection.parity_words(found))


@models.command("swap")
def models_swap(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The text; for a vision model an image file or the number of a sample.")],
    attention: Annotated[str, typer.Option(help="Key of the attention mechanism, such as sparsemax.")],
    heads: Annotated[str | None, typer.Option(help="Heads that use it, such as 5.1,6.0; all if left out.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="A setting of the mechanism as name=value; may be repeated.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the pattern that moved most to a file: svg, png, pdf, html or json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Swap the attention mechanism and see what becomes of the prediction and the patterns."""
    from workbench import inspection

    places = None if heads is None else [head_named(part.strip()) for part in heads.split(",")]
    options = dict(_setting(part) for part in option or [])
    loaded = _load(model)
    changed = inspection.swapped(loaded, attention, places, options)
    if changed is None:
        raise ValueError(f"{loaded.name} has that attention already; choose another --attention or another --option.")
    given = inspection.read(loaded, text) if loaded.images is None else inspection.named(loaded, text)
    found = inspection.compare(loaded, given, changed)
    layer, head = most_moved(found)
    written = None if export is None else _export(found, layer, head, export)
    if as_json:
        print_json(found.to_json() | {"attention": attention, "options": options, "file": written})
        return
    print_swap(found)
    if written:
        say(f"Wrote {written}: head {layer}.{head}, whose pattern moved most")


def most_moved(found: Comparison) -> tuple[int, int]:
    """The head whose pattern moved most."""
    moved = found.change
    assert moved is not None
    return divmod(int(moved.nan_to_num().argmax()), moved.shape[1])


def print_swap(found: Comparison) -> None:
    """Answers, numbers and the heads that moved most."""
    say(f"{found.model}: {found.swap}")
    if found.answers:
        answers = [(repr(one.text), f"{one.before:.1%}", f"{one.after:.1%}") for one in found.answers]
        print_table(["answer", "before#", "after#"], answers)
    effects = [(one.name, one.unit, number(one.before), number(one.after)) for one in found.effects]
    print_table(["", "unit", "before#", "after#"], effects)
    moved = found.change
    assert moved is not None
    rows: list[tuple[str, ...]] = []
    for index in moved.flatten().nan_to_num().topk(min(5, moved.numel())).indices.tolist():
        layer, head = divmod(index, moved.shape[1])
        pairs = [value for pair in found.head_numbers(layer, head).values() for value in pair]
        rows.append((f"{layer}.{head}", f"{float(moved[layer, head]):.1%}", *map(number, pairs)))
    columns = ["head", "moved#", "entropy (nats)#", "after#", "zeros#", "after#", "on first#", "after#"]
    print_table(columns, rows)


def _load(name: str) -> Transformer:
    from workbench.models import load

    with progress_bar() as bar:
        return load(name, progress=bar)


def _setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ValueError(f"'{text}' is no setting; write name=value with a number, such as temperature=2.") from None


def _export(found: Comparison, layer: int, head: int, path: Path) -> str:
    """Write the picture of one head; the path."""
    from workbench.export import export, write
    from workbench.views import swap_view

    key = path.suffix.lstrip(".").lower() or "svg"
    return str(write(path, export(swap_view(found, layer, head), key)))
