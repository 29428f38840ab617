"""Every head of a model at a glance: its pattern as a small multiple, all on one scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import (
    UNIT,
    finding,
    make_table,
    share_ticks,
    table_notes,
)
from workbench.figures.colours import SHARE, SKY, theme
from workbench.figures.figure import Figure, bar_room, colour_bar, frame
from workbench.figures.layer_grid import Grid, axes
from workbench.figures.shades import draw_shades
from workbench.figures.svg import Markup, element, join, plural

_ROOM = (620.0, 1260.0)  # width and height that the panels share, px
_SIDE = (26.0, 96.0)  # least and most of a panel, px
_FINEST = 1.5  # px of a cell of a panel
_CELLS = 90_000  # of all panels together, so that a browser stays quick


def all_heads(
    patterns: Float[Tensor, "layer head query key"],
    tokens: Sequence[str],
    *,
    title: str | None = None,
    caption: str = "",
    mute_first: bool = False,
    causal: bool = True,
    selected: Collection[str] = (),
) -> Figure:
    """Draw the pattern of every head, layer 0 at the bottom, heads from the left, as on the maps.

    Queries go down and keys across in every panel, white for 0 to dark for 1. Texts with more tokens than a panel has
    room for are drawn in blocks. A click gives the head's name, such as ``a9.h6``.

    Args:
        patterns: attention weights.
        tokens: of the keys; the queries are the last of them.
        title: the finding; by default how many heads rest on the first token.
        caption: model, text, run.
        mute_first: grey out the first key and scale the colours to the rest.
        causal: leave the half blank that a causal model cannot use.
        selected: names of heads to outline.

    Raises:
        ValueError: the patterns are no [layer, head, query, key] tensor that fits the tokens.
    """
    if patterns.ndim != 4 or patterns.shape[3] != len(tokens) or patterns.shape[2] > patterns.shape[3]:
        raise ValueError(
            f"Patterns of all heads are [layer, head, query, key] with a key for each of the {len(tokens)} tokens, "
            f"but these have shape {list(patterns.shape)}."
        )
    layers, heads = patterns.shape[:2]
    if not patterns.numel():
        raise ValueError("There are no heads, or no tokens, so that there is nothing to draw.")
    side = min(max(min(_ROOM[0] / heads, _ROOM[1] / layers), _SIDE[0]), _SIDE[1])
    gap = 4.0 if side < 60 else 8.0
    grid = Grid(layers, heads, cell=(side, side))
    values = patterns.detach().float().cpu()
    most = min(int((side - gap) / _FINEST), math.isqrt(_CELLS * (2 if causal else 1) // (layers * heads)))
    tables = [[make_table(head, tokens, causal, mute_first, max(most, 2)) for head in layer] for layer in values]
    top_value = max(table.top for row in tables for table in row)
    marks: list[Markup] = axes(grid)
    for layer, row in enumerate(tables):
        for head, table in enumerate(row):
            name = f"a{layer}.h{head}"
            x, y, w, _ = grid.box(layer, head)
            words = f"{name}: {finding(table, mute_first)}"
            chosen = name in selected
            edge = element(
                "rect",
                x=x + gap / 2,
                y=y + gap / 2,
                width=w - gap,
                height=w - gap,
                fill="none",
                stroke=SKY if chosen else theme("faint"),
                stroke_width=3 if chosen else 0.8,
                class_="wb-shape",
            )
            marks.append(
                element(
                    "g",
                    element("title", words),
                    # What a click may hit also where nothing is drawn.
                    element("rect", x=x, y=y, width=w, height=w, fill="none", pointer_events="all"),
                    draw_shades(table.values, table.exists, x + gap / 2, y + gap / 2, w - gap, top_value, mute_first),
                    edge,
                    class_="wb-cell-head",
                    data_id=name,
                    data_kind="head",
                    tabindex="0",
                    role="button",
                    aria_label=words,
                )
            )
    ticks = share_ticks(top_value)
    height = max(min(grid.bottom - grid.top - 12, 160.0), 60.0)
    marks.append(colour_bar(SHARE, grid.right + 14, grid.top + 8, height, ticks=ticks, unit=UNIT))
    notes = table_notes(tables[0][0], mute_first)
    axes_note = "Queries down, keys across in every panel."
    return frame(
        join(marks),
        grid.right + 14 + bar_room(ticks, UNIT),
        max(grid.bottom + 30, grid.top + height + 20),
        title=_found(values, layers * heads) if title is None else title,
        caption=" ".join(part for part in (caption, axes_note, *notes) if part),
        data={"layers": layers, "heads": heads, "tokens": list(tokens), "block": tables[0][0].block},
    )


def _found(values: Tensor, heads: int) -> str:
    sink = int((values[..., 1:, 0].mean(-1) > 0.5).sum()) if values.shape[-2] > 1 else 0
    if not sink:
        return f"What {plural(heads, 'head')} attend to"
    return f"{sink} of {plural(heads, 'head')} rest on the first token with most of their attention"


__all__ = ["all_heads"]
