"""How the edges of a circuit graph run.

An edge is one cubic curve that leaves its writer upwards and enters its reader from below. Of some twenty shapes
each edge takes the one that passes behind the fewest other nodes, so that a line seen to touch a node ends there.
All edges are judged at once in numpy: 2,000 edges take some tens of milliseconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from workbench.circuits.graph import head_of, layer_of, node_of, part_of
from workbench.figures.places import BAR, Places

# Where the queries, keys and values enter a head, in radii from its centre: three edges between the same two
# nodes lie side by side.
_PORTS = {"q": -0.62, "k": 0.0, "v": 0.62}
_SAMPLES = 22

# Tangent lengths at the writer and the reader as shares of the height: even, turning early, turning late, slack.
_TANGENTS = ((0.5, 0.5), (0.22, 0.78), (0.78, 0.22), (0.35, 0.35))
# How far the curve leans aside at its writer and at its reader, in columns.
_LEANS = np.array(
    [(0, 0), (0.5, 0.5), (-0.5, -0.5), (1.1, 1.1), (-1.1, -1.1), (0.7, 0), (-0.7, 0), (0, 0.7), (0, -0.7)],
    dtype=float,
)

Curves = Float[np.ndarray, "edges 4 2"]


def routes(places: Places, edges: Sequence[tuple[str, str]], members: Collection[str]) -> Curves:
    """Control points of each edge's cubic curve, in pixels.

    Args:
        places: where the nodes stand.
        edges: (writer, reader) of each edge, such as ``("a3.h5", "a4.h1<q>")``.
        members: nodes that curves go around.
    """
    if not edges:
        return np.zeros((0, 4, 2))
    ends = np.array([_ends(places, writer, reader) for writer, reader in edges])
    start, end = ends[:, 0], ends[:, 1]
    rise = start[:, 1] - end[:, 1]
    arcs = np.array([_arc(places, writer, reader) for writer, reader in edges])
    shapes = list(itertools.product(_TANGENTS, _LEANS))
    candidates = np.empty((len(edges), len(shapes), 4, 2))
    cost = np.zeros((len(edges), len(shapes)))
    for i, ((early, late), lean) in enumerate(shapes):
        aside = np.where(arcs[:, None] >= 0, arcs[:, None], lean * places.pitch)
        candidates[:, i, 0], candidates[:, i, 3] = start, end
        candidates[:, i, 1] = np.stack([start[:, 0] + aside[:, 0], start[:, 1] - early * rise], 1)
        candidates[:, i, 2] = np.stack([end[:, 0] + aside[:, 1], end[:, 1] + late * rise], 1)
        # Straight and even is better than bowed or lopsided, where it costs no crossing; arcs are all of one kind.
        slack = (early, late) == (0.35, 0.35)
        cost[:, i] = (
            0.06 * np.abs(lean).sum() + 0.1 * (early != late) + np.where(arcs >= 0, 9.0 * (not slack), 0.05 * slack)
        )
    beside = np.array([_same_layer(writer, reader) for writer, reader in edges])
    candidates[beside] = _over_the_row(places, start[beside], end[beside])[:, None]
    cost += _crossings(places, candidates, edges, members)
    best: Curves = candidates[np.arange(len(edges)), cost.argmin(1)]
    return best


def path(curve: Float[np.ndarray, "4 2"]) -> str:
    """The ``d`` of a curve."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = np.round(curve, 1).tolist()
    return f"M{x0:g} {y0:g}C{x1:g} {y1:g} {x2:g} {y2:g} {x3:g} {y3:g}"


def _ends(places: Places, writer: str, reader: str) -> tuple[tuple[float, float], tuple[float, float]]:
    target, r = node_of(reader), places.radius
    (x0, y0), (x1, y1) = places.at(writer), places.at(target)
    if _same_layer(writer, reader):
        return (x0 + 0.6 * r, y0 - 0.8 * r), (x1 - r, y1 - 0.3 * r)
    if writer.startswith("m") and head_of(target):
        start = (x0 - r, y0 - 0.5 * r)  # from the side, past the MLPs above
    elif writer == "input":
        start = (places.bar_port(x1) + 3.0 * _PORTS.get(part_of(reader), 0.0), y0 - BAR / 2)
    else:
        start = (x0, y0 - r)
    if target == "logits":
        return start, (places.bar_port(x0), y1 + BAR / 2)
    port = _PORTS.get(part_of(reader), 0.0)
    # On the circle, so that the line meets the head's rim and not the air under it.
    return start, (x1 + port * r, y1 + r * (1.0 - port**2) ** 0.5)


def _same_layer(writer: str, reader: str) -> bool:
    """True for an edge from a head to the MLP of its own layer."""
    return layer_of(writer) is not None and layer_of(writer) == layer_of(node_of(reader))


def _over_the_row(places: Places, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flat arcs over the heads of a row, from a head to its layer's MLP; the only edges not to run upwards."""
    reach, over = end[:, 0] - start[:, 0], end[:, 1] - 1.25 * places.radius
    first = np.stack([start[:, 0] + 0.25 * reach, over], 1)
    second = np.stack([end[:, 0] - 0.25 * reach, over], 1)
    return np.stack([start, first, second, end], 1)


def _arc(places: Places, writer: str, reader: str) -> float:
    """How far an edge from MLP to MLP bows out to the right, px; -1 for every other edge.

    The longer the wider, so that the arcs lie in one another; neighbours are joined straight.
    """
    if not (writer.startswith("m") and reader.startswith("m")):
        return -1.0
    source, target = layer_of(writer), layer_of(reader)
    assert source is not None
    assert target is not None
    between = sum(source < layer < target for layer in places.open_rows)
    if not between:
        return 0.0
    # A cubic curve reaches three quarters of its control points' offset.
    room = (places.width - places.right - places.radius) / 0.75
    share = between / max(len(places.open_rows) - 2, 1)
    return min(room, 1.6 * places.radius + room * math.sqrt(share))


def _crossings(
    places: Places,
    candidates: Float[np.ndarray, "edges shapes 4 2"],
    edges: Sequence[tuple[str, str]],
    members: Collection[str],
) -> Float[np.ndarray, "edges shapes"]:
    """How much of each candidate lies behind nodes other than its own ends."""
    occupied = np.zeros((places.graph.n_layers + 1, places.columns), dtype=bool)
    for node in members:
        if (layer := layer_of(node)) is not None:
            place = head_of(node)
            occupied[layer, place[1] if place else places.graph.n_heads] = True
    t = np.linspace(0.03, 0.97, _SAMPLES)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    points = np.einsum("ks,ecki->ecsi", weights, candidates)
    x, y = points[..., 0], points[..., 1]
    rows = np.array(places.row_y)  # falls with the layer
    layer = np.clip(np.searchsorted(-(rows[1:] + rows[:-1]) / 2, -y), 0, len(rows) - 1)
    column = np.clip(np.rint((x - places.left) / places.pitch), 0, places.columns - 1).astype(int)
    distance = np.hypot(x - (places.left + column * places.pitch), y - rows[layer])
    near = np.clip(1.35 - distance / places.radius, 0, None) * occupied[layer, column]
    for i, (writer, reader) in enumerate(edges):
        for node in (writer, node_of(reader)):
            if (own := layer_of(node)) is not None:
                place = head_of(node)
                at = place[1] if place else places.graph.n_heads
                near[i][(layer[i] == own) & (column[i] == at)] = 0.0
    outside = np.clip(places.left - places.pitch / 2 - x, 0, None) + np.clip(x - places.width, 0, None)
    total: Float[np.ndarray, "edges shapes"] = near.sum(-1) + 0.05 * outside.sum(-1)
    return total
