"""A plane to plot in: axes with round numbers, logarithmic where asked for, and labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from workbench.figures.colours import theme
from workbench.figures.figure import BODY, SMALL, line
from workbench.figures.svg import Markup, element, join, number, text_width

WIDTH, HEIGHT = 470.0, 270.0  # of the plotting area, px
_FEW = 11  # most values that are an axis's numbers
TOP = 22.0  # above it, for the name of the vertical axis


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with numbers at ``ticks``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def has(self, value: float) -> bool:
        """Whether the axis has a place for a value."""
        return math.isfinite(value) and (value > 0 or not self.log)


def linear(values: Sequence[float], room: float = 0.04, aim: int = 5) -> Axis:
    """An axis over the values with round steps; it begins at 0 where they come near it.

    Args:
        values: what must be on it.
        room: left free at both ends, as a share; an end at 0 keeps none.
        aim: about how many steps.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 < low < 0.4 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-300):
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if low else (0.0, 1.0)
    step = _round((high - low) / aim)
    ends = low - (room * (high - low) if low else 0.0), high + room * (high - low)
    first = math.ceil(ends[0] / step - 1e-9)
    ticks = [float(f"{i * step:.9g}") for i in range(first, math.floor(ends[1] / step + 1e-9) + 1)]
    return Axis(*ends, tuple(ticks))


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis in powers; where values are few and keep apart, such as lengths of a context, its numbers are theirs."""
    known = sorted({value for value in values if value > 0})
    low, high = (known[0], known[-1]) if known else (1.0, 10.0)
    if low == high:
        low, high = low / 2, high * 2
    decades = math.log10(high / low)
    if 1 < len(known) <= _FEW and all(math.log(b / a) > 0.08 * math.log(high / low) for a, b in pairwise(known)):
        return Axis(low, high, tuple(known), log=True)
    if decades >= 2.5:
        every = math.ceil(decades / 6)
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        return Axis(low, high, tuple(10.0**i for i in powers if i % every == 0), log=True)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    whole = [part * 10.0**i for i in range(first, last + 1) for part in (1, 2, 5)]
    ticks = [tick for tick in whole if low * 0.999 <= tick <= high * 1.001]
    return Axis(low, high, tuple(ticks if len(ticks) > 1 else [low, high]), log=True)


def _round(step: float) -> float:
    size: float = 10.0 ** math.floor(math.log10(step))
    return next(size * part for part in (1, 2, 2.5, 5, 10) if size * part >= step * (1 - 1e-9))


@dataclass(frozen=True)
class Plane:
    """The plotting area, with its left edge where the numbers of the vertical axis leave room."""

    x: Axis
    y: Axis
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def left(self) -> float:
        """Left edge, px."""
        return max([text_width(number(tick), SMALL) for tick in self.y.ticks], default=20.0) + 8

    @property
    def right(self) -> float:
        """Right edge, px."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Lower edge, px; numbers and the name of the axis come below, :data:`BELOW`."""
        return TOP + self.height

    def px(self, x: float) -> float:
        """Where a value stands from the left."""
        return self.left + self.width * self.x.place(x)

    def py(self, y: float) -> float:
        """Where a value stands from the top."""
        return TOP + self.height * (1 - self.y.place(y))

    def drawn(self, x_title: str, y_title: str) -> Markup:
        """Rules, numbers and names of both axes."""
        shade: dict[str, Any]
        marks = [line(y_title, 0, 9, SMALL, fill=theme("muted"))]
        for tick in self.y.ticks:
            y = self.py(tick)
            shade = {"stroke": theme("muted" if tick == 0 else "faint"), "stroke_width": 0.7}
            marks.append(element("line", x1=self.left, x2=self.right, y1=y, y2=y, **shade))
            marks.append(line(number(tick), self.left - 6, y + 3.5, SMALL, text_anchor="end"))
        under = self.bottom
        if not self.y.ticks or self.y.place(self.y.ticks[0]) > 1e-6:
            shade = {"stroke": theme("muted"), "stroke_width": 0.7}
            marks.append(element("line", x1=self.left, x2=self.right, y1=under, y2=under, **shade))
        for tick in self.x.ticks:
            x = self.px(tick)
            marks.append(element("line", x1=x, x2=x, y1=under, y2=under + 4, stroke=theme("muted"), stroke_width=1.0))
            marks.append(line(_said(tick), x, under + 16, SMALL, text_anchor="middle"))
        marks.append(line(x_title, self.left + self.width / 2, under + 34, BODY, text_anchor="middle"))
        return join(marks)


BELOW = 42.0  # room for the horizontal axis below the plotting area, px


def _said(tick: float) -> str:
    """Counts, such as lengths of a context, are whole: 8,192 and not 8,190."""
    return f"{tick:,.0f}" if 1000 < tick < 1e9 and tick == int(tick) else number(tick)


def apart(wanted: Sequence[float], spacing: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones as ``spacing`` allows, between ``low`` and ``high`` where they fit.

    Neighbours that would overlap are pushed apart as one block around the middle of where they want to be.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # sum of (wanted - offset), number of labels

    def start(block: list[float]) -> float:
        top = block[0] / block[1]
        return max(low, min(top, high - (block[1] - 1) * spacing))

    for i in order:
        blocks.append([wanted[i], 1.0])
        while len(blocks) > 1 and start(blocks[-2]) + blocks[-2][1] * spacing > start(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - count * blocks[-1][1] * spacing
            blocks[-1][1] += count
    places = [start(block) + k * spacing for block in blocks for k in range(int(block[1]))]
    found = [0.0] * len(wanted)
    for i, place in zip(order, places, strict=True):
        found[i] = place
    return found
