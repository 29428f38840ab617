"""What a vision model attends to: the attention of one query over the patches of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import UNIT, share_ticks
from workbench.figures.colours import SKY, theme
from workbench.figures.figure import BODY, Figure, bar_room, frame, line
from workbench.figures.overlay import (
    CELL,
    SIDE,
    Picture,
    data_uri,
    image_mark,
    overlay_bar,
    patches_over,
    prefix_cells,
    prefix_dots,
    prefix_width,
    shades_over,
)
from workbench.figures.svg import Markup, element, join, number

SMALL_SIDE = 104.0


def patch_attention(
    picture: Picture,
    patterns: Sequence[tuple[str, Float[Tensor, "query key"]]],
    *,
    query: int = 0,
    title: str | None = None,
    caption: str = "",
    mute_prefix: bool = False,
    layer: int | None = None,
    head: int | None = None,
) -> Figure:
    """Draw the attention of one query as an overlay on the image, several patterns side by side on one scale.

    The image alone stands at the left. Every patch and every token before them can be clicked; its id is ``q``
    and its position.

    Args:
        picture: the image and its patches.
        patterns: (name, attention weights) of each panel.
        query: position whose attention is drawn.
        title: the finding; by default what the query attends to most in the last panel.
        caption: model, image, mechanism.
        mute_prefix: leave the tokens before the patches out of the scale, for heads that park on them.
        layer: of the head, for the title.
        head: of the head; None for a mean of heads.

    Raises:
        ValueError: the patterns do not fit the patches, or there is no such query.
    """
    rows = [_row(picture, pattern, query) for _, pattern in patterns]
    top = _top(picture, rows, mute_prefix)
    width, height = picture.size(SIDE)
    above = 20.0 + (CELL + 22.0 if picture.prefix else 0.0)
    step = max(width, prefix_width(picture)) + 26.0
    uri = data_uri(picture.image, SIDE)
    drawn: list[Markup] = []
    for i, (name, row) in enumerate([("image", None), *zip((n for n, _ in patterns), rows, strict=True)]):
        panel = [
            line(name, 0, 11, BODY, font_weight="bold"),
            prefix_cells(picture, row, query, top, mute_prefix),
            element(
                "g",
                image_mark(uri, width, height),
                patches_over(picture, row, query, top),
                transform=f"translate(0 {above:g})",
            ),
        ]
        drawn.append(element("g", *panel, transform=f"translate({i * step:g} 0)"))
    ticks, bar_x = share_ticks(top), (len(rows) + 1) * step
    bar_height = min(max(height - 24.0, 60.0), 160.0)
    drawn.append(overlay_bar(bar_x, above + 14, bar_height, ticks))
    notes = [f"Query: {picture.names[query]} (outlined).", *_notes(picture, rows, mute_prefix)]
    return frame(
        join(drawn),
        bar_x + bar_room(ticks, UNIT, 16.0),
        above + max(height, bar_height + 20.0),
        title=_title(picture, rows, query, layer, head) if title is None else title,
        caption=" ".join(part for part in (caption, *notes) if part),
        data={
            "query": query,
            "positions": picture.names,
            "grid": list(picture.grid),
            "attention": {name: row.tolist() for (name, _), row in zip(patterns, rows, strict=True)},
            "image": picture.image.tolist() if picture.image.numel() <= 4096 else None,
            "layer": layer,
            "head": head,
        },
    )


def patch_grid(
    picture: Picture,
    patterns: Float[Tensor, "head query key"],
    *,
    query: int = 0,
    title: str | None = None,
    caption: str = "",
    mute_prefix: bool = False,
    layer: int | None = None,
    selected: int | None = None,
) -> Figure:
    """Draw all heads of a layer as small multiples on one scale; arguments as :func:`patch_attention`.

    ``selected`` is the head to outline. A click on a head gives its id, such as ``a3.h1``.

    Raises:
        ValueError: the patterns do not fit the patches, or there is no such query.
    """
    rows = [_row(picture, pattern, query) for pattern in patterns]
    top = _top(picture, rows, mute_prefix)
    width, height = picture.size(SMALL_SIDE)
    uri = data_uri(picture.image, SMALL_SIDE)
    across = min(len(rows), 6) or 1
    gap, above = 16.0, 20.0
    step = max(width, 28.0 * len(picture.prefix)) + gap, height + above + gap
    marks = []
    for i, row in enumerate(rows):
        name = f"{'' if layer is None else f'{layer}.'}{i}"
        words = f"Head {name}: {_most(picture, row, query)}"
        frame_of_head = element(
            "rect",
            y=above,
            width=width,
            height=height,
            fill="none",
            stroke=SKY if i == selected else theme("faint"),
            stroke_width=3 if i == selected else 1,
            class_="wb-shape",
        )
        marks.append(
            element(
                "g",
                element("title", words),
                line(name, 0, 13, BODY),
                prefix_dots(picture, row, width, top, mute_prefix),
                element(
                    "g",
                    image_mark(uri, width, height),
                    shades_over(picture, row, width, height, top),
                    transform=f"translate(0 {above:g})",
                ),
                frame_of_head,
                transform=f"translate({i % across * step[0]:g} {i // across * step[1]:g})",
                class_="wb-cell-head",
                data_id=f"a{0 if layer is None else layer}.h{i}",
                data_kind="head",
                tabindex="0",
                role="button",
                aria_label=words,
            )
        )
    ticks, bar_x = share_ticks(top), across * step[0] + 4
    marks.append(overlay_bar(bar_x, above + 10, max(height - 14, 60.0), ticks))
    where = "All heads" if layer is None else f"Layer {layer}"
    notes = [f"Query: {picture.names[query]}.", *_notes(picture, rows, mute_prefix)]
    return frame(
        join(marks),
        bar_x + bar_room(ticks, UNIT, 16.0),
        max(math.ceil(len(rows) / across) * step[1] - gap, above + 80),
        title=f"{where}: what {len(rows)} heads see from {picture.names[query]}" if title is None else title,
        caption=" ".join(part for part in (caption, *notes) if part),
        data={"query": query, "positions": picture.names, "attention": [row.tolist() for row in rows], "layer": layer},
    )


# -- numbers -------------------------------------------------------------------------------------------------


def _row(picture: Picture, pattern: Tensor, query: int) -> Tensor:
    """What one query attends to [position], after checking that everything fits."""
    n = len(picture.names)
    if pattern.ndim != 2 or tuple(pattern.shape) != (n, n):
        rows, columns = picture.grid
        raise ValueError(
            f"The pattern of shape {list(pattern.shape)} does not fit {rows}x{columns} patches and "
            f"{len(picture.prefix)} tokens before them: it needs {n} queries and keys."
        )
    if not 0 <= query < n:
        raise ValueError(f"There is no position {query}: the image has the positions 0 to {n - 1}.")
    return pattern[query].detach().float().cpu().nan_to_num()


def _top(picture: Picture, rows: Sequence[Tensor], mute_prefix: bool) -> float:
    """The weight drawn strongest: the largest of all that is shown."""
    first = len(picture.prefix) if mute_prefix else 0
    return max((float(row[first:].max()) for row in rows if len(row) > first), default=1.0) or 1.0


def _most(picture: Picture, row: Tensor, query: int, before: Tensor | None = None) -> str:
    """Where a row puts most of its attention, and how much that was before."""
    n = len(picture.prefix)
    on_prefix = float(row[:n].sum())
    if on_prefix > 0.5:
        was = "" if before is None else f" (before {_percent(before[:n].sum())})"
        return f"{_percent(row[:n].sum())} on {' and '.join(picture.prefix)}{was}"
    place = n + int(row[n:].argmax())
    where = "itself" if place == query else picture.names[place]
    was = "" if before is None else f" (before {_percent(before[place])})"
    return f"most on {where}, {_percent(row[place])}{was}"


def _percent(share: Tensor) -> str:
    return f"{number(100 * float(share))} %"


def _title(picture: Picture, rows: Sequence[Tensor], query: int, layer: int | None, head: int | None) -> str:
    place = f" from {picture.names[query]}"
    if layer is None:
        where = f"Attention{place}"
    else:
        where = f"Layer {layer}{place}, mean of the heads" if head is None else f"Head {layer}.{head}{place}"
    if not rows:
        return where
    return f"{where}: {_most(picture, rows[-1], query, rows[0] if len(rows) > 1 else None)}"


def _notes(picture: Picture, rows: Sequence[Tensor], mute_prefix: bool) -> list[str]:
    notes = []
    if mute_prefix and picture.prefix:
        notes.append(f"Left out of the scale: {', '.join(picture.prefix)}.")
    least = min((float(row.min()) for row in rows), default=0.0)
    if least < -0.001:
        notes.append(f"Negative weights (down to {number(least)}) are left blank.")
    return notes
