"""A compiled model and an ordinary transformer that is to have its circuit: which part stands for which, and losses.

Each head and MLP of the compiled model (the *high* level) stands at the same layer and index in the transformer (the
*low* level). Edges have the same names in both, so that one mask chooses edges in either.

Source: Gupta et al. 2024, *InterpBench*, arXiv 2407.14494, section 3 (strict interchange intervention training). There,
what is interchanged are nodes. Here half of the interventions are on single edges, and half of the strict ones on edges
too, so that what is known of the model is a circuit of edges and not of nodes alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Circuit, Graph
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.siit.interchange import interchanged, outputs
from workbench.models import ModelConfig, Transformer

Kind = Literal["nodes", "edges", "other nodes", "other edges", "all other nodes", "all other edges"]
Masks = Bool[Tensor, "batch writer reader"]
Batch = tuple[Tensor, ...]

TOLERANCE = 0.05
"""How far a numerical answer may be off to count as right."""

_CLEAR = 0.25  # the lead of the high level's best logit below which it has no answer: two values are averaged
_NUMBER_WEIGHT = 10.0  # of the squared error of numbers between -1 and 1, beside cross-entropies of a few nats


@dataclass(frozen=True, eq=False)
class Pair:
    """The high level, and the size of the low level.

    Attributes:
        high: the compiled model.
        ratio: how many times narrower the residual stream of the low level is.
        one_by_one: half of the interchanges of edges are of one edge alone. Where several ways could bring the same,
            as to the name mover of the simple IOI, sets of edges leave the model free to use them all.
    """

    high: Compiled
    ratio: float = 1.0
    one_by_one: bool = False

    @property
    def config(self) -> ModelConfig:
        """Sizes of the low level: at least 4 heads and 2 layers, GELU, an MLP of 4 times the width."""
        cfg = self.high.model.cfg
        heads = max(4, cfg.n_heads)
        d_head = max(4, round(cfg.d_model / self.ratio / heads))
        return ModelConfig(
            family="siit",
            n_layers=max(2, cfg.n_layers),
            n_heads=heads,
            n_key_value_heads=heads,
            d_model=heads * d_head,
            d_head=d_head,
            d_mlp=4 * heads * d_head,
            d_vocab=cfg.d_vocab,
            n_ctx=cfg.n_ctx,
            norm="layer",
            norm_eps=1e-5,
            act_fn="gelu",
            gated_mlp=False,
            positions="learned",
            attn_scale=d_head**-0.5,
            attn_bias=True,
            out_bias=True,
            mlp_bias=True,
            tied=False,
            unembed_bias=True,
            causal=cfg.causal,
            d_vocab_out=cfg.d_vocab_out,
        )

    @cached_property
    def true_edges(self) -> set[str]:
        """The circuit of both: edges over which something depends on the tokens; all inputs have one length."""
        return set(self.high.edges.of_tokens)

    @cached_property
    def graph(self) -> Graph:
        """The edge graph of the low level."""
        cfg = self.config
        return Graph(cfg.n_layers, cfg.n_heads)

    @cached_property
    def nodes(self) -> list[str]:
        """Heads and MLPs of the circuit."""
        writers = {edge.partition("->")[0] for edge in self.true_edges} - {"input"}
        return [name for name in self.graph.writers if name in writers]

    @cached_property
    def others(self) -> list[str]:
        """Heads and MLPs of the low level that are not in the circuit."""
        return [name for name in self.graph.writers if name not in (*self.nodes, "input")]

    def inputs(self, n: int, source: random.Random) -> Int[Tensor, "n pos"]:
        """Random inputs of the longest length."""
        return self.high.encode([self.high.draw(source) for _ in range(n)])

    def masks(self, kind: Kind, n: int, generator: torch.Generator) -> tuple[Masks, Masks]:
        """Which edges of ``n`` examples are interchanged, in the high and in the low level.

        ``nodes``: all edges out of one node of the circuit. ``edges``: some edges of the circuit. ``other nodes``: all
        out of one node outside, or of every such. ``other edges``: some edges outside, or all of them.
        """
        low, high = self.graph, graph_of(self.high.model)
        chosen = {graph: torch.zeros(n, *graph.mask.shape, dtype=torch.bool) for graph in (low, high)}
        outside = low.mask & ~Circuit.from_edges(low, self.true_edges).mask
        if kind in ("nodes", "other nodes"):
            names = self.nodes if kind == "nodes" else self.others
            pick = torch.randint(len(names), (n,), generator=generator)
            for i, name in enumerate(names):
                for graph in (low, high) if kind == "nodes" else (low,):
                    row = graph.writer_index[name]
                    chosen[graph][pick == i, row] = graph.mask[row]
        elif kind == "edges":
            share = 0.6 * torch.rand(n, 1, generator=generator)
            drawn = torch.rand(n, len(self.true_edges), generator=generator) < share
            if self.one_by_one:
                pick = torch.randint(len(self.true_edges), (n,), generator=generator)
                drawn[::2] = F.one_hot(pick, len(self.true_edges))[::2].bool()
            for i, name in enumerate(sorted(self.true_edges)):
                for graph in (low, high):
                    row, column = graph.edge(name)
                    chosen[graph][:, row, column] = drawn[:, i]
        elif kind == "other edges":
            share = torch.rand(n, 1, 1, generator=generator).sqrt()
            chosen[low] = (torch.rand(chosen[low].shape, generator=generator) < share) & outside
        elif kind == "all other nodes":
            rows = [low.writer_index[name] for name in self.others]
            chosen[low][:, rows] = low.mask[rows]
        else:
            chosen[low] = outside.expand_as(chosen[low]).clone()
        return chosen[high], chosen[low]

    def batches(self, batch: int, generator: torch.Generator) -> Iterator[Batch]:
        """Inputs, the inputs that they are paired with, and the edges that are interchanged, without end.

        A quarter of each batch has one node of the circuit interchanged, a quarter some of its edges, a quarter a node
        outside, a quarter edges outside; of the last a quarter have all edges outside interchanged.
        """
        source = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        n, rest = batch // 4, batch - 3 * (batch // 4)
        sizes: list[tuple[Kind, int]] = [
            ("nodes", n),
            ("edges", n),
            ("other nodes", n),
            ("other edges", rest - rest // 4),
            ("all other edges", rest // 4),
        ]
        while True:
            base, other = self.inputs(batch, source), self.inputs(batch, source)
            drawn = [self.masks(kind, size, generator) for kind, size in sizes]
            yield base, other, torch.cat([high for high, _ in drawn]), torch.cat([low for _, low in drawn])

    def loss(self, model: Transformer, batch: Batch) -> Tensor:
        """Behaviour, interchange and strict loss, with weight 1 each, in nats (squares for a numerical program).

        An example whose high level has nothing interchanged must answer as if nothing were in the low level either:
        that is the strict loss, and the interchange loss with an empty set.
        """
        base, other, high, low = batch
        with torch.no_grad():
            plain, _ = outputs(self.high.model, base)
            _, written = outputs(self.high.model, other)
            wanted, _ = interchanged(self.high.model, base, written, high)
        said, _ = outputs(model, base)
        _, own = outputs(model, other)
        patched, _ = interchanged(model, base, own, low)
        half = len(base) // 4 * 2
        parts = [(said, plain), (patched[:half], wanted[:half]), (patched[half:], wanted[half:])]
        return torch.stack([self._loss(*part) for part in parts]).sum()

    def _loss(self, said: Tensor, wanted: Tensor) -> Tensor:
        said, wanted = said[:, 1:], wanted[:, 1:]  # nothing is asked of the token in front
        if self.high.output.numerical:
            return _NUMBER_WEIGHT * F.mse_loss(said, wanted)
        clear = _clear(wanted)
        return F.cross_entropy(said[clear], wanted[clear].argmax(-1))

    def same(
        self, said: Float[Tensor, "batch pos out"], wanted: Float[Tensor, "batch pos out"]
    ) -> Bool[Tensor, " answers"]:
        """Whether answers agree, at every position but the first at which the wanted one is clear."""
        said, wanted = said[:, 1:], wanted[:, 1:]
        if self.high.output.numerical:
            return ((said - wanted).abs() <= TOLERANCE).flatten()
        clear = _clear(wanted)
        return said[clear].argmax(-1) == wanted[clear].argmax(-1)


def _clear(logits: Tensor) -> Bool[Tensor, "batch pos"]:
    """Where the high level has an answer: one value, not the average of two."""
    best = logits.topk(2, -1).values
    return best[..., 0] - best[..., 1] > _CLEAR
