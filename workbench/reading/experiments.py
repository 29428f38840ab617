"""The figures of what was measured by depth over many texts: early answers, changed layers, spectra, a trained lens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workbench.attention.running import Mean
from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure
from workbench.figures.signed_bars import before_after
from workbench.figures.svg import number, plural
from workbench.lens import ExitCurve, LayerCurve, Spectra, TunedLens
from workbench.reading.pictures import layers_behind

_CHANGES = {
    "skip": "left out",
    "skip-attention": "attention left out",
    "skip-mlp": "MLP left out",
    "swap": "exchanged with the next",
    "repeat": "done twice",
}


def exit_picture(found: ExitCurve | Sequence[ExitCurve]) -> Figure:
    """Share of positions whose first answer stays from each place on, and of those that are sure of theirs.

    Raises:
        ValueError: there is none.
    """
    many = [found] if isinstance(found, ExitCurve) else list(found)
    if not many:
        raise ValueError("There is no curve to draw.")
    lines = []
    for one in many:
        which = f", {one.title}" if len(many) > 1 else ""
        depth = layers_behind(one.places)
        lines.append(_mean(f"settled{which}", depth, one.settled))
        lines.append(_mean(f"sure ({number(one.confidence)}){which}", depth, one.sure))
    first = many[0]
    depth, settled = layers_behind(first.places), first.settled.mean.tolist()
    lines.append(Line("one layer as good as the next", [depth[0], depth[-1]], [0.0, 1.0], dashed=True))
    half = next((i for i, share in enumerate(settled) if share >= 0.5), len(settled) - 1)
    where = "only in the last layer" if half == len(settled) - 1 else f"by layer {number(depth[half])}"
    return curves(
        lines,
        x_title="layers",
        y_title="share of positions",
        title=f"Half of the positions have their answer {where}",
        caption=f"{first.model}: {plural(first.n_texts, 'text')}, {plural(first.n_positions, 'position')}. Settled: "
        "the first answer stays from here on; sure: its probability has reached the bound.",
    )


def layers_picture(found: LayerCurve | Sequence[LayerCurve]) -> Figure:
    """How much the loss rises where one layer is changed; several changes beside each other.

    Raises:
        ValueError: there is none.
    """
    many = [found] if isinstance(found, LayerCurve) else list(found)
    if not many:
        raise ValueError("There is no curve to draw.")
    lines = []
    for one in many:
        low, high = one.interval.T.tolist()
        lines.append(Line(_CHANGES.get(one.change, one.change), list(one.layers), one.increase.tolist(), low, high))
    first = many[0]
    lines.append(Line("the model as it is", [first.layers[0], first.layers[-1]], [0.0, 0.0], dashed=True))
    rises = first.increase.tolist()
    worst = max(range(len(rises)), key=lambda i: rises[i])
    cheap = sum(rise < 0.1 * rises[worst] for rise in rises)
    few = f"; {cheap} of {len(rises)} cost less than a tenth of it" if rises[worst] > 0 and cheap else ""
    return curves(
        lines,
        x_title="layer",
        y_title=f"rise of the loss ({first.unit})",
        title=f"Layer {first.layers[worst]} costs most: {number(rises[worst])} {first.unit}{few}",
        caption=f"{first.model}: {plural(first.loss.shape[1], 'text')}, loss {number(float(first.base.mean()))} "
        f"{first.unit}. Bands: {100 * first.level:.0f} % intervals over texts.",
    )


def spectra_picture(found: Spectra) -> Figure:
    """Share of high frequencies in the stream and in what attention and MLPs add, by layer."""
    names = {"resid": "stream", "attn": "attention adds", "mlp": "MLPs add"}
    lines = []
    for part, mean in found.low.items():
        depth = list(range(len(mean.mean)))
        value, half = mean.mean[:, 2], mean.half_width[:, 2]
        lines.append(_line(names.get(part, part), depth, value, half))
    chance = 1 - found.cut / 0.5
    if found.unit == "cycles per position" and 0 < chance < 1:
        lines.append(Line("no position like another", [0, len(lines[0].x) - 1], [chance, chance], dashed=True))
    stream = found.low["resid"].mean[:, 2].tolist()
    return curves(
        lines,
        x_title="layer",
        y_title=f"share of energy above {number(found.cut)} {found.unit}",
        title=f"High frequencies go from {100 * stream[0]:.0f} % to {100 * stream[-1]:.0f} % of the stream's energy",
        caption=f"{found.model}: {plural(found.n, 'input')}"
        + (f", without the first {plural(found.skip, 'position')}" if found.skip else "")
        + ".",
    )


def training_picture(tuned: TunedLens) -> Figure:
    """KL from the model's own answer on held-out data, before (the logit lens) and after the lens was trained.

    Raises:
        ValueError: nothing was held out.
    """
    if not tuned.held_out:
        raise ValueError("This lens was trained without held-out data, so that there is nothing to compare.")
    rows = []
    for one in reversed(tuned.held_out):
        (before, *_), (after, *_), (_, low, high) = one.before, one.after, one.gain
        rows.append((one.place, before, after, -high, -low))
    better = sum(row[4] < 0 for row in rows)
    return before_after(
        rows,
        unit="KL from the model's own answer (nats)",
        title=f"The trained lens reads {better} of {plural(len(rows), 'place')} better",
        caption=f"{tuned.model}: held-out data, {plural(tuned.steps, 'step')} of training.",
    )


def _mean(name: str, x: Sequence[float], found: Mean) -> Line:
    return _line(name, x, found.mean, found.half_width)


def _line(name: str, x: Sequence[float], mean: Tensor, half: Tensor) -> Line:
    """A line of shares with its band, where there is more than one text."""
    if not bool(half.isfinite().any()):
        return Line(name, list(x), mean.tolist())
    # Shares: what lies outside of 0 to 1 is no place for one.
    low, high = ((mean + sign * half).clamp(0, 1).tolist() for sign in (-1, 1))
    return Line(name, list(x), mean.tolist(), low, high)


__all__ = ["exit_picture", "layers_picture", "spectra_picture", "training_picture"]
