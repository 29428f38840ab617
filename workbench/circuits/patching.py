"""Exact patching of any set of edges in one forward, without a residual stream for every reader.

An edge of the circuit carries what its writer computes in this run, every other edge carries the writer's ablated
output. So a reader takes in

    ablated residual + sum over its circuit edges of (this run's output - ablated output) of the writer.

Only writers that the circuit reads from are run. The readers of a layer are one matrix product of the circuit's
columns with the writers' differences, their heads one batched product and one fused attention.

Where norms lie between writers and readers (:mod:`workbench.circuits.stream`), the sum is cut at each of them: the
streams of one layer's readers are built up from the embedding, by a matrix product and a norm for each sublayer
below. That is as much work as to carry the streams of all readers upward, and holds those of one layer only.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, graph_of
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.attention import Attention


@dataclass(frozen=True)
class _Changes:
    """What the writers change that a circuit reads from.

    Attributes:
        writers: their places on the graph's writer axis, ascending.
        kept: [writer, reader] their rows of the circuit, 0 or 1; [pos, writer, reader] of a circuit of edges at
            positions.
        values: [writer, batch, pos, d_model] this run minus the ablated one, filled in upward.
    """

    writers: list[int]
    kept: Float[Tensor, "*pos writers readers"]
    values: Float[Tensor, "writers batch pos d_model"]

    def rows(self, start: int, stop: int) -> slice:
        """The rows of those writers among ``start`` to ``stop`` of the graph that are here."""
        return slice(bisect_left(self.writers, start), bisect_left(self.writers, stop))


class PatchedRun:
    """One batch with its ablated run, ready to be run through any circuit.

    Args:
        model: the model.
        batch: examples.
        ablated: what each writer is replaced by, see :class:`workbench.circuits.activations.Ablator`.

    Attributes:
        embed: [batch, pos, d_model] what enters block 0 in this run.
        positions: for each layer what its attention knows of positions and padding.
        resid_pre, resid_mlp: for each layer the ablated residual stream [batch, pos, d_model] that attention and MLP
            read.
        attended: for each layer what its ablated heads and the output bias add up to [batch, pos, d_model]; empty
            where streams are plain sums (:func:`workbench.circuits.stream.is_sum`), of which nobody needs the parts.
        resid_final: [batch, pos, d_model] the ablated residual stream behind the last block.
    """

    def __init__(self, model: Transformer, batch: Task, ablated: WriterOutputs) -> None:
        self.model, self.batch, self.ablated = model, batch, ablated
        self.graph, self.is_sum = graph_of(model), stream.is_sum(model)
        inputs, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
        with torch.no_grad():
            self.embed = model(inputs, attention_mask=mask, stop_at_layer=0)
            self.positions, _ = model.positions(inputs, mask)
            self._add_up()

    def _add_up(self) -> None:
        """Follow the ablated residual stream upward."""
        resid = self.ablated.embed.expand_as(self.embed)
        self.resid_pre, self.resid_mlp = [], []
        self.attended = []
        for layer, block in enumerate(self.model.blocks):
            attended = block.attn.write(self.ablated.z[layer])
            mid = stream.after_attention(block, resid, attended)
            self.resid_pre.append(resid)
            self.resid_mlp.append(resid if self.graph.parallel else mid)
            if not self.is_sum:
                self.attended.append(attended)
            resid = stream.after_mlp(block, mid, self.ablated.mlp[layer]) if self.graph.has_mlp else mid
        self.resid_final = resid

    @torch.no_grad()
    def metric(self, mask: Bool[Tensor, "*pos writers readers"]) -> Float[Tensor, " batch"]:
        """The task's metric of each example when only the edges in ``mask`` carry this run; see :meth:`logits`."""
        return self.batch.checked_score(self.logits(mask))

    @torch.no_grad()
    def logits(self, mask: Bool[Tensor, "*pos writers readers"]) -> Float[Tensor, "batch *answer"]:
        """What the task scores, when only the edges in ``mask`` carry this run: see :func:`stream.answer`.

        A mask [pos, writer, reader] says it for each position at which the reader reads.

        Logits [batch, d_vocab] where the answer is read, those of a classifier [batch, class], or of a model without
        a head its output [batch, pos, d_model].
        """
        graph, device = self.graph, self.embed.device
        # writers that something reads from
        active = mask.any(-1).view(-1, len(graph.writers)).any(0).nonzero().flatten()
        kept = mask[..., active, :].to(device, self.embed.dtype)
        changes = _Changes(active.tolist(), kept, self.embed.new_empty(len(active), *self.embed.shape))
        changes.values[changes.rows(0, 1)] = self.embed - self.ablated.embed
        for layer in range(graph.n_layers):
            heads = graph.attention_writers(layer)
            rows = changes.rows(heads.start, heads.stop)
            if rows.start < rows.stop:
                chosen = [writer - heads.start for writer in changes.writers[rows]]
                changes.values[rows] = self._attention(layer, chosen, changes)
            rows = changes.rows(heads.stop, graph.writers_before_attention(layer + 1))
            if rows.start < rows.stop:
                changes.values[rows] = self._mlp(layer, changes)
        return self._answer(changes)

    def _attention(self, layer: int, heads: list[int], changes: _Changes) -> Tensor:
        """Change of the results of ``heads`` [head batch pos d_model]; each of their q, k, v reads its own edges."""
        block, n = self.model.blocks[layer], self.graph.n_heads
        attn, here = block.attn, self.positions[layer]
        # Other mechanisms learn numbers for each head: they run with all of them.
        run = heads if attn.is_softmax else list(range(n))
        columns = [self.graph.attention_readers(layer).start + part * n + h for part in range(3) for h in run]
        into_q, into_k, into_v = stream.into_attention(block, self._streams(columns, layer, False, changes)).chunk(3)
        q = project(attn, attn.q, here.beside(into_q), run)
        k = project(attn, attn.k, here.beside(into_k), run)
        v = project(attn, attn.v, into_v, run)
        z = attn.attend(*attn.place(q, k, here), v, here)  # batch pos head d_head
        z = z if len(run) == len(heads) else z[:, :, heads]
        dz = (z - self.ablated.z[layer][:, :, heads]).permute(2, 0, 1, 3)
        b, p, d = self.embed.shape
        return torch.bmm(dz.reshape(len(heads), b * p, -1), attn.W_O[heads]).view(-1, b, p, d)

    def _mlp(self, layer: int, changes: _Changes) -> Tensor:
        """Change of the MLP's output [batch pos d_model]."""
        x = self._streams([self.graph.mlp_reader(layer)], layer, True, changes)[0]
        return stream.mlp_output(self.model.blocks[layer], x) - self.ablated.mlp[layer]

    def _answer(self, changes: _Changes) -> Tensor:
        if not self.is_sum or stream.answers_once(self.model):
            final = self._streams([len(self.graph.readers) - 1], self.graph.n_layers, False, changes)[0]
            return stream.answer_of(self.model, self.batch, final)
        rows, last = torch.arange(len(self.embed), device=self.embed.device), self.batch.last.to(self.embed.device)
        kept = changes.kept[..., -1]
        kept = kept[last].T if kept.ndim == 2 else kept[:, None]
        added = torch.einsum("wb,wbd->bd", kept.expand(-1, len(rows)), changes.values[:, rows, last])
        return stream.answer(self.model, self.batch, (self.resid_final[rows, last] + added)[:, None])

    def _streams(self, columns: list[int], layer: int, mlp: bool, changes: _Changes) -> Tensor:
        """The streams of some readers of one ``layer`` [reader batch pos d_model], behind its attention for ``mlp``.

        Readers of the layer after the last take in what comes out of that.
        """
        if self.is_sum:
            before = self.graph.writers_before_mlp(layer) if mlp else self.graph.writers_before_attention(layer)
            resid = self.resid_mlp[layer] if mlp else [*self.resid_pre, self.resid_final][layer]
            return self._part(resid, columns, 0, before, changes)
        x = self._part(self.ablated.embed, columns, 0, 1, changes)
        for below in range(layer + (mlp and not self.graph.parallel)):
            block, heads = self.model.blocks[below], self.graph.attention_writers(below)
            attended = self._part(self.attended[below], columns, heads.start, heads.stop, changes)
            x = stream.after_attention(block, x, attended)
            if self.graph.has_mlp and below < layer:
                fed = self._part(self.ablated.mlp[below], columns, heads.stop, heads.stop + 1, changes)
                x = stream.after_mlp(block, x, fed)
        return x

    def _part(self, ablated: Tensor, columns: list[int], start: int, stop: int, changes: _Changes) -> Tensor:
        """What the writers ``start`` to ``stop`` give each reader: what they write ablated, and what is kept of them.

        That is [reader batch pos d_model].
        """
        ablated, rows = ablated.expand_as(self.embed), changes.rows(start, stop)
        if rows.start == rows.stop:
            return ablated.expand(len(columns), *ablated.shape)
        values, kept = changes.values[rows], changes.kept[..., rows, columns]
        if kept.ndim == 3:
            return ablated + torch.einsum("pwr,wbpd->rbpd", kept, values)
        added = torch.addmm(ablated.reshape(1, -1), kept.T, values.view(len(values), -1))
        return added.view(-1, *ablated.shape)


def project(
    attn: Attention, linear: torch.nn.Linear, x: Float[Tensor, "head batch pos d_model"], heads: list[int] | None = None
) -> Float[Tensor, "batch pos head d_head"]:
    """Each head's projection of its own input; of all heads, or of those in ``heads``."""
    weight, bias = attn.heads_of(linear), attn.bias_of(linear)
    if heads is not None:
        weight, bias = weight[heads], None if bias is None else bias[heads]
    h, b, p, d = x.shape
    projected = torch.bmm(x.reshape(h, b * p, d), weight.transpose(1, 2))
    if bias is not None:
        projected = projected + bias[:, None]
    return projected.view(h, b, p, attn.cfg.d_head).permute(1, 2, 0, 3)


__all__ = ["PatchedRun", "project"]
