"""The strongest single paths as a list: a chain of nodes for each, aligned by layer, and a bar for what it carries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.figures.colours import SKY, theme
from workbench.figures.figure import SMALL, Figure, frame, line
from workbench.figures.path_flow import AGAINST, FOR, Chain, caption_of, chains, finding, look, symbol
from workbench.figures.path_lengths import unit_of
from workbench.figures.svg import Markup, element, join, number, text_width

if TYPE_CHECKING:
    from workbench.paths import TopPaths

_ROW, _RADIUS, _STEP, _BARS = 30.0, 12.0, 30.0, 120.0  # px
_PART = re.compile(r"(a|m)(\d+)")


def path_chains(
    top: TopPaths,
    *,
    shown: int = 20,
    example: int | None = None,
    selected: str | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw one path a row, the strongest first: its heads and MLPs at their layer, and what it carries.

    Layers that no path passes have no room. A click gives the path, such as ``path 3``, or a node's name.

    Args:
        top: what was found.
        shown: how many paths.
        example: one prompt; by default the mean over all.
        selected: a path or a node to outline.
        title: the finding; by default what the paths carry together.
        caption: in place of model and target.

    Raises:
        ValueError: there is nothing to draw, or no such prompt.
    """
    drawn = chains(top, shown, example)
    unit = unit_of(top)
    slots = sorted({_slot(name) for chain in drawn for name in chain.word[1:]})
    start = text_width("embed", SMALL) + 22
    x_of = {slot: start + _STEP * (i + 0.5) for i, slot in enumerate(slots)}
    end = start + _STEP * len(slots) + 4
    top_y = 30.0
    marks = [_layers(slots, x_of, top_y, top_y + _ROW * len(drawn))]
    marks.append(line("starts at", 0, 12, SMALL, fill=theme("muted")))
    bars = _Bars(drawn, end + 16, unit)
    marks.append(line(unit, bars.left, 12, SMALL, fill=theme("muted")))
    y = top_y + _ROW / 2
    for chain in drawn:
        marks.append(_row(chain, y, x_of, end, bars, unit, selected))
        y += _ROW
    marks.append(bars.zero(top_y, top_y + _ROW * len(drawn)))
    return frame(
        join(marks),
        bars.right,
        top_y + _ROW * len(drawn) + 6,
        title=finding(top, drawn) if title is None else title,
        caption=(caption or caption_of(top)) + " Circles: heads (layer.head); squares: MLPs; diamonds: biases.",
        data={
            "unit": unit,
            "paths": [
                {"id": chain.id, "word": list(chain.word), "value": chain.value, "share": chain.share}
                for chain in drawn
            ],
        },
    )


def _slot(name: str) -> tuple[int, int]:
    """Layer, and 0 for attention or 1 for the MLP."""
    match = _PART.match(name)
    assert match is not None
    return int(match[2]), int(match[1] == "m")


def _layers(slots: Sequence[tuple[int, int]], x_of: dict[tuple[int, int], float], top: float, bottom: float) -> Markup:
    """Numbers of layers above their columns; a dotted rule where layers are left out."""
    marks: list[Markup] = []
    before: int | None = None
    for slot in slots:
        layer = slot[0]
        if layer == before:
            continue
        own = [x_of[one] for one in slots if one[0] == layer]
        marks.append(line(str(layer), sum(own) / len(own), top - 8, SMALL, text_anchor="middle"))
        if before is not None:
            x = own[0] - _STEP / 2
            gap = layer > before + 1
            rule: dict[str, Any] = {"stroke": theme("faint"), "stroke_dasharray": "2 3" if gap else None}
            marks.append(element("line", x1=x, x2=x, y1=top - 4, y2=bottom, stroke_width=1.0, **rule))
        before = layer
    if slots:
        first = x_of[slots[0]] - _STEP / 2
        marks.append(line("layer", first, 12, SMALL, fill=theme("muted")))
    return join(marks)


class _Bars:
    """What each path carries, at the right of its row."""

    def __init__(self, drawn: Sequence[Chain], left: float, unit: str) -> None:
        values = [chain.value for chain in drawn]
        self.largest = max(map(abs, values)) or 1.0
        self.texts = [number(value) for value in values]
        room = max(text_width(text, SMALL) for text in self.texts)
        self.left = left
        self.low = _BARS * 0.5 if min(values) < 0 else 0.0
        self.x0 = left + self.low
        self.length = _BARS * 0.5 if self.low else _BARS
        self.at = self.x0 + self.length + 6
        self.right = max(self.at + room, left + text_width(unit, SMALL))

    def draw(self, chain: Chain, y: float) -> Markup:
        """One bar and its number."""
        size = self.length * abs(chain.value) / self.largest
        x = self.x0 - size if chain.value < 0 else self.x0
        fill = AGAINST if chain.value < 0 else FOR
        bar = element("rect", x=x, y=y - 6, width=max(size, 0.6), height=12, fill=fill)
        return join([bar, line(self.texts[chain.number], self.at, y + 3.5, SMALL)])

    def zero(self, top: float, bottom: float) -> Markup:
        """The rule that bars start from."""
        return element("line", x1=self.x0, x2=self.x0, y1=top, y2=bottom, stroke=theme("muted"), stroke_width=0.8)


def _row(
    chain: Chain,
    y: float,
    x_of: dict[tuple[int, int], float],
    end: float,
    bars: _Bars,
    unit: str,
    selected: str | None,
) -> Markup:
    words = chain.words(unit)
    places = [(name, x_of[_slot(name)]) for name in chain.word[1:]]
    begins = text_width("embed", SMALL) + 5
    role = {"tabindex": "0", "role": "button", "aria_label": words}
    fill: dict[str, Any] = {"fill": SKY, "fill_opacity": 0.16 if chain.id == selected else 0.0}
    ground = element("rect", x=0, y=y - _ROW / 2, width=bars.right, height=_ROW, class_="wb-shape", **fill)
    width = 1.2 + 2.6 * abs(chain.value) / bars.largest
    thread = element("line", x1=begins, x2=end, y1=y, y2=y, **look(chain.value, width))
    row = element(
        "g",
        element("title", words),
        ground,
        thread,
        line("bias" if chain.starts_at else "embed", 0, y + 3.5, SMALL),
        bars.draw(chain, y),
        class_="wb-cell-head",
        data_id=chain.id,
        data_kind="path",
        **role,
    )
    nodes = [
        element(
            "g",
            element("title", words),
            _bias(name, x, y)
            if "." not in name and name.startswith("a")
            else symbol(name, x, y, _RADIUS, selected=name == selected),
            class_="wb-node",
            data_id=name,
            data_kind="mlp" if name.startswith("m") else "head",
        )
        for name, x in places
    ]
    return join([row, *nodes])


def _bias(name: str, x: float, y: float) -> Markup:
    """What a whole attention adds beside its heads."""
    d = f"M{x:.1f} {y - _RADIUS:.1f}l{_RADIUS:g} {_RADIUS:g}l-{_RADIUS:g} {_RADIUS:g}l-{_RADIUS:g} -{_RADIUS:g}z"
    shape = element("path", d=d, fill=theme("ground"), stroke=theme("text"), stroke_width=1.4, class_="wb-shape")
    return join([shape, line(name, x, y + 3, 8.0, text_anchor="middle")])


__all__ = ["path_chains"]
