"""An image with attention laid over its patches: the marks that the figures of vision models are made of."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import UNIT
from workbench.figures.colours import SKY, VERMILION, ink_on, theme
from workbench.figures.figure import SMALL, line
from workbench.figures.svg import Markup, element, join, number, text_width

SIDE = 200.0  # the longer side of an image, px
_STRONGEST = 0.85  # opacity of the strongest attention: the image still shows through
CELL = 24.0  # height of a prefix token's cell
_SHARP = 2.0  # pixels kept for each pixel drawn


@dataclass(frozen=True)
class Picture:
    """An image cut into patches.

    Attributes:
        image: from 0 (black) to 1 (white); one channel or three.
        grid: rows and columns of patches.
        prefix: names of the positions before the patches.
    """

    image: Float[Tensor, "channel height width"]
    grid: tuple[int, int]
    prefix: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """A name for each position."""
        rows, columns = self.grid
        return [*self.prefix, *(f"patch ({row}, {column})" for row in range(rows) for column in range(columns))]

    def size(self, side: float) -> tuple[float, float]:
        """(width, height) where the longer side is ``side``, px."""
        _, height, width = self.image.shape
        return side * width / max(height, width), side * height / max(height, width)


def opacity_of(value: float, top: float) -> float:
    """Opacity of the overlay where the attention is ``value`` and the strongest is ``top``."""
    return _STRONGEST * min(max(value / top, 0.0), 1.0)


def data_uri(image: Tensor, side: float) -> str:
    """The image as PNG in a data URI, pixels as squares, no larger than it is drawn needs."""
    from PIL import Image

    levels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    grey = levels.shape[0] == 1
    made = Image.fromarray(levels[0].numpy() if grey else levels[:3].permute(1, 2, 0).contiguous().numpy())
    longest = max(made.size)
    if longest > side * _SHARP:
        made.thumbnail((int(side * _SHARP),) * 2)
    elif longest < side:
        # Whole multiples, so that every reader shows squares and none a blur.
        times = math.ceil(side * _SHARP / longest)
        made = made.resize((made.width * times, made.height * times), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    made.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_mark(uri: str, width: float, height: float) -> Markup:
    """The image itself."""
    return element("image", width=width, height=height, href=uri, preserveAspectRatio="none")


def patches_over(picture: Picture, row: Tensor | None, query: int, top: float) -> Markup:
    """The patches as clickable squares over an image of :data:`SIDE`; the query's is outlined."""
    width, height = picture.size(SIDE)
    rows, columns = picture.grid
    w, h, first = width / columns, height / rows, len(picture.prefix)
    marks, outline = [], Markup("")
    for i in range(rows * columns):
        x, y, position = i % columns * w, i // columns * h, first + i
        value = None if row is None else float(row[position])
        marks.append(_square(picture, position, value, top, x, y, w, h, line_width=0.5 if min(w, h) >= 10 else 0.0))
        if position == query:
            outline = _outline(x, y, w, h)
    return join([*marks, outline])


def prefix_cells(picture: Picture, row: Tensor | None, query: int, top: float, muted: bool) -> Markup:
    """The tokens before the patches: a cell each, its name above it, its share inside."""
    marks, x, y = [], 0.0, 36.0
    for position, name in enumerate(picture.prefix):
        value = None if row is None else float(row[position])
        width = _prefix_cell(name)
        marks.append(line(name, x, y - 5, SMALL, fill=theme("muted")))
        marks.append(element("rect", x=x, y=y, width=width, height=CELL, fill="#FFFFFF", stroke=theme("faint")))
        if value is not None:
            strength = opacity_of(value, top)
            fill: dict[str, str | float] = {"fill": VERMILION, "fill_opacity": strength}
            ink = ink_on(_mixed(strength, 255))
            if muted:
                fill, ink = {"fill": theme("faint")}, theme("muted")
            marks.append(element("rect", x=x, y=y, width=width, height=CELL, **fill))
            share = f"{value:.2f}".replace("-", "−")
            marks.append(line(share, x + width / 2, y + CELL / 2 + 3.5, SMALL, text_anchor="middle", fill=ink))
        marks.append(_square(picture, position, value, math.inf, x, y, width, CELL))
        if position == query:
            marks.append(_outline(x, y, width, CELL))
        x += width + 6
    return join(marks)


def _prefix_cell(name: str) -> float:
    return max(40.0, text_width(name, SMALL) + 4)


def prefix_width(picture: Picture) -> float:
    """Pixels that the cells before the patches take."""
    return sum(_prefix_cell(name) + 6 for name in picture.prefix)


def _square(
    picture: Picture,
    position: int,
    value: float | None,
    top: float,
    x: float,
    y: float,
    w: float,
    h: float,
    line_width: float = 0.0,
) -> Markup:
    """A place that can be clicked, coloured by its share; the whole of it on hover."""
    name = picture.names[position]
    words = name if value is None else f"{name}: {number(value)}"
    opacity = 0.0 if value is None else opacity_of(value, top)
    return element(
        "rect",
        element("title", words),
        class_="wb-cell",
        data_id=f"q{position}",
        data_kind="patch",
        x=x,
        y=y,
        width=w,
        height=h,
        fill=VERMILION,
        fill_opacity=opacity,
        stroke="#808080" if line_width else None,
        stroke_width=line_width or None,
        tabindex="0",
        role="button",
        aria_label=words,
    )


def _outline(x: float, y: float, w: float, h: float) -> Markup:
    return element("rect", x=x, y=y, width=w, height=h, fill="none", stroke=SKY, stroke_width=3, pointer_events="none")


def shades_over(picture: Picture, row: Tensor, width: float, height: float, top: float) -> Markup:
    """The overlay of a small multiple: squares without hover, faint ones left out."""
    rows, columns = picture.grid
    w, h = width / columns, height / rows
    marks = []
    for i, value in enumerate(row[len(picture.prefix) :].tolist()):
        if (opacity := opacity_of(value, top)) >= 0.01:
            x, y = i % columns * w, i // columns * h
            marks.append(element("rect", x=x, y=y, width=w, height=h, fill=VERMILION, fill_opacity=opacity))
    return join(marks)


def prefix_dots(picture: Picture, row: Tensor, width: float, top: float, muted: bool) -> Markup:
    """The tokens before the patches in a small multiple: a square each, at the right of the head's name."""
    marks, x = [], width - 14.0 * len(picture.prefix) + 2
    for position, name in enumerate(picture.prefix):
        value = float(row[position])
        marks.append(element("rect", x=x, y=4, width=12, height=12, fill="#FFFFFF", stroke=theme("faint")))
        marks.append(
            element(
                "rect",
                element("title", f"{name}: {number(value)}"),
                x=x,
                y=4,
                width=12,
                height=12,
                fill=theme("faint") if muted else VERMILION,
                fill_opacity=1.0 if muted else opacity_of(value, top),
            )
        )
        x += 14
    return join(marks)


def overlay_bar(x: float, y: float, height: float, ticks: Sequence[tuple[float, str]], width: float = 16.0) -> Markup:
    """The scale as it looks on a dark image (left half) and on a light one (right half)."""
    steps = 32
    step, half = height / steps, width / 2
    marks = []
    for i in range(steps):
        at = {"y": y + height - (i + 1) * step, "height": step + 0.4}
        opacity = _STRONGEST * i / (steps - 1)
        for side, ground in ((x, 0), (x + half, 255)):
            marks.append(element("rect", x=side, width=half, fill=_mixed(opacity, ground), **at))
    marks.append(
        element("rect", x=x, y=y, width=width, height=height, fill="none", stroke=theme("faint"), stroke_width=1)
    )
    marks += [line(text, x + width + 5, y + height * (1 - place) + 3, SMALL) for place, text in ticks]
    marks.append(line(UNIT, x, y - 8, SMALL, fill=theme("muted")))
    return join(marks)


def _mixed(opacity: float, ground: int) -> str:
    """The overlay at an opacity on a grey ground, as one colour."""
    channels = (int(VERMILION[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(ground + (channel - ground) * opacity):02X}" for channel in channels)
