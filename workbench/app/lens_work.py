"""What the Lens page waits for: the reading, and the training of a lens; and where trained lenses are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
import torch
from torch import Tensor

from workbench import inspection, lens, reading
from workbench.app import state
from workbench.app.background import Work, result_of
from workbench.app.model_detail import escaped_name
from workbench.app.paths_ask import Asked
from workbench.app.paths_work import HASHES
from workbench.circuits.progress import ProgressFn
from workbench.inspection import Given
from workbench.lens import TunedLens
from workbench.models import Transformer
from workbench.reading import Found, Request

TOP = 10
_APART = "--"  # in a file's name, between the model and the rest
_MOST_IMAGES = 512
_DESCRIBED = ("breast_cancer", "diabetes", "wine", "iris", "digits", "linnerud")


@dataclass(frozen=True)
class Training:
    """A training that was asked for.

    Attributes:
        name: of the model.
        steps: of the optimiser.
        rank: of the translators; None for full matrices.
        text: to train on; empty for what lies on every machine.
    """

    name: str
    steps: int
    rank: int | None
    text: str = ""


def read(asked: Asked, tuned: TunedLens | None, *, sublayers: bool) -> Found | None:
    """What the model would answer at every depth; None until it is there, and where it was refused."""
    targets = tuple(word for word in (asked.right, asked.wrong) if word)
    request = Request(asked.name, text=asked.subject, targets=targets, against=asked.wrong, k=TOP, sublayers=sublayers)
    return result_of(_read, (asked.model, request, asked.given, tuned), "Reading every layer ...", "lens")


def train(model: Transformer, training: Training) -> TunedLens | None:
    """A trained lens, once it is there; what was trained until a stop counts too."""
    return result_of(_train, (model, training), "Training a lens ...", "train")


def _trained(tuned: TunedLens) -> tuple[str, tuple[object, ...], int]:
    return tuned.fingerprint, tuple(tuned.settings.items()), tuned.steps


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs={**HASHES, TunedLens: _trained})
def _read(model: Transformer, request: Request, given: Given, tuned: TunedLens | None) -> Work[Found]:
    def do(progress: ProgressFn) -> Found:
        return reading.run(request, model, given=given, tuned=tuned, progress=progress)

    return Work(do)


@st.cache_resource(max_entries=4, show_spinner=False, hash_funcs={**HASHES, Training: repr})
def _train(model: Transformer, training: Training) -> Work[TunedLens]:
    def do(progress: ProgressFn) -> TunedLens:
        data = _images(model) if model.images is not None else _texts(model, training.text)
        few = model.cfg.pooling == "none"  # answers of a text are many: a few of them are a step
        return lens.train_lens(
            model,
            data,
            steps=training.steps,
            rank=training.rank,
            positions=32,
            texts=1 if few else 16,
            width=min(64, model.cfg.n_ctx),
            progress=progress,
        )

    return Work(do)


def _texts(model: Transformer, text: str) -> list[str]:
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer; train its lens in Python with lens.train_lens(model, tokens)."
        )
    if text.strip():
        return [text]
    from sklearn import datasets

    return [getattr(datasets, f"load_{name}")().DESCR for name in _DESCRIBED]


def _images(model: Transformer) -> Tensor:
    n = min(inspection.n_samples(model), _MOST_IMAGES)
    return torch.cat([inspection.sample(model, number)[0] for number in range(n)])


# -- files -------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Where trained lenses are kept: beside the runs, where the store does not take it for one."""
    return state.store().root / ".lenses"


def saved(model: Transformer) -> dict[str, Path]:
    """Trained lenses of a model by the name in the address, the newest first."""
    start = f"{escaped_name(model.name)}{_APART}"
    try:
        files = [path for path in folder().glob("*.safetensors") if path.name.startswith(start)]
        files.sort(key=lambda path: -path.stat().st_mtime)
    except OSError:
        return {}
    return {path.stem.removeprefix(start): path for path in files}


def keep(model: Transformer, tuned: TunedLens) -> str:
    """Save a trained lens.

    Returns:
        Its name in the address.

    Raises:
        OSError: it cannot be written.
    """
    start = f"{escaped_name(model.name)}{_APART}"
    rank = tuned.settings.get("rank")
    name = f"{tuned.steps}-steps" + (f"-rank-{rank}" if rank else "")
    taken, number = saved(model), 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    folder().mkdir(parents=True, exist_ok=True)
    tuned.save(folder() / f"{start}{free}.safetensors")
    return free


@st.cache_resource(max_entries=4, show_spinner=False, hash_funcs=HASHES)
def _loaded(model: Transformer, path: str, changed: float) -> TunedLens:  # noqa: ARG001 - a key of the cache
    return lens.load_lens(path, model)


def load(model: Transformer, path: Path) -> TunedLens:
    """A lens from a file.

    Raises:
        ValueError: there is none, or it belongs to another model; one sentence.
    """
    try:
        changed = path.stat().st_mtime
    except OSError:
        changed = 0.0
    return _loaded(model, str(path), changed)
