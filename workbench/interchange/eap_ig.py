"""EAP-IG's graph as data: what ``Graph.to_json`` and ``Graph.to_pt`` of Hanna et al.'s library hold.

JSON: ``cfg`` (``n_layers``, ``n_heads``, ``parallel_attn_mlp``, ``d_model``), ``nodes`` (name to ``in_graph`` and,
where nodes are scored, ``score``; in older files name to a truth value) and ``edges`` (name to ``score`` and
``in_graph``). The names of edges are ours. Plain tensors (``.pt``): ``cfg``, ``src_nodes``, ``dst_nodes``,
``edges_scores`` and ``edges_in_graph`` [writer, reader], ``nodes_in_graph`` [writer] and, where nodes are scored,
``nodes_scores``; their axes are ours too.

Signs agree: there a positive score means that corrupting the edge raises the loss, here that it lowers the behaviour.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.graph import Circuit, Graph, Scores, node_of
from workbench.models import Transformer

Granularity = Literal["edge", "node"]
_MOST = 4096  # layers or heads that a file may claim: a graph is made of them before anything else is read


class ForeignFileError(ValueError):
    """A file of others cannot be used; the message is one sentence that names it, what is wrong and what to do."""


@dataclass(frozen=True)
class Foreign:
    """What a file of others holds.

    Attributes:
        scores: of every edge; 0 for edges that the file does not name. Where only nodes are scored, that of the
            lesser of an edge's two nodes, so that the best edges are all those between the best nodes.
        circuit: the edges that are marked as members; None where none is.
        nodes: scores of nodes; empty where there are none.
        granularity: whether ``edge`` or ``node`` scores were given.
        d_model: width of the residual stream, where the file says it.
        source: name of the file.
    """

    scores: Scores
    circuit: Circuit | None
    nodes: dict[str, float]
    granularity: Granularity
    d_model: int | None
    source: str


def check_model(found: Foreign, model: Transformer, graph: Graph) -> None:
    """Refuse a file about a model of another size.

    Args:
        found: what was read.
        model: the model that it is to be used with.
        graph: its edge graph.

    Raises:
        ForeignFileError: saying both sizes.
    """
    if found.scores.graph != graph:
        raise ForeignFileError(
            f"'{found.source}' is about {_size(found.scores.graph)}; {model.name} has {_size(graph)}. Choose the model "
            "that the file was made with."
        )
    if found.d_model not in (None, model.cfg.d_model):
        raise ForeignFileError(
            f"'{found.source}' is about a residual stream of {found.d_model} dimensions; that of {model.name} has "
            f"{model.cfg.d_model}. Choose the model that the file was made with."
        )


def _size(graph: Graph) -> str:
    kind = ("" if graph.has_mlp else ", no MLPs") + (", parallel blocks" if graph.parallel else "")
    return f"{graph.n_layers} layers x {graph.n_heads} heads{kind}"


# -- writing -------------------------------------------------------------------------------------------------


def to_json(source: Circuit | Scores, d_model: int, *, granularity: Granularity = "edge") -> bytes:
    """A circuit or scores as EAP-IG's JSON.

    Args:
        source: scores, with no edge marked as a member; or a circuit, with its scores where it has them (else 1 and 0).
        d_model: width of the model's residual stream, which EAP-IG wants to know.
        granularity: ``node`` writes scores of nodes (:func:`node_scores`) and no scores of edges.
    """
    graph, values, members = _parts(source)
    nodes = node_scores(graph, values) if granularity == "node" else {}
    touched = _touched(graph, members)
    listed = {
        name: {"in_graph": name in touched} | ({"score": nodes[name]} if name in nodes else {})
        for name in [*graph.writers, "logits"]
    }
    edges = {
        f"{graph.writers[row]}->{graph.readers[column]}": {
            "score": 0.0 if granularity == "node" else float(values[row, column]),
            "in_graph": bool(members[row, column]),
        }
        for row, column in graph.mask.nonzero().tolist()
    }
    return json.dumps({"cfg": _cfg(graph, d_model), "nodes": listed, "edges": edges}, allow_nan=False).encode()


def to_pt(source: Circuit | Scores, d_model: int, *, granularity: Granularity = "edge") -> bytes:
    """The same as tensors for ``torch.load(..., weights_only=True)``.

    Raises:
        ValueError: a graph without MLPs, for which that form has no shape.
    """
    graph, values, members = _parts(source)
    if not graph.has_mlp:
        raise ValueError("EAP-IG's tensors have an MLP in every block; write a model without MLPs as JSON.")
    touched = _touched(graph, members)
    data: dict[str, Any] = {
        "cfg": _cfg(graph, d_model),
        "src_nodes": graph.writers,
        "dst_nodes": graph.readers,
        "edges_scores": values.float() if granularity == "edge" else torch.zeros(values.shape),
        "edges_in_graph": members,
        "nodes_in_graph": torch.tensor([name in touched for name in graph.writers]),
    }
    if granularity == "node":
        nodes = node_scores(graph, values)
        data["nodes_scores"] = torch.tensor([nodes.get(name, math.nan) for name in graph.writers])
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def node_scores(graph: Graph, values: Float[Tensor, "writers readers"]) -> dict[str, float]:
    """Each head's and MLP's largest score, by size, among the edges into and out of it."""
    found = {}
    for row, name in enumerate(graph.writers[1:], start=1):
        own = torch.cat([values[row][graph.mask[row]], values[:, graph.reader_node == row].flatten()])
        found[name] = float(own[own.abs().argmax()])
    return found


def _parts(source: Circuit | Scores) -> tuple[Graph, Tensor, Tensor]:
    """(graph, scores, members)."""
    if isinstance(source, Scores):
        return source.graph, source.values.cpu(), torch.zeros_like(source.graph.mask)
    values = source.mask.float() if source.scores is None else source.scores.cpu()
    return source.graph, values, source.mask.cpu()


def _touched(graph: Graph, members: Tensor) -> set[str]:
    """Nodes that an edge of the circuit starts or ends at; ``logits`` always, as there."""
    rows, columns = members.any(1).nonzero().flatten(), members.any(0).nonzero().flatten()
    return {graph.writers[i] for i in rows} | {node_of(graph.readers[i]) for i in columns} | {"logits"}


def _cfg(graph: Graph, d_model: int) -> dict[str, Any]:
    return {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": d_model,
    }


# -- reading -------------------------------------------------------------------------------------------------


def from_json(data: Any, source: str) -> Foreign:
    """What a JSON file holds, once it is parsed.

    Raises:
        ForeignFileError: it is not of that form, names what the graph does not have, or a score is not finite.
    """
    _need(data, ("cfg", "nodes", "edges"), source)
    nodes, edges = data["nodes"], data["edges"]
    if not isinstance(nodes, Mapping) or not isinstance(edges, Mapping):
        raise ForeignFileError(f"'nodes' and 'edges' in '{source}' are not objects; it is not EAP-IG's form.")
    ends = {node_of(end) for edge in edges for end in str(edge).split("->")}
    names = {str(name) for name in nodes} | ends
    # Nothing in the form says that blocks have no MLP, but then no MLP is named.
    has_mlp = any(name.startswith("m") for name in names) or names <= {"input", "logits"}
    graph = _graph(data["cfg"], source, has_mlp=has_mlp)
    values, members = torch.zeros(graph.mask.shape), torch.zeros_like(graph.mask)
    for name, about in edges.items():
        try:
            place = graph.edge(str(name))
        except ValueError as error:
            raise ForeignFileError(f"'{source}' does not fit its own sizes: {error}") from None
        if not isinstance(about, Mapping) or not {"score", "in_graph"} & set(about):
            raise ForeignFileError(f"The edge '{name}' in '{source}' has neither 'score' nor 'in_graph'.")
        members[place] = bool(about.get("in_graph", False))
        values[place] = _number(about["score"], f"edge '{name}'", source) if about.get("score") is not None else 0.0
    known = {*graph.writers, "logits"}
    scored: dict[str, float] = {}
    for name, about in nodes.items():
        if name not in known:
            raise ForeignFileError(f"'{source}' names the node '{name}', which {_size(graph)} do not have.")
        if isinstance(about, Mapping) and about.get("score") is not None and about["score"] == about["score"]:
            scored[str(name)] = _number(about["score"], f"node '{name}'", source)
    return _foreign(graph, values, members, scored, data["cfg"], source)


def from_pt(data: Any, source: str) -> Foreign:
    """What a file of tensors holds, once it is loaded.

    Raises:
        ForeignFileError: it is not of that form, its axes are others, or a score is not finite.
    """
    _need(data, ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph"), source)
    graph = _graph(data["cfg"], source, has_mlp=True)
    for key, expected in (("src_nodes", graph.writers), ("dst_nodes", graph.readers)):
        if list(data[key]) != expected:
            raise ForeignFileError(f"'{key}' in '{source}' is not what {_size(graph)} have, in their order.")
    for key in ("edges_scores", "edges_in_graph"):
        shape = tuple(data[key].shape) if isinstance(data[key], Tensor) else None
        if shape != tuple(graph.mask.shape):
            raise ForeignFileError(f"'{key}' in '{source}' has the shape {shape}, not {tuple(graph.mask.shape)}.")
    values = data["edges_scores"].float() * 1.0
    if not values[graph.mask].isfinite().all():
        row, column = (~values.isfinite() & graph.mask).nonzero()[0].tolist()
        _number(float(values[row, column]), f"edge '{graph.writers[row]}->{graph.readers[column]}'", source)
    values = values.masked_fill(~graph.mask, 0.0)
    scored = {}
    given = data.get("nodes_scores")
    if given is not None:
        if not isinstance(given, Tensor) or tuple(given.shape) != (len(graph.writers),):
            raise ForeignFileError(f"'nodes_scores' in '{source}' is not one number for each of the writers.")
        scored = {
            name: _number(score, f"node '{name}'", source)
            for name, score in zip(graph.writers, given.tolist(), strict=True)
            if score == score
        }
    return _foreign(graph, values, data["edges_in_graph"].bool() & graph.mask, scored, data["cfg"], source)


def edges_of_nodes(graph: Graph, nodes: Mapping[str, float]) -> Float[Tensor, "writers readers"]:
    """Each edge's score from those of its nodes: the lesser of the two, by size; nodes without one always stay."""
    missing = 2 * max((abs(score) for score in nodes.values()), default=0.0) or 1.0
    writers = torch.tensor([nodes.get(name, missing) for name in graph.writers])
    readers = torch.tensor([nodes.get(node_of(name), missing) for name in graph.readers])
    lesser = torch.where(writers[:, None].abs() <= readers.abs(), writers[:, None], readers[None, :])
    return lesser.masked_fill(~graph.mask, 0.0)


def _foreign(
    graph: Graph, values: Tensor, members: Tensor, nodes: dict[str, float], cfg: Mapping[str, Any], source: str
) -> Foreign:
    granularity: Granularity = "node" if nodes and not values.any() else "edge"
    if granularity == "node":
        values = edges_of_nodes(graph, nodes)
    elif not values.any():
        if not members.any():
            raise ForeignFileError(
                f"'{source}' scores no edge and no node and marks no member; there is nothing in it."
            )
        values = members.float()
    scores = Scores(graph, values, "imported", "", {"source": source, "granularity": granularity})
    circuit = Circuit(graph, members, values) if members.any() else None
    width = cfg.get("d_model")
    return Foreign(scores, circuit, nodes, granularity, width if isinstance(width, int) else None, source)


def _need(data: Any, keys: tuple[str, ...], source: str) -> None:
    if not isinstance(data, Mapping):
        raise ForeignFileError(f"'{source}' is not EAP-IG's form: it holds {type(data).__name__}, not named parts.")
    missing = [key for key in keys if key not in data]
    if missing:
        have = ", ".join(str(key) for key in list(data)[:8]) or "nothing"
        raise ForeignFileError(f"'{source}' is not EAP-IG's form: it lacks {', '.join(missing)} and has {have}.")


def _graph(cfg: Any, source: str, *, has_mlp: bool) -> Graph:
    sizes = []
    for key in ("n_layers", "n_heads"):
        value = cfg.get(key) if isinstance(cfg, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise ForeignFileError(f"'{key}' in the 'cfg' of '{source}' is {value!r}, not a number from 1 to {_MOST}.")
        sizes.append(value)
    if sizes[0] * sizes[1] > _MOST * 4:
        raise ForeignFileError(f"'{source}' claims {sizes[0]} layers of {sizes[1]} heads; no model has so many.")
    return Graph(sizes[0], sizes[1], has_mlp=has_mlp, parallel=bool(cfg.get("parallel_attn_mlp", False)))


def _number(value: Any, what: str, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ForeignFileError(f"'{source}' gives the {what} the score {value!r}; a score is a finite number.")
    return float(value)
