"""Training a model of the zoo, measuring it, and putting it into its folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from workbench.models.files import read, save
from workbench.models.zoo.record import ZooModel
from workbench.models.zoo.training import Progress, train

CARD = "card.json"
MOST_BYTES = 1_000_000
"""What a model's weights may take in the repository, at most."""


class BelowBarError(ValueError):
    """A trained model is worse, or larger, than its record allows; the message says where."""


def make(record: ZooModel, out: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train a model and write ``out/key``: configuration, weights, tokenizer or image processor, and its card.

    The folder is complete or is not touched: everything is written beside it and moved when it is good.

    Args:
        record: what to train.
        out: the folder that holds the model's folder; made where it is missing.
        progress: told about every step.

    Returns:
        The card: seed, steps, seconds of processor time, figures (measured on the weights as they were written), what
        was found inside.

    Raises:
        BelowBarError: a figure misses its bar; nothing is written then.
        ValueError: the folder cannot be written.
    """
    started = time.process_time()
    model = train(record, progress=progress)
    seconds = time.process_time() - started
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{record.key}-", dir=out) as building:
            folder = save(model, Path(building) / "new")
            card = measured(record, folder, seconds)
            (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            for file in folder.iterdir():  # safetensors writes for the owner only
                file.chmod(0o644)
            _replace(out / record.key, folder, Path(building) / "old")
    except OSError as error:
        raise ValueError(f"{record.key} cannot be written to '{out}' ({error.strerror or error}).") from error
    return card


def measured(record: ZooModel, folder: Path, seconds: float) -> dict[str, Any]:
    """The card of the model in a folder.

    Raises:
        BelowBarError: it is not good enough, or too large.
    """
    model = read(folder, torch.float32, record.key)
    figures = record.evaluate(model)
    size = (folder / "model.safetensors").stat().st_size
    missed = record.missed(figures) + ([f"the weights take {size:,} bytes"] if size > MOST_BYTES else [])
    if missed:
        raise BelowBarError(f"{record.key} is not good enough to be written: {'; '.join(missed)}.")
    return {
        "key": record.key,
        "seed": record.seed,
        "steps": record.schedule.steps,
        "batch": record.schedule.batch,
        "seconds": round(seconds),
        "torch": torch.__version__.partition("+")[0],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": size,
        "figures": {name: round(figure, 5) for name, figure in figures.items()},
        "least": dict(record.least),
        "inside": record.inside(model),
    }


def _replace(place: Path, new: Path, old: Path) -> None:
    """Move ``new`` to ``place``; whatever interrupts it, a complete folder stands there afterwards."""
    try:
        if place.exists():
            place.replace(old)
        new.replace(place)
    except BaseException:
        if old.exists() and not place.exists():
            shutil.move(old, place)
        raise
