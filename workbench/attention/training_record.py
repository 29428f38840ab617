"""What a training run did to attention: readings of one fixed probe, alarms, and the file that outlives the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ByHead = Float[Tensor, "layer head"]
ByReading = Float[Tensor, "reading layer head"]
_MAPS = ("entropy", "floor", "logit_range", "qk_norm")


@dataclass(frozen=True)
class AlarmRule:
    """When attention counts as collapsed: its mean entropy is low in several readings in a row.

    Zhai et al. 2023 call a collapse "entropy near 0" and give no threshold; these are ours. A layer's entropy is the
    mean over its heads. A single head may be sharp because its work asks for it (a previous-token head); a whole layer
    hardly ever is, and sharpness that comes while the loss stands still is not work.

    Attributes:
        below: nats; 0.1 is a row with 98 % of its weight on one key.
        share: of what the same head or layer had at the first reading; trained heads of small healthy runs keep more.
        patience: readings in a row.
    """

    below: float = 0.1
    share: float = 0.3
    patience: int = 3

    def __post_init__(self) -> None:
        if not (self.below >= 0 and 0 <= self.share < 1 and self.patience >= 1):
            raise ValueError(
                "An alarm needs below >= 0 nats, a share from 0 to below 1 and a patience of at least 1 reading; got "
                f"below={self.below}, share={self.share}, patience={self.patience}."
            )


@dataclass(frozen=True)
class Alarm:
    """One head, or one whole layer, that collapsed.

    Attributes:
        layer: from 0.
        head: from 0; None for the mean over the layer's heads.
        since: step of the first of the low readings.
        step: step of the reading that completed them: when the alarm went off.
        entropy: nats, at that reading.
        start: nats, at the first reading of the run.
    """

    layer: int
    head: int | None
    since: int
    step: int
    entropy: float
    start: float

    @property
    def name(self) -> str:
        """``a3.h2`` as in circuits, or ``layer 3``."""
        return f"layer {self.layer}" if self.head is None else f"a{self.layer}.h{self.head}"


@dataclass(frozen=True, eq=False)
class Reading:
    """What the probe showed at one step.

    Attributes:
        step: updates of the weights so far.
        entropy: mean over queries, in nats; NaN where the model's scores were not finite.
        floor: mean lower bound of that entropy from each row's own logits (:func:`workbench.attention.row_bound`),
            over rows that see more than one key; NaN where there are no logits.
        logit_range: largest over queries of highest less lowest logit; NaN where there are no logits.
        qk_norm: ``scale * ||W_Q^T W_K||_2``; None where weights were not read.
        norms: spectral norm of the matrices of queries, keys, values and outputs (``q``, ``k``, ``v``, ``o``), each
            [layer]; None where weights were not read.
        loss: mean over the steps since the reading before; None where none was given, or one was not finite.
        grad_norm: length of the whole gradient; None where there was none.
        diverged: a loss or the model's scores were not finite.
        note: what a reader should know; None for nothing.
    """

    step: int
    entropy: ByHead
    floor: ByHead
    logit_range: ByHead
    qk_norm: ByHead | None = None
    norms: Mapping[str, Float[Tensor, " layer"]] | None = None
    loss: float | None = None
    grad_norm: float | None = None
    diverged: bool = False
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is not finite is None."""
        found: dict[str, Any] = {"step": self.step, "loss": self.loss, "grad_norm": self.grad_norm}
        found |= {"diverged": self.diverged, "note": self.note}
        found |= {key: _plain(getattr(self, key)) for key in _MAPS}
        return found | {"norms": None if self.norms is None else {key: _plain(x) for key, x in self.norms.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """The reading that :meth:`to_dict` wrote."""
        maps = {key: _tensor(data[key]) for key in _MAPS}
        norms = data["norms"]
        rest = {key: data[key] for key in ("step", "loss", "grad_norm", "diverged", "note")}
        return cls(norms=None if norms is None else {key: _tensor(x) for key, x in norms.items()}, **maps, **rest)


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """Attention along a training run, as plain data.

    Attributes:
        model: its name.
        probe: examples and positions of the probe.
        rule: when a head or layer counts as collapsed.
        readings: in the order of steps.
        complete: False where reading was asked to stop before all checkpoints were read.
    """

    model: str
    probe: tuple[int, int]
    rule: AlarmRule = AlarmRule()
    readings: tuple[Reading, ...] = ()
    complete: bool = True

    @property
    def steps(self) -> list[int]:
        """Step of each reading."""
        return [reading.step for reading in self.readings]

    @property
    def losses(self) -> list[float]:
        """Loss of each reading; NaN where there is none."""
        return [math.nan if reading.loss is None else reading.loss for reading in self.readings]

    @property
    def entropy(self) -> ByReading:
        """Entropy of every reading, in nats."""
        return self.stacked("entropy")

    def stacked(self, key: str) -> ByReading:
        """``entropy``, ``floor``, ``logit_range`` or ``qk_norm`` of every reading.

        Raises:
            ValueError: there is no reading, no such map, or it was not read.
        """
        if key not in _MAPS:
            raise ValueError(f"A reading has {', '.join(_MAPS)}; not '{key}'.")
        found = [getattr(reading, key) for reading in self.readings]
        if not found or any(x is None for x in found):
            raise ValueError(f"There is no '{key}' in this record.")
        return torch.stack(found)

    def by_layer(self, key: str = "entropy") -> Float[Tensor, "reading layer"]:
        """Mean over the heads of each layer."""
        return self.stacked(key).nanmean(-1)

    @property
    def alarms(self) -> list[Alarm]:
        """Every head and layer that collapsed, each once, in the order in which the alarms went off."""
        found: dict[str, Alarm] = {}
        for last in range(1, len(self.readings) + 1):
            for alarm in alarms_at(self.readings[:last], self.rule):
                found.setdefault(alarm.name, alarm)
        return list(found.values())

    def loss_rise(self, by: float = 0.3) -> int | None:
        """The first step whose loss is ``by`` above the lowest before it, or not finite; None if there is none."""
        best = math.inf
        for reading in self.readings:
            if reading.diverged or (reading.loss is not None and reading.loss > best + by):
                return reading.step
            best = min(best, math.inf if reading.loss is None else reading.loss)
        return None

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.header() | {"readings": [reading.to_dict() for reading in self.readings]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> TrainingRecord:
        """The record that :meth:`to_json` wrote.

        Raises:
            ValueError: the text is no such record.
        """
        try:
            data = json.loads(text)
            readings = tuple(Reading.from_dict(one) for one in data["readings"])
            return replace(_headed(data), readings=readings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"This is no record of a training run ({type(error).__name__}: {error}).") from None

    def header(self) -> dict[str, Any]:
        """What is said once: model, probe, rule. The first line of a file."""
        rule = asdict(self.rule)
        return {"model": self.model, "probe": list(self.probe), "rule": rule, "complete": self.complete}

    @classmethod
    def read(cls, path: str | Path) -> TrainingRecord:
        """The record in a file that a monitor writes line by line; a line cut off by a kill is left out.

        Raises:
            ValueError: there is no such file, or it is something else.
        """
        try:
            head, *lines = Path(path).read_text(encoding="utf-8").splitlines() or [""]
            record = _headed(json.loads(head))
            readings = []
            for at, line in enumerate(lines):
                try:
                    readings.append(Reading.from_dict(json.loads(line)))
                except json.JSONDecodeError:
                    if at + 1 < len(lines):
                        raise
            return replace(record, readings=tuple(readings))
        except FileNotFoundError:
            raise ValueError(f"There is no file '{path}'.") from None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"'{path}' is no record of a training run ({type(error).__name__}: {reason}).") from None


def alarms_at(readings: Iterable[Reading], rule: AlarmRule) -> list[Alarm]:
    """Heads and layers that are low in the last ``patience`` readings; layers first."""
    every = list(readings)
    window, begun = every[-rule.patience :], every[0] if every else None
    if begun is None or len(window) < rule.patience:
        return []
    found: list[Alarm] = []
    for mean in (True, False):
        start = begun.entropy.mean(-1, keepdim=True) if mean else begun.entropy
        rows = torch.stack([one.entropy.mean(-1, keepdim=True) if mean else one.entropy for one in window])
        for layer, head in _low(rows, start, rule).nonzero().tolist():
            now, then = rows[-1, layer, head].item(), start[layer, head].item()
            found.append(Alarm(layer, None if mean else head, window[0].step, window[-1].step, now, then))
    return found


def _low(rows: Float[Tensor, "n layer head"], start: ByHead, rule: AlarmRule) -> Bool[Tensor, "layer head"]:
    """True where every row is under a threshold. NaN is under none."""
    # What starts under the fixed threshold cannot fall below it.
    fixed = torch.where(start > rule.below, rule.below, -torch.inf)
    return (rows < torch.maximum(fixed, rule.share * start)).all(0)


def _headed(data: Mapping[str, Any]) -> TrainingRecord:
    examples, positions = data["probe"]
    return TrainingRecord(data["model"], (examples, positions), AlarmRule(**data["rule"]), (), data["complete"])


def _plain(x: Tensor | None) -> Any:
    """Nested lists of numbers; nine digits are all that float32 has."""
    if x is None:
        return None
    if x.ndim:
        return [_plain(row) for row in x]
    value = x.item()
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _tensor(rows: Any) -> Any:
    """What :func:`_plain` made of a tensor; None in it is NaN."""

    def filled(part: Any) -> Any:
        return [filled(row) for row in part] if isinstance(part, list) else math.nan if part is None else part

    return None if rows is None else torch.tensor(filled(rows), dtype=torch.float32)
