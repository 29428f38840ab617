"""ACDC one edge at a time: one whole forward of the circuit for each trial. Slow and plain, to compare with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from workbench.circuits.graph import Graph


def sequential_acdc(
    graph: Graph, loss: Callable[[Tensor], float], threshold: float, forward: bool = False
) -> tuple[Tensor, list[float]]:
    """The circuit as a mask, and the increments of all trials in their order.

    Args:
        graph: the edges.
        loss: of a circuit; small is good.
        threshold: an edge goes if the loss grows by less.
        forward: try the edges of a reader from the earliest writer on.
    """
    kept, increments = graph.mask.clone(), []
    old = loss(kept)
    for reader in range(len(graph.readers) - 1, -1, -1):
        name = graph.readers[reader].split("<")[0]
        if name != "logits" and not kept[graph.writers.index(name)].any():
            kept[:, reader] = False
            continue
        writers = kept[:, reader].nonzero().flatten().tolist()
        for writer in writers if forward else writers[::-1]:
            kept[writer, reader] = False
            new = loss(kept)
            increments.append(new - old)
            if new - old < threshold:
                old = new
            else:
                kept[writer, reader] = True
    return kept, increments
