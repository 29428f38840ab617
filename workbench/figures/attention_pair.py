"""One head's attention pattern before and after a change, side by side on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from workbench.figures.attention_pattern import (
    MOST_CELLS,
    UNIT,
    check_pattern,
    draw_table,
    make_table,
    share_ticks,
    table_notes,
)
from workbench.figures.colours import SHARE
from workbench.figures.figure import BODY, BOLD, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import element, join, number, text_width


def attention_pair(
    before: Float[Tensor, "query key"],
    after: Float[Tensor, "query key"],
    tokens: Sequence[str],
    *,
    names: tuple[str, str] = ("before", "after"),
    title: str | None = None,
    caption: str = "",
    mute_first: bool = False,
    layer: int | None = None,
    head: int | None = None,
    causal: bool = True,
) -> Figure:
    """Draw two patterns over the same tokens; hovering a token or a cell marks it in both.

    Args:
        before: attention weights.
        after: weights of the same shape.
        tokens: as in :func:`attention_pattern`, as are the arguments that are not listed here.
        names: what the two are called, above them.
        title: the finding; by default how far the pattern moved.

    Raises:
        ValueError: the patterns are no [query, key] matrices that fit the tokens, or differ in shape.
    """
    values = [check_pattern(pattern, tokens, dims=2) for pattern in (before, after)]
    if values[0].shape != values[1].shape:
        raise ValueError(f"The patterns differ in shape: {list(values[0].shape)} and {list(values[1].shape)}.")
    tables = [make_table(one, tokens, causal, mute_first, MOST_CELLS) for one in values]
    top = max(table.top for table in tables)
    drawn, x, bottom = [], 0.0, 0.0
    panels = [draw_table(replace(table, top=top), mute_first, room=280.0) for table in tables]
    for name, panel in zip(names, panels, strict=True):
        # Inside, places are the same: what the pointer marks in one panel it marks in the other.
        inside = element("g", panel.drawing, transform=f"translate({x:g} 20)")
        drawn += [line(name, x, 11, BODY, font_weight="bold"), inside]
        x += max(panel.right, text_width(name, BODY * BOLD)) + 12
        bottom = max(bottom, panel.bottom + 20)
    ticks = share_ticks(top)
    drawn.append(colour_bar(SHARE, x, panels[0].top + 32, panels[0].bar_height, ticks=ticks, unit=UNIT))
    if title is None:
        which = f"Head {layer}.{head}" if layer is not None and head is not None else "Attention"
        title = f"{which}: {_finding(*values)}"
    notes = dict.fromkeys(note for table in tables for note in table_notes(table, mute_first))
    return frame(
        join(drawn),
        x + bar_room(ticks, UNIT),
        max(bottom, panels[0].top + 100),
        title=title,
        caption=" ".join(part for part in (caption, *notes) if part),
        data={
            "before": values[0].tolist(),
            "after": values[1].tolist(),
            "tokens": list(tokens),
            "layer": layer,
            "head": head,
        },
    )


def _finding(before: Tensor, after: Tensor) -> str:
    """How much of the attention moves; where rows no longer sum to 1, what they sum to."""
    if not before.numel():
        return "no tokens"
    sums = [float(pattern.sum(-1).mean()) for pattern in (before, after)]
    if any(abs(total - 1) > 0.005 for total in sums):
        return f"rows sum to {number(sums[0])} before and {number(sums[1])} after"
    return f"{number(50 * float((after - before).abs().sum(-1).mean()))} % of attention moves"
