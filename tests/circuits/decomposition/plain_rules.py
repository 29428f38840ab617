"""The rules ``shapley`` and ``paper`` number by number in numpy, from their formulas, for small GPT-2s and LLaMAs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
TINY = 1e-8


@dataclass
class Pair:
    """What is relevant and what is not, in float64."""

    b: Array
    g: Array

    @property
    def x(self) -> Array:
        return self.b + self.g


def new_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def share(pair: Pair) -> Array:
    return abs(pair.b) / (abs(pair.b) + abs(pair.g) + TINY)


class PlainRules:
    """One prompt through one model."""

    def __init__(self, hf: Any, rule: str) -> None:
        self.c, self.shapley = hf.config, rule == "shapley"
        self.weights = {name: p.detach().double().numpy() for name, p in hf.named_parameters()}
        self.kind = self.c.model_type
        self.heads = self.c.num_attention_heads
        self.e = self.c.hidden_size // self.heads

    def run(self, tokens: list[int], positions: list[int], head: tuple[int, int] | None = None) -> Array:
        """Relevant logits [pos, vocab] of what enters at these positions, or of one head's output there."""
        w = self.weights
        table = w["transformer.wte.weight" if self.kind == "gpt2" else "model.embed_tokens.weight"]
        x = table[tokens]
        if self.kind == "gpt2":
            x = x + w["transformer.wpe.weight"][: len(tokens)]
        mask = np.isin(np.arange(len(tokens)), positions)[:, None]
        pair = Pair(np.zeros_like(x), x) if head is not None else Pair(x * mask, x * ~mask)
        for layer in range(self.c.num_hidden_layers):
            pair = self.block(pair, layer, mask, None if head is None or head[0] != layer else head[1])
        final = "transformer.ln_f" if self.kind == "gpt2" else "model.norm"
        pair = self.norm(pair, final)
        unembed = w.get("lm_head.weight", table)
        return pair.b @ unembed.T

    def block(self, x: Pair, layer: int, mask: Array, head: int | None) -> Pair:
        gpt2 = self.kind == "gpt2"
        name = f"transformer.h.{layer}" if gpt2 else f"model.layers.{layer}"
        normed = self.norm(x, f"{name}.ln_1" if gpt2 else f"{name}.input_layernorm")
        q, k, v = self.projections(normed, name)
        z = self.attention(q, k, v)
        if head is not None:
            one = slice(head * self.e, (head + 1) * self.e)
            total = z.x
            z.b[:, one] = np.where(mask, total[:, one], z.b[:, one])
            z.g = total - z.b
        written = self.linear(z, f"{name}.attn.c_proj" if gpt2 else f"{name}.self_attn.o_proj")
        mid = Pair(x.b + written.b, x.g + written.g)
        read = self.norm(mid, f"{name}.ln_2" if gpt2 else f"{name}.post_attention_layernorm")
        if gpt2:
            post = self.function(self.linear(read, f"{name}.mlp.c_fc"), new_gelu)
            fed = self.linear(post, f"{name}.mlp.c_proj")
        else:
            gate = self.function(self.linear(read, f"{name}.mlp.gate_proj"), silu)
            fed = self.linear(self.product(gate, self.linear(read, f"{name}.mlp.up_proj")), f"{name}.mlp.down_proj")
        return Pair(mid.b + fed.b, mid.g + fed.g)

    def projections(self, x: Pair, name: str) -> tuple[Pair, Pair, Pair]:
        if self.kind == "gpt2":
            all_three = self.linear(x, f"{name}.attn.c_attn")
            parts = [Pair(b, g) for b, g in zip(np.split(all_three.b, 3, 1), np.split(all_three.g, 3, 1), strict=True)]
            return parts[0], parts[1], parts[2]
        q, k, v = (self.linear(x, f"{name}.self_attn.{part}_proj") for part in "qkv")
        return self.turn(q), self.turn(k), v

    def turn(self, x: Pair) -> Pair:
        """Rotary positions."""

        def turned(a: Array) -> Array:
            out, half = a.copy(), self.e // 2
            for at in range(len(a)):
                for start in range(0, a.shape[1], self.e):
                    for i in range(half):
                        angle = at * 10_000.0 ** (-2 * i / self.e)
                        left, right = a[at, start + i], a[at, start + half + i]
                        out[at, start + i] = left * math.cos(angle) - right * math.sin(angle)
                        out[at, start + half + i] = right * math.cos(angle) + left * math.sin(angle)
            return out

        return Pair(turned(x.b), turned(x.g))

    def attention(self, q: Pair, k: Pair, v: Pair) -> Pair:
        out = Pair(np.zeros_like(q.b), np.zeros_like(q.g))
        group = self.heads // (k.b.shape[1] // self.e)
        for h in range(self.heads):
            mine, shared = slice(h * self.e, (h + 1) * self.e), slice(h // group * self.e, (h // group + 1) * self.e)
            for i in range(len(q.b)):
                seen = slice(0, i + 1)
                scores = self.dot(
                    Pair(q.b[i, mine], q.g[i, mine]), Pair(k.b[seen, shared].T, k.g[seen, shared].T), self.e**-0.5
                )
                pattern = self.pattern(scores)
                mixed = self.dot(pattern, Pair(v.b[seen, shared], v.g[seen, shared]), 1.0)
                out.b[i, mine], out.g[i, mine] = mixed.b, mixed.g
        return out

    def pattern(self, scores: Pair) -> Pair:
        whole = softmax(scores.x)
        if self.shapley:
            b = 0.5 * (softmax(scores.b) - softmax(0 * scores.b) + whole - softmax(scores.g))
        else:
            b = softmax(scores.b)
        return Pair(b, whole - b)

    def dot(self, left: Pair, right: Pair, factor: float) -> Pair:
        bb, bg, gb, gg = (a @ c * factor for a in (left.b, left.g) for c in (right.b, right.g))
        return Pair(bb + (bg + gb) / 2, gg + (bg + gb) / 2) if self.shapley else Pair(bb, bg + gb + gg)

    def product(self, left: Pair, right: Pair) -> Pair:
        bb, bg, gb, gg = (a * c for a in (left.b, left.g) for c in (right.b, right.g))
        return Pair(bb + (bg + gb) / 2, gg + (bg + gb) / 2) if self.shapley else Pair(bb, bg + gb + gg)

    def function(self, x: Pair, f: Callable[[Array], Array]) -> Pair:
        last = f(x.x) - f(x.g)
        b = 0.5 * (f(x.b) - f(0 * x.b) + last) if self.shapley else last
        return Pair(b, f(x.x) - b)

    def linear(self, x: Pair, name: str) -> Pair:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        weight = weight if self.kind == "gpt2" else weight.T
        moved = Pair(x.b @ weight, x.g @ weight)
        if bias is None:
            return moved
        part = 0 * bias if self.shapley else bias * share(moved)
        return Pair(moved.b + part, moved.g + bias - part)

    def norm(self, x: Pair, name: str) -> Pair:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias", 0.0)
        centred = self.kind == "gpt2"
        eps = self.c.layer_norm_epsilon if centred else self.c.rms_norm_eps

        def centre(a: Array) -> Array:
            return a - a.mean(-1, keepdims=True) if centred else a

        def scale(a: Array) -> Array:
            return np.sqrt((centre(a) ** 2).mean(-1, keepdims=True) + eps)

        def apply(a: Array) -> Array:
            return centre(a) / scale(a) * weight + bias

        held = centre(x.b) / scale(x.x) * weight
        b = (held + apply(x.x) - apply(x.g)) / 2 if self.shapley else held + bias * share(x)
        return Pair(b, apply(x.x) - b)
