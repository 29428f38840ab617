"""A patched run in which every edge carries a share of this run, with exact gradients for the shares.

With a mask m in [0, 1] (any real number will do) a reader v takes in

    ablated residual + sum over writers u of m[u, v] * (this run's output - ablated output) of u.

A binary mask gives :class:`workbench.circuits.patching.PatchedRun`, the mask of ones the model. The gradient at the
mask of ones is minus what edge attribution patching approximates a removal by, so EAP's scores (Syed et al. 2023).

The outputs of all writers, as changes from the ablated ones, are kept in one buffer [writer, batch, pos, d_model]; what
readers make of it, where norms lie between, too, says :mod:`workbench.circuits.soft_streams`. Backward goes through the
layers from the last to the first: it makes each layer again and pulls the gradient back through that layer alone. With
plain sums a step costs about four times the products of a forward, and memory is two buffers and one layer, whatever
the depth; with norms on the way autograd keeps about two buffers more.

Positions that carry no difference whatever the mask are left out (:func:`shared_start`); their queries, keys and
values are made once.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of
from workbench.circuits.patching import PatchedRun, project
from workbench.circuits.soft_streams import Given, Normed, Place, Reading, Sums
from workbench.circuits.task import Task
from workbench.models import Transformer


def shared_start(model: Transformer, batch: Task, ablation: Ablation) -> int:
    """How many positions at the beginning carry no difference whatever the mask; never all of them.

    Where all pairs of a batch begin alike a causal model does the same on both prompts, and resample ablation puts
    there what the run has anyway. An answer that comes from all positions needs them all.
    """
    if ablation != "resample" or not model.cfg.causal or stream.answers_once(model):
        return 0
    same = (batch.clean == batch.corrupted).all(0).long().cumprod(0).sum()
    return min(int(same), batch.clean.shape[1] - 1, int(batch.last.min()))


class SoftRun:
    """One batch with its ablated run, ready to be run with any mask of shares.

    Args:
        model: any model whose graph has edges.
        batch: examples.
        ablated: what each writer is replaced by, see :class:`workbench.circuits.activations.Ablator`.
        start: positions before this one carry no difference (:func:`shared_start`) and are left out of the work.
    """

    def __init__(self, model: Transformer, batch: Task, ablated: WriterOutputs, start: int = 0) -> None:
        self.model, self.batch, self.start = model, batch, start
        self.graph, self.answers_once = graph_of(model), stream.answers_once(model)
        run = PatchedRun(model, batch, ablated)
        self.positions = run.positions
        self.ablated, self.embed = ablated.map(self._rest), self._rest(run.embed)
        self.reading: Reading = (Sums if run.is_sum else Normed)(run, self._rest)
        with torch.no_grad():
            self.begin = [self._begin(layer, resid[:, :start]) for layer, resid in enumerate(run.resid_pre)]
        graph, last = self.graph, len(self.graph.readers) - 1
        self.attention_readers = [Place(graph.attention_readers(layer), layer) for layer in range(graph.n_layers)]
        readers = [graph.mlp_reader(layer) for layer in range(graph.n_layers)]
        self.mlp_readers = [Place(slice(reader, reader + 1), layer, mlp=True) for layer, reader in enumerate(readers)]
        self.logits_reader = Place(slice(last, last + 1), graph.n_layers)

    @property
    def n_bytes(self) -> int:
        """Bytes that it keeps."""
        parts = [*self.begin, self.ablated.z, self.ablated.mlp, self.reading.kept]
        return sum(x.nbytes for part in parts for x in part) + self.embed.nbytes

    def _rest(self, x: Tensor) -> Tensor:
        """The positions that can carry a difference; what is the same at all positions stays as it is."""
        return x if self.start == 0 or x.shape[1] == 1 else x[:, self.start :].contiguous()

    def _begin(self, layer: int, resid: Float[Tensor, "batch start d_model"]) -> list[Tensor]:
        """Queries, keys and values of a layer at the positions left out: [batch, start, head, d_head]."""
        block, added = self.model.blocks[layer], self.positions[layer].added
        normed = stream.into_attention(block, resid)
        beside = normed if added is None else normed + added[:, : self.start]
        parts = zip((block.attn.q, block.attn.k, block.attn.v), (beside, beside, normed), strict=True)
        return [project(block.attn, part, x.expand(self.graph.n_heads, *x.shape)) for part, x in parts]

    def metric(self, mask: Float[Tensor, "writers readers"]) -> Float[Tensor, " batch"]:
        """The task's metric of each example; differentiable with respect to ``mask``."""
        return self.batch.checked_score(self.logits(mask))

    def logits(self, mask: Float[Tensor, "writers readers"]) -> Float[Tensor, "batch *answer"]:
        """What the task scores, see :func:`workbench.circuits.stream.answer`; differentiable with respect to ``mask``.

        Logits [batch, d_vocab] where the answer is read, those of a classifier [batch, class], or of a model without
        a head its output [batch, pos, d_model].

        Args:
            mask: the share of this run that each edge carries; entries where no edge exists do not count.
        """
        like = self.embed
        final: Tensor = _Sweep.apply(mask.to(like.device, like.dtype), self)  # type: ignore[no-untyped-call]
        return stream.answer(self.model, self.batch, final)

    def forward(self, mask: Tensor) -> tuple[Float[Tensor, "batch read d_model"], Given]:
        """Last residual stream where the answer is read, and what the readers were given."""
        embed, graph = self.embed, self.graph
        given = Given(mask, embed.new_empty(len(graph.writers), *embed.shape))
        given.changes[0] = embed - self.ablated.embed
        for layer in range(graph.n_layers):
            x = self.reading.read(self.attention_readers[layer], given)
            given.changes[graph.attention_writers(layer)] = self.attention(layer, x)
            if graph.has_mlp:
                x = self.reading.read(self.mlp_readers[layer], given)
                given.changes[graph.mlp_writer(layer)] = self.mlp(layer, x[0])
        final = self.reading.read(self.logits_reader, given)[0]
        return self._where_answered(final), given

    def backward(self, given: Given, gradient: Float[Tensor, "batch read d_model"]) -> Tensor:
        """Gradient for the mask from the one at :meth:`forward`'s first result."""
        graph, pulled = self.graph, torch.zeros_like(self.embed)
        found = Given(torch.zeros_like(given.mask), torch.zeros_like(given.changes))
        if self.answers_once:
            pulled = gradient
        else:
            pulled[self._answer] = gradient[:, 0]
        self.reading.pull(self.logits_reader, pulled[None], given, found)
        for layer in reversed(range(graph.n_layers)):
            if graph.has_mlp:
                place, behind = self.mlp_readers[layer], found.changes[graph.mlp_writer(layer)]
                x = self.reading.read(place, given)[0].requires_grad_()
                with torch.enable_grad():
                    (pulled,) = torch.autograd.grad(self.mlp(layer, x), x, behind)
                self.reading.pull(place, pulled[None], given, found)
            place, behind = self.attention_readers[layer], found.changes[graph.attention_writers(layer)]
            x = self.reading.read(place, given).requires_grad_()
            with torch.enable_grad():
                (pulled,) = torch.autograd.grad(self.attention(layer, x), x, behind)
            self.reading.pull(place, pulled, given, found)
        return found.mask

    @property
    def _answer(self) -> tuple[Tensor, Tensor]:
        """Rows and positions where the answers are read, of a model that answers at one position."""
        device = self.embed.device
        return torch.arange(len(self.batch), device=device), self.batch.last.to(device) - self.start

    def _where_answered(self, final: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch read d_model"]:
        return final if self.answers_once else final[self._answer][:, None]

    def attention(self, layer: int, x: Tensor) -> Float[Tensor, "head batch pos d_model"]:
        """Change of every head's result, from what its query, key and value read."""
        block, here = self.model.blocks[layer], self.positions[layer]
        attn = block.attn
        into_q, into_k, into_v = stream.into_attention(block, x).chunk(3)
        if here.added is not None:
            into_q, into_k = into_q + here.added[:, self.start :], into_k + here.added[:, self.start :]
        q, k, v = (
            torch.cat((begin, project(attn, linear, into)), 1)
            for begin, linear, into in zip(
                self.begin[layer], (attn.q, attn.k, attn.v), (into_q, into_k, into_v), strict=True
            )
        )
        z = attn.attend(*attn.place(q, k, here), v, here)[:, self.start :]
        b, p, h, e = z.shape
        change = (z - self.ablated.z[layer]).permute(2, 0, 1, 3).reshape(h, b * p, e)
        return torch.bmm(change, attn.W_O).view(h, b, p, -1)

    def mlp(self, layer: int, x: Tensor) -> Float[Tensor, "batch pos d_model"]:
        """Change of the MLP's output, from what it reads."""
        return stream.mlp_output(self.model.blocks[layer], x) - self.ablated.mlp[layer]


class _Sweep(torch.autograd.Function):
    """:meth:`SoftRun.forward` with :meth:`SoftRun.backward` as its derivative."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, run: SoftRun) -> Tensor:
        final, given = run.forward(mask)
        ctx.save_for_backward(mask, given.changes)
        ctx.run = run
        return final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        run: SoftRun = ctx.run
        mask, changes = ctx.saved_tensors
        return run.backward(Given(mask.detach(), changes), gradients[0]), None


__all__ = ["SoftRun", "shared_start"]
