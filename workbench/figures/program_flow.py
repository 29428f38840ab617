"""The data flow of a learned program: which variable each of its modules reads, inputs at the bottom, output on top."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.circuits.graph import Graph
from workbench.figures.colours import theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.places import BAR, Places, places
from workbench.figures.routes import path, routes
from workbench.figures.svg import Markup, element, join, plural, text_width

OUTPUT = "output"
# Who reads: the legend's words, and the colour of a circuit graph's edges into the same.
_READERS = {
    "head": ("read by a head", "q"),
    "lookup": ("read by a lookup", "mlp"),
    OUTPUT: ("read by the answer", "logits"),
}
_DASHES: dict[str, str | None] = {"head": None, "lookup": "7 3", OUTPUT: "2 3"}


@dataclass(frozen=True)
class _Module:
    """A variable of the program and where it stands: its row from the bottom, and its place in it."""

    name: str
    kind: str  # input, head, count, lookup, number-lookup, output
    label: str
    row: int
    column: int

    @property
    def reads_as(self) -> str:
        return {"count": "head", "number-lookup": "lookup"}.get(self.kind, self.kind)


def program_flow(
    inputs: Sequence[str],
    modules: Sequence[str],
    edges: Collection[str],
    *,
    title: str | None = None,
    caption: str = "",
) -> Figure:
    """Draw which variable each module of a program reads.

    Each layer has two rows, its heads and above them its lookups. Modules that no edge touches are faint dots.

    Args:
        inputs: the variables that every program starts with: ``tokens``, ``positions``, ``ones``.
        modules: all modules: ``attn_LAYER_NUMBER``, ``num_attn_...``, ``mlp_...``, ``num_mlp_...``.
        edges: those that the answers depend on, such as ``tokens->attn_0_1`` and ``attn_0_1->output``.
        title: the finding; by default how many modules and edges there are.
        caption: task, accuracy, how it was learned.

    Raises:
        ValueError: an edge names what is neither an input nor a module, or a module is not named as above.
    """
    pairs = _pairs(edges, {*inputs, *modules, OUTPUT})
    placed = _placed(inputs, modules)
    live = {end for pair in pairs for end in pair}
    where, seats = _seats(placed)
    order = {name: i for i, name in enumerate(placed)}
    pairs.sort(key=lambda pair: (order[pair[1]], order[pair[0]]))
    curves = [path(c) for c in routes(where, [(seats[a], seats[b]) for a, b in pairs], [seats[n] for n in live])]
    lowest = where.row_y[0] + where.radius + 8
    marks = [
        _rows(where, placed, seats, live),
        _edges(pairs, placed, curves),
        _modules(where, placed, seats, pairs, live | {OUTPUT}),
    ]
    legend, height = _legend(placed, pairs, where.width)
    body = join([*marks, element("g", legend, transform=f"translate(0 {lowest + 14:g})", class_="wb-legend")])
    n_live = sum(name in live for name in modules)
    found = f"{n_live} of {plural(len(modules), 'module')} and {plural(len(pairs), 'edge')} make the answers"
    return frame(
        body,
        where.width,
        lowest + 14 + height,
        title=found if title is None else title,
        caption=caption,
        data=_data(placed, pairs, live),
    )


def _pairs(edges: Collection[str], known: Collection[str]) -> list[tuple[str, str]]:
    found = []
    for edge in edges:
        source, _, reader = edge.partition("->")
        for end in (source, reader):
            if end not in known:
                raise ValueError(f"'{end}' in the edge '{edge}' is no variable of this program.")
        found.append((source, reader))
    return found


def _placed(inputs: Sequence[str], modules: Sequence[str]) -> dict[str, _Module]:
    """All variables in the order of computation, each in its row."""
    found = {name: _Module(name, "input", name, 0, i) for i, name in enumerate(inputs)}
    filled: dict[int, int] = {}
    for name in modules:
        kind, _, place = name.removeprefix("num_").partition("_")
        layer, _, number = place.partition("_")
        if kind not in ("attn", "mlp") or not (layer.isdecimal() and number.isdecimal()):
            raise ValueError(f"'{name}' is not named as a module; write attn_0_1 or num_mlp_2_0.")
        row = 1 + 2 * int(layer) + (kind == "mlp")
        counts = name.startswith("num_")
        which = ("count" if counts else "head") if kind == "attn" else ("number-lookup" if counts else "lookup")
        found[name] = _Module(name, which, f"{layer}.{number}", row, filled.get(row, 0))
        filled[row] = filled.get(row, 0) + 1
    top = max(module.row for module in found.values()) + 1
    return found | {OUTPUT: _Module(OUTPUT, OUTPUT, OUTPUT, top, 0)}


def _seats(placed: dict[str, _Module]) -> tuple[Places, dict[str, str]]:
    """The places of a circuit graph of as many rows, and which of its nodes each variable takes.

    So curves go around modules as they go around heads. Rows are centred; the output is the graph's logits.
    """
    rows = sorted({module.row for module in placed.values()} - {placed[OUTPUT].row})
    sizes = {row: sum(module.row == row for module in placed.values()) for row in rows}
    columns = max(max(sizes.values()), 5)
    seats = {
        name: f"a{rows.index(one.row)}.h{one.column + (columns - sizes[one.row]) // 2}"
        for name, one in placed.items()
        if name != OUTPUT
    }
    where = places(Graph(len(rows), columns, has_mlp=False), [*seats.values()])
    return where, seats | {OUTPUT: "logits"}


def _rows(where: Places, placed: dict[str, _Module], seats: dict[str, str], live: Collection[str]) -> Markup:
    """Names of the layers, and faint dots for what no answer depends on."""
    marks = []
    for layer in sorted({module.row for module in placed.values()} - {0, placed[OUTPUT].row}):
        row = [name for name, module in placed.items() if module.row == layer]
        y = where.at(seats[row[0]])[1]
        what = "lookups" if placed[row[0]].reads_as == "lookup" else "heads"
        marks.append(line(f"{what} {placed[row[0]].label.partition('.')[0]}", 0, y + 3, SMALL))
    for name, module in placed.items():
        if name not in live and name != OUTPUT:
            x, y = where.at(seats[name])
            square = {"x": x - 1.8, "y": y - 1.8, "width": 3.6, "height": 3.6}
            dot = element("rect", **square) if module.reads_as == "lookup" else element("circle", cx=x, cy=y, r=2)
            marks.append(element("g", element("title", f"{name}: no answer depends on it"), dot, class_="wb-dead"))
    return element("g", *marks, class_="wb-places", fill=theme("faint"))


def _edges(pairs: Sequence[tuple[str, str]], placed: dict[str, _Module], curves: Sequence[str]) -> Markup:
    marks = []
    opacity = max(0.4, min(0.85, 6.0 / max(len(pairs), 1) ** 0.5))
    for rank, ((source, reader), curve) in enumerate(zip(pairs, curves, strict=True)):
        kind = placed[reader].reads_as
        marks.append(
            element(
                "path",
                element("title", f"{reader} reads {source}"),
                class_="wb-edge",
                data_id=f"{source}->{reader}",
                data_source=source,
                data_target=reader,
                data_rank=str(rank),
                d=curve,
                stroke=theme(_READERS[kind][1]),
                stroke_width=1.6,
                stroke_opacity=opacity,
                stroke_dasharray=_DASHES[kind],
            )
        )
    return element("g", *marks, class_="wb-edges", fill="none")


def _modules(
    where: Places,
    placed: dict[str, _Module],
    seats: dict[str, str],
    pairs: Sequence[tuple[str, str]],
    shown: Collection[str],
) -> Markup:
    marks = []
    for name, module in placed.items():
        if name not in shown:
            continue
        ranks = [rank for rank, pair in enumerate(pairs) if name in pair]
        into, out = sum(pair[1] == name for pair in pairs), sum(pair[0] == name for pair in pairs)
        ways = [f"reads {plural(into, 'variable')}"] * bool(into) + [f"read {plural(out, 'time')}"] * bool(out)
        tale = f"{name}: {', '.join(ways)}" if ways else name
        marks.append(
            element(
                "g",
                element("title", tale),
                _symbol(module, where, *where.at(seats[name])),
                class_="wb-node",
                data_id=name,
                data_kind=module.kind,
                data_rank=str(min(ranks, default=0)),
                tabindex="0",
                role="button",
                aria_label=tale,
            )
        )
    return element("g", *marks, class_="wb-nodes")


def _symbol(module: _Module, where: Places, x: float, y: float) -> Markup:
    """A circle for a head, a square for a lookup, a bar for input and output; only outlined where it holds numbers."""
    hollow, r = module.kind in ("count", "number-lookup"), where.radius
    paint: dict[str, Any] = {
        "fill": theme("ground" if hollow else "node"),
        "stroke": theme("node") if hollow else None,
        "stroke_width": 1.6 if hollow else None,
        "class_": "wb-shape",
    }
    if module.kind in ("input", OUTPUT):
        # Edges leave from a radius above a place and reach the output along its bar.
        half = where.bar_half if module.kind == OUTPUT else max(r, text_width(module.label, SMALL) / 2 + 5)
        deep = BAR / 2 if module.kind == OUTPUT else r
        shape = element("rect", x=x - half, y=y - deep, width=2 * half, height=2 * deep, rx=4, **paint)
    elif module.reads_as == "lookup":
        shape = element("rect", x=x - r, y=y - r, width=2 * r, height=2 * r, rx=1.5, **paint)
    else:
        shape = element("circle", cx=x, cy=y, r=r, **paint)
    size = BODY if module.kind == OUTPUT else SMALL
    ink = theme("text" if hollow else "node-text")
    return join([shape, line(module.label, x, y + 0.36 * size, size, text_anchor="middle", fill=ink)])


def _legend(placed: dict[str, _Module], pairs: Sequence[tuple[str, str]], width: float) -> tuple[Markup, float]:
    """What shapes, colours and dashes mean, in lines as wide as the drawing; and their height."""
    ink: dict[str, Any] = {"fill": theme("node")}
    hollow: dict[str, Any] = {"fill": theme("ground"), "stroke": theme("node"), "stroke_width": 1.4}
    square: dict[str, Any] = {"x": 0, "y": -4.5, "width": 9, "height": 9}
    shapes = [
        (element("circle", cx=5, cy=0, r=5, **ink), 10, "head: copies a value"),
        (element("circle", cx=5, cy=0, r=4.3, **hollow), 10, "head: adds up numbers"),
        (element("rect", **square, **ink), 9, "lookup of two values"),
        (element("rect", **square, **hollow), 9, "lookup of two numbers"),
        (element("circle", cx=2, cy=0, r=2, fill=theme("muted")), 4, "no answer depends on it"),
    ]
    present = {placed[reader].reads_as for _, reader in pairs}
    for kind, (words, colour) in _READERS.items():
        if kind in present:
            dash: dict[str, Any] = {"stroke": theme(colour), "stroke_width": 2.2, "stroke_dasharray": _DASHES[kind]}
            shapes.append((element("line", x1=0, x2=20, y1=0, y2=0, **dash), 20, words))
    marks, x, y = [], 0.0, 0.0
    for drawing, room, words in shapes:
        step = room + 6 + text_width(words, SMALL) + 18
        if x and x + step - 18 > width:
            x, y = 0.0, y + 15
        marks.append(element("g", drawing, transform=f"translate({x:g} {y + 6:g})"))
        marks.append(line(words, x + room + 6, y + 9, SMALL))
        x += step
    return join(marks), y + 14


def _data(placed: dict[str, _Module], pairs: Sequence[tuple[str, str]], live: Collection[str]) -> dict[str, Any]:
    return {
        "nodes": [{"id": name, "kind": one.kind, "row": one.row, "live": name in live} for name, one in placed.items()],
        "edges": [{"id": f"{a}->{b}", "source": a, "target": b, "feeds": placed[b].reads_as} for a, b in pairs],
    }
