"""One circuit that loses edges into one reader after another, from the last reader to the first.

While the edges into a reader are decided, all before it is the model's own run, computed once. Of what comes after,
only nodes that the circuit still joins to the reader can change; everything else in their inputs is summed up once for
the reader. Candidates, each with its own edges into the reader, are stacked on the batch axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, graph_of, record
from workbench.circuits.attribution import writer_differences
from workbench.circuits.candidates import Repeated, ablated_streams, project, split
from workbench.circuits.graph import layer_of, part_of
from workbench.circuits.task import Task
from workbench.models import Transformer


class CircuitRun:
    """One batch in one circuit: what each writer writes there, minus what ablation puts in its place.

    Args:
        model: a model whose readers take in plain sums.
        batch: the examples.
        ablated: what an edge outside the circuit carries.
        mask: the circuit; the edges into a reader must be all of them, unless those into every later reader are
            decided. None for all edges.
    """

    def __init__(
        self,
        model: Transformer,
        batch: Task,
        ablated: WriterOutputs,
        mask: Bool[Tensor, "writers readers"] | None = None,
    ) -> None:
        self.model, self.batch, self.ablated, self.graph = model, batch, ablated, graph_of(model)
        self.rows = Repeated(model, batch, batch.clean)
        outputs = record(model, batch.clean, self.rows.mask(1))
        with torch.no_grad():
            self.changes = writer_differences(model, self.graph, outputs, ablated)
            self.resid_pre, self.resid_mlp = ablated_streams(model, ablated, outputs.embed)
            self.resid_final = self.rows.read(self.resid_pre[-1])
        if mask is not None:
            self._settle(mask)

    def _settle(self, mask: Bool[Tensor, "writers readers"]) -> None:
        """Work out what the nodes write that have lost an edge, and those after them."""
        lost = (mask != self.graph.mask).any(0)
        nodes = self.graph.reader_node[lost]
        suffix = Suffix(self, mask, None, nodes[nodes >= 0])
        if suffix.slots:
            suffix.answers()
            suffix.take(0)


@dataclass
class _Part:
    """What some heads of a layer read as query, key or value, and which of them read what can change."""

    hot: list[int]
    cold: list[int]
    fixed: Tensor | None  # hot batch pos d_model; None: the candidates bring it
    weights: Tensor  # hot slots
    projected: Tensor  # batch pos cold d_head


class Suffix:
    """Everything after one reader in one circuit, for any choice of the edges into it.

    Args:
        run: the batch.
        mask: the circuit; the column of ``reader`` does not count.
        reader: whose edges differ from candidate to candidate; None for none.
        seeds: writers to work out anew even if nothing before them can change.
    """

    def __init__(
        self,
        run: CircuitRun,
        mask: Bool[Tensor, "writers readers"],
        reader: int | None,
        seeds: Tensor | None = None,
    ) -> None:
        self.run, self.graph, self.model = run, run.graph, run.model
        self.device, self.dtype = run.changes.device, run.changes.dtype
        self.reader, self.own = reader, -1 if reader is None else int(self.graph.reader_node[reader])
        changing = self._changing(mask, seeds)
        self.writers: list[int] = changing.nonzero().flatten().tolist()
        self.slots = {writer: slot for slot, writer in enumerate(self.writers)}
        self.mask, self.fixed_mask = mask, mask & ~changing[:, None]
        self.new: Tensor | None = None
        self.steps: list[Callable[[Tensor, Tensor | None], None]] = []
        with torch.no_grad():
            for layer in range(self.graph.n_layers):
                first = self.graph.attention_writers(layer).start
                heads = [h for h in range(self.graph.n_heads) if first + h in self.slots]
                if heads:
                    self.steps.append(self._attention(layer, heads))
                if self.graph.has_mlp and self.graph.mlp_writer(layer) in self.slots:
                    self.steps.append(self._mlp(layer))
            self._prepare_logits()

    def _changing(self, mask: Tensor, seeds: Tensor | None) -> Bool[Tensor, " writers"]:
        """Writers that can differ from candidate to candidate: the reader's node and what the circuit feeds by it."""
        changing = torch.zeros(len(self.graph.writers), dtype=torch.bool)
        if seeds is not None:
            changing[seeds] = True
        if self.own >= 0:
            changing[self.own] = True
        used = mask.any(1)
        for layer in range(self.graph.n_layers):
            attention, heads = self.graph.attention_readers(layer), self.graph.attention_writers(layer)
            fed = (mask[:, attention] & changing[:, None]).any(0).view(3, -1).any(0)
            changing[heads] |= fed & used[heads]
            if self.graph.has_mlp:
                writer = self.graph.mlp_writer(layer)
                changing[writer] |= (mask[:, self.graph.mlp_reader(layer)] & changing).any() & used[writer]
        return changing

    def _sum(self, resid: Tensor, columns: Bool[Tensor, "writers inputs"]) -> Float[Tensor, "inputs batch pos d_model"]:
        """The ablated residual stream plus what the writers in each column change."""
        active = columns.any(1).nonzero().flatten()
        resid = resid.expand(self.run.changes.shape[1:])
        if not len(active):
            return resid.expand(columns.shape[1], *resid.shape)
        weights = columns[active].T.to(self.device, self.dtype)
        # Most often a few writers of many: gathering them is cheaper than multiplying by zeros.
        changes = self.run.changes[: len(active)] if int(active[-1]) < len(active) else self.run.changes[active]
        return torch.addmm(resid.reshape(1, -1), weights, changes.flatten(1)).view(-1, *resid.shape)

    def _weights(self, columns: Bool[Tensor, "writers inputs"]) -> Float[Tensor, "inputs slots"]:
        return columns[self.writers].T.to(self.device, self.dtype)

    def _attention(self, layer: int, heads: list[int]) -> Callable[[Tensor, Tensor | None], None]:
        run, n, block = self.run, self.graph.n_heads, self.model.blocks[layer]
        attn, start = block.attn, self.graph.attention_readers(layer).start
        slots = [self.slots[self.graph.attention_writers(layer).start + head] for head in heads]
        parts = [self._part(layer, part, heads, [start + "qkv".index(part) * n + h for h in heads]) for part in "qkv"]
        linears, output, ablated = (attn.q, attn.k, attn.v), attn.W_O[heads], run.ablated.z[layer][:, :, heads]

        def step(new: Tensor, own: Tensor | None) -> None:
            c, b, p, d = new.shape[1:]
            here = run.rows.positions(c, layer)
            made = []
            for key, part, linear in zip("qkv", parts, linears, strict=True):
                projected = part.projected.repeat(c, 1, 1, 1)
                if part.hot:
                    x = own[None] if part.fixed is None and own is not None else _mixed(part, new)
                    normed = block.ln1(x.flatten(1, 2))
                    normed = normed if key == "v" else here.beside(normed)
                    hot = project(attn, linear, [heads[i] for i in part.hot], normed)
                    projected = torch.cat((projected, hot), 2)[:, :, _order(part)] if part.cold else hot
                made.append(projected)
            z = attn.attend(*attn.place(made[0], made[1], here), made[2], here)
            dz = (split(z, c) - ablated).permute(3, 0, 1, 2, 4).reshape(len(heads), c * b * p, -1)
            new[slots[0] : slots[-1] + 1] = torch.bmm(dz, output).view(len(heads), c, b, p, d)

        return step

    def _part(self, layer: int, part: str, heads: list[int], readers: list[int]) -> _Part:
        block, columns = self.model.blocks[layer], self.mask[:, readers]
        linear = {"q": block.attn.q, "k": block.attn.k, "v": block.attn.v}[part]
        weights = self._weights(columns)
        is_hot = weights.any(1).cpu()
        own = [i for i, reader in enumerate(readers) if reader == self.reader]
        is_hot[own] = True
        hot, cold = is_hot.nonzero().flatten().tolist(), (~is_hot).nonzero().flatten().tolist()
        resid = self.run.resid_pre[layer]
        normed = block.ln1(self._sum(resid, self.fixed_mask[:, [readers[i] for i in cold]]))
        normed = normed if part == "v" else self.run.rows.positions(1, layer).beside(normed)
        projected = project(block.attn, linear, [heads[i] for i in cold], normed)
        fixed = None if own else self._sum(resid, self.fixed_mask[:, [readers[i] for i in hot]])
        return _Part(hot, cold, fixed, weights[hot], projected)

    def _mlp(self, layer: int) -> Callable[[Tensor, Tensor | None], None]:
        block, reader = self.model.blocks[layer], self.graph.mlp_reader(layer)
        slot, ablated = self.slots[self.graph.mlp_writer(layer)], self.run.ablated.mlp[layer]
        weights = self._weights(self.mask[:, [reader]])
        fixed = None if reader == self.reader else self._sum(self.run.resid_mlp[layer], self.fixed_mask[:, [reader]])

        def step(new: Tensor, own: Tensor | None) -> None:
            x = own if fixed is None and own is not None else _mixed(_Part([0], [], fixed, weights, new), new)[0]
            new[slot] = stream.mlp_output(block, x) - ablated

        return step

    def _prepare_logits(self) -> None:
        run, active = self.run, self.fixed_mask[:, -1].nonzero().flatten()
        self.final = run.resid_final + run.rows.read(run.changes[active]).sum(0)
        self.into_logits = [self.slots[w] for w in self.writers if self.mask[w, -1]]

    @torch.no_grad()
    def answers(
        self, columns: Bool[Tensor, "candidates writers"] | None = None
    ) -> Float[Tensor, "candidates batch *answer"]:
        """What the task scores, with other edges into the reader for each candidate."""
        run, own = self.run, None
        if columns is not None and self.own < 0:  # the reader is the logits themselves
            at = run.rows.read(run.changes)
            added = torch.einsum("cw,w...->c...", columns.to(self.device, self.dtype), at)
            return run.rows.answers(run.resid_final + added)
        if columns is not None and self.reader is not None:
            name = self.graph.readers[self.reader]
            layer = layer_of(name.partition("<")[0])
            assert layer is not None
            resid = run.resid_mlp[layer] if part_of(name) == "mlp" else run.resid_pre[layer]
            own = self._sum(resid, columns.T)
        candidates = 1 if columns is None else len(columns)
        self.new = run.changes.new_empty(len(self.writers), candidates, *run.changes.shape[1:])
        for step in self.steps:
            step(self.new, own)
        changed = run.rows.read(self.new[self.into_logits]).sum(0)
        return run.rows.answers(self.final + changed)

    def metric(self, columns: Bool[Tensor, "candidates writers"]) -> Float[Tensor, "candidates batch"]:
        """The task's metric of every example, with other edges into the reader for each candidate."""
        return self.run.rows.scores(self.answers(columns))

    def take(self, candidate: int) -> None:
        """Make a candidate of the last :meth:`answers` the run's own."""
        if self.new is not None:
            self.run.changes[self.writers] = self.new[:, candidate]


def _mixed(part: _Part, new: Tensor) -> Float[Tensor, "inputs candidates batch pos d_model"]:
    """What the hot inputs of one part take in: their fixed sum and what can change."""
    assert part.fixed is not None
    active = part.weights.any(0).nonzero().flatten()
    fixed = part.fixed[:, None].expand(-1, *new.shape[1:])
    if not len(active):
        return fixed
    changed = part.weights[:, active] @ new[active].flatten(1)
    return changed.view(len(part.hot), *new.shape[1:]).add_(fixed)


def _order(part: _Part) -> list[int]:
    """Places of the heads among the cold ones followed by the hot ones."""
    mixed = [*part.cold, *part.hot]
    return sorted(range(len(mixed)), key=mixed.__getitem__)


__all__ = ["CircuitRun", "Suffix"]
