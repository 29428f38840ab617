"""The circuit graph: heads, MLPs and the edges between them, computation upwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.circuits.graph import Circuit, head_of, layer_of, node_of, part_of
from workbench.figures.colours import theme
from workbench.figures.figure import BODY, SMALL, Figure, frame, line
from workbench.figures.places import BAR, Places, places
from workbench.figures.routes import path, routes
from workbench.figures.svg import Markup, element, join, number, plural, text_width

WIDEST, THINNEST = 5.5, 0.6  # px

# What an edge feeds: key, the legend's word. The order is the legend's.
FEEDS = {"q": "query", "k": "key", "v": "value", "mlp": "MLP", "logits": "logits"}
# Membership of an edge when two circuits are compared.
SIDES = {"first": theme("first"), "second": theme("second"), "both": theme("muted")}
# The same where the second circuit is the true one: what an edge is, its colour and its dashes.
VERDICTS = {
    "both": ("found", theme("q"), None),
    "second": ("missed", theme("k"), "8 4"),
    "first": ("false", theme("muted"), "2 3.5"),
}
VERDICT_WORDS = {"found": "found", "missed": "true, but missed", "false": "chosen, but not true"}


@dataclass(frozen=True)
class _Edge:
    name: str
    writer: str
    reader: str
    score: float  # NaN where the circuit has no scores
    share: float  # of the largest |score|, 0 to 1
    rank: int  # 0 is the strongest
    side: str  # "", or "first", "second", "both" in a comparison, or "found", "missed", "false" against the truth

    @property
    def target(self) -> str:
        return node_of(self.reader)

    @property
    def feeds(self) -> str:
        return part_of(self.reader)

    @property
    def width(self) -> float:
        # A true edge that got no score is what a comparison with the truth is about: no hairline.
        return 2.2 if self.side in VERDICT_WORDS else max(THINNEST, WIDEST * math.sqrt(self.share))

    @property
    def paint(self) -> tuple[str, str | None]:
        """Colour and dashes."""
        for word, colour, dash in VERDICTS.values():
            if self.side == word:
                return colour, dash
        dash = f"{2.2 + 1.4 * self.width:.1f} {1.6 + 1.1 * self.width:.1f}" if self.score < 0 else None
        return SIDES[self.side] if self.side else theme(self.feeds), dash


@dataclass(frozen=True)
class _View:
    """What of the circuit is shown, and what is lifted."""

    unit: str
    visible: int  # edges of this rank and above are hidden
    selected: str | None
    lifted: set[str]  # names of the nodes and edges on the selected node's paths

    def classes(self, name: str, base: str) -> str:
        if self.selected is None:
            return base
        return base if name in self.lifted else f"{base} wb-dim"


def circuit_graph(
    circuit: Circuit,
    *,
    title: str | None = None,
    caption: str = "",
    unit: str = "logit difference",
    shown: int | None = None,
    selected: str | None = None,
    places_of: Circuit | None = None,
    compare: Circuit | None = None,
    names: tuple[str, str] = ("this circuit", "the other"),
    truth: Circuit | None = None,
) -> Figure:
    """Draw a circuit.

    Args:
        circuit: what to draw. Its scores give widths and signs; without scores all edges look alike.
        title: the finding; by default how many heads, MLPs and edges there are.
        caption: model, task, method, settings, sizes, faithfulness.
        unit: what the scores are measured in.
        shown: how many of the strongest edges are visible; the others keep their place, hidden, for a slider.
        selected: a node whose paths up and down are lifted, the rest dimmed.
        places_of: open the layers of this circuit too, so that two drawings of one graph share their places.
        compare: a second circuit of the same graph; edges are then coloured by which of the two they are in.
        names: what the two compared circuits are called in the legend.
        truth: the true circuit, in place of ``compare``: edges are then found (in both), missed (only in the truth) or
            false (only in this circuit), told apart by colour and by dashes, all of one width.

    Raises:
        ValueError: ``compare``, ``truth`` or ``places_of`` is of another graph, or ``selected`` is not in the picture.
    """
    for other in (compare, truth, places_of):
        if other is not None and other.graph != circuit.graph:
            raise ValueError(f"The two circuits belong to different graphs: {circuit.graph} and {other.graph}.")
    edges = _edges(circuit, compare)
    if truth is not None:
        edges = [replace(edge, side=VERDICTS[edge.side][0]) for edge in _edges(circuit, truth)]
    members = _members(circuit, edges)
    if selected is not None and selected not in members:
        raise ValueError(f"'{selected}' is not a node of this circuit, so it cannot be selected.")
    where = places(circuit.graph, [*members, *(places_of.nodes if places_of is not None else [])])
    visible = len(edges) if shown is None else shown
    lifted = set() if selected is None else _paths_through(selected, [e for e in edges if e.rank < visible])
    view = _View(unit, visible, selected, lifted)
    curves = [path(curve) for curve in routes(where, [(e.writer, e.reader) for e in edges], members)]
    title = _default_title(circuit, edges, members, names) if title is None else title
    drawing = [
        _layers(where, members),
        _edge_marks(edges, curves, view),
        _nodes(where, members, edges, view),
    ]
    legend, legend_height = _legend(edges, view, where, names if compare is not None else None)
    body = join([*drawing, element("g", legend, transform=f"translate(0 {where.height + 18:g})", class_="wb-legend")])
    height = where.height + 18 + legend_height
    return frame(body, where.width, height, title=title, caption=caption, data=_data(where, members, edges, unit))


def _edges(circuit: Circuit, compare: Circuit | None) -> list[_Edge]:
    """The edges of one circuit or of two, strongest first; ties in the order of computation."""
    mask = circuit.mask if compare is None else circuit.mask | compare.mask
    found = []
    for w, r in mask.nonzero().tolist():
        holder = circuit if compare is None or bool(circuit.mask[w, r]) else compare
        score = float("nan") if holder.scores is None else float(holder.scores[w, r])
        side = ""
        if compare is not None:
            side = "both" if circuit.mask[w, r] and compare.mask[w, r] else "first" if circuit.mask[w, r] else "second"
        found.append((circuit.graph.writers[w], circuit.graph.readers[r], score, side))
    sizes = [abs(score) for *_, score, _ in found if math.isfinite(score)]
    largest = max(sizes, default=0.0)

    def share(score: float) -> float:
        if not sizes:
            return 0.15  # no scores: every edge of one modest width
        return abs(score) / largest if math.isfinite(score) and largest > 0 else 0.0

    found.sort(key=lambda edge: -share(edge[2]))
    return [
        _Edge(f"{writer}->{reader}", writer, reader, score, share(score), rank, side)
        for rank, (writer, reader, score, side) in enumerate(found)
    ]


def _members(circuit: Circuit, edges: Sequence[_Edge]) -> list[str]:
    """Nodes with an edge in the order of computation, and always the two ends."""
    names = {"input", "logits"} | {e.writer for e in edges} | {e.target for e in edges}
    return [name for name in [*circuit.graph.writers, "logits"] if name in names]


def _default_title(circuit: Circuit, edges: Sequence[_Edge], members: Sequence[str], names: tuple[str, str]) -> str:
    graph = circuit.graph
    if any(e.side for e in edges):
        found, missed, false = (sum(e.side == word for e in edges) for word in VERDICT_WORDS)
        if found + missed + false:
            return f"{found:,} of {plural(found + missed, 'true edge')} found, {missed:,} missed, {false:,} false"
        both, first, second = (sum(e.side == side for e in edges) for side in ("both", "first", "second"))
        return f"{plural(both, 'edge')} in both, {first:,} only in {names[0]}, {second:,} only in {names[1]}"
    heads = sum(head_of(node) is not None for node in members)
    mlps = sum(node.startswith("m") for node in members)
    parts = [f"{heads} of {plural(graph.n_layers * graph.n_heads, 'head')}"]
    if graph.has_mlp:
        parts.append(f"{mlps} of {plural(graph.n_layers, 'MLP')}")
    return f"{' and '.join(parts)}, {plural(len(edges), 'edge')}"


def _paths_through(node: str, edges: Sequence[_Edge]) -> set[str]:
    """Names of the nodes and edges on the paths that lead to or from ``node``."""
    found = {node}
    for near, far in (("target", "writer"), ("writer", "target")):
        reached = {node}
        # Sweeps to the fixpoint; a circuit has a few hundred edges and paths are short.
        while True:
            step = [e for e in edges if getattr(e, near) in reached]
            found |= {e.name for e in step}
            more = reached | {getattr(e, far) for e in step}
            if more == reached:
                break
            reached = more
        found |= reached
    return found


def layer_names(where: Places) -> list[Markup]:
    """Names of layers, and hairlines for those without a member."""
    marks: list[Markup] = []
    first, last = where.left - where.pitch / 2, where.right + where.pitch / 2
    for low, high in where.squeezed():
        marks += (
            element("line", x1=first, x2=last, y1=y, y2=y, stroke=theme("faint"), stroke_width=0.7)
            for y in where.row_y[low : high + 1]
        )
        # A run that is too thin for its name would touch its neighbours' names.
        name = f"layer {low}" if low == high else f"layers {low}–{high}"
        marks.append(line(name, 0, (where.row_y[low] + where.row_y[high]) / 2 + 3, SMALL, fill=theme("muted")))
    marks += (line(f"layer {layer}", 0, where.row_y[layer] + 3, SMALL) for layer in where.open_rows)
    return marks


def _layers(where: Places, members: Sequence[str]) -> Markup:
    """Row names, hairlines of squeezed layers, faint dots for heads and MLPs outside the circuit."""
    marks = layer_names(where)
    inside = set(members)
    for layer in where.open_rows:
        names = [f"a{layer}.h{head}" for head in range(where.graph.n_heads)] + [f"m{layer}"] * where.graph.has_mlp
        for name in names:
            if name not in inside:
                x, y = where.at(name)
                shape = {"x": x - 1.8, "y": y - 1.8, "width": 3.6, "height": 3.6}
                dot = element("circle", cx=x, cy=y, r=2) if head_of(name) else element("rect", **shape)
                marks.append(dot)
    return element("g", *marks, class_="wb-places", fill=theme("faint"))


def _edge_marks(edges: Sequence[_Edge], curves: Sequence[str], view: _View) -> Markup:
    """The curves, weak ones first, so that the strong lie on top."""
    # The more edges, the fainter the weak ones: together they are a texture, not a wall.
    weakest = min(0.75, max(0.14, 5.5 / math.sqrt(max(len(edges), 1))))
    marks = []
    for edge, curve in zip(reversed(edges), reversed(curves), strict=True):
        colour, dash = edge.paint
        near = " wb-near" * (view.selected in (edge.writer, edge.target))
        score = f"{number(edge.score)} {view.unit}" if math.isfinite(edge.score) else "no score"
        score = f"{VERDICT_WORDS[edge.side]}, {score}" if edge.side in VERDICT_WORDS else score
        marks.append(
            element(
                "path",
                element("title", f"{_node_name(edge.writer)} → {_reader_name(edge.reader)}: {score}"),
                class_=view.classes(edge.name, "wb-edge") + near,
                data_id=edge.name,
                data_source=edge.writer,
                data_target=edge.target,
                data_rank=str(edge.rank),
                d=curve,
                stroke=colour,
                stroke_width=edge.width,
                stroke_opacity=0.9 if edge.side in VERDICT_WORDS else weakest + (0.92 - weakest) * edge.share**0.5,
                stroke_dasharray=dash,
                display="none" if edge.rank >= view.visible else None,
            )
        )
    return element("g", *marks, class_="wb-edges", fill="none")


def _node_name(node: str) -> str:
    place = head_of(node)
    return f"{place[0]}.{place[1]}" if place else node


def _reader_name(reader: str) -> str:
    feeds = part_of(reader)
    return f"{FEEDS[feeds]} of {_node_name(node_of(reader))}" if feeds in "qkv" else reader


def _nodes(where: Places, members: Sequence[str], edges: Sequence[_Edge], view: _View) -> Markup:
    marks = []
    for name in members:
        into, out = [e for e in edges if e.target == name], [e for e in edges if e.writer == name]
        rank = min((e.rank for e in [*into, *out]), default=0)
        kind = "head" if head_of(name) else "mlp" if name.startswith("m") else name
        word = {"head": f"Head {_node_name(name)}", "mlp": f"MLP {name[1:]}"}.get(kind, name.capitalize())
        ways = [plural(len(part), "edge") + way for part, way in ((into, " in"), (out, " out")) if part]
        strongest = max((abs(e.score) for e in [*into, *out] if math.isfinite(e.score)), default=None)
        tale = ", ".join([*ways, *([f"strongest {number(strongest)} {view.unit}"] if strongest is not None else [])])
        states = " wb-selected" * (name == view.selected) + " wb-off" * (rank >= view.visible and bool(edges))
        marks.append(
            element(
                "g",
                element("title", f"{word}: {tale}" if tale else word),
                _symbol(where, name),
                class_=view.classes(name, "wb-node") + states,
                data_id=name,
                data_kind=kind,
                data_rank=str(rank),
                tabindex="0",
                role="button",
                aria_label=f"{word}: {tale}" if tale else word,
            )
        )
    return element("g", *marks, class_="wb-nodes")


def _symbol(where: Places, name: str) -> Markup:
    """The shape of a node with its name in it: a circle, a square, or a bar for the two ends."""
    (x, y), r = where.at(name), where.radius
    fill = theme("node")
    if name in ("input", "logits"):
        half = where.bar_half
        shape = element(
            "rect", x=x - half, y=y - BAR / 2, width=2 * half, height=BAR, rx=4, fill=fill, class_="wb-shape"
        )
        size = BODY
    else:
        label = _node_name(name)
        size = min(SMALL, 1.84 * r / text_width(label, 1.0))
        if head_of(name):
            shape = element("circle", cx=x, cy=y, r=r, fill=fill, class_="wb-shape")
        else:
            side = {"x": x - r, "y": y - r, "width": 2 * r, "height": 2 * r}
            shape = element("rect", **side, rx=1.5, fill=fill, class_="wb-shape")
    label = line(_node_name(name), x, y + 0.36 * size, size, text_anchor="middle", fill=theme("node-text"))
    return join([shape, label])


def _legend(edges: Sequence[_Edge], view: _View, where: Places, names: tuple[str, str] | None) -> tuple[Markup, float]:
    """What shapes, colours, widths and dashes mean, in lines as wide as the drawing; and their height."""
    if not edges:
        words = "No edges: nothing is kept and the model runs ablated. Keep more edges to see a circuit."
        return line(words, 0, 9, SMALL, fill=theme("muted")), 17.0
    ink, faint = theme("node"), theme("muted")
    entries: list[tuple[Markup, float, str]] = [  # (drawing at the origin, its width, words)
        (element("circle", cx=5, cy=0, r=5, fill=ink), 10, "head (layer.head)"),
        *([(element("rect", x=0, y=-4.5, width=9, height=9, rx=1, fill=ink), 9.0, "MLP")] * where.graph.has_mlp),
        (element("circle", cx=2, cy=0, r=2, fill=faint), 4, "not in the circuit"),
    ]

    def stroke(colour: str, thickness: float = 2.4, dash: str | None = None) -> Markup:
        return element("line", x1=0, x2=20, y1=0, y2=0, stroke=colour, stroke_width=thickness, stroke_dasharray=dash)

    verdicts = [verdict for verdict in VERDICTS.values() if any(e.side == verdict[0] for e in edges)]
    if verdicts:
        entries += [(stroke(colour, 2.2, dash), 20, VERDICT_WORDS[word]) for word, colour, dash in verdicts]
    elif names is None:
        present = {e.feeds for e in edges}
        entries += [(stroke(theme(key)), 20, f"into {word}") for key, word in FEEDS.items() if key in present]
    else:
        sides = {"first": f"only in {names[0]}", "second": f"only in {names[1]}", "both": "in both"}
        entries += [(stroke(SIDES[side]), 20, sides[side]) for side in SIDES if any(e.side == side for e in edges)]
    lines = [entries]
    scored = [e for e in edges if math.isfinite(e.score)]
    sizes: list[tuple[Markup, float, str]] = []
    if scored and abs(scored[0].score) > 0 and not verdicts:
        top = scored[0]
        for share in (1.0, 0.25, 0.04):
            thickness = max(THINNEST, WIDEST * math.sqrt(top.share * share))
            sizes.append((stroke(theme("text"), thickness), 20, number(abs(top.score) * share)))
        sizes[-1] = (*sizes[-1][:2], f"{sizes[-1][2]} {view.unit} (size of the score)")
        if any(e.score < 0 for e in scored):
            sizes.append((stroke(theme("text"), 1.6, "4.5 3.2"), 20, "negative"))
    elif not verdicts:
        sizes.append((Markup(""), 0, "the edges have no scores: all are drawn alike"))
    lines += [sizes] if sizes else []
    marks, y = [], 0.0
    for row in lines:
        x = 0.0
        for drawing, room, text in row:
            step = room + (6 if room else 0) + text_width(text, SMALL) + 18
            if x and x + step - 18 > where.width:
                x, y = 0.0, y + 15
            marks.append(element("g", drawing, transform=f"translate({x:g} {y + 6:g})"))
            marks.append(line(text, x + room + (6 if room else 0), y + 9, SMALL))
            x += step
        y += 17
    # Its own line, which the slider rewrites.
    note = f"the strongest {view.visible} of {len(edges)} edges are shown" if view.visible < len(edges) else ""
    marks.append(line(note, 0, y + 9, SMALL, fill=theme("muted"), class_="wb-shown"))
    return join(marks), y + 14


def _data(where: Places, members: Sequence[str], edges: Sequence[_Edge], unit: str) -> dict[str, Any]:
    def node(name: str) -> dict[str, Any]:
        (x, y), place = where.at(name), head_of(name)
        return {"id": name, "layer": layer_of(name), "head": place[1] if place else None, "x": x, "y": y}

    return {
        "unit": unit,
        "n_edges": len(edges),
        "nodes": [node(name) for name in members],
        "edges": [
            {
                "id": e.name,
                "source": e.writer,
                "target": e.target,
                "feeds": e.feeds,
                "score": e.score if math.isfinite(e.score) else None,
                "rank": e.rank,
                **({"side": e.side} if e.side else {}),
            }
            for e in edges
        ],
    }
