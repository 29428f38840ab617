"""What readers take in of writers of which they get shares, and the way back from a gradient there.

In a model whose streams are plain sums (:func:`workbench.circuits.stream.is_sum`) all readers of a layer are one
matrix product of the shares with the writers' changes, and so is the way back. Where norms lie between writers and
readers, the streams of a layer's readers are built up from the embedding, as in
:class:`workbench.circuits.patching.PatchedRun`, and autograd leads back through that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.graph import Graph
from workbench.circuits.patching import PatchedRun

Streams = Float[Tensor, "readers batch pos d_model"]


@dataclass(frozen=True)
class Place:
    """Readers that read at one height.

    Attributes:
        columns: their places on the graph's reader axis.
        layer: where they read: before the attention of this layer. The layer after the last is that of ``logits``.
        mlp: as the MLP of the layer does, which is behind the attention unless the block is parallel.
    """

    columns: slice
    layer: int
    mlp: bool = False

    def writers(self, graph: Graph) -> int:
        """How many writers they can read; they are the first ones."""
        return graph.writers_before_mlp(self.layer) if self.mlp else graph.writers_before_attention(self.layer)


@dataclass(frozen=True)
class Given:
    """What readers are given, or the gradients of that.

    Attributes:
        mask: [writer, reader] the share of each edge.
        changes: [writer, batch, pos, d_model] this run minus the ablated one, of every writer.
    """

    mask: Float[Tensor, "writers readers"]
    changes: Float[Tensor, "writers batch pos d_model"]


class Reading(Protocol):
    """How readers take in what they are given; ``kept`` is what it remembers of the ablated run."""

    kept: list[Tensor]

    def read(self, place: Place, given: Given) -> Streams:
        """The streams of some readers."""

    def pull(self, place: Place, pulled: Streams, given: Given, found: Given) -> None:
        """Put the gradients that follow from those at the streams into ``found``: set the mask's, add the changes'."""


class Sums:
    """Streams that are plain sums.

    Args:
        run: the ablated run.
        rest: takes the positions that are worked on.
    """

    def __init__(self, run: PatchedRun, rest: Callable[[Tensor], Tensor]) -> None:
        self.graph = run.graph
        self.resid_pre = [rest(x) for x in (*run.resid_pre, run.resid_final)]
        self.resid_mlp = [rest(x) for x in run.resid_mlp]
        self.kept = [*self.resid_pre, *self.resid_mlp]

    def read(self, place: Place, given: Given) -> Streams:
        """One matrix product."""
        resid = (self.resid_mlp if place.mlp else self.resid_pre)[place.layer]
        return _plus(resid, given.mask[: (n := place.writers(self.graph)), place.columns], given.changes[:n])

    def pull(self, place: Place, pulled: Streams, given: Given, found: Given) -> None:
        """Two matrix products."""
        n, flat = place.writers(self.graph), pulled.reshape(len(pulled), -1)
        found.mask[:n, place.columns] = given.changes[:n].view(n, -1) @ flat.T
        found.changes[:n].view(n, -1).addmm_(given.mask[:n, place.columns], flat)


class Normed:
    """Streams with norms on the way; arguments as of :class:`Sums`."""

    def __init__(self, run: PatchedRun, rest: Callable[[Tensor], Tensor]) -> None:
        self.graph, self.blocks = run.graph, run.model.blocks
        self.embed = rest(run.ablated.embed.expand_as(run.embed))
        self.attended, self.mlp = [[rest(x) for x in part] for part in (run.attended, run.ablated.mlp)]
        self.kept = [self.embed, *self.attended, *self.mlp]

    def read(self, place: Place, given: Given) -> Streams:
        """A matrix product and a norm for each sublayer below."""
        parts = self._parts(place)
        mask = [given.mask[part, place.columns] for part in parts]
        return self._build(place, mask, [given.changes[part] for part in parts])

    def pull(self, place: Place, pulled: Streams, given: Given, found: Given) -> None:
        """Autograd, which keeps a stream for each reader and sublayer: so a third of a layer's readers at a time."""
        parts, columns = self._parts(place), range(place.columns.start, place.columns.stop)
        for i in range(0, len(columns), self.graph.n_heads):
            some = columns[i : i + self.graph.n_heads]
            mask = [given.mask[part, some.start : some.stop].detach().requires_grad_() for part in parts]
            changes = [given.changes[part].detach().requires_grad_() for part in parts]
            with torch.enable_grad():
                x = self._build(place, mask, changes)
            gradients = torch.autograd.grad(x, [*mask, *changes], pulled[i : i + len(some)])
            for part, of_mask, of_changes in zip(parts, gradients, gradients[len(parts) :], strict=False):
                found.mask[part, some.start : some.stop] = of_mask
                found.changes[part] += of_changes

    def _parts(self, place: Place) -> list[slice]:
        """The writers below, sublayer by sublayer: the embedding, the heads of a layer, its MLP."""
        parts, graph = [slice(0, 1)], self.graph
        for layer in range(place.layer):
            parts.append(heads := graph.attention_writers(layer))
            if graph.has_mlp:
                parts.append(slice(heads.stop, heads.stop + 1))
        if place.mlp and not graph.parallel:
            parts.append(graph.attention_writers(place.layer))
        return parts

    def _build(self, place: Place, mask: list[Tensor], changes: list[Tensor]) -> Streams:
        """The streams, from the shares and the changes of each part of the writers below."""
        written = iter(zip(mask, changes, strict=True))
        x = _plus(self.embed, *next(written))
        for layer in range(place.layer):
            x = stream.after_attention(self.blocks[layer], x, _plus(self.attended[layer], *next(written)))
            if self.graph.has_mlp:
                x = stream.after_mlp(self.blocks[layer], x, _plus(self.mlp[layer], *next(written)))
        if place.mlp and not self.graph.parallel:
            x = stream.after_attention(self.blocks[place.layer], x, _plus(self.attended[place.layer], *next(written)))
        return x


def _plus(
    ablated: Float[Tensor, "batch pos d_model"],
    mask: Float[Tensor, "writers readers"],
    changes: Float[Tensor, "writers batch pos d_model"],
) -> Streams:
    """What is ablated plus each reader's shares of the writers' changes."""
    ablated = ablated.expand(changes.shape[1:])
    added = torch.addmm(ablated.reshape(1, -1), mask.T, changes.reshape(len(changes), -1))
    return added.view(-1, *ablated.shape)


__all__ = ["Given", "Normed", "Place", "Reading", "Sums"]
