"""What every writer gives straight to every reader, and how much that is worth there.

A source's parts go down the residual stream alone: nothing that a head or an MLP makes of them is passed on. At each
head they are decomposed as its queries', its keys' or its values' input and nothing else, at each MLP as its input, by
the rule. What comes out of the reader is weighed by what a change of the reader's output is worth (its ``weights``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.baselines import Baseline
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.propagate import Prompts, Source, Sweep
from workbench.circuits.decomposition.rules import Rule
from workbench.circuits.graph import Graph


class Direct(Sweep):
    """Scores the edges from some writers to every reader but the logits.

    Args:
        rule, prompts, sources, baseline: as for :class:`Sweep`.
        graph: the model's graph.
        z_weights: a layer: [batch, pos, head, d_head] what a change of a head's output is worth.
        mlp_weights: a layer: [batch, pos, d_model].

    Attributes:
        scores: [source, readers], the sources in their order of computation, summed over prompts.
    """

    def __init__(
        self,
        rule: Rule,
        prompts: Prompts,
        sources: Sequence[Source],
        baseline: Baseline,
        graph: Graph,
        z_weights: Sequence[Float[Tensor, "batch pos head d_head"]],
        mlp_weights: Sequence[Float[Tensor, "batch pos d_model"]],
    ) -> None:
        super().__init__(rule, prompts, sources, baseline)
        self.graph, self.z_weights, self.mlp_weights = graph, z_weights, mlp_weights
        self.scores = torch.zeros(len(sources), len(graph.readers), dtype=torch.float64)

    def heads(self, layer: int, read: Parts, note: Callable[[str, Parts], Parts]) -> Parts:  # noqa: ARG002
        """Score the edges into a layer's queries, keys and values; only totals go on."""
        attn, positions = self.model.blocks[layer].attn, self.prompts.positions[layer]
        q, k, v = flow.project(self.rule, read, attn, positions)
        start, n = self.graph.attention_readers(layer).start, self.graph.n_heads
        total = q
        for part, slot in enumerate("qkv"):
            only_q, only_k, only_v = (
                kept if name == slot else kept.still() for name, kept in (("q", q), ("k", k), ("v", v))
            )
            z = flow.mix(self.rule, only_q, only_k, only_v, read, attn, positions)
            worth = torch.einsum("sbphe,bphe->sh", z.relevant, self.z_weights[layer])
            self.scores[: len(worth), start + part * n : start + (part + 1) * n] += worth.double().cpu()
            total = z
        return total.still()

    def mlp(self, layer: int, read: Parts) -> Parts:
        """Score the edges into an MLP; only totals go on."""
        fed = super().mlp(layer, read)
        worth = torch.einsum("sbpd,bpd->s", fed.relevant, self.mlp_weights[layer])
        self.scores[: len(worth), self.graph.mlp_reader(layer)] += worth.double().cpu()
        return fed.still()
