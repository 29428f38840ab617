"""The edge graph of a transformer, and what is said about its edges.

A *writer* adds to the residual stream: ``input`` (the embedding), every head ``a3.h5``, every MLP ``m3``.
A *reader* takes the residual stream in: the query, key and value input of every head (``a4.h1<q>``), every
MLP (``m4``) and ``logits`` (of a classifier the head that says the class, of a model without a head its output). An
*edge* joins a writer to a later reader: ``a3.h5->a4.h1<q>``. How the outputs of writers add up to what a reader takes
in, norms on the way included, says :mod:`workbench.circuits.stream`.

One dense matrix ``[writer, reader]`` carries everything: the scores of a method (:class:`Scores`) or the
membership in a circuit (:class:`Circuit`). Names are an index on it. Edge names are those of EAP-IG.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import networkx as nx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.models.lookup import meant

Ranking = Literal["absolute", "signed"]


@dataclass(frozen=True)
class Graph:
    """Which writers exist, which readers exist, and which pairs are edges.

    With grouped-query attention ``a4.h1<k>`` is query head 1's own view of the keys that its group shares,
    so every head has its three readers whatever the number of key heads.

    Args:
        n_layers: number of blocks.
        n_heads: query heads in a block.
        has_mlp: False for attention-only models.
        parallel: True where attention and MLP of a block read the same residual stream.
    """

    n_layers: int
    n_heads: int
    has_mlp: bool = True
    parallel: bool = False

    @cached_property
    def writers(self) -> list[str]:
        """Names of the writers in the order of computation."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self.has_mlp
        return names

    @cached_property
    def readers(self) -> list[str]:
        """Names of the readers in the order of computation; in a block all queries, all keys, all values, the MLP."""
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<{part}>" for part in "qkv" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self.has_mlp
        return [*names, "logits"]

    @property
    def writers_per_layer(self) -> int:
        """How many writers one block holds."""
        return self.n_heads + self.has_mlp

    @property
    def readers_per_layer(self) -> int:
        """How many readers one block holds."""
        return 3 * self.n_heads + self.has_mlp

    def attention_writers(self, layer: int) -> slice:
        """The heads of ``layer`` on the writer axis."""
        start = 1 + layer * self.writers_per_layer
        return slice(start, start + self.n_heads)

    def mlp_writer(self, layer: int) -> int:
        """The MLP of ``layer`` on the writer axis."""
        return 1 + layer * self.writers_per_layer + self.n_heads

    def attention_readers(self, layer: int) -> slice:
        """The query, key and value inputs of ``layer`` on the reader axis: 3 x n_heads, part by part."""
        start = layer * self.readers_per_layer
        return slice(start, start + 3 * self.n_heads)

    def mlp_reader(self, layer: int) -> int:
        """The MLP of ``layer`` on the reader axis."""
        return layer * self.readers_per_layer + 3 * self.n_heads

    def writers_before_attention(self, layer: int) -> int:
        """How many writers the attention of ``layer`` can read; they are the first ones."""
        return 1 + layer * self.writers_per_layer

    def writers_before_mlp(self, layer: int) -> int:
        """How many writers the MLP of ``layer`` can read; they are the first ones."""
        return self.writers_before_attention(layer) + (0 if self.parallel else self.n_heads)

    @cached_property
    def mask(self) -> Bool[Tensor, "writers readers"]:
        """True where an edge exists."""
        mask = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for layer in range(self.n_layers):
            mask[: self.writers_before_attention(layer), self.attention_readers(layer)] = True
            if self.has_mlp:
                mask[: self.writers_before_mlp(layer), self.mlp_reader(layer)] = True
        mask[:, -1] = True
        return mask

    @cached_property
    def n_edges(self) -> int:
        """Number of edges, e.g. 32,491 for GPT-2 small and 123,211 for SmolLM2-135M."""
        return int(self.mask.sum())

    @cached_property
    def writer_index(self) -> dict[str, int]:
        """Position of each writer on the first axis."""
        return {name: i for i, name in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        """Position of each reader on the second axis."""
        return {name: i for i, name in enumerate(self.readers)}

    @cached_property
    def reader_node(self) -> Int[Tensor, " readers"]:
        """The writer that each reader belongs to (``a4.h1<q>`` -> ``a4.h1``); -1 for ``logits``."""
        return torch.tensor([self.writer_index.get(node_of(reader), -1) for reader in self.readers])

    def edge(self, name: str) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            ValueError: the name is not an edge of this graph; the message suggests the closest names.
        """
        writer, arrow, reader = name.partition("->")
        if not arrow:
            raise ValueError(f"'{name}' is not an edge name; write 'writer->reader', such as 'a3.h5->a4.h1<q>'.")
        row, column = self.writer_index.get(writer), self.reader_index.get(reader)
        for part, found, known in (
            (writer, row, self.writers),
            (reader, column, self.readers),
        ):
            if found is None:
                raise ValueError(f"'{part}' in the edge '{name}' is not in this model's graph; {meant(part, known, 3)}")
        assert row is not None
        assert column is not None
        if not self.mask[row, column]:
            raise ValueError(f"The edge '{name}' cannot exist: '{writer}' is not computed before '{reader}'.")
        return row, column


def node_of(reader: str) -> str:
    """The node that a reader belongs to: ``a4.h1<q>`` -> ``a4.h1``; other readers are their own node."""
    return reader.partition("<")[0]


def part_of(reader: str) -> str:
    """What an edge into this reader feeds: ``q``, ``k``, ``v``, ``mlp`` or ``logits``."""
    if reader.endswith(">"):
        return reader[-2]
    return "logits" if reader == "logits" else "mlp"


def layer_of(node: str) -> int | None:
    """Layer of a head or an MLP; None for ``input`` and ``logits``."""
    if node in ("input", "logits"):
        return None
    return int(node[1:].partition(".")[0])


def head_of(node: str) -> tuple[int, int] | None:
    """(layer, head) of a head; None for every other node."""
    if ".h" not in node:
        return None
    layer, _, head = node[1:].partition(".h")
    return int(layer), int(head)


@dataclass(frozen=True)
class Circuit:
    """A set of edges of one graph.

    Attributes:
        graph: the graph that the edges belong to.
        mask: [writer, reader], True for the edges of the circuit.
        scores: [writer, reader], the scores that chose the edges, if any did.
    """

    graph: Graph
    mask: Bool[Tensor, "writers readers"]
    scores: Float[Tensor, "writers readers"] | None = None

    @classmethod
    def full(cls, graph: Graph) -> Circuit:
        """Every edge: the model itself."""
        return cls(graph, graph.mask.clone())

    @classmethod
    def empty(cls, graph: Graph) -> Circuit:
        """No edge: the ablated run."""
        return cls(graph, torch.zeros_like(graph.mask))

    @classmethod
    def from_edges(cls, graph: Graph, edges: Iterable[str]) -> Circuit:
        """The circuit of the named edges, taken as they are (nothing is pruned).

        Raises:
            ValueError: a name is not an edge of the graph.
        """
        mask = torch.zeros_like(graph.mask)
        for name in edges:
            mask[graph.edge(name)] = True
        return cls(graph, mask)

    @cached_property
    def edges(self) -> set[str]:
        """Names of the edges."""
        return {self.name(w, r) for w, r in self.mask.nonzero().tolist()}

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.mask.sum())

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes with an edge, in the order of computation."""
        names = {node_of(end) for edge in self.edges for end in edge.split("->")}
        return [name for name in [*self.graph.writers, "logits"] if name in names]

    @property
    def heads(self) -> list[tuple[int, int]]:
        """(layer, head) of the heads among the nodes."""
        return [place for name in self.nodes if (place := head_of(name))]

    def name(self, writer: int, reader: int) -> str:
        """Name of the edge at a row and a column."""
        return f"{self.graph.writers[writer]}->{self.graph.readers[reader]}"

    def score(self, edge: str) -> float:
        """Score of an edge; NaN where the circuit came from no scores."""
        return float("nan") if self.scores is None else float(self.scores[self.graph.edge(edge)])

    def prune(self) -> Circuit:
        """The circuit without dangling nodes, to the fixpoint.

        A head or an MLP stays only while something is read from it and something is fed to it; ``input`` needs
        no edge in and ``logits`` none out.
        """
        mask, reader_node = self.mask.clone(), self.graph.reader_node
        is_node = reader_node >= 0
        while True:
            before = int(mask.sum())
            fed = torch.zeros(len(self.graph.writers), dtype=torch.bool)
            fed[0] = True
            fed[reader_node[is_node & mask.any(0)]] = True
            mask &= fed[:, None]
            read = mask.any(1)
            mask &= ~is_node | read[reader_node]
            if int(mask.sum()) == before:
                return Circuit(self.graph, mask, self.scores)

    def to_networkx(self) -> nx.MultiDiGraph[str]:
        """The circuit as a networkx multigraph: one node a head, MLP, ``input`` or ``logits``.

        The key of an edge is what it feeds (``q``, ``k``, ``v``, ``mlp``, ``logits``); its attributes are
        ``name``, ``feeds`` and, where known, ``score``. Nodes carry ``kind`` and, where they have them,
        ``layer`` and ``head``.
        """
        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        for name in self.nodes:
            attributes: dict[str, Any] = {"kind": "mlp" if name[0] == "m" else name}
            if (layer := layer_of(name)) is not None:
                attributes["layer"] = layer
            if place := head_of(name):
                attributes |= {"kind": "head", "head": place[1]}
            graph.add_node(name, **attributes)
        for writer, reader in self.mask.nonzero().tolist():
            source, target = self.graph.writers[writer], self.graph.readers[reader]
            attributes = {"name": f"{source}->{target}", "feeds": part_of(target)}
            if self.scores is not None:
                attributes["score"] = float(self.scores[writer, reader])
            graph.add_edge(source, node_of(target), key=part_of(target), **attributes)
        return graph


@dataclass(frozen=True)
class Scores:
    """What a method says of every edge.

    Attributes:
        graph: the graph of the model.
        values: [writer, reader], 0 where no edge exists. Positive: corrupting the edge lowers the behaviour. In
            units of the task's metric.
        method: key of the method.
        task: name of the task.
        settings: the options that the method ran with.
        n_examples: how many prompts the scores are a mean of; fewer than the task's where a run was stopped.
        complete: False where the run was stopped before its end.
        state: what a search under way needs beside the values to be gone on with; nothing in a result.
    """

    graph: Graph
    values: Float[Tensor, "writers readers"]
    method: str = ""
    task: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    n_examples: int = 0
    complete: bool = True
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def ranked(self, ranking: Ranking = "absolute") -> Float[Tensor, "writers readers"]:
        """The key that edges are ordered by, -inf where no edge exists."""
        if ranking not in ("absolute", "signed"):
            raise ValueError(f"Unknown ranking '{ranking}'; choose 'absolute' or 'signed'.")
        key = self.values.abs() if ranking == "absolute" else self.values
        return key.masked_fill(~self.graph.mask, -torch.inf)

    def top(self, n: int, ranking: Ranking = "absolute", prune: bool = True) -> Circuit:
        """The best ``n`` edges, then pruned of dangling nodes (so that fewer may be left).

        Raises:
            ValueError: ``n`` is negative or more than the graph has.
        """
        if not 0 <= n <= self.graph.n_edges:
            raise ValueError(f"Cannot take {n} edges: the graph has {self.graph.n_edges:,}; choose 0 to that.")
        mask = torch.zeros_like(self.graph.mask)
        mask.view(-1)[self.ranked(ranking).flatten().topk(n).indices] = True
        circuit = Circuit(self.graph, mask, self.values)
        return circuit.prune() if prune else circuit

    def greedy(self, n: int, ranking: Ranking = "absolute", prune: bool = False) -> Circuit:
        """``n`` edges grown backwards from the logits, see :func:`workbench.circuits.greedy.greedy`."""
        from workbench.circuits.greedy import greedy

        return greedy(self, n, ranking, prune=prune)

    def above(self, threshold: float, ranking: Ranking = "absolute", prune: bool = True) -> Circuit:
        """The edges whose ranking key is at least ``threshold``, then pruned of dangling nodes.

        Raises:
            ValueError: no edge reaches the threshold (none reaches NaN), or every edge; the message says the range of
                the scores.
        """
        key = self.ranked(ranking)
        mask = (key >= threshold) & self.graph.mask
        if not mask.any() or torch.equal(mask, self.graph.mask):
            low, high = key[self.graph.mask].min(), key.max()
            said = "The threshold {:g} keeps every edge" if mask.any() else "No edge reaches the threshold {:g}"
            raise ValueError(f"{said.format(threshold)}: the {ranking} scores lie between {low:.3g} and {high:.3g}.")
        circuit = Circuit(self.graph, mask, self.values)
        return circuit.prune() if prune else circuit
