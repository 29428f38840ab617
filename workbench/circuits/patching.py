"""Exact patching of any set of edges in one forward, without a residual stream for every reader.

An edge of the circuit carries what its writer computes in this run, every other edge carries the writer's ablated
output. So a reader takes in

    ablated residual + sum over its circuit edges of (this run's output - ablated output) of the writer.

Only writers that the circuit reads from are run. The readers of a layer are one matrix product of the circuit's
columns with the writers' differences, their heads one batched product and one fused attention.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits.activations import WriterOutputs, graph_of
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.attention import Attention


class PatchedRun:
    """One batch with its ablated run, ready to be run through any circuit.

    Args:
        model: the model.
        batch: examples.
        ablated: what each writer is replaced by, see :class:`workbench.circuits.activations.Ablator`.
    """

    def __init__(self, model: Transformer, batch: Task, ablated: WriterOutputs) -> None:
        self.model, self.batch, self.ablated = model, batch, ablated
        self.graph = graph_of(model)
        tokens = batch.clean.to(model.device)
        with torch.no_grad():
            self.embed = model(tokens, stop_at_layer=0)
            self.positions, _ = model.positions(tokens)
            self._add_up()

    def _add_up(self) -> None:
        """The ablated residual stream that every attention and every MLP reads, and the last one."""
        resid = self.ablated.embed.expand_as(self.embed)
        self.resid_pre, self.resid_mlp = [], []
        for layer, block in enumerate(self.model.blocks):
            self.resid_pre.append(resid)
            mid = resid + block.attn.write(self.ablated.z[layer])
            self.resid_mlp.append(resid if self.graph.parallel else mid)
            resid = mid + self.ablated.mlp[layer] if self.graph.has_mlp else mid
        self.resid_final = resid

    @torch.no_grad()
    def metric(self, mask: Bool[Tensor, "writers readers"]) -> Float[Tensor, " batch"]:
        """The task's metric of each example when only the edges in ``mask`` carry this run."""
        return self.batch.score(self.logits(mask))

    @torch.no_grad()
    def logits(self, mask: Bool[Tensor, "writers readers"]) -> Float[Tensor, "batch d_vocab"]:
        """Logits where the answer is read, when only the edges in ``mask`` carry this run."""
        device = self.embed.device
        active = mask.any(1).nonzero().flatten()  # writers that something reads from
        kept = mask[active].to(device, self.embed.dtype)  # active readers
        changes = self.embed.new_empty(len(active), *self.embed.shape)  # this run minus the ablated one
        row = {int(writer): i for i, writer in enumerate(active)}
        if 0 in row:
            changes[0] = self.embed - self.ablated.embed
        for layer in range(self.graph.n_layers):
            first = self.graph.attention_writers(layer).start
            heads = [h for h in range(self.graph.n_heads) if first + h in row]
            if heads:
                start = row[first + heads[0]]
                changes[start : start + len(heads)] = self._attention(layer, heads, kept[:start], changes[:start])
            writer = self.graph.mlp_writer(layer)
            if self.graph.has_mlp and writer in row:
                i = row[writer]
                changes[i] = self._mlp(layer, kept[:i], changes[:i])
        rows, last = torch.arange(len(self.embed), device=device), self.batch.last.to(device)
        final = self.resid_final[rows, last] + torch.einsum("w,wbd->bd", kept[:, -1], changes[:, rows, last])
        return self.model.logits(final[:, None])[:, 0]

    def _attention(self, layer: int, heads: list[int], kept: Tensor, changes: Tensor) -> Tensor:
        """Change of the results of ``heads`` [head batch pos d_model]; each of their q, k, v reads its own edges."""
        block, n = self.model.blocks[layer], self.graph.n_heads
        columns = [self.graph.attention_readers(layer).start + part * n + h for part in range(3) for h in heads]
        normed = block.ln1(_add(self.resid_pre[layer], kept[:, columns], changes))
        attn, here = block.attn, self.positions[layer]
        into_q, into_k, into_v = normed.chunk(3)
        q = _project(attn, attn.q, heads, here.beside(into_q))
        k = _project(attn, attn.k, heads, here.beside(into_k))
        v = _project(attn, attn.v, heads, into_v)
        z = attn.attend(*attn.place(q, k, here), v, here)  # batch pos head d_head
        dz = (z - self.ablated.z[layer][:, :, heads]).permute(2, 0, 1, 3)
        b, p, d = self.embed.shape
        return torch.bmm(dz.reshape(len(heads), b * p, -1), attn.W_O[heads]).view(-1, b, p, d)

    def _mlp(self, layer: int, kept: Tensor, changes: Tensor) -> Tensor:
        """Change of the MLP's output [batch pos d_model]."""
        block = self.model.blocks[layer]
        assert block.mlp is not None
        x = _add(self.resid_mlp[layer], kept[:, [self.graph.mlp_reader(layer)]], changes)[0]
        out: Tensor = block.mlp(block.mlp_norm(x)) - self.ablated.mlp[layer]
        return out


def _add(resid: Tensor, kept: Float[Tensor, "writers readers"], changes: Tensor) -> Tensor:
    """Input of every reader [reader batch pos d_model]: the ablated residual plus its kept writers' changes."""
    if not len(changes):
        return resid.expand(kept.shape[1], *resid.shape)
    added = torch.addmm(resid.reshape(1, -1), kept.T, changes.view(len(changes), -1))
    return added.view(-1, *resid.shape)


def _project(attn: Attention, linear: torch.nn.Linear, heads: list[int], x: Tensor) -> Tensor:
    """Each head's projection of its own input: [head batch pos d_model] -> [batch pos head d_head]."""
    h, b, p, d = x.shape
    projected = torch.bmm(x.reshape(h, b * p, d), attn.heads_of(linear)[heads].transpose(1, 2))
    bias = attn.bias_of(linear)
    if bias is not None:
        projected = projected + bias[heads][:, None]
    return projected.view(h, b, p, -1).permute(1, 2, 0, 3)


__all__ = ["PatchedRun"]
