"""The obvious way to patch edges: every reader gets its own residual stream, summed from the writers' outputs.

Written on Hugging Face's weights, one head at a time, without our model: slow, plain, and independent of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from workbench.circuits.graph import Graph

Mix = Callable[[int, int, Tensor], Tensor]


class Reference:
    """Runs a Hugging Face GPT-2 or LLaMA with ``inputs[reader] = sum over writers of mix(writer, reader, output)``."""

    def __init__(self, hf: Any) -> None:
        self.hf, c = hf, hf.config
        self.gpt2 = c.model_type == "gpt2"
        self.layers = hf.transformer.h if self.gpt2 else hf.model.layers
        self.heads = c.n_head if self.gpt2 else c.num_attention_heads
        self.groups = c.n_head if self.gpt2 else c.num_key_value_heads
        self.d_head = (c.n_embd if self.gpt2 else c.hidden_size) // self.heads
        self.graph = Graph(len(self.layers), self.heads)

    def run(self, tokens: Tensor, mix: Mix) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """(logits at all positions, writers' outputs, readers' inputs)."""
        g, outputs, inputs = self.graph, [self.embed(tokens)], []

        def take(reader: int) -> Tensor:
            writers = [w for w in range(len(outputs)) if g.mask[w, reader]]
            # The output bias of earlier attentions belongs to no writer and always stays.
            total = sum((mix(w, reader, outputs[w]) for w in writers), self.biases(reader, outputs[0]))
            inputs.append(total)
            return total

        for layer in range(len(self.layers)):
            first = g.attention_readers(layer).start
            taken = [take(first + i) for i in range(3 * self.heads)]
            heads = [
                self.head(layer, h, *(taken[part * self.heads + h] for part in range(3))) for h in range(self.heads)
            ]
            outputs += heads
            outputs.append(self.mlp(layer, take(g.mlp_reader(layer))))
        final = take(len(g.readers) - 1)
        norm = self.hf.transformer.ln_f if self.gpt2 else self.hf.model.norm
        return self.hf.lm_head(norm(final)), outputs, inputs

    def embed(self, tokens: Tensor) -> Tensor:
        if self.gpt2:
            return self.hf.transformer.wte(tokens) + self.hf.transformer.wpe(torch.arange(tokens.shape[1]))
        return self.hf.model.embed_tokens(tokens)

    def biases(self, reader: int, like: Tensor) -> Tensor:
        name = self.graph.readers[reader]
        reached = len(self.layers)
        if name != "logits":
            layer = int(name[1:].split(".")[0])
            reached = layer + name.startswith("m")
        total = torch.zeros_like(like)
        for block in self.layers[:reached]:
            bias = block.attn.c_proj.bias if self.gpt2 else block.self_attn.o_proj.bias
            total = total if bias is None else total + bias
        return total

    def head(self, layer: int, head: int, q_in: Tensor, k_in: Tensor, v_in: Tensor) -> Tensor:
        block, e = self.layers[layer], self.d_head
        if self.gpt2:
            q, k, v = (
                block.attn.c_attn(block.ln_1(x)).chunk(3, -1)[i][..., head * e : (head + 1) * e]
                for i, x in enumerate((q_in, k_in, v_in))
            )
            output = block.attn.c_proj.weight[head * e : (head + 1) * e]
        else:
            a, norm = block.self_attn, block.input_layernorm
            group = head // (self.heads // self.groups)
            q = a.q_proj(norm(q_in))[..., head * e : (head + 1) * e]
            k = a.k_proj(norm(k_in))[..., group * e : (group + 1) * e]
            v = a.v_proj(norm(v_in))[..., group * e : (group + 1) * e]
            cos, sin = self.hf.model.rotary_emb(v, torch.arange(v.shape[1])[None])
            q, k = (x[:, 0] for x in apply_rotary_pos_emb(q[:, None], k[:, None], cos, sin))
            output = a.o_proj.weight[:, head * e : (head + 1) * e].T
        scores = q @ k.transpose(1, 2) / e**0.5
        n = scores.shape[-1]
        scores = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
        return scores.softmax(-1) @ v @ output

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.mlp(block.ln_2(x) if self.gpt2 else block.post_attention_layernorm(x))


def edge_attribution(hf: Any, clean: Tensor, corrupted: Tensor, metric: Callable[[Tensor], Tensor]) -> Tensor:
    """EAP by autograd on one residual stream per reader: [writer, reader], summed over the batch; clean - corrupted."""
    reference = Reference(hf)
    with torch.no_grad():
        _, ablated, _ = reference.run(corrupted, lambda w, r, out: out)
    start = reference.embed(clean).detach().requires_grad_()  # so that frozen weights do too
    logits, outputs, inputs = reference.run(clean, lambda w, r, out: start if w == 0 else out)
    gradients = torch.autograd.grad(metric(logits).sum(), inputs)
    scores = torch.zeros(reference.graph.mask.shape)
    for r, gradient in enumerate(gradients):
        writers = reference.graph.mask[:, r].nonzero().flatten().tolist()
        differences = torch.stack([outputs[w].detach() - ablated[w] for w in writers])
        scores[writers, r] = (differences * gradient).flatten(1).sum(1)
    return scores


def patched_logits(hf: Any, clean: Tensor, ablated: list[Tensor], mask: Tensor) -> Tensor:
    """Logits when the edges in ``mask`` carry the run and all others the ablated outputs."""
    with torch.no_grad():
        return Reference(hf).run(clean, lambda w, r, out: out if mask[w, r] else ablated[w].expand_as(out))[0]
