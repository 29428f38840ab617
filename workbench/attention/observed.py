"""Statistics of attention as plain data: of every row, and their means by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.measures import KEYS, find

ByHead = Float[Tensor, "layer head"]
ByRow = Float[Tensor, "layer head batch position"]


class Means:
    """Every measure as an attribute, [layer, head]. What has them says in ``value`` where they come from."""

    def value(self, key: str) -> ByHead:
        """Mean of a measure over the rows, [layer, head]; NaN where no row has one."""
        raise NotImplementedError

    @property
    def entropy(self) -> ByHead:
        """Mean entropy of the rows, in nats."""
        return self.value("entropy")

    @property
    def normalised_entropy(self) -> ByHead:
        """Entropy divided by its maximum, log of the visible keys; rows that see one key are left out."""
        return self.value("normalised_entropy")

    @property
    def largest(self) -> ByHead:
        """Largest weight of a row."""
        return self.value("largest")

    @property
    def effective_keys(self) -> ByHead:
        """``1 / sum p^2``: how many keys share the weight, in tokens."""
        return self.value("effective_keys")

    @property
    def sink_mass(self) -> ByHead:
        """Share of the weight on the sink keys."""
        return self.value("sink_mass")

    @property
    def recent_mass(self) -> ByHead:
        """Share of the weight on the nearest keys, the query's own included."""
        return self.value("recent_mass")

    @property
    def distance(self) -> ByHead:
        """How far away the weight lies, in tokens."""
        return self.value("distance")

    @property
    def distance_spread(self) -> ByHead:
        """Standard deviation of the distance within a row, in tokens."""
        return self.value("distance_spread")

    @property
    def logit_mean(self) -> ByHead:
        """Mean logit of a row, every visible key counted once."""
        return self.value("logit_mean")

    @property
    def logit_spread(self) -> ByHead:
        """Standard deviation of a row's logits."""
        return self.value("logit_spread")

    @property
    def logit_range(self) -> ByHead:
        """Highest less lowest logit of a row."""
        return self.value("logit_range")

    @property
    def value_weighted_norm(self) -> ByHead:
        """``sum p ||v||``: how long the values are where the weight lies."""
        return self.value("value_weighted_norm")

    @property
    def output_norm(self) -> ByHead:
        """``||sum p v||``: length of what the head reads, before its output matrix."""
        return self.value("output_norm")


@dataclass(frozen=True)
class Statistics(Means):
    """What attention did in every layer and head of one run.

    Positions count real tokens from 0: padding on the left was moved to the right. ``statistics.entropy`` and the
    other measures are means over all real queries, [layer, head].

    Attributes:
        model: name of the model.
        rows: each measure of each query, [layer, head, batch, position]; NaN at padding, and where it says nothing.
        visible: keys that each query sees, [layer, batch, position]; 0 at padding.
        real: False at padding, [batch, position].
        tokens: token ids [batch, position]; None for images.
        value_norm: mean length of the values over real keys, [layer, head, batch]: what ``value_weighted_norm`` is
            compared with; NaN where a mechanism mixes values.
        sinks: the sink keys, counted in real tokens; None where they were given as a mask.
        recent: the window of ``recent_mass``, in tokens.
        received: weight that each key gets from all real queries, [layer, head, batch, position]; None unless asked.
        received_by: real queries that see each key, [layer, batch, position]; None unless asked.
        notes: what a reader should know of how this was made.
    """

    model: str
    rows: Mapping[str, ByRow]
    visible: Int[Tensor, "layer batch position"]
    real: Bool[Tensor, "batch position"]
    tokens: Int[Tensor, "batch position"] | None
    value_norm: Float[Tensor, "layer head batch"]
    sinks: tuple[int, ...] | None
    recent: int
    received: ByRow | None = None
    received_by: Int[Tensor, "layer batch position"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Layers, heads, examples, positions."""
        layers, heads, batch, positions = self.rows["entropy"].shape
        return layers, heads, batch, positions

    def row(self, key: str) -> ByRow:
        """A measure of every row, [layer, head, batch, position].

        Raises:
            ValueError: there is no such measure; the message suggests the closest.
        """
        return self.rows[find(key).key]

    def value(self, key: str) -> ByHead:
        """Mean of a measure over all real queries, [layer, head]; NaN where no row has one."""
        return self.row(key).flatten(2).nanmean(-1)

    def by_position(self, key: str) -> Float[Tensor, "layer head position"]:
        """Mean of a measure over the examples at each position; NaN where none has one."""
        return self.row(key).nanmean(2)

    @property
    def received_mean(self) -> ByRow:
        """Mean weight on each key over the real queries that see it; NaN at padding.

        Raises:
            ValueError: columns were not asked for.
        """
        received, by = self.columns()
        return (received / by.clamp(min=1)[:, None]).masked_fill(by[:, None] == 0, float("nan"))

    def columns(self) -> tuple[ByRow, Int[Tensor, "layer batch position"]]:
        """``received`` and ``received_by``.

        Raises:
            ValueError: they were not asked for.
        """
        if self.received is None or self.received_by is None:
            raise ValueError("What keys receive was not asked for: run statistics(model, tokens, columns=True).")
        return self.received, self.received_by

    def to_dict(self) -> dict[str, Any]:
        """Means of every measure and what they are of, as plain numbers and lists (NaN as None)."""
        layers, heads, batch, positions = self.shape
        return {
            "model": self.model,
            "layers": layers,
            "heads": heads,
            "examples": batch,
            "rows": int(self.real.sum()),
            "positions": positions,
            "sinks": None if self.sinks is None else list(self.sinks),
            "recent": self.recent,
            "notes": list(self.notes),
            "means": {key: plain(self.value(key)) for key in KEYS},
        }


def plain(x: Tensor) -> list[Any]:
    """A tensor as nested lists, with None for NaN: JSON has no NaN."""
    if x.ndim == 1:
        return [None if value != value else value for value in x.tolist()]
    return [plain(part) for part in x]
