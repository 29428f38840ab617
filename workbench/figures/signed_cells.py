"""Cells of a signed table: one scale around zero, its bar, and numbers where they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.figures.colours import SIGNED, SKY, ink_on, signed, theme
from workbench.figures.figure import SMALL, bar_room, colour_bar, line
from workbench.figures.svg import Markup, element, number, text_width


@dataclass(frozen=True)
class SignedScale:
    """From ``-limit`` to ``limit``; values beyond it have its end's colour.

    Attributes:
        limit: the end.
        beyond: whether values lie beyond.
        unit: of the values.
    """

    limit: float
    beyond: bool
    unit: str

    @staticmethod
    def of(values: Sequence[float], unit: str, cut: float = 1.0) -> SignedScale:
        """A scale for these values.

        Args:
            values: those that are drawn.
            unit: of them.
            cut: share of the values that the scale holds; the rest, the largest, lie beyond.

        Raises:
            ValueError: none is a number.
        """
        sizes = sorted(abs(value) for value in values if math.isfinite(value))
        if not sizes:
            raise ValueError("No value is a number, so that there is nothing to draw.")
        limit = sizes[min(len(sizes) - 1, math.ceil(cut * len(sizes)) - 1)]
        limit = limit if limit > 0 else sizes[-1] or 1.0
        return SignedScale(limit, sizes[-1] > limit * (1 + 1e-9), unit)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Of the colour bar."""
        less, more = ("≤ ", "≥ ") if self.beyond else ("", "")
        return [(0.0, f"{less}{number(-self.limit)}"), (0.5, "0"), (1.0, f"{more}{number(self.limit)}")]

    @property
    def room(self) -> float:
        """Width of the colour bar with its words, px."""
        return bar_room(self.ticks, self.unit)

    def bar(self, x: float, y: float, height: float) -> Markup:
        """The colour bar."""
        return colour_bar(SIGNED, x, y, height, ticks=self.ticks, unit=self.unit)

    def cell(
        self,
        box: tuple[float, float, float, float],
        value: float,
        *,
        id: str,
        kind: str,
        words: str,
        selected: bool = False,
        told: bool = True,
    ) -> Markup:
        """One cell that can be clicked, with its number where it fits; a dash on what is against."""
        x, y, w, h = box
        fill = signed(value, self.limit) if math.isfinite(value) else theme("faint")
        inside: list[Markup] = []
        if math.isfinite(value):
            ink, text = ink_on(fill), number(float(f"{value:.2g}"))
            middle = y + h / 2
            if told and text_width(text, SMALL) <= w - 3 and h >= SMALL + 2:
                inside.append(line(text, x + w / 2, middle + 3.5, SMALL, text_anchor="middle", fill=ink))
            elif value < -self.limit / 8 and w >= 6:
                # The sign also by a mark, so that colour is not its only carrier.
                dash: dict[str, Any] = {"stroke": ink, "stroke_width": 1.3}
                inside.append(element("line", x1=x + w * 0.3, x2=x + w * 0.7, y1=middle, y2=middle, **dash))
        edge: dict[str, Any] = {"stroke": theme("faint"), "stroke_width": 0.6}
        if selected:
            edge = {"stroke": SKY, "stroke_width": 3.0}
        return element(
            "g",
            element("title", words),
            element("rect", class_="wb-shape", x=x, y=y, width=w, height=h, fill=fill, **edge),
            *inside,
            class_="wb-cell-head",
            data_id=id,
            data_kind=kind,
            tabindex="0",
            role="button",
            aria_label=words,
        )


__all__ = ["SignedScale"]
