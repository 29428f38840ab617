"""What parts are read at: a logit or class, a task's metric, a similarity, an activation of a later head or MLP."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts, Sweep
from workbench.circuits.decomposition.sites import STEPS, Site, parse
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.norm import Norm

Values = Float[Tensor, "source batch"]


class Target(Protocol):
    """Something that parts are read at."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def unit(self) -> str:
        """Of the values."""

    @property
    def order(self) -> float:
        """How far one has to go, as :attr:`Site.order`; a source must come before. Infinite for the output."""

    def read(self, sweep: Sweep) -> tuple[Values, Float[Tensor, " batch"]]:
        """The relevant part's value for each source and prompt, and the whole's for each prompt."""

    def rows(self, start: int, stop: int) -> Target:
        """The same for prompts ``start`` to ``stop`` alone."""


@dataclass(frozen=True)
class Logits:
    """A logit, or the difference of two.

    Attributes:
        right: [batch] token or class.
        wrong: [batch] what is subtracted; None for nothing.
        at: [batch] position; None for models that give one answer.
    """

    right: Int[Tensor, " batch"]
    wrong: Int[Tensor, " batch"] | None = None
    at: Int[Tensor, " batch"] | None = None
    name: str = "logits"
    unit: str = "logits"
    order: float = float("inf")

    def read(self, sweep: Sweep) -> tuple[Values, Tensor]:
        """See :class:`Target`."""
        logits = sweep.logits(sweep.run()[0], self.at)
        if self.at is not None:
            logits = logits.along(lambda part: part[:, :, 0])
        one = torch.arange(len(self.right), device=self.right.device)

        def value(part: Tensor) -> Tensor:
            right = part[:, one, self.right]
            return right if self.wrong is None else right - part[:, one, self.wrong]

        return value(logits.relevant), value(logits.total)[0]

    def rows(self, start: int, stop: int) -> Logits:
        """See :class:`Target`."""
        wrong, at = (None if x is None else x[start:stop] for x in (self.wrong, self.at))
        return replace(self, right=self.right[start:stop], wrong=wrong, at=at)


@dataclass(frozen=True)
class Metric:
    """A task's metric: ``metric(whole) - metric(irrelevant part)``; a logit difference is the relevant part's own."""

    task: Task
    order: float = float("inf")

    @property
    def name(self) -> str:
        """What the task measures."""
        return self.task.metric_name

    unit: str = "metric"

    def read(self, sweep: Sweep) -> tuple[Values, Tensor]:
        """See :class:`Target`."""
        once = stream.answers_once(sweep.model)
        logits = sweep.logits(sweep.run()[0], None if once else self.task.last.to(sweep.model.device))
        logits = logits if once else logits.along(lambda part: part[:, :, 0])
        whole = self.task.score(logits.total[0])
        if not len(logits.relevant):
            return logits.relevant.new_zeros(0, len(whole)), whole
        rest = torch.stack([self.task.score(part) for part in logits.irrelevant])
        return whole - rest, whole

    def rows(self, start: int, stop: int) -> Metric:
        """See :class:`Target`."""
        return replace(self, task=self.task.rows(start, stop))


@dataclass(frozen=True)
class Similarity:
    """The cosine of a sentence's vector (the mean over its tokens) with given vectors, which are held.

    Attributes:
        vectors: [batch, d_model].
    """

    vectors: Float[Tensor, "batch d_model"]
    name: str = "similarity"
    unit: str = "cosine"
    order: float = float("inf")

    def read(self, sweep: Sweep) -> tuple[Values, Tensor]:
        """See :class:`Target`."""
        x = sweep.logits(sweep.run()[0])
        places = torch.arange(x.total.shape[2], device=x.total.device)
        real = (places < sweep.prompts.lengths[:, None]).to(x.total.dtype)[..., None]
        mean = x.along(lambda part: (part * real).sum(2) / real.sum(1))
        length = Norm("rms", mean.total.shape[-1], 0.0).to(mean.total)  # x sqrt(n) / |x|
        unit = flow.norm(sweep.rule, mean, length)
        other = torch.nn.functional.normalize(self.vectors, dim=-1) / self.vectors.shape[-1] ** 0.5
        cosine = unit.along(lambda part: (part * other).sum(-1))
        return cosine.relevant, cosine.total[0]

    def rows(self, start: int, stop: int) -> Similarity:
        """See :class:`Target`."""
        return replace(self, vectors=self.vectors[start:stop])


@dataclass(frozen=True)
class Node:
    """An activation inside the model: a head's output, its queries, keys or values, an MLP's output, a stream.

    The value is the part's share of the activation, ``b . x / x . x`` over all its numbers at the positions that are
    read: 1 for all of it, below 0 for what opposes it. ``ratio`` gives the published measure instead, the sum over
    numbers of ``|b|`` by that of ``|g|`` (Hsu et al. 2025, eq. 16), which has no sign.
    """

    site: Site
    part: str = "z"
    ratio: bool = False

    @property
    def name(self) -> str:
        """As it is written."""
        return self.site.name

    @property
    def unit(self) -> str:
        """Of the values."""
        return "|relevant| / |irrelevant|" if self.ratio else "share of the activation"

    @property
    def order(self) -> int:
        """Where it is read."""
        return self.site.order

    def read(self, sweep: Sweep) -> tuple[Values, Tensor]:
        """See :class:`Target`; the whole's value is 1."""
        found = self.parts(sweep)
        dims = tuple(range(2, found.total.ndim))
        if self.ratio:
            value = found.relevant.abs().sum(dims) / found.irrelevant.abs().sum(dims)
        else:
            value = (found.relevant * found.total).sum(dims) / found.total.square().sum(dims)
        return value, torch.ones_like(value[0]) if len(value) else value.new_ones(len(sweep.prompts))

    def parts(self, sweep: Sweep) -> Parts:
        """The activation in its parts, 0 at positions that are not read."""
        layer, model = self.site.layer, sweep.model
        if self.site.kind == "resid":
            found, _ = sweep.run(until=layer)
            found = sweep.inject(found, STEPS * layer)
        else:
            what = "hook_mlp_out" if self.site.kind == "mlp" else f"attn.hook_{self.part}"
            name = f"blocks.{layer}.{what}"
            found = sweep.run([name], until=layer + 1)[1][name]
        if self.site.kind == "head":
            group = model.cfg.group_size if self.part in "kv" else 1
            heads = sorted({head // group for head in self.site.heads})
            found = found.along(lambda part: part[..., heads, :])
        chosen = self.site.where(sweep.prompts.lengths, sweep.prompts.width)
        return found.along(lambda part: part * chosen.view(*chosen.shape, *[1] * (part.ndim - 3)))

    def rows(self, start: int, stop: int) -> Node:  # noqa: ARG002
        """See :class:`Target`."""
        return self


_NODE = re.compile(r"(?P<place>[^<@]+)(?:<(?P<part>[qkv])>)?(?P<at>@.+)?")


def node(name: str, model: Transformer, *, ratio: bool = False) -> Node:
    """The activation that a name such as ``a9.h6<q>@-1``, ``a9.h6``, ``m4`` or ``resid7`` means.

    Raises:
        ValueError: the model has none of that name.
    """
    match = _NODE.fullmatch(name.strip())
    place = name if match is None else match["place"] + (match["at"] or "")
    site = parse(place, model.cfg)
    part = None if match is None else match["part"]
    if part is not None and site.kind != "head":
        raise ValueError(f"'{name}' does not exist: only heads have queries, keys and values.")
    return Node(replace(site, name=name), part or "z", ratio)


def check_before(sources: list[tuple[str, int]], target: Target) -> None:
    """Refuse sources that the target cannot see because they come after it, or are it.

    Args:
        sources: name and order of each.
        target: what is read.

    Raises:
        ValueError: naming the source and the target.
    """
    for name, order in sources:
        if order >= target.order:
            raise ValueError(
                f"The source '{name}' does not come before the target '{target.name}', which therefore has no part of "
                "it; choose an earlier source or a later target."
            )


__all__ = ["Logits", "Metric", "Node", "Prompts", "Similarity", "Target", "check_before", "node"]
