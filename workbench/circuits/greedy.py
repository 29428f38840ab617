"""A circuit grown backwards from ``logits``: the best edge into what is already there, again and again."""

from __future__ import annotations

from heapq import heappop, heappush

import torch

from workbench.circuits.graph import Circuit, Ranking, Scores


def greedy(scores: Scores, n: int, ranking: Ranking = "absolute", *, prune: bool = False) -> Circuit:
    """The circuit of ``n`` edges that grows from ``logits`` by the best edge into a node that it already holds.

    A node is held once an edge out of it is; the edges into all its readers then stand for choice. So every edge lies
    on a way to ``logits``, and the circuit of n edges is part of that of n + 1. Of equal scores the earlier writer's
    edge comes first, and into the earlier reader.

    Args:
        scores: of a method.
        n: edges.
        ranking: best edges by absolute or by signed score.
        prune: leave out nodes that nothing is fed to, such as a head whose own edges did not come any more; fewer
            edges may be left.

    Returns:
        The circuit with its scores.

    Raises:
        ValueError: ``n`` is negative or more than the graph has, or an unknown ranking.
    """
    graph = scores.graph
    if not 0 <= n <= graph.n_edges:
        raise ValueError(f"Cannot take {n} edges: the graph has {graph.n_edges:,}; choose 0 to that.")
    key = scores.ranked(ranking)
    readers_of: dict[int, list[int]] = {}
    for reader, node in enumerate(graph.reader_node.tolist()):
        readers_of.setdefault(node, []).append(reader)
    mask, waiting = torch.zeros_like(graph.mask), list[tuple[float, int, int]]()

    def hold(node: int) -> None:
        for reader in readers_of.pop(node, []):
            writers = graph.mask[:, reader].nonzero().flatten()
            for writer, value in zip(writers.tolist(), key[writers, reader].tolist(), strict=True):
                heappush(waiting, (-value, writer, reader))

    hold(-1)  # logits
    for _ in range(n):
        _, writer, reader = heappop(waiting)
        mask[writer, reader] = True
        hold(writer)
    circuit = Circuit(graph, mask, scores.values)
    return circuit.prune() if prune else circuit
