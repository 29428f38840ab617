"""The slow, obvious way to patch encoders, vision transformers, Gemma and parallel models: on Hugging Face's modules.

One residual stream for every reader, built up from the embedding sublayer by sublayer with the model's own norms, and
attention head by head from its definition. ``mix(writer, reader, output)`` says what a reader gets of a writer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.circuits import Graph, Task

Mix = Callable[[int, int, Tensor], Tensor]


class Reference:
    """A model of one family, cut into writers and readers; each family below says what it does differently."""

    parallel = False
    causal = False

    def __init__(self, hf: Any) -> None:
        self.hf = hf.requires_grad_(False)
        c = hf.config
        self.body = getattr(hf, hf.base_model_prefix, hf)
        self.heads = c.num_attention_heads
        self.groups = getattr(c, "num_key_value_heads", None) or self.heads
        self.d_head = getattr(c, "head_dim", None) or c.hidden_size // self.heads
        self.scale = self.d_head**-0.5
        self.layers: Any = self.body.layers if hasattr(self.body, "layers") else self.body.encoder.layer
        self.graph = Graph(len(self.layers), self.heads, parallel=self.parallel)

    # What a family has: the parts of its block.

    def embed(self, inputs: Tensor) -> Tensor:
        return self.body.embeddings(inputs)

    def projections(self, layer: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        a = self.layers[layer].attention
        return a.q_proj, a.k_proj, a.v_proj, a.o_proj

    def read(self, layer: int, x: Tensor) -> Tensor:
        """What attention makes of its stream before it projects."""
        raise NotImplementedError

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        raise NotImplementedError

    def add_heads(self, layer: int, x: Tensor, heads: Tensor) -> Tensor:
        return x + heads

    def add_mlp(self, layer: int, x: Tensor, fed: Tensor) -> Tensor:
        return x + fed

    def answer(self, x: Tensor, task: Task) -> Tensor:
        raise NotImplementedError

    def turn(self, x: Tensor) -> Tensor:
        return x

    def cap(self, scores: Tensor) -> Tensor:
        return scores

    def window(self, layer: int) -> int | None:
        return None

    def factor(self, layer: int) -> Tensor | float:
        """Layer scale: what each number that attention writes is multiplied with."""
        return 1.0

    # The run.

    def run(self, task: Task, mix: Mix, side: str = "clean") -> tuple[Tensor, list[Tensor]]:
        """(what the task scores, every writer's output)."""
        self.real = torch.arange(int(task.lengths.max())) < task.lengths[:, None]
        outputs = [self.embed(getattr(task, side))]
        g = self.graph
        for layer in range(len(self.layers)):
            first = g.attention_readers(layer).start
            streams = [self.stream(layer, False, first + i, outputs, mix) for i in range(3 * self.heads)]
            heads = [self.head(layer, h, *streams[h :: self.heads]) for h in range(self.heads)]
            before = outputs if self.parallel else outputs + heads
            fed = self.mlp(layer, self.stream(layer, not self.parallel, g.mlp_reader(layer), before, mix))
            outputs = [*outputs, *heads, fed]
        final = self.stream(len(self.layers), False, len(g.readers) - 1, outputs, mix)
        return self.answer(final, task), outputs

    def stream(self, layer: int, behind_attention: bool, reader: int, outputs: list[Tensor], mix: Mix) -> Tensor:
        x = mix(0, reader, outputs[0])
        writer = 1
        for below in range(layer + behind_attention):
            bias = self.projections(below)[3].bias
            heads = torch.zeros_like(x) if bias is None else (bias * self.factor(below)).expand_as(x)
            for _ in range(self.heads):
                heads = heads + mix(writer, reader, outputs[writer])
                writer += 1
            x = self.add_heads(below, x, heads)
            if below < layer:
                x = self.add_mlp(below, x, mix(writer, reader, outputs[writer]))
                writer += 1
        return x

    def head(self, layer: int, head: int, q_in: Tensor, k_in: Tensor, v_in: Tensor) -> Tensor:
        e, group = self.d_head, head // (self.heads // self.groups)
        to_q, to_k, to_v, out = self.projections(layer)
        q = self.turn(to_q(self.read(layer, q_in))[..., head * e : (head + 1) * e])
        k = self.turn(to_k(self.read(layer, k_in))[..., group * e : (group + 1) * e])
        v = to_v(self.read(layer, v_in))[..., group * e : (group + 1) * e]
        scores = self.cap(q @ k.transpose(1, 2) * self.scale)
        n = scores.shape[-1]
        back = torch.arange(n)[:, None] - torch.arange(n)
        seen = back >= 0 if self.causal else torch.ones(n, n, dtype=torch.bool)
        if self.window(layer) is not None:
            seen = seen & (back < self.window(layer))
        pattern = scores.masked_fill(~(seen & self.real[:, None, :]), -torch.inf).softmax(-1)
        return pattern @ v @ out.weight[:, head * e : (head + 1) * e].T * self.factor(layer)


class Bert(Reference):
    """BERT and RoBERTa with a head: a norm behind each sum."""

    def projections(self, layer: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        a = self.layers[layer].attention
        return a.self.query, a.self.key, a.self.value, a.output.dense

    def read(self, layer: int, x: Tensor) -> Tensor:
        return x

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.output.dense(block.intermediate(x))

    def add_heads(self, layer: int, x: Tensor, heads: Tensor) -> Tensor:
        return self.layers[layer].attention.output.LayerNorm(x + heads)

    def add_mlp(self, layer: int, x: Tensor, fed: Tensor) -> Tensor:
        return self.layers[layer].output.LayerNorm(x + fed)

    def answer(self, x: Tensor, task: Task) -> Tensor:
        if hasattr(self.hf, "cls"):
            return self.hf.cls(x)[torch.arange(len(x)), task.last]
        if hasattr(self.hf, "lm_head"):
            return self.hf.lm_head(x)[torch.arange(len(x)), task.last]
        if hasattr(self.hf, "classifier"):
            return self.hf.classifier(x) if self.body.pooler is None else self.hf.classifier(self.body.pooler(x))
        return x


class Vit(Reference):
    """ViT with a classifier on its first token."""

    def read(self, layer: int, x: Tensor) -> Tensor:
        return self.layers[layer].layernorm_before(x)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.mlp(block.layernorm_after(x))

    def answer(self, x: Tensor, task: Task) -> Tensor:
        return self.hf.classifier(self.body.layernorm(x)[:, 0])


class Dino(Reference):
    """DINOv2 with registers: layer scale, a classifier on the first token beside the mean of the patches."""

    def read(self, layer: int, x: Tensor) -> Tensor:
        return self.layers[layer].norm1(x)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.layer_scale2(block.mlp(block.norm2(x)))

    def factor(self, layer: int) -> Tensor:
        return self.layers[layer].layer_scale1.lambda1

    def answer(self, x: Tensor, task: Task) -> Tensor:
        normed = self.body.layernorm(x)
        patches = normed[:, 1 + self.hf.config.num_register_tokens :]
        return self.hf.classifier(torch.cat((normed[:, 0], patches.mean(1)), -1))


class Decoder(Reference):
    """What Gemma 2 and Phi share: rotary positions, causality, logits at the last token."""

    causal = True

    def embed(self, inputs: Tensor) -> Tensor:
        return self.body.embed_tokens(inputs)

    def turn(self, x: Tensor) -> Tensor:
        cos, sin = self.body.rotary_emb(x, torch.arange(x.shape[1])[None])
        turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        left, right = turned.chunk(2, -1)
        return torch.cat((turned * cos + torch.cat((-right, left), -1) * sin, rest), -1)


class Gemma2(Decoder):
    """A norm on what the heads add up to and on what the MLP wrote, the latter being the MLP's own."""

    def __init__(self, hf: Any) -> None:
        super().__init__(hf)
        self.scale = hf.config.query_pre_attn_scalar**-0.5

    def projections(self, layer: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        a = self.layers[layer].self_attn
        return a.q_proj, a.k_proj, a.v_proj, a.o_proj

    def read(self, layer: int, x: Tensor) -> Tensor:
        return self.layers[layer].input_layernorm(x)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(x)))

    def add_heads(self, layer: int, x: Tensor, heads: Tensor) -> Tensor:
        return x + self.layers[layer].post_attention_layernorm(heads)

    def cap(self, scores: Tensor) -> Tensor:
        cap = self.hf.config.attn_logit_softcapping
        return torch.tanh(scores / cap) * cap

    def window(self, layer: int) -> int | None:
        return self.layers[layer].self_attn.sliding_window

    def answer(self, x: Tensor, task: Task) -> Tensor:
        logits = self.hf.lm_head(self.body.norm(x))[torch.arange(len(x)), task.last]
        cap = self.hf.config.final_logit_softcapping
        return torch.tanh(logits / cap) * cap


class Phi(Decoder):
    """Attention and MLP read the same stream, through one norm."""

    parallel = True

    def projections(self, layer: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        a = self.layers[layer].self_attn
        return a.q_proj, a.k_proj, a.v_proj, a.dense

    def read(self, layer: int, x: Tensor) -> Tensor:
        return self.layers[layer].input_layernorm(x)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.layers[layer]
        return block.mlp(block.input_layernorm(x))

    def answer(self, x: Tensor, task: Task) -> Tensor:
        return self.hf.lm_head(self.body.final_layernorm(x))[torch.arange(len(x)), task.last]


KINDS: dict[str, type[Reference]] = {
    "bert-masked": Bert,
    "bert-classes": Bert,
    "roberta-masked": Bert,
    "roberta-classes": Bert,
    "bert": Bert,
    "vit-classes": Vit,
    "dinov2-registers-classes": Dino,
    "gemma2": Gemma2,
    "phi": Phi,
}
"""Samples of Hugging Face models, and what patches them."""


def as_it_is(writer: int, reader: int, output: Tensor) -> Tensor:
    """The mix of the unpatched model."""
    return output


def edge_attribution(
    reference: Reference, task: Task, ablated: list[Tensor], frozen: Callable[[], Any] | None = None
) -> Tensor:
    """EAP by autograd with a leaf on every edge: [writer, reader], summed over the batch; clean - ablated."""
    edges = reference.graph.mask.nonzero().tolist()
    with torch.no_grad():
        _, clean = reference.run(task, as_it_is)
    leaves = {(w, r): torch.zeros_like(clean[0]).requires_grad_() for w, r in edges}
    answer, _ = reference.run(task, lambda w, r, output: output + leaves[w, r])
    gradients = torch.autograd.grad(task.score(answer).sum(), list(leaves.values()))
    scores = torch.zeros(reference.graph.mask.shape, dtype=clean[0].dtype)
    for (w, r), gradient in zip(edges, gradients, strict=True):
        scores[w, r] = ((clean[w] - ablated[w]) * gradient).sum()
    return scores


@torch.no_grad()
def patched(reference: Reference, task: Task, ablated: list[Tensor], mask: Tensor) -> Tensor:
    """What the task scores when the edges in ``mask`` carry the run and all others the ablated outputs."""
    return reference.run(task, lambda w, r, output: output if mask[w, r] else ablated[w].expand_as(output))[0]
