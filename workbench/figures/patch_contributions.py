"""What each patch of an image gives to an answer, on a signed ground over the image, and groups of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from workbench.figures.colours import BLUE, SIGNED, VERMILION
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.overlay import SIDE, Picture, data_uri, image_mark
from workbench.figures.phrase_tree import Joined
from workbench.figures.svg import Markup, element, join, number, text_width
from workbench.figures.token_contributions import check_lengths, finding, limit_of, plain, said, signed_ticks, with_sign

_STRONGEST = 0.85  # opacity of the largest value: the image still shows through
_ROOM = 34.0  # a patch that has at least that many pixels gets its number


Groups = list[tuple[tuple[int, ...], float]]


def patch_contributions(
    picture: Picture,
    values: Sequence[float],
    *,
    unit: str = "logits",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the image, and the image under what its patches give.

    Ids are ``s`` and the position's number, those before the patches included.

    Args:
        picture: the image and its patches.
        values: what each position gives, those before the patches first; NaN where it is not known.
        unit: of the values.
        title: the finding; by default the strongest patches.
        caption: model, target, rule, baseline.

    Raises:
        ValueError: not as many values as positions.
    """
    names = picture.names
    check_lengths(names, values)
    first = len(picture.prefix)
    singles: Groups = [((i,), values[i]) for i in range(first, len(names))]
    notes = [said(names[i], values[i], unit) for i in range(first)]
    below = f"Before the patches: {'; '.join(notes)}." if notes else ""
    return _panels(
        picture,
        [("image", []), ("what patches give", singles)],
        limit_of(values),
        unit,
        title=finding(names, values, unit) if title is None else title,
        caption=" ".join(part for part in (caption, below) if part),
        data={"names": names, "values": plain(values), "unit": unit, "grid": list(picture.grid)},
    )


def patch_groups(
    picture: Picture,
    values: Sequence[float],
    merges: Sequence[Joined],
    *,
    unit: str = "logits",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw which patches were joined, at three moments, and what the groups give; patches that stand alone are clear.

    Args:
        picture, values, unit, title, caption: as for :func:`patch_contributions`.
        merges: groups of positions in the order in which they were joined.

    Raises:
        ValueError: not as many values as positions.
    """
    names = picture.names
    check_lengths(names, values)
    stages = _stages(len(names), merges)
    limit = limit_of([value for _, groups in stages for _, value in groups])
    found = max((one for _, groups in stages[:1] for one in groups), key=lambda one: abs(one[1]), default=None)
    told = (
        "Nothing is joined"
        if found is None
        else f"{len(found[0])} neighbouring patches together give {number(found[1])} {unit}"
    )
    return _panels(
        picture,
        [("image", []), *stages],
        limit,
        unit,
        title=told if title is None else title,
        caption=caption,
        data={
            "names": names,
            "values": plain(values),
            "unit": unit,
            "grid": list(picture.grid),
            "merges": [{"members": list(m.members), "value": m.value, "interaction": m.interaction} for m in merges],
        },
    )


def _panels(
    picture: Picture,
    panels: Sequence[tuple[str, Groups]],
    limit: float,
    unit: str,
    *,
    title: str,
    caption: str,
    data: dict[str, Any],
) -> Figure:
    """Images side by side under their groups, on one scale."""
    width, height = picture.size(SIDE)
    uri, step, top = data_uri(picture.image, SIDE), width + 24, 20.0
    marks = []
    for k, (name, groups) in enumerate(panels):
        cells = [_group(picture, members, value, limit, unit) for members, value in groups]
        marks.append(
            element(
                "g",
                line(name, 0, 11, BODY, font_weight="bold"),
                element("g", image_mark(uri, width, height), *cells, transform=f"translate(0 {top:g})"),
                transform=f"translate({k * step:g} 0)",
            )
        )
    ticks, bar_x = signed_ticks(limit), len(panels) * step
    marks.append(colour_bar(SIGNED, bar_x, top + 8, max(height - 12, 70.0), ticks=ticks, unit=unit))
    room = bar_x + bar_room(ticks, unit)
    return frame(join(marks), room, top + max(height, 90.0), title=title, caption=caption, data=data)


def _stages(n: int, merges: Sequence[Joined]) -> list[tuple[str, Groups]]:
    """The groups after a quarter, a half and three quarters of the merges."""
    found = []
    for done in sorted({max(round(len(merges) * share), 1) for share in (0.25, 0.5, 0.75)} if merges else set()):
        used = {side for merge in merges[:done] for side in (merge.left, merge.right)}
        groups = [(merge.members, merge.value) for k, merge in enumerate(merges[:done]) if n + k not in used]
        found.append((f"after {done} of {len(merges)} joins", groups))
    return found


def _group(
    picture: Picture,
    members: Sequence[int],
    value: float,
    limit: float,
    unit: str,
) -> Markup:
    """Some patches in one colour, with one outline and one number."""
    width, height = picture.size(SIDE)
    rows, columns = picture.grid
    w, h, first = width / columns, height / rows, len(picture.prefix)
    cells = {divmod(i - first, columns) for i in members}
    known = math.isfinite(value)
    name = picture.names[members[0]]
    name = name if len(members) == 1 else f"{len(members)} patches from {name}"
    words = said(name, value, unit)
    squares = "".join(f"M{c * w:.2f} {r * h:.2f}h{w:.2f}v{h:.2f}h{-w:.2f}z" for r, c in sorted(cells))
    marks = [
        element("title", words),
        element(
            "path",
            d=squares,
            fill=(BLUE if value < 0 else VERMILION) if known else "none",
            fill_opacity=_STRONGEST * min(abs(value) / limit, 1.0) if known else 0,
        ),
        element(
            "path",
            d=_outline(cells, w, h),
            fill="none",
            stroke="#808080",
            stroke_width=0.5 if len(members) == 1 else 2,
        ),
    ]
    text = with_sign(value, limit) if known else ""
    if text and min(w, h) >= _ROOM and text_width(text, SMALL) <= w - 2:
        r, c = min(cells, key=lambda cell: _far(cell, cells))
        # White letters with a dark rim read on every ground, black digits and coloured patches alike.
        at = {"x": (c + 0.5) * w, "y": (r + 0.5) * h + 3.5, "size": SMALL, "text_anchor": "middle"}
        rim = {"stroke": "#1a1a1a", "stroke_width": 2.5, "stroke_linejoin": "round", "fill": "#1a1a1a"}
        marks += [line(text, **at, **rim), line(text, **at, fill="#ffffff")]  # type: ignore[arg-type]
    return element(
        "g",
        *marks,
        class_="wb-cell",
        data_id=f"s{members[0]}" if len(members) == 1 else None,
        data_kind="patch",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def _far(cell: tuple[int, int], cells: set[tuple[int, int]]) -> float:
    """How far a patch is from the middle of its group."""
    middle = [sum(one[axis] for one in cells) / len(cells) for axis in (0, 1)]
    return (cell[0] - middle[0]) ** 2 + (cell[1] - middle[1]) ** 2


def _outline(cells: set[tuple[int, int]], w: float, h: float) -> str:
    """The edges of a group that no two of its patches share."""
    parts = []
    for r, c in sorted(cells):
        x, y = c * w, r * h
        sides = {
            (r - 1, c): f"M{x:.2f} {y:.2f}h{w:.2f}",
            (r + 1, c): f"M{x:.2f} {y + h:.2f}h{w:.2f}",
            (r, c - 1): f"M{x:.2f} {y:.2f}v{h:.2f}",
            (r, c + 1): f"M{x + w:.2f} {y:.2f}v{h:.2f}",
        }
        parts += [path for beside, path in sides.items() if beside not in cells]
    return "".join(parts)
