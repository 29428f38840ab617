"""What paths of each length carry: signed bars, their running sum, and how many paths there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.figures.colours import GREEN, SIGNED, SKY, theme
from workbench.figures.figure import SMALL, Figure, frame, line
from workbench.figures.plane import TOP, Axis, Plane, linear
from workbench.figures.svg import Markup, element, join, number, text_width

if TYPE_CHECKING:
    from workbench.paths import Ensemble

FOR, AGAINST = SIGNED[-1], SIGNED[0]
MOST = 0.8
"""Share of the answer that a title asks of a run of lengths."""
CANCEL = 3.0
"""Sum of the parts over the answer from which on a title speaks of cancelling."""
_WIDE = 560.0  # px
_ROW = 16.0
_DIGITS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class _Lengths:
    """What is drawn of an ensemble: one prompt or the mean of all."""

    labels: list[str]
    values: list[float]
    biases: list[float] | None  # None where they are not told apart, or there are none
    whole: float
    unit: str
    counts: list[int]

    @property
    def start(self) -> list[float]:
        """What begins at the embedding."""
        if self.biases is None:
            return self.values
        return [value - bias for value, bias in zip(self.values, self.biases, strict=True)]

    @property
    def running(self) -> list[float]:
        """Sums of all lengths up to each."""
        return [math.fsum(self.values[: i + 1]) for i in range(len(self.values))]


def path_lengths(
    ens: Ensemble,
    *,
    example: int | None = None,
    selected: str | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw what each length carries: vermilion for the target, blue against it.

    The running sum runs to the model's own value, which is dashed; the thin line counts paths, on the axis at the
    right. Where the model has biases, what begins at them stands beside what begins at the embedding. A click on a
    length gives its label.

    Args:
        ens: by length or by kind.
        example: one prompt; by default the mean over all.
        selected: label of a length to outline.
        title: the finding; by default the shortest run of lengths that carries 80 %, or how much cancels.
        caption: in place of model, target and rule.

    Raises:
        ValueError: there is no such prompt.
    """
    found = _taken(ens, example)
    n = len(found.labels)
    sums = found.running
    bars = [*found.start, *(found.biases or [])]
    axis = linear([0.0, found.whole, *bars, *sums])
    plane = Plane(Axis(-0.5, n - 0.5, ()), axis, width=min(_WIDE, max(60.0 * n, 300.0)))
    tops, powers = _counts(found.counts)
    marks = [plane.drawn("sublayers on the path", found.unit), _names(found.labels, plane)]
    marks += [_group(found, i, plane, found.labels[i] == selected) for i in range(n)]
    marks += [_counted(plane, tops, powers[-1]), _count_axis(plane, powers), _whole(found, plane)]
    marks.append(_sums(found, sums, plane))
    legend, height = _legend(found, plane.right)
    below = plane.bottom + 44
    marks.append(element("g", legend, transform=f"translate(0 {below:g})", class_="wb-legend"))
    right = plane.right + max(text_width(_power(power), SMALL) for power in powers) + 12
    return frame(
        join(marks),
        max(right, plane.right + text_width("paths", SMALL)),
        below + height,
        title=_finding(found) if title is None else title,
        caption=caption or said_of(ens, example),
        data={
            "labels": found.labels,
            "values": found.values,
            "from_embedding": found.start,
            "from_biases": found.biases,
            "running": sums,
            "whole": found.whole,
            "unit": found.unit,
            "counts": [str(count) for count in found.counts],
        },
    )


def said_of(ens: Ensemble, example: int | None) -> str:
    """Model, target, what is held, and how many prompts."""
    n = len(ens.value)
    which = f"; prompt {example}" if example is not None and n > 1 else f"; mean of {n} prompts" if n > 1 else ""
    return f"{ens.model}: {ens.target}{which}. {ens.rule[:1].upper()}{ens.rule[1:]}."


def prompt_of(ens: Ensemble, example: int | None) -> None:
    """Refuse a prompt that is not there.

    Raises:
        ValueError: which there are.
    """
    if example is not None and not 0 <= example < len(ens.value):
        raise ValueError(f"There is no prompt {example}: these are 0 to {len(ens.value) - 1}.")


def unit_of(ens: Any) -> str:
    """``logit difference`` for two answers, ``logit`` for one."""
    if ens.unit != "logits":
        return "along the direction" if ens.unit == "residual" else str(ens.unit)
    return "logit difference" if " − " in ens.target else "logit"


def _taken(ens: Ensemble, example: int | None) -> _Lengths:
    prompt_of(ens, example)
    pick = slice(None) if example is None else slice(example, example + 1)
    values = ens.by_prompt[pick].mean(0).tolist()
    biases: list[float] | None = None
    if ens.bias_by_prompt is not None:
        biases = ens.bias_by_prompt[pick].mean(0).tolist()
        biases[0] += float(ens.readout_bias[pick].mean())
        if not any(biases):
            biases = None
    return _Lengths(ens.labels, values, biases, float(ens.value[pick].mean()), unit_of(ens), ens.counts)


def _finding(found: _Lengths) -> str:
    parts = math.fsum(map(abs, found.values))
    whole, unit = found.whole, found.unit
    if not whole or parts > CANCEL * abs(whole):
        return f"Lengths cancel: parts of {number(parts)} in all, for a {unit} of {number(whole)}"
    n = len(found.values)
    runs = [(j - i, abs(1 - s), i, j, s) for i in range(n) for j in range(i, n) if (s := _share(found, i, j)) >= MOST]
    close = [run for run in runs if run[4] <= 2 - MOST]
    if not close:
        return f"All {n} lengths together make the {unit} of {number(whole)}"
    _, _, first, last, share = min(close)
    low, high = found.labels[first], found.labels[last]
    if high.endswith("+"):
        start = low.rstrip("+")
        which = f"of {start} sublayer{'' if start == '1' else 's'} or more"
    else:
        which = f"of {low} to {high} sublayers" if low != high else f"of {low} sublayer{'' if low == '1' else 's'}"
    return f"Paths {which} carry {100 * share:.0f} % of the {unit}"


def _share(found: _Lengths, first: int, last: int) -> float:
    return math.fsum(found.values[first : last + 1]) / found.whole


def _names(labels: Sequence[str], plane: Plane) -> Markup:
    room = plane.width / len(labels)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100) if step * room >= 18)
    marks = []
    for i, label in enumerate(labels):
        # The last one, where it is the bucket, always has its name.
        if i % every == 0 or (label.endswith("+") and i == len(labels) - 1):
            marks.append(line(label, plane.px(i), plane.bottom + 16, SMALL, text_anchor="middle"))
    return join(marks)


def _group(found: _Lengths, i: int, plane: Plane, selected: bool) -> Markup:
    """The bars of one length, over a ground that takes the pointer."""
    room = plane.width / len(found.labels)
    label, value = found.labels[i], found.values[i]
    words = f"length {label}: {number(value)} {found.unit}"
    if found.whole:
        words += f", {number(100 * value / found.whole)} % of the whole"
    if found.biases is not None:
        of = ("the direct path", "the readout's bias") if i == 0 else ("from the embedding", "from biases")
        words += f" ({of[0]} {number(found.start[i])}, {of[1]} {number(found.biases[i])})"
    words += f"; {_many(found.counts[i])} from the embedding"
    wide = min(0.66 * room, 30.0)
    x = plane.px(i) - wide / 2
    parts = [_bar(x, wide, found.values[i], plane)]
    if found.biases is not None:
        parts = [
            _bar(x, wide * 0.54, found.start[i], plane),
            _bar(x + wide * 0.62, wide * 0.38, found.biases[i], plane, hollow=True),
        ]
    ground = element(
        "rect",
        x=plane.px(i - 0.5),
        y=TOP,
        width=room,
        height=plane.height,
        fill=SKY,
        fill_opacity=0.14 if selected else 0.0,
        class_="wb-shape",
    )
    role = {"tabindex": "0", "role": "button", "aria_label": words}
    return element(
        "g", element("title", words), ground, *parts, class_="wb-cell-head", data_id=label, data_kind="length", **role
    )


def _bar(x: float, wide: float, value: float, plane: Plane, hollow: bool = False) -> Markup:
    zero, at = plane.py(0.0), plane.py(value)
    colour = FOR if value >= 0 else AGAINST
    look: dict[str, Any] = {"fill": colour}
    if hollow:
        look = {"fill": theme("ground"), "stroke": colour, "stroke_width": 1.2}
    return element("rect", x=x, y=min(zero, at), width=wide, height=max(abs(zero - at), 0.6), **look)


def _sums(found: _Lengths, sums: Sequence[float], plane: Plane) -> Markup:
    points = [(plane.px(i), plane.py(value)) for i, value in enumerate(sums)]
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    share = [f", {number(100 * value / found.whole)} % of the whole" if found.whole else "" for value in sums]
    dots = (
        element(
            "circle",
            element("title", f"lengths up to {label}: {number(value)} {found.unit}{part}"),
            cx=x,
            cy=y,
            r=2.4,
            fill=theme("text"),
        )
        for (x, y), label, value, part in zip(points, found.labels, sums, share, strict=True)
    )
    curve = element("path", d=d, fill="none", stroke=theme("text"), stroke_width=1.4, pointer_events="none")
    return element("g", curve, *dots, class_="wb-series", data_id="running sum")


def _whole(found: _Lengths, plane: Plane) -> Markup:
    y = plane.py(found.whole)
    look: dict[str, Any] = {"stroke": theme("muted"), "stroke_width": 1.2, "stroke_dasharray": "5 3"}
    return element("line", x1=plane.left, x2=plane.right, y1=y, y2=y, class_="wb-whole", **look)


def _counts(counts: Sequence[int]) -> tuple[list[float], list[int]]:
    """Powers of ten of the counts, and those that the axis names; Python's whole numbers, for they pass any float."""
    tops = [math.log10(count) if count > 0 else math.nan for count in counts]
    most = max((top for top in tops if top == top), default=1.0)
    step = max(1, math.ceil(most / 5))
    return tops, list(range(0, math.ceil(most / step) * step + 1, step)) if most > 0 else [0, 1]


def _counted(plane: Plane, tops: Sequence[float], most: int) -> Markup:
    """The number of paths, thin, on its own axis."""
    there = [(plane.px(i), _height(plane, top / most)) for i, top in enumerate(tops) if top == top]
    if not there:
        return Markup("")
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in there)
    return element("path", d=d, fill="none", stroke=GREEN, stroke_width=1.0, class_="wb-counts", pointer_events="none")


def _height(plane: Plane, share: float) -> float:
    return TOP + plane.height * (1 - share)


def _count_axis(plane: Plane, powers: Sequence[int]) -> Markup:
    marks = [line("paths", plane.right + 8, 9, SMALL, fill=GREEN)]
    for power in powers:
        y = _height(plane, power / powers[-1])
        marks.append(element("line", x1=plane.right, x2=plane.right + 4, y1=y, y2=y, stroke=GREEN))
        marks.append(line(_power(power), plane.right + 8, y + 3.5, SMALL, fill=GREEN))
    return join(marks)


def _power(power: int) -> str:
    return f"10{str(power).translate(_DIGITS)}" if power > 1 else str(10**power)


def _many(count: int) -> str:
    if count < 10**6:
        return f"{count:,} path{'' if count == 1 else 's'}"
    top = math.floor(math.log10(count))
    return f"{count // 10 ** (top - 1) / 10:g} · {_power(top)} paths"


def _legend(found: _Lengths, width: float) -> tuple[Markup, float]:
    def stroke(colour: str, thickness: float, dash: str | None = None) -> Markup:
        return element("line", x1=0, x2=20, y1=0, y2=0, stroke=colour, stroke_width=thickness, stroke_dasharray=dash)

    def box(colour: str, hollow: bool) -> Markup:
        fill = theme("ground") if hollow else colour
        return element("rect", x=0.6, y=-4.5, width=8.8, height=9, fill=fill, stroke=colour, stroke_width=1.2)

    def pair(hollow: bool) -> Markup:
        second = element("g", box(AGAINST, hollow), transform="translate(10.4 0)")
        return join([box(FOR, hollow), second])

    entries: list[tuple[Markup, str]] = []
    if found.biases is None:
        entries.append((pair(False), "for and against"))
    else:
        entries.append((pair(False), "from the embedding (0: direct path)"))
        entries.append((pair(True), "from biases (0: the readout's)"))
    entries.append((stroke(theme("text"), 1.4), "sum up to this length"))
    entries.append((stroke(theme("muted"), 1.2, "5 3"), f"the model's own, {number(found.whole)}"))
    entries.append((stroke(GREEN, 1.0), "number of paths from the embedding, by heads (right axis)"))
    return legend_rows(entries, width)


def legend_rows(entries: Sequence[tuple[Markup, str]], width: float, room: float = 20.0) -> tuple[Markup, float]:
    """Drawings of ``room`` px with their words, in rows; and their height."""
    marks: list[Markup] = []
    x, y = 0.0, 0.0
    for drawing, words in entries:
        step = room + 6 + text_width(words, SMALL)
        if x and x + step > width:
            x, y = 0.0, y + _ROW
        marks.append(element("g", drawing, transform=f"translate({x:g} {y + 6:g})"))
        marks.append(line(words, x + room + 6, y + 9.5, SMALL))
        x += step + 18
    return join(marks), y + _ROW


__all__ = ["legend_rows", "path_lengths", "prompt_of", "said_of", "unit_of"]
