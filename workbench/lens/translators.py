"""Trained translators: one affine map for each place, as a file that knows which model it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.lens.places import names_of_places
from workbench.models import Transformer

FORMAT = "workbench tuned lens 1"


@dataclass(frozen=True)
class HeldOut:
    """KL(model's own answer || lens) on texts that were not trained on, in nats for each position.

    Intervals are bootstraps over texts.

    Attributes:
        place: where the lens reads.
        before: the logit lens, with its interval.
        after: the tuned lens.
        gain: before - after, paired.
    """

    place: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    gain: tuple[float, float, float]


@dataclass(frozen=True)
class TunedLens:
    """A translator for every place but the last: ``x -> x + W x + b`` before the model's own final norm and head.

    Attributes:
        model: name of the model.
        fingerprint: of the model; another's is refused.
        places: where it translates.
        weights: ``bias`` [place, d_model] and ``matrix`` [place, d_model, d_model], or of a low rank ``down``
            [place, rank, d_model] and ``up`` [place, d_model, rank] with ``W = up down``.
        settings: how it was trained.
        steps: steps that are done.
        complete: whether those are all.
        history: mean KL over places of each step, on what it was trained on.
        held_out: what it is worth, by place; empty where nothing was held out.
        state: what further steps need (the moments of Adam); empty when complete.
    """

    model: str
    fingerprint: str
    places: tuple[str, ...]
    weights: Mapping[str, Tensor]
    settings: dict[str, Any]
    steps: int
    complete: bool
    history: tuple[float, ...]
    held_out: tuple[HeldOut, ...] = ()
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What a reading is called."""
        return "tuned lens"

    def check(self, model: Transformer, sublayers: bool = False) -> None:
        """Refuse another model, and places between sublayers.

        Raises:
            ValueError: saying which model it was trained on.
        """
        if sublayers:
            raise ValueError("A tuned lens reads behind whole layers; leave sublayers out, or use the logit lens.")
        check_model(self.model, self.fingerprint, model)

    def translate(self, place: str, resid: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The stream at a place as it would be at the end; the last place as it is."""
        if place not in self.places:
            return resid
        return translated(self.weights, self.places.index(place), resid)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain data."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "places": list(self.places),
            "settings": self.settings,
            "steps": self.steps,
            "complete": self.complete,
            "history": list(self.history),
            "held_out": [asdict(one) for one in self.held_out],
        }

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file; :func:`load_lens` reads it.

        Raises:
            ValueError: the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path(path)
        tensors = {f"weights.{name}": x.contiguous().clone() for name, x in self.weights.items()}
        tensors |= {f"state.{name}": x.contiguous().clone() for name, x in self.state.items()}
        unfinished = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, metadata={"format": FORMAT, "about": json.dumps(self.to_dict())})
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The tuned lens cannot be written to '{path}' ({error}).") from error
        return path


def translated(
    weights: Mapping[str, Tensor], index: int, x: Float[Tensor, "*n d_model"]
) -> Float[Tensor, "*n d_model"]:
    """``x + W x + b`` with the matrices of one place."""
    given = {name: tensor[index].to(x) for name, tensor in weights.items()}
    if "matrix" in given:
        return x + x @ given["matrix"].T + given["bias"]
    return x + (x @ given["down"].T) @ given["up"].T + given["bias"]


def load_lens(path: str | Path, model: Transformer) -> TunedLens:
    """Read a lens that :meth:`TunedLens.save` wrote, for the model that it was trained on.

    Raises:
        ValueError: there is no such file, it holds no tuned lens, is damaged, or belongs to another model.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'; train a lens and save it there.")
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise ValueError(f"'{path}' holds no tuned lens; give a file that TunedLens.save wrote.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            about = json.loads(said["about"])
            lens = _made(about, tensors)
    except ValueError as error:
        if "holds no tuned lens" in str(error):
            raise
        raise ValueError(f"The tuned lens in '{path}' could not be read ({error}).") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The tuned lens in '{path}' could not be read ({reason}).") from error
    check_model(lens.model, lens.fingerprint, model)
    _check_shapes(lens, model, path)
    return lens


def _made(about: dict[str, Any], tensors: dict[str, Tensor]) -> TunedLens:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

    held = [
        HeldOut(one["place"], tuple(one["before"]), tuple(one["after"]), tuple(one["gain"]))
        for one in about["held_out"]
    ]
    return TunedLens(
        model=about["model"],
        fingerprint=about["fingerprint"],
        places=tuple(about["places"]),
        weights=part("weights."),
        settings=about["settings"],
        steps=about["steps"],
        complete=about["complete"],
        history=tuple(about["history"]),
        held_out=tuple(held),
        state=part("state."),
    )


def check_model(name: str, fingerprint: str, model: Transformer) -> None:
    """Refuse a lens of another model.

    Raises:
        ValueError: naming both.
    """
    if fingerprint != model.fingerprint:
        raise ValueError(
            f"This tuned lens was trained on '{name}' ({fingerprint}), not on '{model.name}' ({model.fingerprint}); "
            "load that model, or train a lens for this one."
        )


def _check_shapes(lens: TunedLens, model: Transformer, path: Path) -> None:
    n, d, weights = len(lens.places), model.cfg.d_model, lens.weights
    rank = weights["down"].shape[1] if "down" in weights and weights["down"].ndim == 3 else 0
    wanted = (
        {"bias": (n, d), "matrix": (n, d, d)}
        if "matrix" in weights
        else {"bias": (n, d), "down": (n, rank, d), "up": (n, d, rank)}
    )
    fits = {name: tuple(x.shape) for name, x in weights.items()} == wanted
    finite = all(bool(x.isfinite().all()) for x in weights.values())
    if not fits or not finite or lens.places != names_of_places(model.cfg)[:-1]:
        raise ValueError(f"The weights in '{path}' do not fit {model.name}, or are not finite; train the lens again.")


def zeros(n: int, d: int, rank: int | None, seed: int) -> dict[str, Tensor]:
    """Translators that change nothing yet. Of a low rank one factor is random: from two zeros nothing is learned."""
    if rank is None:
        return {"bias": torch.zeros(n, d), "matrix": torch.zeros(n, d, d)}
    draw = torch.Generator().manual_seed(seed)
    return {
        "bias": torch.zeros(n, d),
        "down": torch.randn(n, rank, d, generator=draw) / d**0.5,
        "up": torch.zeros(n, d, rank),
    }
