"""Statistics over a data set: running means with intervals, by head, position and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from workbench.attention.layers import taken
from workbench.attention.measures import KEYS, find
from workbench.attention.observed import ByHead, Means, plain
from workbench.attention.prompt import RECENT, statistics
from workbench.attention.running import ByToken, Mean, Running, RunningByToken
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer

LEVEL = 0.95
# What is followed along positions and tokens unless more is asked for: it takes a table for each head.
FOLLOWED = ("entropy", "normalised_entropy", "largest", "sink_mass")


@dataclass(frozen=True)
class DatasetStatistics(Means):
    """Means over the texts of a data set.

    A text counts once, whatever its length: its own mean over real queries is one draw, so that the intervals, over
    texts, are not narrowed by rows of one text that resemble each other.

    Attributes:
        model: name of the model.
        means: each measure [layer, head] over texts.
        positions: the followed measures [layer, head, position] over the texts that reach a position.
        tokens: the followed measures by the token at the query, over all queries; empty for images.
        n_texts: texts that were read.
        n_rows: real queries that they have.
        complete: False where it was stopped before the last.
        sinks, recent: as in :func:`workbench.attention.statistics`.
        notes: what a reader should know of how this was made.
    """

    model: str
    means: Mapping[str, Mean]
    positions: Mapping[str, Mean]
    tokens: Mapping[str, ByToken]
    n_texts: int
    n_rows: int
    complete: bool
    sinks: tuple[int, ...]
    recent: int
    notes: tuple[str, ...] = ()

    def value(self, key: str) -> ByHead:
        """Mean of a measure over texts, [layer, head]; NaN where no text has one."""
        return self.means[find(key).key].mean

    def by_position(self, key: str) -> Float[Tensor, "layer head position"]:
        """Mean of a followed measure at each position.

        Raises:
            ValueError: it was not followed.
        """
        if find(key).key not in self.positions:
            raise ValueError(f"'{key}' was not followed; ask for it with follow=({key!r},).")
        return self.positions[key].mean

    def to_dict(self) -> dict[str, Any]:
        """Means, and half their intervals, as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "texts": self.n_texts,
            "rows": self.n_rows,
            "complete": self.complete,
            "sinks": list(self.sinks),
            "recent": self.recent,
            "level": self.means["entropy"].level,
            "notes": list(self.notes),
            "means": {key: plain(found.mean) for key, found in self.means.items()},
            "half_widths": {key: plain(found.half_width) for key, found in self.means.items()},
        }


def statistics_over(
    model: Transformer,
    data: Sequence[str] | Sequence[Tensor],
    *,
    follow: Sequence[str] = FOLLOWED,
    sinks: Sequence[int] = (0,),
    recent: int = RECENT,
    level: float = LEVEL,
    batch_size: int = 8,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> DatasetStatistics:
    """Statistics of attention over many texts, or batches of tokens or images.

    One forward for each batch; what is kept does not grow with the number of texts, but for one table row for each
    token that turns up. Means and deviations are running ones (Welford 1962; Chan, Golub and LeVeque 1983), intervals
    Student's t over texts.

    Args:
        model: decoder, encoder or vision transformer.
        data: texts; or tensors, each a batch: tokens [batch, pos] (padding as in :func:`statistics`) or images.
        follow: the measures that are also kept by position and by token.
        sinks, recent: as in :func:`statistics`.
        level: of the intervals, between 0 and 1.
        batch_size: texts that are read at a time, if ``budget`` allows.
        budget: bytes beside the model.
        progress: called after every batch; returning False stops and keeps what is finished.

    Raises:
        ValueError: no data, a text that is empty or longer than the context (said before anything runs), an unknown
            measure, a level that is none.
    """
    followed = [find(key).key for key in follow]
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, such as 0.95; got {level}.")
    batches = _batches(model, data, batch_size)
    heads = {key: Running() for key in KEYS}
    positions = {key: Running() for key in followed}
    tokens = {key: RunningByToken() for key in followed}
    report = Reporter(progress, len(batches), "reading attention")
    texts = rows = 0
    notes: tuple[str, ...] = ()
    for batch in batches:
        found = statistics(model, **batch, sinks=sinks, recent=recent, budget=budget)
        for key in KEYS:
            heads[key].add(found.row(key).nanmean(-1))
        for key in followed:
            positions[key].add(found.row(key).transpose(2, 3))
            if found.tokens is not None:
                tokens[key].add(found.tokens, found.row(key))
        texts, rows, notes = texts + len(found.real), rows + int(found.real.sum()), found.notes
        report.step()
        if not report.going:
            break
    return DatasetStatistics(
        model.name,
        {key: running.result(level) for key, running in heads.items()},
        {key: running.result(level) for key, running in positions.items()},
        {key: running.result() for key, running in tokens.items() if running.sums is not None},
        texts,
        rows,
        report.done == report.total,
        tuple(sinks),
        recent,
        notes,
    )


def _batches(model: Transformer, data: Sequence[str] | Sequence[Tensor], size: int) -> list[dict[str, Any]]:
    """What each call of :func:`statistics` is given, checked before anything runs."""
    if isinstance(data, str | Tensor):
        raise ValueError("Give a list of texts or of batches; for one text or batch there is statistics().")
    if not len(data):
        raise ValueError("There is no data: give at least one text or one batch of tokens.")
    if size < 1:
        raise ValueError(f"A batch holds at least one text; got batch_size={size}.")
    texts = [x for x in data if isinstance(x, str)]
    if not texts:
        for batch in data:
            taken(model, batch)
        return [{"tokens": batch} for batch in data]
    if len(texts) != len(data):
        raise ValueError("Data are texts or batches of tokens, not both at once.")
    return [model.to_inputs(texts[start : start + size]) for start in range(0, len(texts), size)]
