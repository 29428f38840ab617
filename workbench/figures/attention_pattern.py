"""Attention patterns: one head in full, or all heads of a layer as small multiples on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.figures.colours import SHARE, SKY, scale, theme
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.shades import draw_shades
from workbench.figures.svg import Markup, cut, element, isolate, join, number, readable, text_width

MOST_CELLS = 64  # a side of the full pattern; longer texts are summed in blocks
MOST_GRID_CELLS = 32  # a side of a small multiple
UNIT = "share of attention"


@dataclass(frozen=True)
class Table:
    """A pattern as it is drawn: cells of one token each, or of blocks of tokens; rows and columns by name."""

    values: Float[Tensor, "rows columns"]
    exists: Float[Tensor, "rows columns"]
    rows: list[str]
    columns: list[str]
    block: int
    top: float  # the value drawn darkest


@dataclass(frozen=True)
class Panel:
    """A drawn table: where its cells begin and end from the top, and where there is room again at the right, px."""

    drawing: Markup
    top: float
    bottom: float
    right: float

    @property
    def bar_height(self) -> float:
        """Length of the colour bar beside it."""
        return min(max(self.bottom - self.top - 12, 60.0), 150.0)


def attention_pattern(
    pattern: Float[Tensor, "query key"],
    tokens: Sequence[str],
    *,
    title: str | None = None,
    caption: str = "",
    mute_first: bool = False,
    layer: int | None = None,
    head: int | None = None,
    causal: bool = True,
) -> Figure:
    """Draw what each token attends to: queries down, keys across, white for 0 to dark for 1.

    Over 64 tokens the cells are blocks: the attention that goes to the block's keys, summed, mean over its queries.

    Args:
        pattern: attention probabilities; rows sum to 1.
        tokens: the tokens of the keys; the queries are the last of them.
        title: the finding; by default the head's name and its largest share.
        caption: model, text, run.
        mute_first: grey out the first key and scale the colours to the rest, for heads that park on it.
        layer: of the head, for the title.
        head: of the head, for the title.
        causal: leave the half blank that a causal model cannot use.

    Raises:
        ValueError: the pattern is no [query, key] matrix that fits the tokens.
    """
    values = check_pattern(pattern, tokens, dims=2)
    table = make_table(values, tokens, causal, mute_first, MOST_CELLS)
    notes = table_notes(table, mute_first)
    if title is None:
        name = f"Head {layer}.{head}" if layer is not None and head is not None else "Attention"
        title = f"{name}: {finding(table, mute_first)}" if values.numel() else f"{name}: no tokens"
    panel = draw_table(table, mute_first)
    ticks, bar_x = share_ticks(table.top), panel.right
    bar = colour_bar(SHARE, bar_x, panel.top + 12, panel.bar_height, ticks=ticks, unit=UNIT)
    width, height = bar_x + bar_room(ticks, UNIT), max(panel.bottom, panel.top + 80)
    data = {
        "values": values.tolist(),
        "tokens": list(tokens),
        "layer": layer,
        "head": head,
        "block": table.block,
    }
    caption = " ".join(part for part in (caption, *notes) if part)
    return frame(join([panel.drawing, bar]), width, height, title=title, caption=caption, data=data)


def head_grid(
    patterns: Float[Tensor, "head query key"],
    tokens: Sequence[str],
    *,
    title: str | None = None,
    caption: str = "",
    mute_first: bool = False,
    layer: int | None = None,
    causal: bool = True,
    selected: int | None = None,
) -> Figure:
    """Draw all heads of a layer as small multiples on one scale; arguments as :func:`attention_pattern`.

    ``selected`` is the head to outline.

    Raises:
        ValueError: the patterns are no [head, query, key] tensor that fits the tokens.
    """
    values = check_pattern(patterns, tokens, dims=3)
    tables = [make_table(head, tokens, causal, mute_first, MOST_GRID_CELLS) for head in values]
    top_value = max((table.top for table in tables), default=1.0)
    across = min(len(tables), 3 if len(tables) in (3, 9) else 4 if len(tables) <= 16 else 6) or 1
    side, gap, above = (150.0, 18.0, 20.0) if across <= 4 else (104.0, 14.0, 18.0)
    prefix = "" if layer is None else f"{layer}."
    marks = []
    for i, table in enumerate(tables):
        x, y = (i % across) * (side + gap), (i // across) * (side + gap + above)
        words = f"Head {prefix}{i}: {finding(table, mute_first)}"
        outline = element(
            "rect",
            x=x,
            y=y + above,
            width=side,
            height=side,
            fill="none",
            stroke=SKY if i == selected else theme("faint"),
            stroke_width=3 if i == selected else None,
            class_="wb-shape",
        )
        marks.append(
            element(
                "g",
                element("title", words),
                line(f"{prefix}{i}", x, y + 13, BODY),
                draw_shades(table.values, table.exists, x, y + above, side, top_value, mute_first),
                outline,
                class_="wb-cell-head",
                data_id=f"a{0 if layer is None else layer}.h{i}",
                data_kind="head",
                tabindex="0",
                role="button",
                aria_label=words,
            )
        )
    ticks = share_ticks(top_value)
    bar_x = across * (side + gap) + 4
    marks.append(colour_bar(SHARE, bar_x, above + 4, side - 4, ticks=ticks, unit=UNIT))
    rows = math.ceil(len(tables) / across)
    name = "All heads" if layer is None else f"Layer {layer}"
    title = f"{name}: what {len(tables)} heads attend to" if title is None else title
    notes = table_notes(tables[0], mute_first) if tables else []
    axes = "Queries down, keys across."
    return frame(
        join(marks),
        bar_x + bar_room(ticks, UNIT),
        max(rows * (side + gap + above) - gap, above + 20),
        title=title,
        caption=" ".join(part for part in (caption, axes, *notes) if part),
        data={"values": values.tolist(), "tokens": list(tokens), "layer": layer},
    )


def check_pattern(pattern: Tensor, tokens: Sequence[str], dims: int) -> Tensor:
    """The pattern as float32 on the CPU, after checking its shape."""
    form = "[query, key]" if dims == 2 else "[head, query, key]"
    if pattern.ndim != dims:
        raise ValueError(f"An attention pattern here is {form}, but this one has shape {list(pattern.shape)}.")
    queries, keys = pattern.shape[-2:]
    if keys != len(tokens) or queries > keys:
        raise ValueError(
            f"The pattern of shape {list(pattern.shape)} does not fit {len(tokens)} tokens: "
            "it needs one key for each token and at most as many queries."
        )
    return pattern.detach().float().cpu()


def make_table(values: Tensor, tokens: Sequence[str], causal: bool, mute_first: bool, most: int) -> Table:
    """The cells to draw: the tokens' own, or of blocks where there are more than ``most`` tokens."""
    queries, keys = values.shape
    offset = keys - queries
    exists = torch.ones(queries, keys)
    if causal:
        exists = exists.tril(offset)
    values = torch.where(exists > 0, values, torch.zeros(()))
    if keys <= most:
        shown = [readable(token) for token in tokens]
        return Table(values, exists, shown[offset:], shown, 1, _top(values, mute_first))
    block = math.ceil(keys / most)

    def summed(x: Tensor, dim: int) -> Tensor:
        starts = range(0, x.shape[dim], block)
        pieces = [x.narrow(dim, i, min(block, x.shape[dim] - i)).sum(dim, keepdim=True) for i in starts]
        return torch.cat(pieces, dim)

    counts = summed(torch.ones(queries, 1), 0)
    merged = summed(summed(values, 1), 0) / counts  # summed over the keys, mean over the queries: rows still sum to 1
    there = (summed(summed(exists, 1), 0) > 0).float()

    def ranges(length: int, start: int) -> list[str]:
        return [f"{start + i}–{start + min(i + block, length) - 1}" for i in range(0, length, block)]

    return Table(merged, there, ranges(queries, offset), ranges(keys, 0), block, _top(merged, mute_first))


def _top(values: Tensor, mute_first: bool) -> float:
    """The value drawn darkest: 1, or the largest outside a muted first column, which may be far below.

    More than 1 where a mechanism gives more; rounding does not count.
    """
    shown = values[:, 1:].nan_to_num() if mute_first else values.nan_to_num()
    largest = float(shown.max()) if shown.numel() else 1.0
    return max(largest, 1e-6 if mute_first else 1.0) if mute_first or largest > 1.001 else 1.0


def table_notes(table: Table, mute_first: bool) -> list[str]:
    """What the caption must say of how the pattern was drawn."""
    notes = []
    if table.block > 1:
        notes.append(
            f"Summary in blocks of {table.block} tokens: "
            "the attention to the block's keys, summed, mean over its queries."
        )
    if mute_first:
        first = "first block" if table.block > 1 else "first token"
        notes.append(f"The {first} as key is muted (grey) and left out of the colour scale.")
    if table.values.numel() and (least := float(table.values.nan_to_num().min())) < -0.001:
        notes.append(f"Negative weights (down to {number(least)}) are drawn white.")
    return notes


def finding(table: Table, mute_first: bool) -> str:
    """The mean share of the first token where it is most of the attention, else the largest single share."""
    values = table.values.nan_to_num()
    if values.numel() == 0:
        return "no tokens"
    unit = "token" if table.block == 1 else "block"
    sink = float(values[1:, 0].mean()) if len(values) > 1 else 0.0
    if sink > 0.5 and not mute_first:
        return f"{number(100 * sink)} % of attention rests on the first {unit}"
    # The first query of a causal model can only attend to itself; that is no finding.
    searched = values.clone()
    searched[0] = 0
    if mute_first:
        searched[:, 0] = 0
    place = int(searched.argmax())
    row, column = divmod(place, values.shape[1])
    share = float(searched[row, column])
    query, key = cut(table.rows[row]), cut(table.columns[column])
    return f"strongest from {isolate(query)} to {isolate(key)}, {number(share)}"


def draw_table(table: Table, mute_first: bool, room: float = 560.0) -> Panel:
    """The cells with the tokens at both sides; ``room`` is the most pixels that the cells may take."""
    rows, columns = table.values.shape
    cell = min(30.0, max(9.0, room / max(rows, columns, 1)))
    label = min(SMALL, cell * 0.95)
    left = 8 + max([text_width("query", SMALL), *(text_width(cut(text), label) for text in table.rows)])
    tallest = max((text_width(cut(text), label) for text in table.columns), default=0)
    slope = -45 if cell >= 18 else -90
    top = 22 + tallest * (0.71 if slope == -45 else 1.0) + 4
    spill = tallest * 0.71 if slope == -45 else 0.0
    width, height = columns * cell, rows * cell
    outline = element(
        "rect", x=left, y=top, width=width, height=height, fill="none", stroke=theme("faint"), stroke_width=1
    )
    drawing = [
        outline,
        _cells(table, left, top, cell, mute_first),
        _labels(table, left, top, cell, label, slope),
        line("query", 0, top - 8, SMALL, fill=theme("muted")),
        line("key", left, 10, SMALL, fill=theme("muted")),
    ]
    return Panel(join(drawing), top, top + height, left + width + max(26.0, spill - 6))


def _cells(table: Table, left: float, top: float, cell: float, mute_first: bool) -> Markup:
    """The cells with hover text, and the two marks that a hovered token's row and column light up."""
    marks = []
    exists = table.exists.tolist()
    for row, values in enumerate(table.values.tolist()):
        for column, value in enumerate(values):
            if not exists[row][column]:
                continue
            muted = mute_first and column == 0
            words = f"{isolate(table.rows[row])} → {isolate(table.columns[column])}: {number(value)}"
            marks.append(
                element(
                    "rect",
                    element("title", words),
                    class_="wb-cell",
                    data_id=f"{row},{column}",
                    data_kind="cell",
                    x=left + column * cell,
                    y=top + row * cell,
                    width=cell,
                    height=cell,
                    fill=theme("faint") if muted or not math.isfinite(value) else scale(SHARE, value / table.top),
                )
            )
    rows, columns = table.values.shape
    hover: dict[str, Any] = {
        "fill": "none",
        "stroke": theme("k"),
        "stroke_width": 1.5,
        "display": "none",
        "pointer_events": "none",
    }
    bands = [
        element(
            "rect",
            class_="wb-mark",
            data_axis="query",
            x=left,
            y=top,
            width=columns * cell,
            height=cell,
            **hover,
        ),
        element("rect", class_="wb-mark", data_axis="key", x=left, y=top, width=cell, height=rows * cell, **hover),
    ]
    # Light lines between the cells, where they are large enough to bear them.
    stroke: dict[str, Any] = {"stroke": theme("faint"), "stroke_width": 0.5} if cell >= 12 else {}
    return join([element("g", *marks, class_="wb-cells", **stroke), *bands])


def _labels(table: Table, left: float, top: float, cell: float, size: float, slope: int) -> Markup:
    """The tokens at both sides; whole on hover."""
    marks = []

    def label(text: str, axis: str, index: int, at: float, **place: Any) -> Markup:
        words: dict[str, Any] = {
            "class_": "wb-token",
            "data_axis": axis,
            "data_index": str(index),
            "data_at": f"{at:.2f}",
        }
        return element("text", element("title", text), cut(text), font_size=size, fill=theme("text"), **words, **place)

    # Every label where there is room; in a dense table every second, fourth, ... one.
    step = max(1, math.ceil((size + 1) / cell))
    for i, text in list(enumerate(table.rows))[::step]:
        y = top + i * cell
        marks.append(label(text, "query", i, y, x=left - 6, y=y + cell / 2 + 0.35 * size, text_anchor="end"))
    for i, text in list(enumerate(table.columns))[::step]:
        x = left + i * cell
        turn = f"translate({x + cell / 2 + 0.35 * size:.2f} {top - 5:.2f}) rotate({slope})"
        marks.append(label(text, "key", i, x, transform=turn))
    return element("g", *marks, class_="wb-tokens")


def share_ticks(top: float) -> list[tuple[float, str]]:
    """Numbers beside the colour bar from 0 to ``top``."""
    return [(share, number(share * top)) for share in (0.0, 0.5, 1.0)]
