"""A finished figure, the frame around every figure, and the form of it that stands alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.figures.colours import Scale, scale, theme
from workbench.figures.svg import NAMESPACE, Markup, element, join, text_width, wrap

TITLE, BODY, SMALL = 16.0, 12.0, 10.0  # the three text sizes of every figure, px
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
MARGIN = 16.0
BOLD = 1.15  # how much wider bold letters are than the estimate for plain ones

# Only what a pointer or a selection changes; everything else is an attribute, so that a reader without CSS sees
# the figure too. Class names carry a prefix and nothing has an id: any number of figures can share a page.
_STYLE = """
.wb-figure { max-width: 100%; height: auto; }
.wb-node, .wb-cell, .wb-cell-head { cursor: pointer; }
.wb-node:focus, .wb-cell:focus, .wb-cell-head:focus { outline: none; }
.wb-node:focus-visible .wb-shape, .wb-cell-head:focus-visible .wb-shape { stroke: #56B4E9; stroke-width: 3; }
.wb-edge:hover { stroke-opacity: 1; }
.wb-edge.wb-near { stroke-opacity: 0.95; }
.wb-edge.wb-dim { stroke-opacity: 0.04; }
.wb-node.wb-selected .wb-shape { stroke: #56B4E9; stroke-width: 3; }
.wb-node.wb-dim, .wb-node.wb-off { fill-opacity: 0.15; stroke-opacity: 0.15; }
"""

_VARIABLE = re.compile(r'="var\(--wb-[a-z-]+, (#[0-9A-Fa-f]{6})\)"')


@dataclass(frozen=True)
class Figure:
    """A picture with the data behind it.

    Attributes:
        svg: the whole picture as one ``<svg>`` element, title and caption included.
        title: what the picture shows, in one line.
        caption: what was done to get it.
        data: the drawn values, ready for JSON.
    """

    svg: str
    title: str
    caption: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """The picture, for a notebook cell."""
        return self.svg


def standalone(svg: str) -> str:
    """``svg`` for a file or a renderer: the theme's variables replaced by their light values.

    Renderers of files know no CSS variables and would draw everything black.
    """
    # Quotes are escaped in all text and attributes, so that this pattern can only match a real attribute.
    return _VARIABLE.sub(r'="\1"', svg)


def line(text: str, x: float, y: float, size: float = BODY, **attributes: str | float | None) -> Markup:
    """One line of text; ``fill`` is the theme's text colour unless given."""
    attributes.setdefault("fill", theme("text"))
    return element("text", text, x=x, y=y, font_size=size, **attributes)


def frame(
    body: Markup,
    width: float,
    height: float,
    *,
    title: str,
    caption: str = "",
    data: dict[str, Any] | None = None,
) -> Figure:
    """The figure of a drawing: title above, caption below, margins, the ground.

    Args:
        body: the drawing, from (0, 0) to (``width``, ``height``) in pixels.
        width: width of the drawing.
        height: height of the drawing.
        title: what the figure shows; wrapped.
        caption: task, method, settings, sizes; wrapped.
        data: the values drawn.
    """
    above = wrap(title, TITLE * BOLD, width)
    below = wrap(caption, SMALL, width)
    top = MARGIN + 21 * len(above) + (8 if above else 0)
    bottom = top + height + (12 if below else 0)
    full_width, full_height = width + 2 * MARGIN, bottom + 14 * len(below) + MARGIN
    svg = element(
        "svg",
        element("desc", f"{title}. {caption}"),
        element("style", Markup(_STYLE)),
        element("rect", class_="wb-ground", width=full_width, height=full_height, fill=theme("ground")),
        *(
            line(text, MARGIN, MARGIN + 14 + 21 * i, TITLE, font_weight="bold", class_="wb-title")
            for i, text in enumerate(above)
        ),
        element("g", body, transform=f"translate({MARGIN:g} {top:g})"),
        *(line(text, MARGIN, bottom + 10 + 14 * i, SMALL, fill=theme("muted")) for i, text in enumerate(below)),
        xmlns=NAMESPACE,
        width=full_width,
        height=full_height,
        viewBox=f"0 0 {full_width:g} {full_height:g}",
        class_="wb-figure",
        role="img",
        aria_label=title,
        font_family=FONT,
    )
    return Figure(svg, title, caption, data or {})


def colour_bar(
    colours: Scale,
    x: float,
    y: float,
    height: float,
    *,
    ticks: Sequence[tuple[float, str]],
    unit: str,
    width: float = 10.0,
) -> Markup:
    """A vertical scale: 0 at the bottom, 1 at the top, numbers at the right, the unit above.

    Args:
        colours: the scale.
        x: left edge, px.
        y: top edge, px.
        height: length of the bar, px.
        ticks: (place from 0 to 1, text).
        unit: what the numbers are, such as "share of attention".
        width: width of the bar, px.
    """
    steps = 48
    step = height / steps
    # Rectangles instead of a gradient: a gradient needs an id, and ids clash between figures of one page.
    bars = (
        element(
            "rect",
            x=x,
            y=y + height - (i + 1) * step,
            width=width,
            height=step + 0.4,
            fill=scale(colours, i / (steps - 1)),
        )
        for i in range(steps)
    )
    outline = element("rect", x=x, y=y, width=width, height=height, fill="none", stroke=theme("faint"), stroke_width=1)
    labels = (line(text, x + width + 5, y + height * (1 - place) + 3, SMALL) for place, text in ticks)
    words = line(unit, x, y - 8, SMALL, fill=theme("muted"))
    return join([*bars, outline, *labels, words])


def bar_room(ticks: Sequence[tuple[float, str]], unit: str, width: float = 10.0) -> float:
    """Pixels that :func:`colour_bar` takes from its left edge to the right."""
    return max([text_width(unit, SMALL), *(width + 5 + text_width(text, SMALL) for _, text in ticks)])
