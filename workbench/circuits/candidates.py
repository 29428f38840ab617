"""Many small changes to one run at once: what is before them is computed once, what comes after in one batch.

Candidates that change what one reader takes in share everything before it. They are stacked on the batch axis, and
only the model from the reader's layer on is run: the reader's head alone, then the rest of its block, then the blocks
after it. A change of what the logits read needs no block at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import WriterOutputs, from_cache, graph_of, writer_names
from workbench.circuits.attribution import writer_differences
from workbench.circuits.graph import Graph, head_of, layer_of, part_of
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.attention import Attention, Positions
from workbench.models.embedding import n_positions

# More rows than this make no matrix product faster, but their intermediate results leave the processor's caches.
MOST_TOKENS = 4096


def is_plain(model: Transformer) -> bool:
    """Whether every reader takes in the plain sum of what writers wrote, and heads of a layer run one without another.

    Other models are patched one candidate at a time.
    """
    return stream.is_sum(model) and model.cfg.attention == "softmax"


def candidates_that_fit(model: Transformer, batch: Task, budget: int, streams: int = 0) -> int:
    """How many candidates of a batch of prompts to run at once within ``budget`` bytes; at least 1.

    Args:
        model: the model.
        batch: the prompts that each candidate runs.
        budget: bytes.
        streams: residual streams that each candidate keeps, beside those of one block.
    """
    cfg = model.cfg
    tokens = len(batch) * n_positions(model, batch.clean)
    floats = tokens * (cfg.d_model * (8 + streams) + 4 * cfg.d_mlp + 8 * cfg.n_heads * cfg.d_head)
    floats += 3 * len(batch) * cfg.n_out
    fit = budget // (4 * floats)
    if model.device.type == "cpu":
        fit = min(fit, MOST_TOKENS // tokens)
    return max(1, fit)


def project(attn: Attention, linear: torch.nn.Linear, heads: Sequence[int], x: Tensor) -> Tensor:
    """Each head's projection of its own input: [head row pos d_model] -> [row pos head d_head]."""
    h, rows, p, d = x.shape
    weight = attn.heads_of(linear)[list(heads)].transpose(1, 2)
    projected = torch.bmm(x.reshape(h, rows * p, d), weight)
    bias = attn.bias_of(linear)
    if bias is not None:
        projected = projected + bias[list(heads)][:, None]
    return projected.view(h, rows, p, weight.shape[-1]).permute(1, 2, 0, 3)


def split(rows: Float[Tensor, "rows ..."], candidates: int) -> Float[Tensor, "candidates batch ..."]:
    """Rows that are candidate by candidate, with an axis for the candidates."""
    return rows.view(candidates, -1, *rows.shape[1:])


class Repeated:
    """What a batch fixes beside its tokens, for several candidates of it: rows are candidate by candidate."""

    def __init__(self, model: Transformer, batch: Task, inputs: Tensor) -> None:
        self.model, self.batch, self.inputs = model, batch, inputs.to(model.device)
        self._mask = stream.attention_mask(model, batch)
        self.rows = torch.arange(len(inputs), device=model.device)
        self.last = batch.last.to(model.device)
        self.answers_once = stream.answers_once(model)
        self._known: dict[int, list[Positions]] = {}

    def positions(self, candidates: int, layer: int) -> Positions:
        """What the attention of a layer knows of the positions of all rows."""
        if candidates not in self._known:
            inputs = self.inputs.repeat(candidates, *[1] * (self.inputs.ndim - 1))
            self._known[candidates] = self.model.positions(inputs, self.mask(candidates))[0]
        return self._known[candidates][layer]

    def mask(self, candidates: int) -> Tensor | None:
        """1 for the real tokens of all rows, where the model needs to be told."""
        return None if self._mask is None else self._mask.repeat(candidates, 1)

    def read(self, resid: Float[Tensor, "... batch pos d_model"]) -> Tensor:
        """The part of the last residual stream that the answer is made of: [..., batch, d_model], or all of it."""
        return resid if self.answers_once else resid[..., self.rows, self.last, :]

    def answers(self, read: Tensor) -> Float[Tensor, "candidates batch *answer"]:
        """What the task scores, of every candidate, from what :meth:`read` gave [candidate, batch, ...]."""
        if not self.answers_once:
            return self.model.logits(read)
        return split(self.model.logits(read.flatten(0, 1), mask=self.mask(len(read))), len(read))

    def scores(self, answers: Float[Tensor, "candidates batch *answer"]) -> Float[Tensor, "candidates batch"]:
        """The task's metric of every example for every candidate."""
        return torch.stack([self.batch.checked_score(one) for one in answers])


def ablated_streams(
    model: Transformer, ablated: WriterOutputs, like: Float[Tensor, "batch pos d_model"]
) -> tuple[list[Tensor], list[Tensor]]:
    """The residual streams [batch, pos, d_model] of a run in which every writer is ablated.

    Those that enter each block with the one behind the last, and those that the MLPs read.
    """
    resid, before, into_mlp = ablated.embed.expand_as(like), [], []
    for layer, block in enumerate(model.blocks):
        before.append(resid)
        mid = stream.after_attention(block, resid, block.attn.write(ablated.z[layer]))
        into_mlp.append(resid if model.cfg.parallel else mid)
        resid = mid if model.cfg.attn_only else stream.after_mlp(block, mid, ablated.mlp[layer])
    return [*before, resid], into_mlp


class ModelRun:
    """One batch run through the model itself, ready for changes of what single readers take in.

    Args:
        model: a model whose readers take in plain sums, see :func:`is_plain`.
        batch: the examples; candidates are scored by their answers.
        inputs: what is run: the clean or the corrupted side.
        replaced: what an edge carries instead of its writer's output.
    """

    def __init__(self, model: Transformer, batch: Task, inputs: Tensor, replaced: WriterOutputs) -> None:
        self.model, self.rows = model, Repeated(model, batch, inputs)
        n = model.cfg.n_layers
        self.graph = graph_of(model)
        before = [f"blocks.{layer}.hook_resid_pre" for layer in range(n)]
        into_mlp = before if self.graph.parallel else [f"blocks.{layer}.hook_resid_mid" for layer in range(n)]
        into_mlp = into_mlp if self.graph.has_mlp else []
        wanted = [*writer_names(model), *before, *into_mlp]
        with torch.no_grad():
            final, cache = model.run_with_cache(
                self.rows.inputs, wanted, attention_mask=self.rows.mask(1), stop_at_layer=n
            )
            self.outputs = from_cache(model, cache)
            # What a writer wrote, minus what an edge carries instead.
            self.changes = writer_differences(model, self.graph, self.outputs, replaced)
        self.pre = [*(cache[name] for name in before), final]
        self.into_mlp = [cache[name] for name in into_mlp]

    @torch.no_grad()
    def metric(self) -> Float[Tensor, " batch"]:
        """The task's metric of each example in the unchanged run."""
        return self._metric(self.pre[-1][None])[0]

    @torch.no_grad()
    def edges(self, reader: int, writers: Sequence[int], direct: bool = False) -> Float[Tensor, "candidates batch"]:
        """The metric with one edge replaced: from each of ``writers`` to ``reader``.

        Args:
            reader, writers: indices in the graph.
            direct: the change that this makes in the reader's node goes to the logits and to no other reader.
        """
        return self.shifted(reader, -self.changes[list(writers)], direct)

    @torch.no_grad()
    def shifted(
        self, reader: int, shifts: Float[Tensor, "candidates batch pos d_model"], direct: bool = False
    ) -> Float[Tensor, "candidates batch"]:
        """The metric when ``shifts`` are added to what ``reader`` takes in, one candidate each."""
        name = self.graph.readers[reader]
        layer, place = layer_of(name.partition("<")[0]), head_of(name.partition("<")[0])
        if layer is None:
            return self._metric(self.pre[-1] + shifts)
        if place is not None:
            wrote = self._head(layer, place[1], part_of(name), self.pre[layer] + shifts)
        else:
            wrote = self._mlp(layer, self.into_mlp[layer] + shifts)
        if direct:
            return self._metric(self.pre[-1] + wrote)
        return self._after(layer, wrote, through_mlp=place is not None)

    @torch.no_grad()
    def through_mlps(self, reader: int, writers: Sequence[int]) -> Float[Tensor, "candidates batch pos d_model"]:
        """How much ``reader`` takes in beside the run when each writer is replaced: over its edge and over MLPs.

        MLPs between writer and reader work out what they make of the change; heads keep what they wrote.
        """
        name = self.graph.readers[reader]
        upto = layer_of(name.partition("<")[0])
        stop = self.graph.n_layers if upto is None else upto
        shifts = -self.changes[list(writers)]
        for layer in range(stop):
            before = self.graph.writers_before_mlp(layer) if self.graph.has_mlp else 0
            earlier = [i for i, writer in enumerate(writers) if writer < before]
            if earlier:
                shifts[earlier] += self._mlp(layer, self.into_mlp[layer] + shifts[earlier])
        return shifts

    def _head(self, layer: int, head: int, part: str, x: Tensor) -> Tensor:
        """Change of what a head writes [candidate batch pos d_model] when its ``part`` reads ``x`` instead."""
        block, c = self.model.blocks[layer], len(x)
        attn, here = block.attn, self.rows.positions(c, layer)
        made = {}
        for key, linear in (("q", attn.q), ("k", attn.k), ("v", attn.v)):
            n, read = (c, x.flatten(0, 1)) if key == part else (1, self.pre[layer])
            normed = block.ln1(read)
            normed = normed if key == "v" else self.rows.positions(n, layer).beside(normed)
            made[key] = project(attn, linear, [head], normed[None]).repeat(c // n, 1, 1, 1)
        z = attn.attend(*attn.place(made["q"], made["k"], here), made["v"], here)[:, :, 0]
        dz = split(z, c) - self.outputs.z[layer][:, :, head]
        wrote: Tensor = dz @ attn.W_O[head]
        return wrote

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        """Change of what an MLP writes when it reads ``x`` [candidate batch pos d_model]."""
        return stream.mlp_output(self.model.blocks[layer], x) - self.outputs.mlp[layer]

    def _after(self, layer: int, wrote: Tensor, through_mlp: bool) -> Float[Tensor, "candidates batch"]:
        """The metric when a block writes ``wrote`` more; from its attention, then the MLP behind it reads that too."""
        after, is_last = self.pre[layer + 1], layer + 1 == self.graph.n_layers
        feeds = through_mlp and self.graph.has_mlp and not self.graph.parallel
        into_mlp = [self.into_mlp[layer], self.outputs.mlp[layer]] if feeds else []
        if is_last:  # only what is answered from counts any more
            wrote, after = self.rows.read(wrote), self.rows.read(after)
            into_mlp = [self.rows.read(x) for x in into_mlp]
        resid = after + wrote
        if into_mlp:
            resid += stream.mlp_output(self.model.blocks[layer], into_mlp[0] + wrote) - into_mlp[1]
        if is_last:
            return self.rows.scores(self.rows.answers(resid))
        c = len(resid)
        end: Tensor = self.model(
            resid.flatten(0, 1),
            attention_mask=self.rows.mask(c),
            start_at_layer=layer + 1,
            stop_at_layer=self.graph.n_layers,
        )
        return self._metric(split(end, c))

    def _metric(self, resid: Float[Tensor, "candidates batch pos d_model"]) -> Float[Tensor, "candidates batch"]:
        return self.rows.scores(self.rows.answers(self.rows.read(resid)))


def one_edge_off(graph: Graph, reader: int, writers: Sequence[int]) -> Bool[Tensor, "candidates writers readers"]:
    """Circuits of all edges but one: from each of ``writers`` to ``reader``."""
    masks = graph.mask.repeat(len(writers), 1, 1)
    masks[torch.arange(len(writers)), torch.tensor(list(writers)), reader] = False
    return masks


__all__ = [
    "ModelRun",
    "Repeated",
    "ablated_streams",
    "candidates_that_fit",
    "is_plain",
    "one_edge_off",
    "project",
    "split",
]
