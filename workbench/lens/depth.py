"""How deep an answer is settled: the first layer from which it stays, and the first that is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.observed import plain
from workbench.attention.running import Mean, Running
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.sweep import BUDGET
from workbench.lens.logit_lens import LogitLens, Translator, logit_lens
from workbench.lens.places import given_texts, masks_of
from workbench.models import Transformer

CONFIDENCE = 0.9
LEVEL = 0.95


@dataclass(frozen=True)
class ExitDepth:
    """Where each answer could have been read. Depths are indices into ``places``; -1 at padding.

    Attributes:
        places: where the stream was read.
        confidence: the probability that counts as sure.
        settled: [batch, pos] the first place from which the most likely answer is the final one at every later place.
        sure: [batch, pos] the first place whose most likely answer has at least ``confidence``; else the last.
        agrees: [batch, pos] whether the answer at ``sure`` is the final one: what leaving there would have cost.
    """

    places: tuple[str, ...]
    confidence: float
    settled: Int[Tensor, "batch pos"]
    sure: Int[Tensor, "batch pos"]
    agrees: Bool[Tensor, "batch pos"]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "places": list(self.places),
            "confidence": self.confidence,
            "settled": self.settled.tolist(),
            "sure": self.sure.tolist(),
            "agrees": self.agrees.tolist(),
        }


def exit_depth(lens: LogitLens, *, confidence: float = CONFIDENCE) -> ExitDepth:
    """Depths of every position of a reading.

    The first is called saturation (Geva et al. 2022, arXiv 2203.14680). The second is an exit by confidence, here the
    largest probability; Schuster et al. 2022 (CALM, arXiv 2207.07061) compare such measures.
    What is read is the stream that this run has at each place: a model that really left early would also have other
    keys and values at later positions.

    Args:
        lens: a logit lens or tuned lens, with any ``k``.
        confidence: above 0, at most 1.

    Raises:
        ValueError: a confidence out of range.
    """
    if not 0 < confidence <= 1:
        raise ValueError(f"A confidence lies above 0 and at most at 1, such as 0.9; got {confidence}.")
    top, real = lens.top[..., 0], lens.top[-1, ..., 0] >= 0
    same = top == top[-1]
    # Counted from the end, how many places in a row agree.
    lasting = same.flip(0).long().cumprod(0).sum(0)
    enough = lens.top_probs[..., 0] >= confidence
    enough[-1] = True
    sure = enough.long().argmax(0)
    agrees = same.gather(0, sure[None])[0] & real
    settled = len(lens.places) - lasting
    return ExitDepth(lens.places, confidence, settled.masked_fill(~real, -1), sure.masked_fill(~real, -1), agrees)


@dataclass(frozen=True)
class ExitCurve:
    """Depths over texts. A text counts once: its own mean over positions is one draw.

    Attributes:
        model: name of the model.
        title: what was read through.
        places: where.
        confidence: the probability that counts as sure.
        settled: [place] share of positions that are settled at or before a place.
        sure: [place] share that is sure at or before a place.
        agreement: share of positions whose answer at the sure place is the final one (one number).
        depth: mean places saved are ``len(places) - 1 - depth``; [2] mean depth until settled, until sure.
        n_texts, n_positions: what was read.
        complete: False where it was stopped before the last text.
    """

    model: str
    title: str
    places: tuple[str, ...]
    confidence: float
    settled: Mean
    sure: Mean
    agreement: Mean
    depth: Mean
    n_texts: int
    n_positions: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Means and half their intervals, as plain numbers and lists (NaN as None)."""
        kept = {"settled": self.settled, "sure": self.sure, "agreement": self.agreement, "depth": self.depth}
        return {
            "model": self.model,
            "title": self.title,
            "places": list(self.places),
            "confidence": self.confidence,
            "level": self.settled.level,
            "texts": self.n_texts,
            "positions": self.n_positions,
            "complete": self.complete,
            **{name: plain(found.mean) for name, found in kept.items()},
            "half_widths": {name: plain(found.half_width) for name, found in kept.items()},
        }


def exit_curve(
    model: Transformer,
    data: Sequence[str] | Sequence[Tensor] | Tensor,
    *,
    confidence: float = CONFIDENCE,
    sublayers: bool = False,
    translator: Translator | None = None,
    level: float = LEVEL,
    batch_size: int = 8,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> ExitCurve:
    """:func:`exit_depth` over many texts, rows of tokens or images, with Student's intervals over them.

    Args:
        model, sublayers, translator, budget: as in :func:`logit_lens`.
        data: texts, or batches of tokens or images.
        confidence: as in :func:`exit_depth`.
        level: of the intervals.
        batch_size: texts at a time.
        progress: called after every batch; returning False stops and keeps what is finished.

    Raises:
        ValueError: as for :func:`logit_lens` and :func:`exit_depth`; a level that is none.
    """
    check_level(level)
    if not 0 < confidence <= 1:
        raise ValueError(f"A confidence lies above 0 and at most at 1, such as 0.9; got {confidence}.")
    batches = given_texts(model, data, batch_size)
    sums = {name: Running() for name in ("settled", "sure", "agreement", "depth")}
    report = Reporter(progress, len(batches), "reading depths")
    n, texts, lens = 0, 0, None
    for given in batches:
        lens = logit_lens(
            model,
            given.tokens,
            k=1,
            sublayers=sublayers,
            translator=translator,
            budget=budget,
            **masks_of(given),
        )
        found = exit_depth(lens, confidence=confidence)
        for row in range(len(found.settled)):
            _add(sums, found, row)
        n, texts = n + int((found.settled >= 0).sum()), texts + len(found.settled)
        report.step()
        if not report.going:
            break
    assert lens is not None
    made = {name: running.result(level) for name, running in sums.items()}
    return ExitCurve(
        model.name, lens.title, lens.places, confidence, n_texts=texts, n_positions=n,
        complete=report.done == report.total, **made,
    )  # fmt: skip


def _add(sums: dict[str, Running], found: ExitDepth, row: int) -> None:
    real = found.settled[row] >= 0
    settled, sure = found.settled[row][real], found.sure[row][real]
    places = torch.arange(len(found.places))[:, None]
    sums["settled"].add(_share(settled <= places))
    sums["sure"].add(_share(sure <= places))
    sums["agreement"].add(_share(found.agrees[row][real][None]))
    sums["depth"].add(torch.stack([settled, sure]).double().mean(1, keepdim=True))


def _share(x: Bool[Tensor, "n pos"]) -> Float[Tensor, "n 1"]:
    return x.double().mean(1, keepdim=True)


def check_level(level: float) -> None:
    """Refuse a level of intervals that is none.

    Raises:
        ValueError: saying which there are.
    """
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, such as 0.95; got {level}.")
