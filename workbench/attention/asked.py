"""What a model's output is compared with: where outputs are read, and what is right there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.layers import Given
from workbench.models import Transformer


@dataclass(frozen=True)
class Asked:
    """An input, and what its outputs should be.

    Attributes:
        given: the input.
        rows: positions of the residual stream from which the output is read: those that predict a token, the class
            token of a classifier, every real one of a model without logits. At least one in each example.
        target: the right token at each of them (elsewhere anything), or the right class of each example; None where
            nothing is known to be right.
        classifies: one output for each example.
        speaks: there are logits.
        note: what a reader should know of the target.
    """

    given: Given
    rows: Bool[Tensor, "batch pos"]
    target: Int[Tensor, "batch pos"] | Int[Tensor, " batch"] | None
    classifies: bool
    speaks: bool
    note: str | None = None

    def part(self, first: int, last: int) -> Asked:
        """Some examples."""
        target = None if self.target is None else self.target[first:last]
        return replace(self, given=self.given.rows(first, last), rows=self.rows[first:last], target=target)

    @property
    def mask(self) -> Int[Tensor, "batch pos"] | None:
        """1 for real positions, as models take it."""
        return None if self.given.real is None else self.given.real.long()

    def outputs(
        self, model: Transformer, final: Float[Tensor, "runs batch pos d_model"], numbers: int
    ) -> Iterator[tuple[Float[Tensor, "runs output n_out"], Int[Tensor, " output"], Int[Tensor, " output"] | None]]:
        """Logits of final residual streams, at most ``numbers`` (and one output) at a time.

        Yields:
            logits; the example that each output belongs to; what is right there.
        """
        runs, batch = final.shape[:2]
        if self.classifies:
            mask = None if self.mask is None else self.mask.repeat(runs, 1)
            logits = model.logits(final.flatten(0, 1), mask=mask).view(runs, batch, -1)
            yield logits, torch.arange(batch, device=final.device), self.target
            return
        example, position = self.rows.nonzero(as_tuple=True)
        size = max(1, numbers // (runs * model.cfg.n_out))
        for start in range(0, len(example), size):
            at, where = example[start : start + size], position[start : start + size]
            right = None if self.target is None else self.target[at, where]
            yield model.logits(final[:, at, where]), at, right

    def by_example(
        self, values: Float[Tensor, "runs output"], example: Int[Tensor, " output"]
    ) -> Float[Tensor, "runs batch"]:
        """What each output adds to the mean over its example's outputs; float64."""
        batch = len(self.rows)
        count = torch.ones(batch, device=values.device) if self.classifies else self.rows.sum(-1)
        sums = values.new_zeros(len(values), batch, dtype=torch.float64).index_add_(1, example, values.double())
        return sums / count


def unasked(given: Given, note: str | None = None) -> Asked:
    """An input of which no output is read: streams are compared at every real position."""
    real = torch.ones(len(given.tokens), given.n, dtype=torch.bool, device=given.tokens.device)
    return Asked(given, real if given.real is None else given.real, None, False, False, note)


@torch.no_grad()
def asked(model: Transformer, given: Given, labels: Tensor | None = None, answers: Tensor | None = None) -> Asked:
    """What is right for an input: the labels or answers given, the next tokens of a text, or what the model says.

    Args:
        model: any model.
        given: the input.
        labels: of a classifier, the right class of each example [batch]; by default its own answers. Of a model that
            fills masks, the right token at each position [batch, pos], negative where there is none.
        answers: of a decoder, the right token after each text [batch]; by default the next tokens all along.

    Raises:
        ValueError: labels or answers for a model that has no use for them, of another shape, or out of range.
    """
    cfg, batch, device = model.cfg, len(given.tokens), given.tokens.device
    real = torch.ones(batch, given.n, dtype=torch.bool, device=device) if given.real is None else given.real
    if cfg.head == "none":
        _refuse(model, "has no logits", labels, answers)
        return unasked(given, f"{model.name} has no logits; its residual stream is compared.")
    if cfg.pooling != "none":
        _refuse(model, "gives one class for each example; use labels=", answers)
        return _classes(model, given, real, labels)
    if answers is not None:
        _refuse(model, "has either answers or labels", labels)
        at = given.n - 1 - real.long().flip(1).argmax(1)
        last = torch.zeros_like(real)
        last[torch.arange(batch, device=device), at] = True
        return Asked(given, last, _fits(model, answers, (batch,), "answers")[:, None].expand(-1, given.n), False, True)
    if cfg.causal:
        _refuse(model, "predicts the next token; use answers=", labels)
        if given.n < 2 or not bool((real.sum(-1) > 1).all()) or given.ids is None:
            raise ValueError("A text needs two tokens for a next one to be predicted; give longer texts, or answers=.")
        rows = real & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], 1)
        return Asked(given, rows, given.ids.roll(-1, 1), False, True)
    if labels is None:
        return Asked(given, real, None, False, True, f"{model.name} fills masks; without labels= nothing is right.")
    right = _fits(model, labels, (batch, given.n), "labels", masked=True)
    rows = (right >= 0) & real
    if not bool(rows.any(-1).all()):
        raise ValueError("Every example needs a label at one real position at least; the others are negative.")
    return Asked(given, rows, right.clamp(min=0), False, True)


def _classes(model: Transformer, given: Given, real: Tensor, labels: Tensor | None) -> Asked:
    """What is right for a classifier."""
    rows, note = real, None
    if model.cfg.pooling in ("first", "first-two"):
        nth = real.long().cumsum(-1)
        rows = real & (nth <= (1 if model.cfg.pooling == "first" else 2))
    if labels is None:
        more = {} if given.token_types is None else {"token_types": given.token_types}
        mask = None if given.real is None else given.real.long()
        target = model(given.tokens, attention_mask=mask, **more).argmax(-1)
        note = "No labels were given: the model's own answers count as right."
    else:
        target = _fits(model, labels, (len(given.tokens),), "labels")
    return Asked(given, rows, target, True, True, note)


def _fits(model: Transformer, right: Tensor, shape: tuple[int, ...], what: str, masked: bool = False) -> Tensor:
    right = torch.as_tensor(right, device=model.device)
    if tuple(right.shape) != shape or right.is_floating_point():
        raise ValueError(f"{what} are whole numbers {list(shape)} for this input; got {list(right.shape)}.")
    if int(right.max()) >= model.cfg.n_out or (not masked and int(right.min()) < 0):
        raise ValueError(f"{what} are numbers from 0 to {model.cfg.n_out - 1} for {model.name}.")
    return right.long()


def _refuse(model: Transformer, why: str, *given: Tensor | None) -> None:
    if any(one is not None for one in given):
        raise ValueError(f"{model.name} {why}.")
