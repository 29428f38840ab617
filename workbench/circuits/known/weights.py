"""The weights of a compiled model, put together from those of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.circuits.known.nodes import Head, Node, Units
from workbench.circuits.known.variables import BOS, ONE, Variable
from workbench.models import ModelConfig


@dataclass(frozen=True)
class Size:
    """How large a model is: layers, heads of a layer, width of the residual stream."""

    n_layers: int
    n_heads: int
    d_model: int

    def __str__(self) -> str:
        return f"{self.n_layers} layers of {self.n_heads} heads and width {self.d_model}"


def place(variables: Sequence[Variable]) -> list[str]:
    """Give every variable its dimensions, and return the labels of all."""
    labels = ["one", "tokens:compiler_bos"]
    for variable in variables:
        variable.start = len(labels)
        labels += variable.labels
    return labels


def assemble(
    nodes: Sequence[Node], size: Size, sources: Sequence[Variable], output: Variable, causal: bool
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights.

    Args:
        nodes: those that are computed, with their layers.
        size: of the model, at least what the nodes need.
        sources: tokens, indices, and what is the same at every position; the embedding writes them.
        output: what the logits read.
        causal: no query looks at a later key.
    """
    n_layers, n_heads, d = size.n_layers, size.n_heads, size.d_model
    heads = {(node.layer, node.head): node.make_head(d) for node in nodes if node.attends}
    units = [
        _joined([node.make_units(d) for node in nodes if node.has_mlp and node.layer == i], d) for i in range(n_layers)
    ]
    words, places = sources[:2]
    d_head = max((max(head.q.shape[0], head.v.shape[0]) for head in heads.values()), default=1)
    d_mlp = max(len(layer.into) for layer in units)
    cfg = ModelConfig(
        family="compiled",
        n_layers=n_layers,
        n_heads=n_heads,
        n_key_value_heads=n_heads,
        d_model=d,
        d_head=d_head,
        d_mlp=d_mlp,
        d_vocab=len(words.values) + 1,
        n_ctx=len(places.values) + 1,
        norm="none",
        norm_eps=1e-5,
        act_fn="relu",
        gated_mlp=False,
        positions="learned",
        attn_scale=1.0,
        tied=False,
        unembed_bias=output.optional,
        causal=causal,
        d_vocab_out=output.size + output.optional,
    )
    weights = _embedding(sources, d) | _unembedding(output, d)
    for i in range(n_layers):
        start = f"blocks.{i}"
        weights |= _attention(f"{start}.attn", [heads.get((i, h)) for h in range(n_heads)], d_head, d)
        weights[f"{start}.mlp.up.weight"] = _tall(units[i].into, d_mlp)
        weights[f"{start}.mlp.out.weight"] = _tall(units[i].out.T, d_mlp).T.contiguous()
    return cfg, weights


def _joined(parts: list[Units], d: int) -> Units:
    """Units side by side; one that does nothing where there are none."""
    parts = parts or [Units(torch.zeros(1, d), torch.zeros(d, 1))]
    return Units(torch.cat([part.into for part in parts]), torch.cat([part.out for part in parts], 1))


def _tall(x: Tensor, rows: int) -> Tensor:
    """With rows of zeros below."""
    return torch.cat([x, x.new_zeros(rows - len(x), x.shape[1])])


def _attention(name: str, heads: list[Head | None], d_head: int, d: int) -> dict[str, Tensor]:
    idle = Head(torch.zeros(0, d), torch.zeros(0, d), torch.zeros(0, d), torch.zeros(d, 0))
    found = [head or idle for head in heads]
    weights = {
        f"{name}.{part}.weight": torch.cat([_tall(getattr(head, part), d_head) for head in found]) for part in "qkv"
    }
    weights[f"{name}.o.weight"] = torch.cat([_tall(head.o.T, d_head) for head in found]).T.contiguous()
    return weights


def _embedding(sources: Sequence[Variable], d: int) -> dict[str, Tensor]:
    """One row a token, the first for the one that the compiler puts in front, which has no position."""
    words, places, *constants = sources
    embed, pos = torch.zeros(len(words.values) + 1, d), torch.zeros(len(places.values) + 1, d)
    embed[:, ONE] = 1
    embed[0, BOS] = 1
    for variable, table in ((words, embed), (places, pos)):
        each = torch.arange(len(variable.values))
        table[1 + each, variable.start + each] = 1
    for variable in constants:
        embed[1:, variable.start] = 1
    return {"embed.weight": embed, "pos_embed.weight": pos}


def _unembedding(output: Variable, d: int) -> dict[str, Tensor]:
    """A logit for each value; one more for None, which half of a dimension is enough to outdo."""
    weight = torch.zeros(output.size + output.optional, d)
    each = torch.arange(output.size)
    weight[each, output.start + each] = 1
    if not output.optional:
        return {"unembedding.weight": weight}
    bias = torch.zeros(len(weight))
    bias[-1] = 0.5
    return {"unembedding.weight": weight, "unembedding.bias": bias}
