"""Maps of weights over the patches of an image, side by side on one scale: kinds of patterns, means of clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import UNIT, share_ticks
from workbench.figures.colours import theme
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, frame, line
from workbench.figures.overlay import Picture, data_uri, image_mark, overlay_bar, shades_over
from workbench.figures.svg import element, join, number

_ACROSS = 6  # maps in a row
_SIDE = 112.0  # px


def patch_maps(
    picture: Picture,
    maps: Sequence[tuple[str, Float[Tensor, "row column"]]],
    *,
    title: str,
    caption: str = "",
) -> Figure:
    """Draw maps over an image that stands for all that they are of, such as their mean.

    Below each is the weight on all patches together, where that is not all there is. A click gives ``map0`` and so on.

    Args:
        picture: the image and its patches.
        maps: name and weights of each.
        title: the finding.
        caption: model, images, how the maps came about.

    Raises:
        ValueError: there is no map, or one does not fit the patches.
    """
    if not maps:
        raise ValueError("There is no map to draw.")
    for name, weights in maps:
        if tuple(weights.shape) != picture.grid:
            raise ValueError(f"The map '{name}' is {list(weights.shape)}; the image has {list(picture.grid)} patches.")
    rows = [weights.detach().double().cpu().nan_to_num().flatten() for _, weights in maps]
    top = max(float(row.max()) for row in rows) or 1.0
    bare = Picture(picture.image, picture.grid)
    width, height = picture.size(_SIDE)
    uri = data_uri(picture.image, _SIDE)
    across = min(len(maps), _ACROSS)
    step_x, step_y = max(width, 96.0) + 16, height + 54
    marks = []
    for i, ((name, _), row) in enumerate(zip(maps, rows, strict=True)):
        words = f"{name}: {number(100 * float(row.sum()))} % on patches, at most {number(float(row.max()))}"
        marks.append(
            element(
                "g",
                element("title", words),
                line(name, 0, 12, BODY),
                element(
                    "g",
                    image_mark(uri, width, height),
                    shades_over(bare, row, width, height, top),
                    transform="translate(0 20)",
                ),
                element(
                    "rect", y=20, width=width, height=height, fill="none", stroke=theme("faint"), class_="wb-shape"
                ),
                line(f"{number(100 * float(row.sum()))} % on patches", 0, height + 33, SMALL, fill=theme("muted")),
                transform=f"translate({i % across * step_x:g} {i // across * step_y:g})",
                class_="wb-cell-head",
                data_id=f"map{i}",
                data_kind="map",
                tabindex="0",
                role="button",
                aria_label=words,
            )
        )
    ticks, bar_x = share_ticks(top), across * step_x + 4
    marks.append(overlay_bar(bar_x, 30, max(height - 10, 60.0), ticks))
    return frame(
        join(marks),
        bar_x + bar_room(ticks, UNIT, 16.0),
        math.ceil(len(maps) / across) * step_y - 14,
        title=title,
        caption=caption,
        data={"grid": list(picture.grid), "maps": {name: weights.tolist() for name, weights in maps}},
    )
