"""Any number of every head as a layer x head map whose title says what was found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from workbench.attention import DETECTORS, MEASURES, HeadValue
from workbench.attention.detectors import Detector
from workbench.attention.measures import Measure
from workbench.figures.figure import Figure
from workbench.figures.head_map import head_map
from workbench.figures.svg import number, plural
from workbench.models.lookup import pick
from workbench.observing.records import Observation


@dataclass(frozen=True)
class _Many:
    """From which value on a head counts, and how a title says it."""

    above: float
    words: str
    below: bool = False


_COUNTED: dict[str, _Many] = {
    "normalised_entropy": _Many(0.95, "spread their attention almost evenly (over 95 % of the most there can be)"),
    "largest": _Many(0.5, "put over half of their weight on one key"),
    "sink_mass": _Many(0.8, "hold 80 % of their weight on the first token"),
    "recent_mass": _Many(0.8, "hold 80 % of their weight on recent tokens"),
    "effective_keys": _Many(2.0, "share their weight among fewer than two keys", below=True),
    "distance": _Many(2.0, "look less than two tokens away on average", below=True),
}
_UNITS = {
    "normalised_entropy": "share of the most",
    "positional": "share of the variance",
    "delimiter": "share above chance",
    "copying": "share of tokens",
    "copy_suppression": "share of tokens",
    "successor": "share of pairs",
}
_KIND = 0.5
"""Score from which on a title counts a head as one of a kind."""


def measure_names(observation: Observation) -> dict[str, str]:
    """Keys of what :func:`measure_map` can draw, with their names in prose: measures, then kinds of heads."""
    measures = {one.key: one.title for one in MEASURES if bool(observation.statistics.value(one.key).isfinite().any())}
    kinds = {one.key: one.title for one in DETECTORS if _drawable(observation.census.scores.get(one.key))}
    return measures | kinds


def _drawable(values: Tensor | None) -> bool:
    return values is not None and bool(values.isfinite().any())


def measure_map(observation: Observation, key: str, selected: Collection[str] = ()) -> Figure:
    """The layer x head map of a measure of attention or of a kind of head.

    Args:
        observation: what was observed.
        key: of :data:`workbench.attention.MEASURES` or :data:`workbench.attention.DETECTORS`.
        selected: names of heads to outline, such as ``a9.h6``.

    Raises:
        ValueError: there is no such measure or kind (the closest is suggested), or it was not measured here.
    """
    known: list[Measure | Detector] = [*MEASURES, *DETECTORS]
    what = pick(known, key, "measure of attention or kind of head")
    if isinstance(what, Measure):
        values = observation.statistics.value(what.key)
        title = _of_measure(what, values, observation)
        input_ = caption_of(observation)
    else:
        values = observation.census.score(what.key)
        title = _of_kind(what, values)
        input_ = _read_on(what, observation)
    # Shares of one whole have one scale on every text, so that two maps can be compared.
    share = what.unit == "share" and bool((values.nan_to_num() >= 0).all())
    return head_map(
        values,
        unit=_UNITS.get(what.key, "share of attention" if share else what.unit),
        low=0.0 if share else None,
        high=1.0 if share else None,
        selected=selected,
        title=title,
        caption=f"{what.title}: {what.formula}. {input_}",
    )


def _of_measure(what: Measure, values: Tensor, observation: Observation) -> str:
    heads = values.numel()
    if what.key == "entropy":
        low, high = _ends(values)
        ceiling = _ceiling(observation)
        return (
            f"Entropy from {number(low.value)} ({_said(low)}) to {number(high.value)} nats ({_said(high)}); "
            f"uniform attention would have {number(ceiling)}"
        )
    counted = _COUNTED.get(what.key)
    if counted is not None and not (what.key == "sink_mass" and observation.statistics.sinks != (0,)):
        many = int((values < counted.above).sum() if counted.below else (values >= counted.above).sum())
        if many:
            return f"{many} of {plural(heads, 'head')} {counted.words}"
    low, high = _ends(values)
    return f"{what.title} from {number(low.value)} ({_said(low)}) to {number(high.value)} ({_said(high)})"


def _of_kind(what: Detector, values: Tensor) -> str:
    _, best = _ends(values)
    many = int((values >= _KIND).sum())
    more = f"; {many} of {plural(values.numel(), 'head')} reach {number(_KIND)}" if many else ""
    return f"{what.title}: highest in head {best.layer}.{best.head} with {number(best.value)}{more}"


def _read_on(what: Detector, observation: Observation) -> str:
    """Model, and what a kind of head is read on: not always the input."""
    if what.reads == "text":
        return caption_of(observation)
    layers, heads, *_ = observation.statistics.shape
    model = f"{observation.model}: {plural(layers, 'layer')} of {plural(heads, 'head')}"
    if what.reads == "weights":
        return f"{model}; from weights."
    census = observation.census
    return f"{model}; series of {census.repeat} random tokens, each twice over, seed {census.seed}."


def _ends(values: Tensor) -> tuple[HeadValue, HeadValue]:
    """The heads with the lowest and the highest value.

    Raises:
        ValueError: no head has a value.
    """
    places = values.isfinite().nonzero().tolist()
    if not places:
        raise ValueError("No head has a value of this, so that there is nothing to draw.")
    heads = [HeadValue(layer, head, float(values[layer, head])) for layer, head in places]
    return min(heads, key=lambda one: one.value), max(heads, key=lambda one: one.value)


def _ceiling(observation: Observation) -> float:
    """Mean over rows of the entropy that uniform attention would have, in nats."""
    visible = observation.statistics.visible
    return float(visible[visible > 0].double().log().mean())


def _said(head: HeadValue) -> str:
    return f"head {head.layer}.{head.head}"


def caption_of(observation: Observation) -> str:
    """Model and input."""
    layers, heads, batch, _ = observation.statistics.shape
    rows = int(observation.statistics.real.sum())
    unit = "position" if observation.statistics.tokens is None else "token"
    many = f", {plural(batch, 'example')}" if batch > 1 else ""
    return f"{observation.model}: {plural(layers, 'layer')} of {plural(heads, 'head')}; {plural(rows, unit)}{many}."
