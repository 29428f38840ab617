"""What commands share that write a result and its figures into a folder: ``--out`` and ``--format``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workbench.figures import Figure

OutFolder = Annotated[Path | None, typer.Option(help="A folder for result.json and the figures.")]
PictureFormats = Annotated[
    str, typer.Option(help="Of the figures: svg, png, pdf or html, several with commas; json for result.json alone.")
]


def picture_formats(given: str) -> list[str]:
    """Keys of picture formats; none for ``json``, which is written anyway.

    Raises:
        ValueError: one is none.
    """
    from workbench.export import FORMATS
    from workbench.models.lookup import pick

    known = [one for one in FORMATS if one.needs == "figure" or one.key == "json"]
    return [key for part in given.split(",") if (key := pick(known, part.strip(), "format of a figure").key) != "json"]


def checked_folder(out: Path | None) -> Path | None:
    """The same, before long work.

    Raises:
        ValueError: it is a file, or lies under one.
    """
    if out is not None:
        found = next((place for place in (out, *out.parents) if place.exists()), None)
        if found is not None and not found.is_dir():
            raise ValueError(f"'{found}' is a file; --out takes a folder, which is made where there is none.")
    return out


def write_pictures(
    out: Path, figures: Mapping[str, Figure], record: Mapping[str, Any], formats: list[str]
) -> list[str]:
    """Write ``result.json`` and every figure in every format; returns the paths."""
    from workbench.export import Exportable, export, write

    files = [write(out / "result.json", export(Exportable(meta=record), "json"))]
    for name, figure in figures.items():
        files += [write(out / f"{name}.{key}", export(Exportable(figure=figure, meta=record), key)) for key in formats]
    return [str(file) for file in files]
