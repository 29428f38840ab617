"""Named points in the plane, in groups told apart by colour and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from workbench.figures.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.plane import BELOW, TOP, Plane, linear
from workbench.figures.svg import Markup, cut, element, join, number, readable, text_width

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_SHAPES = 6
_NAMED = 40  # most points whose names are written beside them
_R = 4.5


def scatter(
    points: Float[Tensor, "n 2"],
    *,
    names: Sequence[str],
    groups: Sequence[int] | None = None,
    group_names: Sequence[str] | None = None,
    selected: Sequence[str] = (),
    x_title: str,
    y_title: str,
    title: str,
    caption: str = "",
) -> Figure:
    """Draw points that can be clicked; a click gives the point's name.

    Args:
        points: where they are; those with a coordinate that is no number are left out.
        names: of the points, such as ``a9.h6``; written beside them where they are few and have room.
        groups: the number of each point's group, from 0; below 0 for points in none.
        group_names: what the groups are called; by default ``group 0`` and so on.
        selected: names of points to outline.
        x_title, y_title: what the axes are, with the unit.
        title: the finding.
        caption: model, data, settings.

    Raises:
        ValueError: names or groups do not fit the points, or no point has a place.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"Points in the plane are [n, 2], but these have shape {list(points.shape)}.")
    if len(names) != len(points) or (groups is not None and len(groups) != len(points)):
        raise ValueError(f"There are {len(points)} points; give a name and a group for each of them.")
    where = points.detach().double().cpu().tolist()
    kinds = [0] * len(where) if groups is None else list(groups)
    found = [(x, y, name, kind) for (x, y), name, kind in zip(where, names, kinds, strict=True) if _there(x, y)]
    if not found:
        raise ValueError("No point has a place, so that there is nothing to draw.")
    plane = Plane(linear([x for x, *_ in found], 0.05), linear([y for _, y, *_ in found], 0.05), 440.0, 360.0)
    body = [plane.drawn(x_title, y_title)]
    body += [_dot(plane, point, groups is not None, name in selected) for point in found for name in [point[2]]]
    if len(found) <= _NAMED:
        body += _labels(plane, found)
    end = plane.right + 12
    if groups is not None:
        called = {kind: _called(kind, group_names) for kind in sorted(set(kinds), key=lambda k: (k < 0, k))}
        body += _legend(called, plane.right + 20)
        end = plane.right + 34 + max(text_width(cut(name, 30), BODY) for name in called.values())
    return frame(
        join(body),
        end,
        plane.bottom + BELOW,
        title=title,
        caption=caption,
        data={
            "points": where if all(_there(x, y) for x, y in where) else [[x, y] for x, y, *_ in found],
            "names": [name for _, _, name, _ in found],
            "groups": None if groups is None else [kind for *_, kind in found],
        },
    )


def _there(x: float, y: float) -> bool:
    return math.isfinite(x) and math.isfinite(y)


def _called(kind: int, names: Sequence[str] | None) -> str:
    if kind < 0:
        return "no group"
    return names[kind] if names is not None and kind < len(names) else f"group {kind}"


def _look(kind: int) -> tuple[str, int]:
    """Colour and shape of a group; more groups than colours take the next shape."""
    if kind < 0:
        return theme("muted"), 0
    return COLOURS[kind % len(COLOURS)], (kind + kind // len(COLOURS)) % _SHAPES


def _shape(x: float, y: float, kind: int, title: str, chosen: bool = False) -> Markup:
    colour, shape = _look(kind)
    look: dict[str, str | float | None] = {
        "fill": colour,
        "fill_opacity": 0.85,
        "stroke": SKY if chosen else theme("ground"),
        "stroke_width": 3 if chosen else 0.8,
        "class_": "wb-shape",
    }
    words = [element("title", title)] if title else []
    if shape == 0:
        return element("circle", *words, cx=x, cy=y, r=_R, **look)
    return element("path", *words, d=_outline(x, y, shape), **look)


def _outline(x: float, y: float, shape: int) -> str:
    """Square, triangle up, diamond, triangle down, cross."""
    r = _R * 1.2
    corners: dict[int, list[tuple[float, float]]] = {
        1: [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        2: [(0, -1.1), (1, 0.8), (-1, 0.8)],
        3: [(0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)],
        4: [(0, 1.1), (1, -0.8), (-1, -0.8)],
        5: [
            (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
            (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35),
        ],
    }  # fmt: skip
    return "M" + "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners[shape]) + "z"


def _dot(plane: Plane, point: tuple[float, float, str, int], grouped: bool, chosen: bool) -> Markup:
    x, y, name, kind = point
    words = f"{name}: {number(x)}, {number(y)}" + (f" (group {kind})" if grouped and kind >= 0 else "")
    return element(
        "g",
        element("title", words),
        _shape(plane.px(x), plane.py(y), kind, "", chosen),
        class_="wb-node",
        data_id=name,
        data_kind="point",
        tabindex="0",
        role="button",
        aria_label=words,
    )


def _labels(plane: Plane, found: Sequence[tuple[float, float, str, int]]) -> list[Markup]:
    """Names beside points, where they touch neither another point nor another name."""
    points = [(plane.px(x), plane.py(y)) for x, y, *_ in found]
    taken = [(x - _R, y - _R, x + _R, y + _R) for x, y in points]
    marks = []
    for (x, y), (_, _, name, _) in zip(points, found, strict=True):
        text = cut(readable(name), 16)
        width = text_width(text, SMALL)
        for left, top in ((x + _R + 3, y - 5), (x - _R - 3 - width, y - 5), (x - width / 2, y - _R - 12)):
            box = (left, top, left + width, top + 10)
            inside = box[0] >= plane.left and box[2] <= plane.right + 10 and box[1] >= TOP
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                marks.append(line(text, left, top + 8.5, SMALL, pointer_events="none"))
                break
    return marks


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(called: dict[int, str], x: float) -> list[Markup]:
    marks = []
    for i, (kind, name) in enumerate(called.items()):
        y = TOP + 8 + i * (BODY + 6)
        marks += [_shape(x, y, kind, ""), line(cut(name, 30), x + 10, y + 4, BODY)]
    return marks


__all__ = ["scatter"]
