"""Where in the prompt edges matter: the strongest edges down, the tokens across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from workbench.figures.colours import SIGNED, signed, theme
from workbench.figures.figure import BODY, SMALL, Figure, bar_room, colour_bar, frame, line
from workbench.figures.svg import Markup, element, isolate, join, number, plural, readable, show_token, text_width

if TYPE_CHECKING:
    from workbench.circuits.positions import PositionScores

CELL = 20.0
MOST_POSITIONS = 48
_SLANT = 0.71  # sine and cosine of the 45 degrees at which tokens stand above their columns


def position_map(
    scores: PositionScores,
    tokens: Sequence[str],
    *,
    n: int = 20,
    unit: str = "logit difference",
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the scores of the strongest edges at each position: vermilion works for the behaviour, blue against it.

    Edges are those with the largest absolute score at any position, the largest first. Of more than 48 positions those
    are drawn where these edges are strongest. Where an edge does not exist (logits that no answer is read from) there
    is no cell.

    Args:
        scores: what was found.
        tokens: of one of the prompts, as names of the positions.
        n: how many edges.
        unit: of the scores.
        title: the finding; by default the share of these edges' scores that stands at the strongest position.
        caption: model, task, method.

    Raises:
        ValueError: as many tokens as there are positions are needed, or at least one edge.
    """
    if len(tokens) != len(scores.values):
        raise ValueError(f"The scores have {len(scores.values)} positions and {len(tokens)} tokens were given.")
    if n < 1:
        raise ValueError(f"At least one edge is needed to draw; got n={n}.")
    names, values, there = _strongest(scores, n)
    places, largest = _places(values), float(values.abs().max())
    shown = [f"{place} {show_token(tokens[place])}" for place in places]
    left = max(text_width(name, BODY) for name in names) + 8
    top = max(text_width(label, SMALL) for label in shown) * _SLANT + 12
    right = left + len(places) * CELL
    over = max(left + (i + 0.5) * CELL + text_width(label, SMALL) * _SLANT for i, label in enumerate(shown))
    marks: list[Markup] = []
    for i, label in enumerate(shown):
        x = left + (i + 0.5) * CELL
        whole = element("title", f"position {places[i]}: {readable(tokens[places[i]])}")
        words = line(label, x, top - 5, SMALL, transform=f"rotate(-45 {x:.1f} {top - 5:.1f})")
        marks.append(element("g", whole, words, class_="wb-place"))
    for row, name in enumerate(names):
        y = top + row * CELL
        marks.append(line(name, left - 6, y + CELL / 2 + 4, BODY, text_anchor="end"))
        for column, place in enumerate(places):
            if not there[place, row]:
                continue
            token = isolate(readable(tokens[place]))
            about = f"{name} at position {place} ({token}): {number(float(values[place, row]))}"
            marks.append(_cell(float(values[place, row]), largest, left + column * CELL, y, about))
    ticks = [(0.0, number(-largest)), (0.5, "0"), (1.0, number(largest))]
    bar, height = max(right, over) + 14, max(len(names) * CELL, 60.0)
    marks.append(colour_bar(SIGNED, bar, top, height, ticks=ticks, unit=unit))
    return frame(
        join(marks),
        bar + bar_room(ticks, unit),
        top + height + 4,
        title=_finding(tokens, values) if title is None else title,
        caption=" ".join(part for part in (caption, *_notes(scores, names, places)) if part),
        data={"edges": names, "positions": places, "tokens": list(tokens), "values": values[places].T.tolist()},
    )


def _strongest(
    scores: PositionScores, n: int
) -> tuple[list[str], Float[Tensor, "pos edges"], Bool[Tensor, "pos edges"]]:
    """Names and scores of the edges with the largest absolute score at any position, and where they exist."""
    graph = scores.graph
    peak = scores.values.abs().amax(0).masked_fill(~graph.mask, -1)
    best = peak.flatten().topk(min(n, graph.n_edges)).indices
    rows, columns = best // len(graph.readers), best % len(graph.readers)
    names = [f"{graph.writers[w]}→{graph.readers[r]}" for w, r in zip(rows.tolist(), columns.tolist(), strict=True)]
    return names, scores.values[:, rows, columns].float(), scores.mask[:, rows, columns]


def _places(values: Float[Tensor, "pos edges"]) -> list[int]:
    """The positions to draw, in order."""
    peak = values.abs().amax(1)
    found: list[int] = peak.topk(min(MOST_POSITIONS, len(values))).indices.sort().values.tolist()
    return found


def _cell(value: float, largest: float, x: float, y: float, words: str) -> Markup:
    marks = [
        element("title", words),
        element(
            "rect",
            x=x,
            y=y,
            width=CELL,
            height=CELL,
            fill=signed(value, largest),
            stroke=theme("faint"),
            stroke_width=0.6,
        ),
    ]
    # The sign also by a mark, so that colour is not its only carrier; on faint cells it would say too much.
    if value < 0 and abs(value) > largest / 8:
        middle = y + CELL / 2
        marks.append(
            element("line", x1=x + 7, x2=x + CELL - 7, y1=middle, y2=middle, stroke="#1A1A1A", stroke_width=1.4)
        )
    return element("g", *marks, class_="wb-at")


def _finding(tokens: Sequence[str], values: Float[Tensor, "pos edges"]) -> str:
    total = float(values.abs().sum())
    if total == 0:
        return "No edge has a score at any position"
    by_place = values.abs().sum(1)
    place = int(by_place.argmax())
    share = number(float(f"{100 * float(by_place[place]) / total:.2g}"))
    name = isolate(show_token(tokens[place]))
    edges = plural(values.shape[1], "edge")
    return f"{share} % of what the strongest {edges} do happens at {name} (position {place})"


def _notes(scores: PositionScores, names: Sequence[str], places: Sequence[int]) -> list[str]:
    about = f"The {len(names):,} edges with the largest score at any position"
    notes = [
        f"{about}, of {scores.graph.n_edges:,}; scores by the position at which the reader reads. Dashes: negative."
    ]
    if len(places) < len(scores.values):
        notes.append(f"The {len(places)} positions of {len(scores.values)} where they are strongest.")
    if not scores.complete:
        notes.append(f"Not complete: stopped after {plural(scores.n_examples, 'prompt')}.")
    return notes


__all__ = ["position_map"]
