"""Every head of a vision model at a glance: where one query looks on the image, as small multiples on one scale."""

from __future__ import annotations

import math
from collections.abc import Collection

from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import UNIT, share_ticks
from workbench.figures.colours import SKY, VERMILION, theme
from workbench.figures.figure import Figure, bar_room, frame
from workbench.figures.layer_grid import Grid, axes
from workbench.figures.overlay import Picture, data_uri, image_mark, opacity_of, overlay_bar, shades_over
from workbench.figures.svg import Markup, element, join, number, plural

_ROOM = 620.0  # px that the panels of a layer share
_SIDE = (36.0, 104.0)  # least and most of a panel's longer side, px
_PREFIX = 10.0  # side of the square of a token before the patches
_PIXELS = 300_000  # of all panels' images together, so that a page of many heads stays light


def patch_heads(
    picture: Picture,
    patterns: Float[Tensor, "layer head query key"],
    *,
    query: int = 0,
    title: str | None = None,
    caption: str = "",
    mute_prefix: bool = False,
    selected: Collection[str] = (),
) -> Figure:
    """Draw the attention of one query in every head, layer 0 at the bottom, heads from the left, as on the maps.

    The squares above a panel are the tokens before the patches. A click gives the head's name, such as ``a2.h1``.

    Args:
        picture: the image and its patches.
        patterns: attention weights.
        query: position whose attention is drawn.
        title: the finding; by default how many heads rest on the tokens before the patches, else where one looks most.
        caption: model, image.
        mute_prefix: leave the tokens before the patches out of the scale.
        selected: names of heads to outline.

    Raises:
        ValueError: the patterns do not fit the patches, or there is no such query.
    """
    n, first = len(picture.names), len(picture.prefix)
    if patterns.ndim != 4 or tuple(patterns.shape[2:]) != (n, n) or not patterns.numel():
        raise ValueError(
            f"Patterns of all heads are [layer, head, query, key] with {n} queries and keys for this image, "
            f"but these have shape {list(patterns.shape)}."
        )
    if not 0 <= query < n:
        raise ValueError(f"There is no position {query}: the image has the positions 0 to {n - 1}.")
    rows = patterns[:, :, query].detach().float().cpu().nan_to_num()
    layers, heads = rows.shape[:2]
    top = float(rows[..., first if mute_prefix else 0 :].max()) or 1.0
    side = min(max(_ROOM / heads - 8.0, _SIDE[0]), _SIDE[1])
    width, height = picture.size(side)
    above = _PREFIX + 4.0 if picture.prefix else 0.0
    grid = Grid(layers, heads, cell=(max(width, (_PREFIX + 2) * first) + 8.0, height + above + 8.0))
    uri = data_uri(picture.image, min(side, math.sqrt(_PIXELS / (layers * heads)) / 2))
    marks: list[Markup] = axes(grid)
    for layer in range(layers):
        for head in range(heads):
            name, (x, y, _, _) = f"a{layer}.h{head}", grid.box(layer, head)
            row = rows[layer, head]
            words = f"{name}: {_most(picture, row)}"
            panel = element(
                "g",
                image_mark(uri, width, height),
                shades_over(picture, row, width, height, top),
                transform=f"translate({x + 4:.2f} {y + above + 4:.2f})",
            )
            chosen = name in selected
            edge = element(
                "rect",
                x=x + 4,
                y=y + above + 4,
                width=width,
                height=height,
                fill="none",
                stroke=SKY if chosen else theme("faint"),
                stroke_width=3 if chosen else 0.8,
                class_="wb-shape",
            )
            marks.append(
                element(
                    "g",
                    element("title", words),
                    _before(picture, row, x + 4, y + 3, top, mute_prefix),
                    panel,
                    edge,
                    class_="wb-cell-head",
                    data_id=name,
                    data_kind="head",
                    tabindex="0",
                    role="button",
                    aria_label=words,
                )
            )
    ticks = share_ticks(top)
    bar = max(min(grid.bottom - grid.top - 12, 160.0), 60.0)
    marks.append(overlay_bar(grid.right + 14, grid.top + 8, bar, ticks))
    notes = [f"Query: {picture.names[query]}."]
    if picture.prefix:
        muted = ", left out of the scale" if mute_prefix else ""
        notes.append(f"Squares above: {', '.join(picture.prefix)}{muted}.")
    return frame(
        join(marks),
        grid.right + 14 + bar_room(ticks, UNIT, 16.0),
        max(grid.bottom + 30, grid.top + bar + 20),
        title=_finding(picture, rows, query) if title is None else title,
        caption=" ".join(part for part in (caption, *notes) if part),
        data={"query": query, "positions": picture.names, "grid": list(picture.grid), "attention": rows.tolist()},
    )


def _before(picture: Picture, row: Tensor, x: float, y: float, top: float, muted: bool) -> Markup:
    """A square for each token before the patches."""
    marks = []
    for i, (name, value) in enumerate(zip(picture.prefix, row.tolist(), strict=False)):
        place = {"x": x + i * (_PREFIX + 2), "y": y, "width": _PREFIX, "height": _PREFIX}
        look: dict[str, str | float] = {"fill": VERMILION, "fill_opacity": opacity_of(value, top)}
        marks.append(element("rect", **place, fill="#FFFFFF", stroke=theme("faint")))
        title = element("title", f"{name}: {number(value)}")
        marks.append(element("rect", title, **place, **({"fill": theme("faint")} if muted else look)))
    return element("g", *marks)


def _most(picture: Picture, row: Tensor) -> str:
    """Where a row puts most of its attention."""
    place = int(row.argmax())
    return f"most on {picture.names[place]}, {number(100 * float(row[place]))} %"


def _finding(picture: Picture, rows: Tensor, query: int) -> str:
    layers, heads, _ = rows.shape
    many, first = plural(layers * heads, "head"), len(picture.prefix)
    start = f"What {many} see from {picture.names[query]}"
    resting = int((rows[..., :first].sum(-1) > 0.5).sum())
    if resting:
        return f"{start}: {resting} rest on {' and '.join(picture.prefix)} with most of their attention"
    best = int(rows.flatten(0, 1)[:, first:].max(-1).values.argmax())
    row = rows.flatten(0, 1)[best]
    place = first + int(row[first:].argmax())
    share = number(100 * float(row[place]))
    return f"{start}: most of all head {best // heads}.{best % heads} on {picture.names[place]}, {share} %"


__all__ = ["patch_heads"]
