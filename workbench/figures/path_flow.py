"""The strongest single paths: as a flow through the places of the circuit graph, and as a list of chains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.graph import Graph, head_of
from workbench.figures.circuit_graph import layer_names
from workbench.figures.colours import SIGNED, SKY, theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.path_lengths import legend_rows, unit_of
from workbench.figures.places import BAR, Places, places
from workbench.figures.routes import path, routes
from workbench.figures.svg import Markup, element, join, number, plural, text_width

if TYPE_CHECKING:
    from workbench.paths import FoundPath, TopPaths

FOR, AGAINST = SIGNED[-1], SIGNED[0]
THINNEST, WIDEST, BUNDLE = 0.9, 9.0, 24.0  # px: of one path, and of all that run side by side
_NODE = re.compile(r"a(\d+)\.h(\d+)|m(\d+)")
_MIDDLE = "<k>"  # the port of a head in the middle: a path enters by what the head moves, whatever the slot is called


@dataclass(frozen=True)
class Chain:
    """A path as it is drawn.

    Attributes:
        number: place in the list; 0 is the strongest.
        word: components, from ``embed`` or ``bias`` on.
        value: what it carries.
        share: of the target's own value; None where that is 0.
    """

    number: int
    word: tuple[str, ...]
    value: float
    share: float | None

    @property
    def id(self) -> str:
        """What a click on it gives."""
        return f"path {self.number}"

    @property
    def stops(self) -> list[str]:
        """Heads and MLPs on it; what a whole attention adds has no place of its own."""
        return [name for name in self.word if _NODE.fullmatch(name)]

    @property
    def starts_at(self) -> str | None:
        """The bias that it starts at; None for the embedding."""
        if self.word[0] != "bias":
            return None
        return f"bias {self.word[1]}" if len(self.word) > 1 else "readout bias"

    def words(self, unit: str) -> str:
        """For hover."""
        share = "" if self.share is None else f" ({number(100 * self.share)} %)"
        return f"{' → '.join(self.word)}: {number(self.value)} {unit}{share}"


def chains(top: TopPaths, shown: int, example: int | None = None) -> list[Chain]:
    """The first ``shown`` paths.

    Raises:
        ValueError: there are none, none is to be shown, or there is no such prompt.
    """
    if not top.paths:
        raise ValueError("No path was found, so that there is nothing to draw; search with a larger budget.")
    if shown < 1:
        raise ValueError(f"At least one path is drawn; got shown={shown}.")
    if example is not None and not 0 <= example < len(top.value):
        raise ValueError(f"There is no prompt {example}: these are 0 to {len(top.value) - 1}.")

    def of(values: Any) -> float:
        return float(values.mean() if example is None else values[example])

    whole = of(top.value)

    def chain(i: int, one: FoundPath) -> Chain:
        value = of(one.contribution)
        return Chain(i, one.word, value, value / whole if whole else None)

    return [chain(i, one) for i, one in enumerate(top.paths[:shown])]


def path_flow(
    top: TopPaths,
    *,
    shown: int = 12,
    example: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    selected: str | None = None,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw the strongest paths through the places of the circuit graph, from the embedding up to the logits.

    A path is as wide as its share; those that run together lie side by side. Vermilion is for the target, blue and
    dashed against it. A diamond is a bias that a path begins at. A click gives a node's name, or the path's number.

    Args:
        top: what was found.
        shown: how many paths.
        example: one prompt; by default the mean over all.
        layers, heads: of the model; by default as many as the paths tell.
        selected: a node, or a path such as ``path 3``, to lift out of the others.
        title: the finding; by default what the paths carry together.
        caption: in place of model and target.

    Raises:
        ValueError: there is nothing to draw, or no such prompt.
    """
    drawn = chains(top, shown, example)
    where = _places(drawn, layers, heads)
    unit = unit_of(top)
    stops = list(dict.fromkeys(name for chain in drawn for name in chain.stops))
    lanes = _lanes(drawn, where, stops)
    marks = [
        element("g", *layer_names(where), class_="wb-places"),
        _lines(drawn, lanes, unit, selected),
        _biases(drawn, where, unit),
    ]
    marks.append(_nodes(drawn, where, stops, unit, selected))
    legend, height = legend_rows(_legend(drawn, unit), where.width)
    below = where.height + 18
    marks.append(element("g", legend, transform=f"translate(0 {below:g})", class_="wb-legend"))
    return frame(
        join(marks),
        where.width,
        below + height,
        title=finding(top, drawn) if title is None else title,
        caption=caption or caption_of(top),
        data=_data(top, drawn, unit),
    )


def finding(top: TopPaths, drawn: Sequence[Chain]) -> str:
    """What the drawn paths carry together, and the node that most of them pass."""
    through: dict[str, int] = {}
    for chain in drawn:
        for name in chain.stops:
            through[name] = through.get(name, 0) + 1
    total = sum(chain.value for chain in drawn)
    shares = [chain.share for chain in drawn if chain.share is not None]
    unit = unit_of(top)
    carried = f"{100 * sum(shares):.0f} % of the {unit}" if len(shares) == len(drawn) else f"{number(total)} {unit}"
    first = f"{plural(len(drawn), 'path')} {'carries' if len(drawn) == 1 else 'carry'} {carried}"
    if not through or len(drawn) == 1:
        return first
    heads = [name for name in through if head_of(name)]
    best = [max(names, key=lambda name: through[name]) for names in (list(through), heads) if names]
    # Nearly every path goes through the first MLP, which is part of what a word means; the head says more.
    many = [f"{through[name]} pass {said(name)}" for name in dict.fromkeys(best) if through[name] > 1]
    return f"{first}; {' and '.join(many)}" if many else first


def caption_of(top: TopPaths) -> str:
    """Model, target, and how sure it is that these are the strongest."""
    n = len(top.value)
    sure = "No other path carries more" if top.proven else f"Best-first search, {plural(top.expanded, 'suffix')}"
    sure = sure.replace("suffixs", "suffixes")
    many = f"; mean of {n} prompts" if n > 1 else ""
    return f"{top.model}: {top.target}{many}. {sure}; paths of up to {top.longest} sublayers."


def said(name: str) -> str:
    """``head 9.6``, ``MLP 4``."""
    place = head_of(name)
    return f"head {place[0]}.{place[1]}" if place else f"MLP {name[1:]}"


def short(name: str) -> str:
    """``9.6``, ``m4``."""
    place = head_of(name)
    return f"{place[0]}.{place[1]}" if place else name


def _places(drawn: Sequence[Chain], layers: int | None, heads: int | None) -> Places:
    found = [match for chain in drawn for name in chain.stops if (match := _NODE.fullmatch(name))]
    deepest = max((int(match[1] or match[3]) for match in found), default=0) + 1
    widest = max((int(match[2]) for match in found if match[2]), default=0) + 1
    graph = Graph(layers or deepest, heads or widest, has_mlp=True)
    return places(graph, [name for chain in drawn for name in chain.stops])


def _ends(chain: Chain) -> list[str]:
    """Writers and readers in the circuit graph's words."""
    start = [] if chain.starts_at else ["input"]
    return [*start, *chain.stops, "logits"]


Lanes = list[list[tuple[tuple[str, str], Any, float]]]


def _lanes(drawn: Sequence[Chain], where: Places, stops: Sequence[str]) -> Lanes:
    """Of each path its curves: (from, to), control points, width."""
    steps = [list(pairwise(_ends(chain))) for chain in drawn]
    pairs = list(dict.fromkeys(pair for own in steps for pair in own))
    curves = dict(
        zip(pairs, routes(where, [(a, f"{b}{_MIDDLE}" if head_of(b) else b) for a, b in pairs], stops), strict=True)
    )
    largest = max((abs(chain.value) for chain in drawn), default=0.0) or 1.0
    sizes = [WIDEST * abs(chain.value) / largest for chain in drawn]
    load = {pair: sum(size for size, own in zip(sizes, steps, strict=True) if pair in own) for pair in pairs}
    shrink = min(1.0, BUNDLE / max(load.values(), default=BUNDLE))
    widths = [max(THINNEST, size * shrink) for size in sizes]
    bundle = {pair: sum(w for w, own in zip(widths, steps, strict=True) if pair in own) for pair in pairs}
    used = dict.fromkeys(pairs, 0.0)
    lanes: Lanes = []
    for width, own in zip(widths, steps, strict=True):
        lanes.append([])
        for pair in own:
            aside = used[pair] + width / 2 - bundle[pair] / 2
            used[pair] += width
            lanes[-1].append((pair, _aside(curves[pair], aside), width))
    return lanes


def _aside(curve: Any, by: float) -> Any:
    """The curve moved across its direction: to the side at its ends, which are upright, and by its slope between."""
    reach = curve[3] - curve[0]
    if abs(reach[1]) < 1.0:  # an arc over one row
        return curve + np.array([0.0, by])
    flat = reach[0] / float(np.hypot(*reach))
    # A cubic curve reaches three quarters of what both inner points are moved by.
    inner = np.array([by, by * flat / 0.75])
    return curve + np.array([[by, 0.0], inner, inner, [by, 0.0]])


def look(value: float, width: float) -> dict[str, Any]:
    """Colour and dashes by the sign."""
    dash = f"{4 + 1.2 * width:.1f} {2.5 + 0.8 * width:.1f}" if value < 0 else None
    return {"stroke": AGAINST if value < 0 else FOR, "stroke_width": width, "stroke_dasharray": dash}


def _lines(drawn: Sequence[Chain], lanes: Lanes, unit: str, selected: str | None) -> Markup:
    """Weak ones first, so that the strong lie on top."""
    marks = []
    for chain, own in reversed(list(zip(drawn, lanes, strict=True))):
        lifted = selected is None or selected in (chain.id, *chain.word)
        for (source, target), curve, width in own:
            marks.append(
                element(
                    "path",
                    element("title", chain.words(unit)),
                    class_="wb-edge" if lifted else "wb-edge wb-dim",
                    data_id=chain.id,
                    data_source=_named(source),
                    data_target=target,
                    data_rank=str(chain.number),
                    d=path(curve),
                    stroke_opacity=0.8,
                    **look(chain.value, width),
                )
            )
    return element("g", *marks, class_="wb-edges", fill="none")


def _named(node: str) -> str:
    return "embed" if node == "input" else node


def _biases(drawn: Sequence[Chain], where: Places, unit: str) -> Markup:
    """A diamond under the first component of each path that begins at a bias."""
    begun: dict[tuple[str, str], list[Chain]] = {}
    for chain in drawn:
        if chain.starts_at:
            begun.setdefault((chain.starts_at, _ends(chain)[0]), []).append(chain)
    marks, beside = [], dict.fromkeys((first for _, first in begun), 0)
    for (name, first), own in begun.items():
        x, y = where.at(first)
        reach = where.bar_half if first == "logits" else where.radius
        x += reach + 8 + 14 * beside[first]
        y += (BAR / 2 if first == "logits" else where.radius) + 3
        beside[first] += 1
        words = f"{name}: {plural(len(own), 'path')}, {number(sum(chain.value for chain in own))} {unit}"
        marks.append(
            element(
                "g",
                element("title", words),
                element("line", x1=x, y1=y, x2=x - 8, y2=y - 6, stroke=theme("muted"), stroke_width=1.2),
                _diamond(x, y),
                class_="wb-node",
                data_id=name,
                data_kind="bias",
                tabindex="0",
                role="button",
                aria_label=words,
            )
        )
    return element("g", *marks, class_="wb-biases")


def _diamond(x: float, y: float) -> Markup:
    d = f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"
    return element("path", d=d, fill=theme("ground"), stroke=theme("text"), stroke_width=1.4, class_="wb-shape")


def _nodes(drawn: Sequence[Chain], where: Places, stops: Sequence[str], unit: str, selected: str | None) -> Markup:
    marks = []
    for name in ["embed", *stops, "logits"]:
        own = [c for c in drawn if name in c.word or name == "logits"]
        if not own:
            continue
        tale = f"{plural(len(own), 'path')}, {number(sum(c.value for c in own))} {unit} together"
        kind = name if name in ("embed", "logits") else "head" if head_of(name) else "mlp"
        words = f"{said(name)[:1].upper()}{said(name)[1:]}: {tale}" if kind in ("head", "mlp") else f"{name}: {tale}"
        at = where.at("input" if name == "embed" else name)
        marks.append(
            element(
                "g",
                element("title", words),
                symbol(name, *at, where.radius, where.bar_half, name == selected),
                class_="wb-node" + " wb-selected" * (name == selected),
                data_id=name,
                data_kind=kind,
                tabindex="0",
                role="button",
                aria_label=words,
            )
        )
    return element("g", *marks, class_="wb-nodes")


def symbol(name: str, x: float, y: float, r: float, half: float = 26.0, selected: bool = False) -> Markup:
    """A node as in the circuit graph: a circle, a square, or a bar for the two ends."""
    edge: dict[str, Any] = {"stroke": SKY, "stroke_width": 3.0} if selected else {}
    look: dict[str, Any] = {"fill": theme("node"), "class_": "wb-shape", **edge}
    label, size = short(name), BODY
    if name in ("embed", "logits"):
        shape = element("rect", x=x - half, y=y - BAR / 2, width=2 * half, height=BAR, rx=4, **look)
    else:
        size = min(SMALL, 1.84 * r / text_width(label, 1.0))
        if head_of(name):
            shape = element("circle", cx=x, cy=y, r=r, **look)
        else:
            shape = element("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, rx=1.5, **look)
    return join([shape, line(label, x, y + 0.36 * size, size, text_anchor="middle", fill=theme("node-text"))])


def _legend(drawn: Sequence[Chain], unit: str) -> list[tuple[Markup, str]]:
    largest = max(abs(chain.value) for chain in drawn)
    ink = theme("node")

    def stroke(value: float, width: float) -> Markup:
        return element("line", x1=0, x2=20, y1=0, y2=0, **look(value, width))

    entries = [
        (element("circle", cx=10, cy=0, r=5, fill=ink), "head (layer.head)"),
        (element("rect", x=5.5, y=-4.5, width=9, height=9, rx=1, fill=ink), "MLP"),
    ]
    if any(chain.starts_at for chain in drawn):
        entries.append((_diamond(10, 0), "begins at a bias"))
    if any(chain.value > 0 for chain in drawn):
        entries.append((stroke(1.0, 3.0), "for the target"))
    if any(chain.value < 0 for chain in drawn):
        entries.append((stroke(-1.0, 2.4), "against it"))
    widest = element("line", x1=0, x2=20, y1=0, y2=0, stroke=theme("text"), stroke_width=WIDEST)
    return [*entries, (widest, f"widest: {number(largest)} {unit}, others by their share")]


def _data(top: TopPaths, drawn: Sequence[Chain], unit: str) -> dict[str, Any]:
    return {
        "unit": unit,
        "target": top.target,
        "proven": top.proven,
        "paths": [
            {"id": chain.id, "word": list(chain.word), "value": chain.value, "share": chain.share} for chain in drawn
        ],
    }


__all__ = ["Chain", "caption_of", "chains", "finding", "look", "path_flow", "said", "short", "symbol"]
