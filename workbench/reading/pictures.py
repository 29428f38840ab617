"""The figures of a reading by depth."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

from workbench.figures.contribution_map import contribution_map
from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure
from workbench.figures.lens_grid import Show, lens_grid
from workbench.figures.signed_bars import signed_bars
from workbench.figures.svg import number, show_token
from workbench.lens import DirectAttribution, LogitLens
from workbench.reading.records import Found

_MAPPED = re.compile(r"a\d+\.h\d+|m\d+")
_AXES = {"prob": "probability", "rank": "rank (1 is first)", "logit": "logit"}


def pictures(found: Found) -> dict[str, Figure]:
    """Those there are: ``lens``, ``entropy``, ``tuned``, ``probabilities``, ``ranks``, ``direct`` and ``heads``."""
    both = [found.logit] if found.tuned is None else [found.logit, found.tuned]
    drawn = {"lens": grid_picture(found.logit), "entropy": grid_picture(found.logit, show="entropy")}
    if found.tuned is not None:
        drawn["tuned"] = grid_picture(found.tuned)
    at = None if found.direct is None or found.direct.at is None else int(found.direct.at[0])
    drawn["probabilities"] = curves_picture(both, at=at)
    drawn["ranks"] = curves_picture(both, at=at, of="rank")
    if found.direct is not None:
        drawn["direct"] = direct_picture(found.direct)
        drawn["heads"] = heads_picture(found.direct)
    return drawn


def grid_picture(
    read: LogitLens, show: Show = "prob", target: int = 0, selected: tuple[str, int] | None = None
) -> Figure:
    """The most likely word at every place and position.

    Raises:
        ValueError: an unknown word for ``show``, or no such target.
    """
    return lens_grid(read, show=show, target=target, selected=selected)


def curves_picture(
    lenses: Sequence[LogitLens],
    at: int | None = None,
    of: Literal["prob", "rank", "logit"] = "prob",
    example: int = 0,
) -> Figure:
    """The followed answers by depth at one position; of several lenses beside each other.

    Args:
        lenses: of one input.
        at: position of the input; by default the last one read.
        of: probability, rank or logit.
        example: which prompt.

    Raises:
        ValueError: there is no lens, or the position was not read.
    """
    if not lenses:
        raise ValueError("There is no lens to draw.")
    first = lenses[0]
    p = _index(first, at, example)
    lines = []
    for read in lenses:
        table = {"prob": read.probs, "rank": read.ranks.double(), "logit": read.logits}[of][:, example, p]
        for column in range(table.shape[-1]):
            word = show_token(read.top_words.get(int(read.targets[example, p, column]), "?"), 16)
            name = word if len(lenses) == 1 else f"{word} ({read.title})"
            lines.append(Line(name, layers_behind(read.places), table[:, column].tolist()))
    word = show_token(first.top_words.get(int(first.targets[example, p, 0]), "?"), 16)
    final = {"prob": first.probs, "rank": first.ranks, "logit": first.logits}[of][-1, example, p, 0]
    before = {"prob": first.probs, "rank": first.ranks, "logit": first.logits}[of][-2, example, p, 0]
    what = _AXES[of].split(" (")[0]
    title = f"“{word}” goes in the last layer from {what} {number(float(before))} to {number(float(final))}"
    if of == "rank":
        title = _rank_title(first, example, p, word)
    where = "" if not first.positions else f"; at “{show_token(first.names[example][first.positions[p]])}”"
    return curves(
        lines,
        x_title="read behind this many layers",
        y_title=_AXES[of],
        log_y=of == "rank" or (of == "prob" and _wide(lines)),
        title=title,
        caption=f"{first.model}, {' and '.join(one.title for one in lenses)}{where}.",
    )


def layers_behind(places: Sequence[str]) -> list[float]:
    """How many layers the stream has passed at each place; behind an attention that an MLP follows half of one."""
    found = []
    for place in places:
        if place == "embed":
            found.append(0.0)
            continue
        layer = int(place[1:])
        found.append(layer + (0.5 if place.startswith("a") and f"m{layer}" in places else 1.0))
    return found


def _wide(lines: Sequence[Line]) -> bool:
    """Whether probabilities need an axis of ratios."""
    known = [y for one in lines for y in one.y if y > 0]
    return bool(known) and max(known) > 1000 * min(known)


def _index(read: LogitLens, at: int | None, example: int) -> int:
    """Where a position stands among those that were read."""
    if not 0 <= example < read.top.shape[1]:
        raise ValueError(f"There is no prompt {example}: these are 0 to {read.top.shape[1] - 1}.")
    there = [p for p in range(read.top.shape[2]) if int(read.top[-1, example, p, 0]) >= 0]
    if not there:
        raise ValueError("Nothing was read of this prompt.")
    if at is None or not read.positions:
        return there[-1]
    if at not in read.positions or read.positions.index(at) not in there:
        raise ValueError(f"Position {at} was not read; read were {', '.join(map(str, read.positions))}.")
    return read.positions.index(at)


def _rank_title(read: LogitLens, example: int, p: int, word: str) -> str:
    ranks = read.ranks[:, example, p, 0].tolist()
    if 1 not in ranks:
        best = min(range(len(ranks)), key=lambda i: ranks[i])
        return f"“{word}” is never first; it comes to rank {ranks[best]:,} at {read.places[best]}"
    stays = len(ranks) - 1
    if ranks[stays] != 1:
        return f"“{word}” is first at {read.places[ranks.index(1)]}, and ends with rank {ranks[-1]:,}"
    while stays and ranks[stays - 1] == 1:
        stays -= 1
    before = f"; at {read.places[stays - 1]} it is number {ranks[stays - 1]:,}" if stays else ""
    return f"“{word}” is first from {read.places[stays]} on{before}"


def direct_picture(direct: DirectAttribution, example: int = 0, selected: Collection[str] = ()) -> Figure:
    """What the strongest components write straight into the answer."""
    values = list(zip(direct.components, direct.values[:, example].tolist(), strict=True))
    whole, unit = float(direct.whole[example]), _unit(direct)
    name, value = max(values, key=lambda one: abs(one[1]))
    against = "" if value >= 0 else ", against it"
    return signed_bars(
        values,
        unit=unit,
        whole=whole,
        selected=selected,
        title=f"{_said(name)} writes most straight into the answer: {number(value)} of {number(whole)} {unit}{against}",
        caption=f"{_caption(direct, example)} All components sum to it.",
    )


def heads_picture(direct: DirectAttribution, example: int = 0, selected: Collection[str] = ()) -> Figure:
    """What each head and MLP writes straight into the answer, as a layer x head map."""
    values = {
        name: value
        for name, value in zip(direct.components, direct.values[:, example].tolist(), strict=True)
        if _MAPPED.fullmatch(name)
    }
    whole = float(direct.whole[example])
    return contribution_map(
        values, unit=_unit(direct), whole=whole, selected=selected, caption=_caption(direct, example)
    )


def _said(name: str) -> str:
    if _MAPPED.fullmatch(name):
        return f"MLP {name[1:]}" if name.startswith("m") else f"Head {name[1:].replace('.h', '.')}"
    return {"embed": "The embedding", "readout bias": "The readout's bias"}.get(name, f"The {name}")


def _unit(direct: DirectAttribution) -> str:
    return "logit" if direct.wrong is None else "logit difference"


def _caption(direct: DirectAttribution, example: int) -> str:
    many = f"; prompt {example}" if direct.values.shape[1] > 1 else ""
    return f"{direct.model}: {direct.target}{many}. Direct attribution, the final norm's scale held."


__all__ = ["curves_picture", "direct_picture", "grid_picture", "heads_picture", "layers_behind", "pictures"]
