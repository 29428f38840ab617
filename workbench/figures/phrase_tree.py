"""The tree of phrases over a text: which neighbouring words join first, and what each phrase gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from workbench.figures.colours import SIGNED, ink_on, signed, theme
from workbench.figures.figure import SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, element, join, number, text_width
from workbench.figures.token_contributions import (
    CHIP,
    GAP,
    as_words,
    check_lengths,
    chip,
    chip_width,
    limit_of,
    plain,
    said,
    signed_ticks,
    with_sign,
)

STEP = 34.0  # from one level of the tree to the next, px
_NODE = 18.0


class Joined(Protocol):
    """One merge of a tree: two groups, numbered as in :class:`workbench.circuits.decomposition.phrases.Merge`."""

    @property
    def left(self) -> int:
        """Number of one group."""

    @property
    def right(self) -> int:
        """Number of the other."""

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of all words."""

    @property
    def value(self) -> float:
        """What they give together."""

    @property
    def interaction(self) -> float:
        """That less what the two groups give by themselves."""


def phrase_tree(
    names: Sequence[str],
    values: Sequence[float],
    merges: Sequence[Joined],
    *,
    unit: str = "logits",
    special: Sequence[int] = (),
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw a tree that grows upwards from the words; a group's box has its value, the order of joining and, on hover,
    its interaction. Ids are ``s`` and the word's number, ``g`` and the group's.

    Args:
        names: the words in their order.
        values: what each gives.
        merges: the groups in the order in which they were joined.
        unit: of the values.
        special: numbers of words that are no part of the text; left out of the drawing unless they were joined.
        title: the finding; by default the strongest interaction between two groups.
        caption: model, target, rule, baseline.

    Raises:
        ValueError: unlike many names and values, or a merge of a group that is not there.
    """
    check_lengths(names, values)
    joined = {i for merge in merges for i in merge.members}
    shown = [i for i in range(len(names)) if i not in special or i in joined]
    limit = limit_of([*(values[i] for i in shown), *(merge.value for merge in merges)])
    centre, width = {}, 0.0
    for i in shown:
        room = max(chip_width(names[i], values[i], limit), 46.0)
        centre[i] = width + room / 2
        width += room + GAP
    level = dict.fromkeys(shown, 0)
    for k, merge in enumerate(merges):
        if merge.left not in level or merge.right not in level:
            raise ValueError(f"Merge {k} joins group {merge.left} and {merge.right}, which are not both there before.")
        level[len(names) + k] = 1 + max(level[merge.left], level[merge.right])
        # Half way between its two sides: a mean over words would pile up chains at one place.
        centre[len(names) + k] = (centre[merge.left] + centre[merge.right]) / 2
    top = STEP * max(level.values(), default=0) + 4
    marks = [_lines(names, merges, centre, level, top)]
    for i in shown:
        w = max(chip_width(names[i], values[i], limit), 46.0)
        words = said(names[i], values[i], unit)
        marks.append(chip(names[i], values[i], limit, centre[i] - w / 2, top, w, words, f"s{i}", i in special))
    for k, merge in enumerate(merges):
        group = len(names) + k
        marks.append(_node(names, merge, k, centre[group], top - STEP * level[group], limit, unit))
    ticks, bar_x = signed_ticks(limit), width + 18
    tall = max(top + CHIP - 20, 70.0)
    marks.append(colour_bar(SIGNED, bar_x, 14, tall, ticks=ticks, unit=unit))
    return frame(
        join(marks),
        bar_x + bar_room(ticks, unit),
        max(top + CHIP + 16, tall + 22),
        title=_finding(names, merges, unit) if title is None else title,
        caption=" ".join(part for part in (caption, "Small numbers: order of joining.") if part),
        data={
            "names": list(names),
            "values": plain(values),
            "unit": unit,
            "merges": [_record(names, merge) for merge in merges],
        },
    )


def phrase_of(names: Sequence[str], members: Sequence[int], limit: int = 60) -> str:
    """The words of a group as a phrase."""
    return as_words(" ".join(names[i].strip() or names[i] for i in members), limit)


def _record(names: Sequence[str], merge: Joined) -> dict[str, Any]:
    return {
        "left": merge.left,
        "right": merge.right,
        "phrase": phrase_of(names, merge.members, 10_000),
        "value": merge.value,
        "interaction": merge.interaction,
    }


def _finding(names: Sequence[str], merges: Sequence[Joined], unit: str) -> str:
    if not merges:
        return "Nothing is joined"
    # The whole text against nothing else is no phrase; of one merge there is no other.
    best = max(merges[:-1] or merges, key=lambda merge: abs(merge.interaction))
    groups = {len(names) + k: merge.members for k, merge in enumerate(merges)}
    sides = [phrase_of(names, groups.get(side, (side,)), 30) for side in (best.left, best.right)]
    more = "more" if best.interaction > 0 else "less"
    by = number(abs(best.interaction))
    return f"“{sides[0]}” and “{sides[1]}” together give {by} {unit} {more} than apart"


def _lines(
    names: Sequence[str], merges: Sequence[Joined], centre: dict[int, float], level: dict[int, int], top: float
) -> Markup:
    paths = []
    for k, merge in enumerate(merges):
        group = len(names) + k
        y = top - STEP * level[group] + _NODE / 2
        for side in (merge.left, merge.right):
            below = top - STEP * level[side] if level[side] else top
            paths.append(f"M{centre[group]:.1f} {y:.1f}H{centre[side]:.1f}V{below:.1f}")
    return element("path", d="".join(paths), fill="none", stroke=theme("muted"), stroke_width=1)


def _node(names: Sequence[str], merge: Joined, k: int, x: float, y: float, limit: float, unit: str) -> Markup:
    text = with_sign(merge.value, limit)
    ground = signed(merge.value, limit)
    width = text_width(text, SMALL) + 10
    words = (
        f"“{phrase_of(names, merge.members, 200)}”: {text} {unit}, of which interaction "
        f"{number(merge.interaction)}; joined as number {k + 1}"
    )
    return element(
        "g",
        element("title", words),
        element(
            "rect",
            class_="wb-shape",
            x=x - width / 2,
            y=y,
            width=width,
            height=_NODE,
            rx=9,
            fill=ground,
            stroke=theme("muted"),
        ),
        line(text, x, y + 12.5, SMALL, text_anchor="middle", fill=ink_on(ground)),
        line(str(k + 1), x + width / 2 + 3, y + 7, SMALL, fill=theme("muted")),
        class_="wb-cell",
        data_id=f"g{len(names) + k}",
        data_kind="phrase",
        tabindex="0",
        role="button",
        aria_label=words,
    )
