"""The residual stream between sublayers: where a lens reads, and what the model's own head makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.layers import Given, taken
from workbench.circuits import stream
from workbench.circuits.decomposition.answers import answer_index
from workbench.models import Transformer
from workbench.models.config import ModelConfig

__all__ = [
    "Given",
    "Streams",
    "answers_at_positions",
    "check_answers",
    "given_texts",
    "names_of_places",
    "positions_named",
    "read_streams",
    "target_ids",
]


@dataclass(frozen=True)
class Streams:
    """The residual stream at each place of one batch.

    Attributes:
        names: of the places: ``embed``, then ``a0`` (behind the attention of layer 0), ``m0`` (behind layer 0), ...
        resid: at each place, before the final norm.
        given: what the model read.
    """

    names: tuple[str, ...]
    resid: list[Float[Tensor, "batch pos d_model"]]
    given: Given

    @property
    def mask(self) -> Int[Tensor, "batch pos"] | None:
        """1 for real positions; None where all are."""
        return None if self.given.real is None else self.given.real.long()


def names_of_places(cfg: ModelConfig, sublayers: bool = False) -> tuple[str, ...]:
    """Where the stream can be read: ``embed``, ``m0``, ``m1`` ...; with ``sublayers`` also behind each attention.

    A parallel block adds both at once, so that it has no place between. Without MLPs, a layer ends in ``a3``.
    """
    return tuple(name for name, _ in _hooks(cfg, sublayers))


def _hooks(cfg: ModelConfig, sublayers: bool) -> Iterator[tuple[str, str]]:
    yield "embed", ""
    for layer in range(cfg.n_layers):
        if sublayers and not cfg.parallel and not cfg.attn_only:
            yield f"a{layer}", f"blocks.{layer}.hook_resid_mid"
        yield f"{'a' if cfg.attn_only else 'm'}{layer}", f"blocks.{layer}.hook_resid_post"


def check_answers(model: Transformer, what: str) -> None:
    """Refuse a model without a distribution over answers.

    Raises:
        ValueError: naming the model and the reason.
    """
    if stream.has_distribution(model):
        return
    why = "gives vectors, no words or classes" if model.cfg.head == "none" else "has one output, no distribution"
    raise ValueError(
        f"{what} reads the stream through the model's own head, but {model.name} {why}; take a language model, a "
        "classifier, or the masked language model of this encoder."
    )


def answers_at_positions(model: Transformer) -> bool:
    """Whether each position has an answer of its own."""
    return model.cfg.pooling == "none"


@torch.no_grad()
def read_streams(model: Transformer, given: Given, *, sublayers: bool = False) -> Streams:
    """One forward without the head; the stream at every place is kept: places x batch x pos x d_model numbers.

    Raises:
        ValueError: an activation is not a number.
    """
    hooks = list(_hooks(model.cfg, sublayers))
    last = model.cfg.n_layers
    kept = [hook for _, hook in hooks if hook] + ["blocks.0.hook_resid_pre"] * bool(last)
    out, cache = model.run_with_cache(given.tokens, kept, stop_at_layer=last, **masks_of(given))
    first = cache["blocks.0.hook_resid_pre"] if last else out
    resid = [cache[hook] if hook else first for _, hook in hooks]
    for (name, _), x in zip(hooks, resid, strict=True):
        seen = x if given.real is None else x[given.real]
        if not bool(seen.isfinite().all()):
            raise ValueError(
                f"The stream of {model.name} is not finite at '{name}'; load the model in float32, or look at its "
                "weights."
            )
    return Streams(tuple(name for name, _ in hooks), resid, given)


def masks_of(given: Given) -> dict[str, Any]:
    """What a forward takes beside the tokens."""
    found: dict[str, Any] = {} if given.real is None else {"attention_mask": given.real.long()}
    return found if given.token_types is None else {**found, "token_types": given.token_types}


def given_texts(model: Transformer, data: Sequence[str] | Sequence[Tensor] | Tensor, size: int) -> list[Given]:
    """Texts, rows of tokens or images in batches of at most ``size``, checked before anything runs.

    Raises:
        ValueError: nothing is given, or something that the model does not read.
    """
    if isinstance(data, str):
        raise ValueError("Give a list of texts; intervals are over texts. One text goes into a list: [text].")
    if not len(data):
        raise ValueError("There is no data: give at least one text, row of tokens or image.")
    if isinstance(data, Tensor):
        return [taken(model, data[start : start + size]) for start in range(0, len(data), size)]
    texts = [one for one in data if isinstance(one, str)]
    if texts and len(texts) != len(data):
        raise ValueError("Data are texts or tensors, not both at once.")
    if texts:
        return [taken(model, texts[start : start + size]) for start in range(0, len(texts), size)]
    batches = [_tensor(one) for one in data]
    return [taken(model, one[start : start + size]) for one in batches for start in range(0, len(one), size)]


def _tensor(one: object) -> Tensor:
    if not isinstance(one, Tensor):
        raise ValueError(f"Data are texts or tensors [batch, ...], not {type(one).__name__}.")
    return one


def positions_named(model: Transformer, given: Given) -> tuple[tuple[str, ...], ...]:
    """What stands at each position of each example; for images where it is."""
    if given.ids is None:
        assert model.images is not None
        cfg, pixels = model.images.cfg, given.tokens
        grid = (pixels.shape[2] // cfg.patch_height, pixels.shape[3] // cfg.patch_width) if pixels.ndim == 4 else None
        return (tuple(model.images.position_names(grid)),) * len(pixels)
    if model.tokenizer is None:
        return tuple(tuple(str(token) for token in row) for row in given.ids.tolist())
    return tuple(tuple(model.text.pieces(row)) for row in given.ids)


def target_ids(
    model: Transformer, targets: Tensor | Sequence[int | str] | None, shape: tuple[int, int]
) -> Int[Tensor, "batch pos target"] | None:
    """Targets as ids for every example and position.

    Args:
        model: whose answers they are.
        targets: words or class names, or ids: one list for all, or a tensor [target], [batch, target] or
            [batch, pos, target]. None for None.
        shape: examples and positions.

    Raises:
        ValueError: a word is not one token, or an id is none that the model has.
    """
    if targets is None:
        return None
    if isinstance(targets, str):
        raise ValueError(f"Targets are a list: write [{targets!r}].")
    if not isinstance(targets, Tensor):
        named = [answer_index(model, one) if isinstance(one, str) else int(one) for one in targets]
        targets = torch.tensor(named, dtype=torch.long)
    batch, pos = shape
    if targets.ndim == 2:
        targets = targets[:, None]
    if targets.ndim == 1:
        targets = targets[None, None]
    fits = targets.ndim == 3 and targets.shape[0] in (1, batch) and targets.shape[1] in (1, pos)
    if not fits or targets.is_floating_point() or not targets.numel():
        raise ValueError(
            f"Targets are ids [target], [batch, target] or [batch, pos, target] with batch {batch} and pos {pos}; got "
            f"{list(targets.shape)} of {targets.dtype}."
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= model.cfg.n_out:
        raise ValueError(f"There is no answer {low if low < 0 else high}: {model.name} has 0 to {model.cfg.n_out - 1}.")
    return targets.expand(batch, pos, -1).to(model.device)


def real_rows(given: Given, positions: bool) -> Bool[Tensor, "batch pos"]:
    """True where an answer counts: at real positions, or once an example of a model that pools."""
    n = given.n if positions else 1
    if given.real is None or not positions:
        return torch.ones(len(given.tokens), n, dtype=torch.bool, device=given.tokens.device)
    return given.real
