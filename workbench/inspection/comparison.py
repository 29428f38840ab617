"""All that is to be shown of one input, before and after a swap, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from workbench.inspection.inputs import Given
from workbench.inspection.swap import Answer, Effect, Look, answers, change, effects, interesting, look
from workbench.models import ModelConfig, Transformer, mechanisms


@dataclass(frozen=True)
class Comparison:
    """One input in a model and, perhaps, in the same model with another attention mechanism.

    Attributes:
        model: its name.
        subject: the text, or what is on the image.
        swap: what was swapped, such as ``Sparsemax in head 23.3``; empty without a swap.
        before: the run of the model as it is.
        after: the run of the changed one; None without a swap.
        position: whose answer is told.
        answers: the most probable ones.
        effects: numbers before and after.
        grid: rows and columns of patches; None for text.
        image: the image from 0 to 1 [channel, height, width]; None for text.
    """

    model: str
    subject: str
    swap: str
    before: Look
    after: Look | None
    position: int
    answers: list[Answer]
    effects: list[Effect]
    grid: tuple[int, int] | None = None
    image: Float[Tensor, "channel height width"] | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Names of the positions before the patches."""
        if self.grid is None:
            return ()
        return self.before.names[: len(self.before.names) - self.grid[0] * self.grid[1]]

    @property
    def change(self) -> Float[Tensor, "layer head"] | None:
        """How far each head's pattern moved, see :func:`workbench.inspection.change`; None without a swap."""
        return None if self.after is None else change(self.before, self.after)

    def head_numbers(self, layer: int, head: int) -> dict[str, tuple[float, float | None]]:
        """Numbers of one head before and after: entropy in nats, share of zeros, weight on the first position."""
        found = {}
        for name in ("entropy", "zeros", "first"):
            after = None if self.after is None else float(getattr(self.after, name)[layer, head])
            found[name] = (float(getattr(self.before, name)[layer, head]), after)
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything but the patterns, ready for JSON."""
        moved = self.change
        heads: dict[str, Any] = {
            name: {
                "before": getattr(self.before, name).tolist(),
                "after": None if self.after is None else getattr(self.after, name).tolist(),
            }
            for name in ("entropy", "zeros", "first")
        }
        return {
            "model": self.model,
            "input": self.subject,
            "positions": list(self.before.names),
            "swap": self.swap,
            "position": self.position,
            "answers": [asdict(answer) for answer in self.answers],
            "effects": [asdict(effect) for effect in self.effects],
            "heads": heads | {"change": None if moved is None else moved.tolist()},
        }


def compare(
    model: Transformer, given: Given, changed: Transformer | None = None, *, position: int | None = None, k: int = 5
) -> Comparison:
    """Run a model, and a changed form of it, on one input.

    Args:
        model: as it is.
        given: from :func:`workbench.inspection.read` or :func:`workbench.inspection.see`.
        changed: from :func:`workbench.inspection.swapped`; None for a look at the model alone.
        position: whose answer to tell; None for a mask's where there is one, else the last.
        k: how many answers of each run.

    Raises:
        ValueError: there is no such position.
    """
    at = interesting(model, given) if position is None else position
    if not 0 <= at < len(given.names):
        raise ValueError(f"There is no position {at}: the input has the positions 0 to {len(given.names) - 1}.")
    before = look(model, given)
    after = None if changed is None else look(changed, given)
    return Comparison(
        model=model.name,
        subject=given.subject,
        swap="" if changed is None else describe(changed.cfg),
        before=before,
        after=after,
        position=at,
        answers=answers(model, before, after, position=at, k=k),
        effects=effects(model, before, after, position=at),
        grid=given.grid,
        image=given.image,
    )


def describe(cfg: ModelConfig) -> str:
    """An attention mechanism, its settings and where it is: ``Temperature (temperature 2) in layer 5``."""
    mechanism = mechanisms.find(cfg.attention)
    return f"{mechanism.title}{_settings(dict(cfg.attention_options))} in {_place(cfg)}"


def _settings(options: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{name} {value:g}' for name, value in options.items())})" if options else ""


def _place(cfg: ModelConfig) -> str:
    heads = cfg.attention_heads
    if heads is None or len(heads) == cfg.n_layers * cfg.n_heads:
        return "all heads"
    layers = {layer for layer, _ in heads}
    if len(layers) == 1 and len(heads) == cfg.n_heads and len(heads) > 1:
        return f"layer {layers.pop()}"
    named = [f"{layer}.{head}" for layer, head in heads]
    if len(named) > 4:
        return f"{len(named)} heads"
    return f"head{'s' if len(named) > 1 else ''} {', '.join(named)}"
