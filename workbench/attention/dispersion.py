"""Dispersion: how attention thins out as the context grows, and what adaptive temperature does about it.

Velickovic et al. 2024 ("Softmax is not enough (for sharp out-of-distribution)", arXiv 2410.01104), lemma 2.1: logits
that lie within delta of each other give each of n keys a weight between ``exp(-delta) / n`` and ``exp(delta) / n``. So
the largest weight is at most ``exp(delta) / n`` and the entropy at least ``log n - delta``: with bounded logits no head
stays sharp for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.layers import Text, taken
from workbench.attention.observed import ByRow, Statistics
from workbench.attention.prompt import statistics
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer

ADAPTIVE = "adaptive-temperature"


def entropy_floor(found: Statistics) -> ByRow:
    """``max(0, log n - (max s - min s))`` for every row, in nats; NaN where a row sees nothing."""
    seen = found.visible[:, None]
    floor = seen.clamp(min=1).double().log() - found.row("logit_range")
    return floor.clamp(min=0).masked_fill(seen == 0, torch.nan)


def largest_ceiling(found: Statistics) -> ByRow:
    """``min(1, exp(max s - min s) / n)`` for every row; NaN where a row sees nothing."""
    seen = found.visible[:, None]
    ceiling = (found.row("logit_range") - seen.clamp(min=1).double().log()).exp()
    return ceiling.clamp(max=1).masked_fill(seen == 0, torch.nan)


@dataclass(frozen=True)
class Dispersion:
    """Attention against the length of the context.

    Attributes:
        model: name of the model.
        lengths: the lengths, in tokens.
        adaptive: whether the model ran with adaptive temperature.
        entropy: in nats, [length, layer, head].
        largest: largest weight, [length, layer, head].
        entropy_floor: what the range of logits leaves as least entropy, [length, layer, head].
        largest_ceiling: and as largest weight, [length, layer, head].
        rows: queries behind each length.
    """

    model: str
    lengths: tuple[int, ...]
    adaptive: bool
    entropy: Float[Tensor, "length layer head"]
    largest: Float[Tensor, "length layer head"]
    entropy_floor: Float[Tensor, "length layer head"]
    largest_ceiling: Float[Tensor, "length layer head"]
    rows: tuple[int, ...]

    def slope(self) -> Float[Tensor, "layer head"]:
        """Nats of entropy for each e-fold of length, by least squares: 1 where a head stays uniform, 0 where sharp.

        Raises:
            ValueError: there is one length only.
        """
        if len(self.lengths) < 2:
            raise ValueError("A slope needs two lengths or more.")
        x = torch.tensor(self.lengths, dtype=self.entropy.dtype).log()
        x = (x - x.mean())[:, None, None]
        return (x * self.entropy).sum(0) / x.square().sum()


def dispersion(
    model: Transformer,
    tokens: Tensor | Text,
    *,
    lengths: Sequence[int] | None = None,
    adaptive: bool = False,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Dispersion:
    """Entropy and largest weight as the context grows, with the bounds that the range of logits sets.

    In a causal model the query at position i reads what the last token of the prefix of i + 1 tokens reads, so that one
    forward of the long prompt shows every length; a length's number is the mean over the queries in its last quarter
    (positions above 3/4 of it), and over examples. A model that looks both ways runs once for every prefix.

    Args:
        model: a model of text.
        tokens: one long text, or several.
        lengths: lengths of the context, in tokens; by default powers of 2 from 8, and the whole.
        adaptive: run the model with adaptive temperature, ``softmax(beta s)`` with beta from the entropy of the row
            (the same paper, algorithm 1); this makes patterns, one layer at a time. The bounds, which are for the
            unsharpened logits, are then NaN.
        budget: bytes beside the model.
        progress: called after every layer, or prefix; returning False stops.

    Raises:
        ValueError: images, padded examples, a length that the text does not have, or a model without softmax.
        Stopped: ``progress`` asked for it.
    """
    given = taken(model, tokens)
    if given.ids is None:
        raise ValueError(f"{model.name} reads images, whose context does not grow.")
    if given.real is not None:
        raise ValueError("Texts of unlike length cannot be followed together; give one text, or equal lengths of each.")
    if model.cfg.attention not in ("softmax", ADAPTIVE):
        raise ValueError(f"The bounds are softmax's; {model.name} has '{model.cfg.attention}' attention.")
    chosen = _lengths(given.n, lengths)
    adaptive = adaptive or model.cfg.attention == ADAPTIVE
    run = model.with_attention(ADAPTIVE) if adaptive and model.cfg.attention != ADAPTIVE else model
    if model.cfg.causal:
        whole = statistics(run, given.ids, budget=budget, progress=progress)
        parts = [_summary(whole, 3 * n // 4, n, adaptive) for n in chosen]
        counts = [(n - 3 * n // 4) * len(given.ids) for n in chosen]
    else:
        report = Reporter(progress, len(chosen), "reading prefixes")
        parts = []
        for n in chosen:
            parts.append(_summary(statistics(run, given.ids[:, :n], budget=budget), 0, n, adaptive))
            report.step()
            if not report.going:
                raise Stopped("Stopped before all prefixes were read.")
        counts = [n * len(given.ids) for n in chosen]
    entropy, largest, floor, ceiling = (torch.stack(x) for x in zip(*parts, strict=True))
    return Dispersion(model.name, tuple(chosen), adaptive, entropy, largest, floor, ceiling, tuple(counts))


def _lengths(n: int, lengths: Sequence[int] | None) -> list[int]:
    if lengths is None:
        powers = [2**i for i in range(3, n.bit_length()) if 2**i < n]
        return [*powers, n]
    chosen = sorted(set(lengths))
    if not chosen or chosen[0] < 1 or chosen[-1] > n:
        raise ValueError(f"Lengths lie between 1 and the {n} tokens of the text; got {list(lengths)}.")
    return chosen


def _summary(found: Statistics, first: int, last: int, adaptive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means over the queries ``first`` to ``last - 1`` of every head."""

    def mean(rows: Tensor) -> Tensor:
        return rows[..., first:last].flatten(2).nanmean(-1)

    nothing = torch.full_like(found.row("entropy"), torch.nan)
    floor, ceiling = (nothing, nothing) if adaptive else (entropy_floor(found), largest_ceiling(found))
    return mean(found.row("entropy")), mean(found.row("largest")), mean(floor), mean(ceiling)
