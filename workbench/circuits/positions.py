"""Edges at positions: where in the prompt an edge matters.

An edge u -> v joins what u wrote to what v reads at the same position: queries are read at the query's position, keys
and values at theirs. Attention alone moves between positions, inside a head, and so between edges. The score of an
edge is a sum over positions, ``(clean_u - ablated_u) . gradient_v``; here it is left apart:

    score[p, u, v]  =  (clean_u - ablated_u)[p] . gradient_v[p]        sum over p  =  score[u, v]

Haklay et al. 2025 (arXiv 2502.04577) extend edge attribution patching to positions; they also tell apart from which
position to which a head carries something, where here one edge is what its keys or values read. A circuit of edges at
positions is run exactly by :class:`workbench.circuits.patching.PatchedRun`: each reader, at each position, gets its own
choice of writers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, check_ablation, graph_of, record
from workbench.circuits.attribution import ReaderGradients, edge_scores, reader_gradients, writer_differences
from workbench.circuits.evaluate import (
    Evaluation,
    check_graph,
    circuit_metrics,
    compares_answers,
    full_metric,
    share_kept,
)
from workbench.circuits.graph import Circuit, Graph, Ranking, Scores, part_of
from workbench.circuits.partial import Means
from workbench.circuits.points import Method, gradient_points, n_points, settings_of
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, mean_over
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.models.tokens import shorten


@dataclass(frozen=True)
class PositionCircuit:
    """A set of edges at positions.

    Attributes:
        graph: the graph that the edges belong to.
        mask: [pos, writer, reader], True for the edges of the circuit where they are in it.
        causal: whether heads look back only; :meth:`prune` asks.
        scores: [pos, writer, reader], the scores that chose them, if any did.
    """

    graph: Graph
    mask: Bool[Tensor, "pos writers readers"]
    causal: bool = True
    scores: Float[Tensor, "pos writers readers"] | None = None

    @classmethod
    def everywhere(cls, circuit: Circuit, n_positions: int, causal: bool = True) -> PositionCircuit:
        """A circuit with the same edges at all positions."""
        return cls(circuit.graph, circuit.mask.expand(n_positions, -1, -1).clone(), causal)

    @classmethod
    def from_edges(cls, graph: Graph, n_positions: int, edges: Iterable[str], causal: bool = True) -> PositionCircuit:
        """The circuit of named edges such as ``a3.h5->a4.h1<q>@7``, taken as they are (nothing is pruned).

        Raises:
            ValueError: a name is not an edge of the graph, or names no position of the prompts.
        """
        mask = torch.zeros(n_positions, *graph.mask.shape, dtype=torch.bool)
        for name in edges:
            edge, _, place = name.partition("@")
            if not place.isdecimal() or int(place) >= n_positions:
                raise ValueError(
                    f"'{name}' names no position; write 'writer->reader@position' with a position from 0 to "
                    f"{n_positions - 1}."
                )
            mask[(int(place), *graph.edge(edge))] = True
        return cls(graph, mask, causal)

    @cached_property
    def edges(self) -> set[str]:
        """Names of the edges, each with its position: ``a3.h5->a4.h1<q>@7``."""
        g = self.graph
        return {f"{g.writers[w]}->{g.readers[r]}@{p}" for p, w, r in self.mask.nonzero().tolist()}

    @property
    def n_edges(self) -> int:
        """Number of pairs of an edge and a position."""
        return int(self.mask.sum())

    def anywhere(self) -> Circuit:
        """The edges that are in it at any position."""
        scores = None if self.scores is None else self.scores.sum(0)
        return Circuit(self.graph, self.mask.any(0), scores)

    def prune(self) -> PositionCircuit:
        """The circuit without dangling nodes, to the fixpoint.

        A node at a position stays only while something is read from it there and something is fed to it. The edges
        into a head's keys and values feed it at every position that can look there, from their own on where attention
        is causal; all other edges feed their node where they are.
        """
        mask, node = self.mask.clone(), self.graph.reader_node
        of_node, n = node >= 0, len(mask)
        moves = torch.tensor([part_of(reader) in ("k", "v") for reader in self.graph.readers])
        looks = torch.ones(n, n).tril() if self.causal else torch.ones(n, n)  # [query, key]
        while True:
            before = int(mask.sum())
            into = mask.any(1)  # pos reader
            into = torch.where(moves, looks @ into.float() > 0, into)
            fed = torch.zeros(n, len(self.graph.writers)).index_add_(1, node[of_node], into[:, of_node].float()) > 0
            fed[:, 0] = True
            mask &= fed[:, :, None]
            read = mask.any(2)[:, node]  # pos reader: whether its node's output is read there
            read = torch.where(moves, looks.T @ read.float() > 0, read)
            mask &= (read | ~of_node)[:, None]
            if int(mask.sum()) == before:
                return PositionCircuit(self.graph, mask, self.causal, self.scores)

    def _places(self) -> int:
        """How many nodes it has, each counted at each position where an edge leaves or enters it."""
        node = self.graph.reader_node
        into, of_node = self.mask.any(1), node >= 0
        used = self.mask.any(2) | (
            torch.zeros(len(into), len(self.graph.writers)).index_add_(1, node[of_node], into[:, of_node].float()) > 0
        )
        return int(used.sum() + into[:, ~of_node].sum())


@dataclass(frozen=True)
class PositionScores:
    """What a method says of every edge at every position.

    Attributes:
        graph: the graph of the model.
        values: [pos, writer, reader], 0 where no edge exists or nothing is read. Positive: corrupting the edge at that
            position lowers the behaviour. In units of the task's metric.
        causal: whether the model's heads look back only.
        answered: positions at which an answer is read, and so the only ones of edges into ``logits``; None for all.
        method, task, settings, n_examples, complete: as in :class:`workbench.circuits.graph.Scores`.
    """

    graph: Graph
    values: Float[Tensor, "pos writers readers"]
    causal: bool = True
    answered: tuple[int, ...] | None = None
    method: str = ""
    task: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    n_examples: int = 0
    complete: bool = True

    @cached_property
    def mask(self) -> Bool[Tensor, "pos writers readers"]:
        """True where an edge exists."""
        return _existing(self.graph, len(self.values), self.answered)

    @property
    def n_edges(self) -> int:
        """Number of pairs of an edge and a position."""
        return int(self.mask.sum())

    def total(self) -> Scores:
        """The scores of the edges: sums over positions, what the method gives without positions."""
        return Scores(
            self.graph, self.values.sum(0), self.method, self.task, self.settings, self.n_examples, self.complete
        )

    def at(self, edge: str) -> Float[Tensor, " pos"]:
        """Scores of one edge, by position.

        Raises:
            ValueError: the name is not an edge of the graph.
        """
        writer, reader = self.graph.edge(edge)
        return self.values[:, writer, reader]

    def top(self, n: int, ranking: Ranking = "absolute", prune: bool = True) -> PositionCircuit:
        """The best ``n`` pairs of an edge and a position, then pruned of dangling nodes (so that fewer may be left).

        Raises:
            ValueError: ``n`` is negative or more than there are, or an unknown ranking.
        """
        if not 0 <= n <= self.n_edges:
            raise ValueError(
                f"Cannot take {n} edges at positions: {self.graph.n_edges:,} edges at {len(self.values)} positions, "
                f"those into the logits where answers are read, make {self.n_edges:,}; choose 0 to that."
            )
        # The graph's mask broadcasts over positions.
        key = Scores(self.graph, self.values).ranked(ranking).masked_fill(~self.mask, -torch.inf)
        mask = torch.zeros_like(key, dtype=torch.bool)
        mask.view(-1)[key.flatten().topk(n).indices] = True
        circuit = PositionCircuit(self.graph, mask, self.causal, self.values)
        return circuit.prune() if prune else circuit


def position_scores(
    model: Transformer,
    task: Task,
    *,
    method: Method = "eap-ig",
    steps: int = 5,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: PositionScores | None = None,
    keep: Callable[[PositionScores], None] | None = None,
) -> PositionScores:
    """Score every edge at every position by attribution.

    The passes through the model are those of the method (``eap``: and one forward more); ``values`` takes 4 bytes for
    each position, writer and reader (20 MB for 20 tokens of SmolLM2-135M).

    Args:
        model: any model whose graph has edges.
        task: pairs of prompts, all of one length; scores are means over them. A position means the same in all prompts
            only if they have one template.
        method: where gradients are taken, see :mod:`workbench.circuits.points`.
        steps: points of ``eap-ig`` and ``eap-gp``.
        ablation: what an edge is replaced by.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every run; returning False keeps the scores of the prompts finished so far.
        resume: what ``keep`` was given by an earlier call with the same settings; only the rest is scored.
        keep: called every few seconds with the mean over the prompts finished so far.

    Raises:
        ValueError: an unknown method or ablation, ``steps`` below 1, prompts of unlike length, or ``resume`` of another
            search.
        Stopped: stopped before the first batch was done.
    """
    graph, n = graph_of(model), n_points(method, steps)
    check_ablation(ablation)
    check_one_length(task)

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        clean = record(model, batch.clean, stream.attention_mask(model, batch))
        differences = writer_differences(model, graph, clean, ablated)
        scores = torch.zeros(clean.embed.shape[1], *graph.mask.shape, device=model.device)
        for embed in gradient_points(model, batch, clean.embed, ablated.embed, method, steps):
            gradients = reader_gradients(model, batch, embed)
            for position, values in enumerate(scores):
                values += _at_position(model, graph, differences, gradients, batch, position)
            step()
        return scores / n

    settings = {"ablation": ablation, **settings_of(method, steps)}

    def made(values: Tensor, prompts: int, complete: bool) -> PositionScores:
        answered = _answered(model, task)
        about = (method, task.name, dict(settings), prompts, complete)
        return PositionScores(graph, values, model.cfg.causal, answered, *about)

    shape = (n_positions(model, task.rows(0, 1).clean), *graph.mask.shape)
    rest = Means(made, shape, task, resume, keep)
    mean = mean_over(model, task, score, steps=n, ablation=ablation, budget=budget, progress=progress, rest=rest)
    return rest.found(mean.values, mean.n_examples)


def _at_position(
    model: Transformer,
    graph: Graph,
    differences: Float[Tensor, "writers batch pos d_model"],
    gradients: ReaderGradients,
    batch: Task,
    position: int,
) -> Float[Tensor, "writers readers"]:
    """Scores at one position: projections and norms act on each by itself, so the others can be left out."""

    def cut(x: Tensor) -> Tensor:
        return x[:, position : position + 1].contiguous()

    final, resid_final = gradients.final, gradients.resid_final
    if stream.answers_once(model):
        final, resid_final = cut(final), cut(resid_final)
    else:
        final = final * (batch.last.to(final.device) == position)[:, None, None]
    g = gradients
    q, k, v, mlp, resid_pre, resid_mlp = (
        [cut(x) for x in group] for group in (g.q, g.k, g.v, g.mlp, g.resid_pre, g.resid_mlp)
    )
    here = ReaderGradients(q, k, v, mlp, final, resid_pre, resid_mlp, resid_final, g.outputs.map(cut))
    only = differences[:, :, position : position + 1].contiguous()
    return edge_scores(model, graph, only, here, torch.zeros_like(batch.last).to(model.device))


def evaluate_positions(
    model: Transformer,
    task: Task,
    circuit: PositionCircuit,
    ablation: Ablation = "resample",
    *,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Evaluation:
    """Run a circuit of edges at positions and say how much of the behaviour it keeps.

    Args:
        model: the model.
        task: prompts of one length, and metric.
        circuit: edges that carry the clean run, each where it says; it is taken as it is.
        ablation: what every edge carries elsewhere.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch.

    Returns:
        As of :func:`workbench.circuits.evaluate.evaluate`, with pairs of an edge and a position counted as edges, and
        pairs of a node and a position as nodes. Edges into ``logits`` count where answers are read.

    Raises:
        ValueError: an unknown ablation, prompts of unlike length or of another length than the circuit's, a circuit of
            another model, or an ablation that changes nothing.
        Stopped: stopped before the first batch was done.
    """
    check_ablation(ablation)
    check_graph(model, Circuit.full(circuit.graph))
    check_one_length(task)
    width = n_positions(model, task.rows(0, 1).clean)
    if len(circuit.mask) != width:
        raise ValueError(
            f"The circuit has {len(circuit.mask)} positions and the prompts have {width}; take prompts of the length "
            "that the circuit was found on, or circuit.anywhere() with evaluate."
        )
    there = _existing(circuit.graph, width, _answered(model, task))
    circuit = replace(circuit, mask=circuit.mask & there)
    masks = [circuit.mask, torch.zeros_like(circuit.mask)]
    kept, empty = circuit_metrics(model, task, masks, ablation=ablation, budget=budget, progress=progress)
    full = full_metric(model, task, len(kept))
    return Evaluation(
        faithfulness=share_kept(float(kept.mean()), full, float(empty.mean()), ablation),
        metric=float(kept.mean()),
        metric_full=full,
        metric_empty=float(empty.mean()),
        accuracy=float((kept > 0).float().mean()) if compares_answers(task) else None,
        n_edges=circuit.n_edges,
        n_nodes=circuit._places(),
        n_edges_total=int(there.sum()),
        n_examples=len(kept),
        ablation=ablation,
        complete=len(kept) == len(task),
    )


def _answered(model: Transformer, task: Task) -> tuple[int, ...] | None:
    """Positions at which the logits are read; None for all."""
    return None if stream.answers_once(model) else tuple(sorted(set(task.last.tolist())))


def _existing(graph: Graph, n: int, answered: tuple[int, ...] | None) -> Bool[Tensor, "pos writers readers"]:
    """Where edges exist at ``n`` positions."""
    mask = graph.mask.repeat(n, 1, 1)
    if answered is not None:
        mask[[place for place in range(n) if place not in answered], :, -1] = False
    return mask


def check_one_length(task: Task) -> None:
    """Refuse prompts of unlike length, in which one position is not the same place.

    Raises:
        ValueError: naming two prompts that differ, and how to take those of one length.
    """
    lengths = task.lengths.tolist()
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        commonest = int(task.lengths.mode().values)
        raise ValueError(
            f"Positions need prompts of one length, but example 1 ('{shorten(task.clean_text[0])}') has {lengths[0]} "
            f"tokens and example {other + 1} ('{shorten(task.clean_text[other])}') {lengths[other]}; take those of "
            f"one length, task.select((task.lengths == {commonest}).nonzero().flatten()), and each length by itself."
        )


__all__ = ["PositionCircuit", "PositionScores", "check_one_length", "evaluate_positions", "position_scores"]
