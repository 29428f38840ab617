"""Means, spreads and intervals of what arrives batch by batch; nothing but the sums is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A mean with how sure it is. All tensors have one shape.

    Attributes:
        mean: NaN where nothing was seen.
        spread: standard deviation of what was seen (n - 1); NaN below two.
        n: how much was seen.
        level: of the interval.
    """

    mean: Tensor
    spread: Tensor
    n: Int[Tensor, "..."]
    level: float

    @property
    def half_width(self) -> Tensor:
        """Half the confidence interval of the mean, ``t spread / sqrt(n)`` (Student 1908); NaN below two."""
        from scipy.stats import t as student  # type: ignore[import-untyped]

        times = student.ppf((1 + self.level) / 2, (self.n - 1).clamp(min=1).numpy())
        return torch.as_tensor(times) * self.spread / self.n.clamp(min=1).double().sqrt()

    @property
    def low(self) -> Tensor:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> Tensor:
        """Upper end of the interval."""
        return self.mean + self.half_width


class Running:
    """Mean and squared deviations of numbers that come in batches, NaN left out.

    One number at a time is Welford's recurrence (1962); a batch at a time is the same for two sets (Chan, Golub and
    LeVeque 1983): ``M = M_a + M_b + (mean_b - mean_a)^2 n_a n_b / (n_a + n_b)``. In float64.
    """

    def __init__(self) -> None:
        self.n = torch.zeros(0, dtype=torch.long)
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.squares = torch.zeros(0, dtype=torch.float64)
        self._begun = False

    def add(self, values: Float[Tensor, "... n"]) -> None:
        """Take in ``n`` numbers for each entry. The last axis before them may be longer or shorter than before."""
        values = values.double()
        there = ~values.isnan()
        n = there.sum(-1)
        mean = values.nansum(-1) / n.clamp(min=1)
        squares = (values - mean[..., None]).masked_fill(~there, 0).square().sum(-1)
        if not self._begun:
            self.n, self.mean, self.squares, self._begun = n, mean, squares, True
            return
        n, mean, squares = self._match(n, mean, squares)
        total = (self.n + n).clamp(min=1)
        step = mean - self.mean
        self.mean = self.mean + step * n / total
        self.squares = self.squares + squares + step.square() * self.n * n / total
        self.n = self.n + n

    def _match(self, *new: Tensor) -> list[Tensor]:
        """Widen the last axis of what is there, or of what comes, so that both agree."""
        if not new[0].ndim:
            return list(new)
        more = new[0].shape[-1] - self.n.shape[-1]
        pad = torch.nn.functional.pad
        if more > 0:
            self.n, self.mean, self.squares = (pad(x, (0, more)) for x in (self.n, self.mean, self.squares))
        return [pad(x, (0, max(0, -more))) for x in new]

    def result(self, level: float) -> Mean:
        """What is known so far."""
        mean = self.mean.masked_fill(self.n == 0, torch.nan)
        variance = (self.squares / (self.n - 1).clamp(min=1)).masked_fill(self.n < 2, torch.nan)
        return Mean(mean, variance.sqrt(), self.n.clone(), level)


@dataclass(frozen=True)
class ByToken:
    """A measure by the token at the query.

    Attributes:
        ids: token ids, rising.
        n: how many queries of each had a value.
        mean: their mean [token, layer, head].
    """

    ids: Int[Tensor, " token"]
    n: Int[Tensor, " token"]
    mean: Float[Tensor, "token layer head"]


class RunningByToken:
    """Sums of a measure for every token that turns up; one table row for each."""

    def __init__(self) -> None:
        self.ids = torch.zeros(0, dtype=torch.long)
        self.n = torch.zeros(0, dtype=torch.long)
        self.sums: Tensor | None = None

    def add(self, tokens: Int[Tensor, "batch position"], values: Float[Tensor, "layer head batch position"]) -> None:
        """Take in the rows of one batch; those without a value count nowhere."""
        flat = values.flatten(2).double()
        # A measure is missing for a row in all heads at once: at padding, or with one visible key.
        there = ~flat.isnan().flatten(0, 1).any(0)
        new, slot = torch.unique(tokens.flatten()[there], return_inverse=True)
        sums = flat.new_zeros(*flat.shape[:2], len(new)).index_add_(2, slot, flat[:, :, there])
        n = torch.bincount(slot, minlength=len(new))
        if self.sums is None:
            self.ids, self.n, self.sums = new, n, sums
            return
        both, place = torch.unique(torch.cat([self.ids, new]), return_inverse=True)
        self.n = torch.zeros(len(both), dtype=torch.long).index_add_(0, place, torch.cat([self.n, n]))
        joined = torch.cat([self.sums, sums], 2)
        self.sums = flat.new_zeros(*flat.shape[:2], len(both)).index_add_(2, place, joined)
        self.ids = both

    def result(self) -> ByToken:
        """What is known so far."""
        if self.sums is None:
            return ByToken(self.ids, self.n, torch.zeros(0, 0, 0))
        return ByToken(self.ids.clone(), self.n.clone(), (self.sums / self.n).permute(2, 0, 1))
