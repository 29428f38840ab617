"""A patched run in which every edge carries a share of this run, with exact gradients for the shares.

With a mask m in [0, 1] (any real number will do) a reader v takes in

    ablated residual + sum over writers u of m[u, v] * (this run's output - ablated output) of u.

A binary mask gives :class:`workbench.circuits.patching.PatchedRun`, the mask of ones the model. The gradient at the
mask of ones is minus what edge attribution patching approximates a removal by, so EAP's scores (Syed et al. 2023).

The readers of a layer are one matrix product of the mask's columns with the writers' differences, kept in one buffer
[writer, batch*pos*d_model]. Backward goes through the layers from the last to the first: it makes each layer again,
pulls the gradient back through that layer alone, and adds two matrix products of the same size: one for the mask, one
for the writers. So a step costs about four times the products of a forward, and memory is two buffers and one layer,
whatever the depth.

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
from workbench.circuits.task import Task
from workbench.models import Transformer

Buffer = Float[Tensor, "writers batch pos d_model"]


def check_soft(model: Transformer, what: str) -> None:
    """Refuse a model that cannot be run with shares, for ``what`` needs that.

    Raises:
        ValueError: the model normalises what is added to its residual stream, or its answer comes from all positions.
    """
    stream.check_sum(model, what)
    if stream.answers_once(model):
        raise ValueError(
            f"{what} needs an answer at one position; {model.name} ({model.cfg.family}) gives one for all positions "
            "together. Choose a method such as eap-ig, or a decoder."
        )


def shared_start(model: Transformer, batch: Task, ablation: Ablation) -> int:
    """How many positions at the beginning carry no difference whatever the mask; never all of them.

    Where all pairs of a batch begin alike a causal model does the same on both prompts, and resample ablation puts
    there what the run has anyway.
    """
    if ablation != "resample" or not model.cfg.causal:
        return 0
    same = (batch.clean == batch.corrupted).all(0).long().cumprod(0).sum()
    return min(int(same), batch.clean.shape[1] - 1, int(batch.last.min()))


class SoftRun:
    """One batch with its ablated run, ready to be run with any mask of shares.

    Args:
        model: the model; a pre-norm decoder with plain attention.
        batch: examples.
        ablated: what each writer is replaced by, see :class:`workbench.circuits.activations.Ablator`.
        start: positions before this one carry no difference (:func:`shared_start`) and are left out of the work.

    Raises:
        ValueError: a model that cannot be run so, see :func:`check_soft`.
    """

    def __init__(self, model: Transformer, batch: Task, ablated: WriterOutputs, start: int = 0) -> None:
        check_soft(model, "A run with shares")
        self.model, self.batch, self.start = model, batch, start
        self.graph = graph_of(model)
        run = PatchedRun(model, batch, ablated)
        self.positions = run.positions
        self.ablated = ablated.map(self._rest)
        self.embed, self.resid_final = self._rest(run.embed), self._rest(run.resid_final)
        self.resid_pre, self.resid_mlp = [list(map(self._rest, x)) for x in (run.resid_pre, run.resid_mlp)]
        with torch.no_grad():
            self.begin = [self._begin(layer, resid[:, :start]) for layer, resid in enumerate(run.resid_pre)]

    @property
    def n_bytes(self) -> int:
        """Bytes that it keeps."""
        parts = [*self.begin, self.ablated.z, self.ablated.mlp, self.resid_pre, self.resid_mlp]
        return sum(x.nbytes for part in parts for x in part) + self.embed.nbytes + self.resid_final.nbytes

    def _rest(self, x: Tensor) -> Tensor:
        """The positions that can carry a difference; what is the same at all positions stays as it is."""
        return x if self.start == 0 or x.shape[1] == 1 else x[:, self.start :].contiguous()

    def _begin(self, layer: int, resid: Float[Tensor, "batch start d_model"]) -> list[Tensor]:
        """Queries, keys and values of a layer at the positions left out: [batch, start, head, d_head]."""
        block, added = self.model.blocks[layer], self.positions[layer].added
        normed = block.ln1(resid)
        beside = normed if added is None else normed + added[:, : self.start]
        parts = zip((block.attn.q, block.attn.k, block.attn.v), (beside, beside, normed), strict=True)
        return [project(block.attn, part, x.expand(self.graph.n_heads, *x.shape)) for part, x in parts]

    def metric(self, mask: Float[Tensor, "writers readers"]) -> Float[Tensor, " batch"]:
        """The task's metric of each example; differentiable with respect to ``mask``."""
        return self.batch.checked_score(self.logits(mask))

    def logits(self, mask: Float[Tensor, "writers readers"]) -> Float[Tensor, "batch d_vocab"]:
        """Logits where the answer is read; differentiable with respect to ``mask``.

        Args:
            mask: the share of this run that each edge carries; entries where no edge exists do not count.
        """
        like = self.embed
        final: Tensor = _Sweep.apply(mask.to(like.device, like.dtype), self)  # type: ignore[no-untyped-call]
        return stream.answer(self.model, self.batch, final[:, None])

    @property
    def answer(self) -> tuple[Tensor, Tensor]:
        """Rows and positions where the answers are read."""
        device = self.embed.device
        return torch.arange(len(self.batch), device=device), self.batch.last.to(device) - self.start

    def forward(self, mask: Tensor) -> tuple[Float[Tensor, "batch d_model"], Buffer]:
        """Last residual stream where the answer is read, and this run minus the ablated one for every writer."""
        embed = self.embed
        changes = embed.new_empty(len(self.graph.writers), *embed.shape)
        changes[0] = embed - self.ablated.embed
        for layer in range(self.graph.n_layers):
            heads = self.graph.attention_writers(layer)
            changes[heads] = self.attention(layer, self.into_attention(layer, mask, changes))
            if self.graph.has_mlp:
                changes[self.graph.mlp_writer(layer)] = self.mlp(layer, self.into_mlp(layer, mask, changes))
        rows, last = self.answer
        final = self.resid_final[rows, last] + torch.einsum("w,wbd->bd", mask[:, -1], changes[:, rows, last])
        return final, changes

    def backward(self, mask: Tensor, changes: Buffer, gradient: Float[Tensor, "batch d_model"]) -> Tensor:
        """Gradient for the mask from the one at :meth:`forward`'s first result."""
        into, found = torch.zeros_like(changes), torch.zeros_like(mask)
        rows, last = self.answer
        found[:, -1] = torch.einsum("wbd,bd->w", changes[:, rows, last], gradient)
        into[:, rows, last] = mask[:, -1, None, None] * gradient
        for layer in reversed(range(self.graph.n_layers)):
            if self.graph.has_mlp:
                readers = slice(self.graph.mlp_reader(layer), self.graph.mlp_reader(layer) + 1)
                with torch.enable_grad():
                    x = self.into_mlp(layer, mask, changes).requires_grad_()
                    (pulled,) = torch.autograd.grad(self.mlp(layer, x), x, into[self.graph.mlp_writer(layer)])
                _share_out(self.graph.writers_before_mlp(layer), readers, pulled[None], mask, changes, found, into)
            readers, heads = self.graph.attention_readers(layer), self.graph.attention_writers(layer)
            with torch.enable_grad():
                x = self.into_attention(layer, mask, changes).requires_grad_()
                (pulled,) = torch.autograd.grad(self.attention(layer, x), x, into[heads])
            _share_out(self.graph.writers_before_attention(layer), readers, pulled, mask, changes, found, into)
        return found

    def into_attention(self, layer: int, mask: Tensor, changes: Buffer) -> Float[Tensor, "readers batch pos d_model"]:
        """What queries, keys and values of a layer read."""
        kept = mask[: self.graph.writers_before_attention(layer), self.graph.attention_readers(layer)]
        return _read(self.resid_pre[layer], kept, changes)

    def into_mlp(self, layer: int, mask: Tensor, changes: Buffer) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP of a layer reads."""
        reader = self.graph.mlp_reader(layer)
        kept = mask[: self.graph.writers_before_mlp(layer), reader : reader + 1]
        return _read(self.resid_mlp[layer], kept, changes)[0]

    def attention(self, layer: int, x: Tensor) -> Float[Tensor, "head batch pos d_model"]:
        """Change of every head's result, from what its query, key and value read."""
        block, here = self.model.blocks[layer], self.positions[layer]
        attn = block.attn
        into_q, into_k, into_v = block.ln1(x).chunk(3)
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
        final, changes = run.forward(mask)
        ctx.save_for_backward(mask, changes)
        ctx.run = run
        return final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        mask, changes = ctx.saved_tensors
        run: SoftRun = ctx.run
        return run.backward(mask, changes, gradients[0]), None


def _read(resid: Tensor, kept: Float[Tensor, "writers readers"], changes: Buffer) -> Tensor:
    """The ablated residual stream plus each reader's shares of its writers' differences."""
    writers, readers = kept.shape
    added = torch.addmm(resid.reshape(1, -1), kept.T, changes[:writers].view(writers, -1))
    return added.view(readers, *resid.shape)


def _share_out(
    writers: int, readers: slice, pulled: Tensor, mask: Tensor, changes: Buffer, found: Tensor, into: Buffer
) -> None:
    """Add what ``readers`` say, by the gradients ``pulled`` at their inputs, to those of the mask and the writers."""
    flat = pulled.reshape(len(pulled), -1)
    found[:writers, readers] = changes[:writers].view(writers, -1) @ flat.T
    into[:writers].view(writers, -1).addmm_(mask[:writers, readers], flat)


__all__ = ["SoftRun", "check_soft", "shared_start"]
