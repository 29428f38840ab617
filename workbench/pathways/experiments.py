"""The figures of what was measured over many examples: effects of components, paths cut, paths re-weighted."""

from __future__ import annotations

from typing import Literal

from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure
from workbench.figures.signed_bars import Change, before_after, signed_bars
from workbench.figures.svg import number, plural
from workbench.paths.effects import Effects
from workbench.paths.ensemble_scale import EnsembleScale
from workbench.paths.pruning import PathPruning
from workbench.reading.pictures import layers_behind

Of = Literal["loss", "accuracy"]
_LINES = {"direct": "gives directly", "cut": "cut from the answer alone", "total": "deleted from everything"}


def effects_picture(found: Effects) -> Figure:
    """What each sublayer gives the answer, and what is lost without it: in the answer alone, and everywhere."""
    depth = layers_behind(found.components)
    lines = []
    for key, name in _LINES.items():
        mean = found.mean(key)  # type: ignore[arg-type]
        value, half = mean.mean, mean.half_width
        lines.append(Line(name, depth, value.tolist(), (value - half).tolist(), (value + half).tolist()))
    direct, total = found.direct.mean(1), found.total.mean(1)
    best, most = int(direct.argmax()), int(total.argmax())
    what = "logit of the right answer" + (", mean of all subtracted" if found.centred else "")
    return curves(
        lines,
        x_title="layers (attention half-way, MLP at the end of its layer)",
        y_title=what,
        title=f"{found.components[best]} gives most directly, {number(float(direct[best]))}; deleting "
        f"{found.components[most]} costs most, {number(float(total[most]))}",
        caption=f"{found.model}: {plural(len(found.value), 'example')}, {what} {number(float(found.value.mean()))}. "
        "Direct: the final norm's scale held; the others let it take that of what is left. Bands: 95 % intervals.",
    )


def pruning_picture(found: PathPruning, of: Of = "loss", shown: int = 14) -> Figure:
    """Loss or accuracy before and after the cuts together, and after each component's cut alone, on held-out examples.

    Args:
        found: what was cut.
        of: what is drawn.
        shown: components at most: those that were cut, then those whose cut changes most.
    """
    column = 0 if of == "loss" else 1
    report = found.report
    before = float((report.before if of == "loss" else report.right_before).mean())
    change = report.loss if of == "loss" else report.accuracy
    together = "all cuts" if len(found.cut) > 1 else "the cut" if found.cut else "nothing cut"
    rows: list[Change] = [(together, before, before + change, *report.interval(of))]
    sizes = {name: float(found.alone[i, column]) for i, name in enumerate(found.components)}
    order = sorted(sizes, key=lambda name: (name not in found.cut, -abs(sizes[name])))
    for name in order[:shown]:
        low, high = found.alone_intervals[found.components.index(name), column].tolist()
        rows.append((f"without {name}", before, before + sizes[name], low, high))
    low, high = rows[0][3:]
    surely = "" if low <= 0 <= high else ", and the interval leaves out 0"
    return before_after(
        rows,
        unit=_unit(of, report.unit),
        better="lower" if of == "loss" else "higher",
        title=f"{plural(len(found.cut), 'path')} cut: {of} {number(before)} to {number(before + change)}{surely}",
        caption=f"{found.model}: {plural(len(report.before), 'held-out example')}; paths to the classifier alone are "
        f"cut. Searched by {found.by}; 95 % bootstrap intervals over examples.",
    )


def scaling_picture(found: EnsembleScale) -> Figure:
    """Loss and its interval on held-out examples, before and after paths were re-weighted."""
    report = found.report
    before, after = report["loss_before"], report["loss_after"]
    low, high = report["loss_interval"]
    surely = "the interval holds 0" if low <= 0 <= high else "the interval leaves out 0"
    return before_after(
        [("re-weighted paths", before, after, low, high)],
        unit=_unit("loss", report["unit"]),
        title=f"Re-weighted paths: loss {number(before)} to {number(after)}; {surely}",
        caption=f"{found.model}: {plural(report['examples'], 'held-out example')}; one weight for each "
        f"{found.per}. Accuracy {number(report['accuracy_before'])} to {number(report['accuracy_after'])}.",
    )


def weights_picture(found: EnsembleScale) -> Figure:
    """The learned weight of each component, as what it is more or less than 1."""
    values = [(name, float(w) - 1) for name, w in zip(found.components, found.by_component.tolist(), strict=True)]
    name, most = max(values, key=lambda one: abs(one[1]))
    return signed_bars(
        values,
        unit="weight − 1",
        title=f"{name} is re-weighted most: {number(1 + most)} in place of 1",
        caption=f"{found.model}: one weight for each {found.per}"
        + (", means over channels." if found.per == "channel" else "."),
    )


def _unit(of: Of, unit: str) -> str:
    return unit if of == "loss" else "accuracy"


__all__ = ["effects_picture", "pruning_picture", "scaling_picture", "weights_picture"]
