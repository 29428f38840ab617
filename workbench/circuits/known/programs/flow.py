"""The data flow of a program: which variable each module reads, and which of that the answers depend on."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from workbench.circuits.known.programs.program import ONES, OUTPUT, POSITIONS, TOKENS, Lookup, Module, Part, Program


@dataclass(frozen=True)
class Flow:
    """The modules of a program as a graph.

    Attributes:
        graph: nodes are the inputs ``tokens``, ``positions`` and ``ones``, every module, and ``output``; an edge leads
            from a variable to who reads it. Nodes have ``kind`` (``input``, ``head``, ``count``, ``lookup``,
            ``output``), ``layer`` where they have one, and ``live``. Edges have ``name``, ``reads`` (what for:
            ``query``, ``key``, ``value``, ``first``, ``second``, ``scores``) and ``live``.
    """

    graph: nx.DiGraph[str]

    @property
    def edges(self) -> list[str]:
        """Names of all edges, such as ``attn_0_1->mlp_1_0``."""
        return [name for _, _, name in self.graph.edges(data="name")]

    @property
    def live_edges(self) -> list[str]:
        """Names of the edges that the answers can depend on; whatever runs along the others changes nothing."""
        return [edge["name"] for _, _, edge in self.graph.edges(data=True) if edge["live"]]

    @property
    def live_nodes(self) -> list[str]:
        """The inputs and modules that the answers can depend on, and ``output``."""
        return [name for name, live in self.graph.nodes(data="live") if live]


def flow(program: Program) -> Flow:
    """Who reads what in a program, and what of it is live.

    An edge is live if its reader is, and if the reader depends on it (:attr:`Program.reads`).
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name in (TOKENS, POSITIONS, ONES):
        graph.add_node(name, kind="input", live=name in program.live)
    read: list[tuple[str, Part, str]] = []
    for module in program.modules:
        kind = "lookup" if isinstance(module, Lookup) else "count" if module.counts else "head"
        layer = int(module.name.rsplit("_", 2)[1])
        graph.add_node(module.name, kind=kind, layer=layer, live=module.name in program.live)
        read += [(source, part, module.name) for part, source in _all_reads(module)]
    graph.add_node(OUTPUT, kind=OUTPUT, live=True)
    read += [(name, "scores", OUTPUT) for name in program.scores]
    for source, part, reader in read:
        live = graph.nodes[reader]["live"] and source in program.sources(reader)
        parts = (*graph.edges[source, reader]["reads"], part) if graph.has_edge(source, reader) else (part,)
        graph.add_edge(source, reader, name=f"{source}->{reader}", reads=parts, live=live)
    return Flow(graph)


def _all_reads(module: Module) -> list[tuple[Part, str]]:
    if isinstance(module, Lookup):
        return [("first", module.first), ("second", module.second)]
    return [("query", module.query), ("key", module.key), ("value", module.value)]
