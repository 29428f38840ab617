"""Which layer computes which node of a program."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.circuits.known.nodes import Node


def allocate(nodes: Sequence[Node]) -> int:
    """Give every node its layer and its head, and say who writes each variable.

    Nodes of equal depth share a layer, where attention comes before the MLP. A depth of attention only, followed by one
    of MLPs only, makes one layer with it. That is Tracr's rule, and so are the numbers of layers.

    Returns:
        The number of layers.
    """
    levels: list[list[Node]] = [[] for _ in range(max((node.depth for node in nodes), default=0))]
    for node in nodes:
        if node.depth:
            levels[node.depth - 1].append(node)
    i = 0
    while i + 1 < len(levels):
        attention_only = all(not node.has_mlp for node in levels[i])
        mlp_only = all(not node.attends for node in levels[i + 1])
        if attention_only and mlp_only:
            levels[i] += levels.pop(i + 1)
        i += 1
    for layer, level in enumerate(levels):
        _place(layer, level)
    return len(levels)


def _place(layer: int, level: list[Node]) -> None:
    head = 0
    for node in level:
        node.layer = layer
        places = []
        if node.attends:
            node.head = head
            places.append(f"a{layer}.h{head}")
            head += 1
        places += [f"m{layer}"] * node.has_mlp
        for variable, place in zip(node.variables, places, strict=True):
            variable.writer = place
