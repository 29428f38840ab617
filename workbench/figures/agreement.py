"""Agreement of rankings as a map: a cell for each pair, its number in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from workbench.figures.colours import SHARE, SIGNED, ink_on, scale, signed, theme
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, cut, element, join, number, text_width

if TYPE_CHECKING:
    from workbench.circuits.agreement import Agreement

Measure = Literal["jaccard", "share", "top_spearman", "spearman", "kendall"]
CELL = 44.0
_LONGEST = 26
_TITLES = {
    "jaccard": "Jaccard overlap",
    "share": "share in common",
    "top_spearman": "Spearman's correlation",
    "spearman": "Spearman's correlation",
    "kendall": "Kendall's tau",
}


def agreement_map(
    result: Agreement,
    measure: Measure = "jaccard",
    *,
    size: int | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw how alike each two rankings are.

    Args:
        result: the comparison.
        measure: ``jaccard``, ``share`` or ``top_spearman`` of the best ``size``; ``spearman`` or ``kendall`` over all.
        size: one of the sizes compared; None for the middle one.
        title: the finding; by default the pair that agrees best and the one that agrees least.
        caption: model, task, settings.

    Raises:
        ValueError: an unknown measure, or a size that was not compared.
    """
    matrix, about = _matrix(result, measure, size)
    names = [cut(name, _LONGEST) for name in result.names]
    k = len(names)
    correlation = measure not in ("jaccard", "share")
    left = max(text_width(name, BODY) for name in names) + 8
    longest = max(text_width(name, BODY) for name in names)
    # Names above slant at 45 degrees: that much height, and that much room to the right of the last one.
    top = longest * 0.71 + 14
    marks: list[Markup] = []
    for i, name in enumerate(names):
        x, y = left + (i + 0.5) * CELL, top + (i + 0.5) * CELL
        marks.append(line(name, left - 6, y + 4, BODY, text_anchor="end"))
        marks.append(line(name, x - 3, top - 5, BODY, transform=f"rotate(-45 {x - 3:.1f} {top - 5:.1f})"))
        for j in range(k):
            words = f"{result.names[i]} and {result.names[j]}: {_TITLES[measure]} {number(matrix[i][j])}"
            marks.append(_cell(matrix[i][j], left + j * CELL, top + i * CELL, words, correlation))
    ticks = [(0.0, "−1"), (0.5, "0"), (1.0, "1")] if correlation else [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    bar = left + k * CELL + max(26.0, longest * 0.71 - CELL / 2 + 12)
    marks.append(
        colour_bar(SIGNED if correlation else SHARE, bar, top, max(k * CELL, 60.0), ticks=ticks, unit=_TITLES[measure])
    )
    return frame(
        join(marks),
        bar + bar_room(ticks, _TITLES[measure]),
        top + max(k * CELL, 60.0) + 4,
        title=_finding(result.names, matrix, _TITLES[measure]) if title is None else title,
        caption=f"{caption} {about}".strip(),
        data={"names": result.names, "measure": measure, "matrix": matrix, "level": result.level},
    )


def _matrix(result: Agreement, measure: Measure, size: int | None) -> tuple[list[list[float]], str]:
    """The numbers, and in a sentence what they are over."""
    if measure not in _TITLES:
        raise ValueError(f"Unknown measure '{measure}'; choose one of {', '.join(_TITLES)}.")
    if measure in ("spearman", "kendall"):
        found: list[list[float]] = getattr(result, measure)
        return found, f"{_TITLES[measure]} over all {result.n:,} {result.level}."
    wanted = result.sizes[len(result.sizes) // 2] if size is None else size
    if wanted not in result.sizes:
        raise ValueError(f"The best {wanted} were not compared; choose one of {', '.join(map(str, result.sizes))}.")
    at = result.sizes.index(wanted)
    chance = f" Two random rankings share {number(100 * result.chance[at])} %." if measure == "share" else ""
    over = f"{_TITLES[measure]} of the best {wanted:,} of {result.n:,} {result.level}.{chance}"
    matrices: list[list[list[float]]] = getattr(result, measure)
    return matrices[at], over


def _cell(value: float, x: float, y: float, words: str, correlation: bool) -> Markup:
    known = math.isfinite(value)
    colour = (signed(value, 1.0) if correlation else scale(SHARE, value)) if known else None
    ink: Any = ink_on(colour) if colour else theme("muted")
    return element(
        "g",
        element("title", words),
        element(
            "rect",
            x=x,
            y=y,
            width=CELL,
            height=CELL,
            fill=colour or theme("ground"),
            stroke=theme("faint"),
            stroke_width=0.8,
        ),
        line(
            f"{value:.2f}".replace("-", "−") if known else "–",
            x + CELL / 2,
            y + CELL / 2 + 3.5,
            SMALL,
            text_anchor="middle",
            fill=ink,
        ),
        class_="wb-pair",
    )


def _finding(names: list[str], matrix: list[list[float]], what: str) -> str:
    pairs = [
        (matrix[a][b], names[b], names[a]) for a in range(len(names)) for b in range(a) if math.isfinite(matrix[a][b])
    ]
    if not pairs:
        return "No two rankings can be compared"
    value, one, other = max(pairs)
    if len(pairs) == 1:
        return f"{one} and {other}: {what} {number(value)}"
    low, first, second = min(pairs)
    return f"{one} and {other} agree best ({number(value)}), {first} and {second} least ({number(low)})"
