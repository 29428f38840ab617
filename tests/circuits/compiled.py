"""Compiled programs run by their weights alone, with edges patched one at a time: slow, plain, and not our model.

Every reader gets a residual stream of its own, the sum of what the writers before it wrote. A row of the batch may have
one edge patched: its reader then gets what the edge's writer wrote on another input.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workbench.circuits.known import Compiled, compile_program
from workbench.circuits.known.library import PROGRAMS, Program


@cache
def compiled(key: str) -> tuple[Program, Compiled]:
    program = next(program for program in PROGRAMS if program.key == key)
    model = compile_program(program.make(), program.vocab, program.max_len, program.causal, name=key, draw=program.draw)
    return program, model


class Plain:
    """The weights of a compiled model, and the plainest way to run them."""

    def __init__(self, model: Compiled) -> None:
        self.cfg, self.w = model.model.cfg, model.model.state_dict()

    def run(self, tokens: Tensor, other: dict[str, Tensor] | None = None, edges: Sequence[str] = ()) -> Any:
        """Logits [row, pos, out], and what writers wrote. Row i has edge i patched, from ``other``'s rows in turn."""
        stream = self.w["embed.weight"][tokens] + self.w["pos_embed.weight"][: tokens.shape[1]]
        wrote = {"input": stream}
        patched: dict[str, dict[str, list[int]]] = {}
        for row, edge in enumerate(edges):
            writer, _, reader = edge.partition("->")
            patched.setdefault(reader, {}).setdefault(writer, []).append(row)

        def take(reader: str) -> Tensor:
            own = stream.clone() if reader in patched else stream
            for writer, rows in patched.get(reader, {}).items():
                assert other is not None
                at = torch.tensor(rows)
                own[at] += other[writer][at % len(other[writer])] - wrote[writer][at]
            return own

        for layer in range(self.cfg.n_layers):
            names = [f"a{layer}.h{head}" for head in range(self.cfg.n_heads)]
            heads = [
                self.head(layer, head, *(take(f"{name}<{part}>") for part in "qkv")) for head, name in enumerate(names)
            ]
            wrote |= dict(zip(names, heads, strict=True))
            stream = stream + sum(heads)
            start = f"blocks.{layer}.mlp"
            hidden = (take(f"m{layer}") @ self.w[f"{start}.up.weight"].T).relu()
            wrote[f"m{layer}"] = hidden @ self.w[f"{start}.out.weight"].T
            stream = stream + wrote[f"m{layer}"]
        logits = take("logits") @ self.w["unembedding.weight"].T + self.w.get("unembedding.bias", 0)
        return logits, wrote

    def head(self, layer: int, head: int, *inputs: Tensor) -> Tensor:
        e = self.cfg.d_head
        q, k, v = (
            x @ self.w[f"blocks.{layer}.attn.{part}.weight"][head * e : (head + 1) * e].T
            for part, x in zip("qkv", inputs, strict=True)
        )
        scores = q @ k.transpose(1, 2)
        if self.cfg.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        return scores.softmax(-1) @ v @ self.w[f"blocks.{layer}.attn.o.weight"][:, head * e : (head + 1) * e].T


def pairs(program: Program, model: Compiled, n: int, length: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Clean tokens, other tokens that may be longer, and how many positions they share: inputs of one length each."""
    source = random.Random(seed)
    longer = source.randint(length, program.max_len)
    clean = model.encode([program.draw(source, length) for _ in range(n)])
    return clean, model.encode([program.draw(source, longer) for _ in range(n)]), length + 1


def changed(model: Compiled, patched: Tensor, clean: Tensor) -> Tensor:
    """Which rows give another output at some position that is no token of the compiler's own."""
    if model.output.numerical:
        return ((patched - clean).abs() > 1e-3)[:, 1:].flatten(1).any(1)
    return (patched.argmax(-1) != clean.argmax(-1))[:, 1:].any(1)


def edges_that_matter(
    program: Program, model: Compiled, edges: Sequence[str], n: int, length: int, seed: int
) -> set[str]:
    """Those of the edges whose patching changes an output for one of ``n`` pairs."""
    plain = Plain(model)
    clean, others, width = pairs(program, model, n, length, seed)
    logits, _ = plain.run(clean)
    outputs = {name: out[:, :width] for name, out in plain.run(others)[1].items()}
    found: set[str] = set()
    step = max(1, 20_000 // (n * width))
    for start in range(0, len(edges), step):
        some = edges[start : start + step]
        k = len(some)
        got, _ = plain.run(clean.repeat(k, 1), outputs, [edge for edge in some for _ in range(n)])
        hit = changed(model, got, logits.repeat(k, 1, 1)).view(k, n).any(1)
        found |= {edge for edge, is_hit in zip(some, hit.tolist(), strict=True) if is_hit}
    return found
