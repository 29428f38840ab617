"""Where the nodes of a circuit graph stand.

Computation runs upwards: ``input`` at the bottom, a row for every layer, ``logits`` on top. Heads stand by index
from the left, the MLP right of them. A layer without a member is squeezed to a hairline, so that a model of thirty
layers fits a page.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from workbench.circuits.graph import Graph, head_of, layer_of

GUTTER = 74.0  # room for the layers' names
HAIRLINE = 5.0  # height of a squeezed layer
GAP = 10.0  # between open rows and a run of hairlines
BAR = 20.0  # height of the input and the logits bar
HEADS_WIDTH = 580.0  # what the heads of a layer share


@dataclass(frozen=True)
class Places:
    """Places of all nodes of a graph, in pixels.

    Attributes:
        graph: the graph.
        open_rows: layers that have a member, from the bottom.
        row_y: centre of each layer's row.
        pitch: distance between neighbouring heads.
        radius: of a head; half the side of an MLP.
        width: of the drawing.
        height: of the drawing.
    """

    graph: Graph
    open_rows: tuple[int, ...]
    row_y: tuple[float, ...]
    pitch: float
    radius: float
    width: float
    height: float

    @property
    def left(self) -> float:
        """Centre of head 0."""
        return GUTTER + self.pitch / 2

    @property
    def columns(self) -> int:
        """Places in a row."""
        return self.graph.n_heads + self.graph.has_mlp

    @property
    def right(self) -> float:
        """Centre of the last column: the MLPs, or the last head where there are none."""
        return self.left + (self.columns - 1) * self.pitch

    def at(self, node: str) -> tuple[float, float]:
        """Centre of a node."""
        middle = (self.left + self.right) / 2
        if node == "input":
            return middle, self.height - BAR / 2
        if node == "logits":
            return middle, BAR / 2
        layer = layer_of(node)
        assert layer is not None
        place = head_of(node)
        column = place[1] if place else self.graph.n_heads
        return self.left + column * self.pitch, self.row_y[layer]

    @cached_property
    def bar_half(self) -> float:
        """Half the width of the input and the logits bar."""
        return max(46.0, 0.22 * (self.right - self.left + self.pitch))

    def bar_port(self, x: float) -> float:
        """Where on the input or the logits bar an edge from or to a node at ``x`` ends.

        The ends lie in the order of the nodes, so that edges fan out instead of leaving from one point.
        """
        middle, half = (self.left + self.right) / 2, (self.right - self.left) / 2 or 1.0
        return middle + (x - middle) / half * (self.bar_half - 8)

    def squeezed(self) -> list[tuple[int, int]]:
        """Runs of squeezed layers, as (first, last)."""
        runs: list[tuple[int, int]] = []
        for layer in sorted(set(range(self.graph.n_layers)) - set(self.open_rows)):
            if runs and runs[-1][1] == layer - 1:
                runs[-1] = (runs[-1][0], layer)
            else:
                runs.append((layer, layer))
        return runs


def places(graph: Graph, members: Collection[str]) -> Places:
    """The places of all nodes of ``graph`` when the layers of ``members`` are open.

    Equal graphs and equal open layers give equal places, whatever the edges.
    """
    layers = sorted({layer for node in members if (layer := layer_of(node)) is not None})
    heads = max(graph.n_heads, 1)
    pitch = min(max(HEADS_WIDTH / heads, 26.0), 64.0)
    # Few rows may breathe; many share about the height of a page.
    row = min(max(900.0 / max(len(layers), 1), 34.0), 54.0)
    radius = min(13.0, 0.42 * pitch, 0.38 * row)
    is_open = set(layers)
    heights: list[float] = []
    y = BAR + 24.0 + (0.35 * row if layers else 0.0)
    for layer in reversed(range(graph.n_layers)):
        opened = layer in is_open
        above = layer + 1 in is_open
        if layer + 1 < graph.n_layers:
            y += (row if above else row / 2 + GAP / 2) if opened else (row / 2 + GAP / 2 if above else HAIRLINE)
        heights.append(y)
    height = y + (0.35 * row if layers else 0.0) + 24.0 + BAR
    columns = graph.n_heads + graph.has_mlp
    # Edges from MLP to MLP bow out at the right of their column.
    aside = 30.0 + (min(80.0, 14.0 * len(layers) ** 0.6) if graph.has_mlp else 0.0)
    width = max(GUTTER + columns * pitch + aside, 600.0)
    return Places(graph, tuple(layers), tuple(reversed(heights)), pitch, radius, width, height)
