"""The attribution methods by their definitions: autograd on Hugging Face weights, one residual stream per reader.

Built on :mod:`tests.reference`; slow, plain, without our model. Everything is summed over the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.reference import Mix, Reference
from workbench.circuits import Task

PARTS = "qkv"


def writers_of(ref: Reference, tokens: Tensor) -> list[Tensor]:
    """What every writer writes."""
    with torch.no_grad():
        return ref.run(tokens, lambda w, r, out: out)[1]


def reader_gradients(ref: Reference, task: Task, mix: Mix) -> list[Tensor | None]:
    """Gradient of the summed metric at every reader's own stream; None where the metric does not depend on it."""
    logits, _, inputs = ref.run(task.clean, mix)
    return list(torch.autograd.grad(task.metric(logits).sum(), inputs, allow_unused=True))


def starting_at(start: Tensor) -> Mix:
    """The run whose embedding is ``start``."""
    leaf = start.detach().requires_grad_()
    return lambda w, r, out: leaf if w == 0 else out


def scores_along(hf: Any, task: Task, points: Sequence[Tensor]) -> Tensor:
    """(clean - corrupted) . mean gradient over the runs that start at ``points``."""
    ref = Reference(hf)
    clean, corrupted = writers_of(ref, task.clean), writers_of(ref, task.corrupted)
    scores = torch.zeros(ref.graph.mask.shape)
    for start in points:
        gradients = reader_gradients(ref, task, starting_at(start))
        for w, r in ref.graph.mask.nonzero().tolist():
            scores[w, r] += ((clean[w] - corrupted[w]) * gradients[r]).sum() / len(points)
    return scores


def gradient_path(hf: Any, task: Task, steps: int) -> list[Tensor]:
    """Points of EAP-GP's path, each example by itself."""
    ref = Reference(hf)

    def answer(tokens: Tensor, start: Tensor, last: int) -> Tensor:
        return ref.run(tokens, lambda w, r, out: start if w == 0 else out)[0][0, last]

    rows = []
    for i, last in enumerate(task.last.tolist()):
        tokens = task.clean[i : i + 1]
        with torch.no_grad():
            aim = answer(tokens, ref.embed(task.corrupted[i : i + 1]), last)
        point, points = ref.embed(tokens).detach(), []
        for _ in range(steps):
            point = point.requires_grad_()
            (g,) = torch.autograd.grad(((answer(tokens, point, last) - aim) ** 2).sum(), point)
            point = (point - g / (g**2).sum().sqrt()).detach()
            points.append(point)
        rows.append(points)
    return [torch.cat([row[j] for row in rows]) for j in range(steps)]


def eap_ig_activations(hf: Any, task: Task, steps: int) -> Tensor:
    """Each group of writers moved by itself, from the corrupted to the clean output."""
    ref = Reference(hf)
    graph = ref.graph
    clean, corrupted = writers_of(ref, task.clean), writers_of(ref, task.corrupted)
    groups = [[0]]
    for layer in range(graph.n_layers):
        heads = graph.attention_writers(layer)
        groups += [list(range(heads.start, heads.stop)), [graph.mlp_writer(layer)]]
    scores = torch.zeros(graph.mask.shape)
    for group in groups:
        for k in range(1, steps + 1):
            leaves = {0: clean[0].clone().requires_grad_()}
            for w in group:
                leaves[w] = (corrupted[w] + k / steps * (clean[w] - corrupted[w])).requires_grad_()
            gradients = reader_gradients(ref, task, lambda w, r, out, leaves=leaves: leaves.get(w, out))
            for w in group:
                for r in graph.mask[w].nonzero().flatten().tolist():
                    scores[w, r] += ((clean[w] - corrupted[w]) * gradients[r]).sum() / steps
    return scores


# --- RelP ---------------------------------------------------------------------------------------------------------


class _Identity(torch.autograd.Function):
    """An activation that passes back f(x) / x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        y = act(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return g * y / x, None


class _Half(torch.autograd.Function):
    """A product of which each factor passes back a half."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return g * b / 2, g * a / 2


class _Norm(nn.Module):
    """A norm whose divisor is a constant."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        centred = isinstance(self.norm, nn.LayerNorm)
        eps = self.norm.eps if centred else self.norm.variance_epsilon
        x = x - x.mean(-1, keepdim=True) if centred else x
        out = x / ((x**2).mean(-1, keepdim=True) + eps).sqrt().detach() * self.norm.weight
        return out + self.norm.bias if centred else out


class _Act(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return _Identity.apply(x, self.act)  # type: ignore[no-any-return, no-untyped-call]


class _Gated(nn.Module):
    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp, self.act = mlp, _Act(mlp.act_fn)

    def forward(self, x: Tensor) -> Tensor:
        product = _Half.apply(self.act(self.mlp.gate_proj(x)), self.mlp.up_proj(x))  # type: ignore[no-untyped-call]
        return self.mlp.down_proj(product)  # type: ignore[no-any-return]


def with_lrp(hf: Any) -> Any:
    """A copy of a model whose backward is LRP's."""
    hf = copy.deepcopy(hf)
    if hf.config.model_type == "gpt2":
        for block in hf.transformer.h:
            block.ln_1, block.ln_2 = _Norm(block.ln_1), _Norm(block.ln_2)
            block.mlp.act = _Act(block.mlp.act)
        hf.transformer.ln_f = _Norm(hf.transformer.ln_f)
        return hf
    for block in hf.model.layers:
        block.input_layernorm = _Norm(block.input_layernorm)
        block.post_attention_layernorm = _Norm(block.post_attention_layernorm)
        block.mlp = _Gated(block.mlp)
    hf.model.norm = _Norm(hf.model.norm)
    return hf


# --- nodes --------------------------------------------------------------------------------------------------------


class Open(Reference):
    """The reference with every head's queries, keys, values and pattern kept.

    Args:
        hf: the model.
        constant: patterns take no gradient.
    """

    def __init__(self, hf: Any, constant: bool = False) -> None:
        super().__init__(hf)
        self.constant = constant
        self.kept: dict[tuple[int, int, str], Tensor] = {}

    def head(self, layer: int, head: int, q_in: Tensor, k_in: Tensor, v_in: Tensor) -> Tensor:
        inputs = dict(zip(PARTS, (q_in, k_in, v_in), strict=True))
        values = {part: self.project(layer, head, part, x) for part, x in inputs.items()}
        pattern = self.pattern(values["q"], values["k"])
        pattern = pattern.detach() if self.constant else pattern
        for part, value in {**values, "pattern": pattern}.items():
            self.kept[layer, head, part] = value
        attention = self.layers[layer].attn if self.gpt2 else self.layers[layer].self_attn
        here = slice(head * self.d_head, (head + 1) * self.d_head)
        output = attention.c_proj.weight[here] if self.gpt2 else attention.o_proj.weight[:, here].T
        return pattern @ values["v"] @ output

    def project(self, layer: int, head: int, part: str, x: Tensor) -> Tensor:
        block, e = self.layers[layer], self.d_head
        if self.gpt2:
            return block.attn.c_attn(block.ln_1(x)).chunk(3, -1)[PARTS.index(part)][..., head * e : (head + 1) * e]
        group = head if part == "q" else head // (self.heads // self.groups)
        linear = getattr(block.self_attn, f"{part}_proj")
        return linear(block.input_layernorm(x))[..., group * e : (group + 1) * e]

    def pattern(self, q: Tensor, k: Tensor) -> Tensor:
        if not self.gpt2:
            cos, sin = self.hf.model.rotary_emb(q, torch.arange(q.shape[1])[None])
            q, k = (x[:, 0] for x in apply_rotary_pos_emb(q[:, None], k[:, None], cos, sin))
        scores = q @ k.transpose(1, 2) / self.d_head**0.5
        n = scores.shape[-1]
        return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


def edge_attribution(ref: Reference, task: Task) -> Tensor:
    """EAP with the gradients that ``ref`` passes back."""
    clean, corrupted = writers_of(ref, task.clean), writers_of(ref, task.corrupted)
    gradients = reader_gradients(ref, task, starting_at(clean[0]))
    scores = torch.zeros(ref.graph.mask.shape)
    for w, r in ref.graph.mask.nonzero().tolist():
        if gradients[r] is not None:
            scores[w, r] = ((clean[w] - corrupted[w]) * gradients[r]).sum()
    return scores


def node_effects(hf: Any, task: Task, *, qk_fix: bool, dropped: int | None = None) -> dict[str, Tensor]:
    """First-order effect [batch] of every node, with the gradient through one layer's output stopped.

    With ``qk_fix`` that of a query or key is (pattern - pattern with it corrupted) . gradient at the pattern.
    """
    ref, other = Open(hf), Open(hf)
    graph = ref.graph
    corrupted = writers_of(other, task.corrupted)
    layer_of = {0: None} | {w: (w - 1) // graph.writers_per_layer for w in range(1, len(graph.writers))}
    start = ref.embed(task.clean).detach().requires_grad_()

    def mix(w: int, r: int, out: Tensor) -> Tensor:
        out = start if w == 0 else out
        return out.detach() if dropped is not None and layer_of[w] == dropped else out

    logits, outputs, _ = ref.run(task.clean, mix)
    outputs = [start, *outputs[1:]]
    at = [*outputs, *ref.kept.values()]
    found = torch.autograd.grad(task.metric(logits).sum(), at, allow_unused=True)
    grads = [torch.zeros_like(x) if g is None else g for x, g in zip(at, found, strict=True)]
    of_heads = dict(zip(ref.kept, grads[len(outputs) :], strict=True))
    effects = {
        name: ((outputs[w] - corrupted[w]) * grads[w]).sum((1, 2)).detach() for w, name in enumerate(graph.writers)
    }
    for layer, head, part in ref.kept:
        if part == "pattern":
            continue
        kept = {p: ref.kept[layer, head, p].detach() for p in PARTS}
        change, gradient = kept[part] - other.kept[layer, head, part], of_heads[layer, head, part]
        if qk_fix and part in "qk":
            patched = {**kept, part: other.kept[layer, head, part]}
            change = ref.pattern(kept["q"], kept["k"]) - ref.pattern(patched["q"], patched["k"])
            gradient = of_heads[layer, head, "pattern"]
        effects[f"a{layer}.h{head}<{part}>"] = (change * gradient).sum((1, 2)).detach()
    return effects


def information_flow(hf: Any, task: Task) -> Tensor:
    """Shares of every writer in every reader's stream, one vector at a time; summed over examples."""
    ref = Reference(hf)
    with torch.no_grad():
        _, outputs, inputs = ref.run(task.clean, lambda w, r, out: out)
    scores = torch.zeros(ref.graph.mask.shape)
    for r in range(len(inputs)):
        writers = ref.graph.mask[:, r].nonzero().flatten().tolist()
        for i, length in enumerate(task.lengths.tolist()):
            places = [int(task.last[i])] if r == len(inputs) - 1 else range(length)
            for p in places:
                whole = inputs[r][i, p]
                near = [max(float(whole.abs().sum() - (outputs[w][i, p] - whole).abs().sum()), 0.0) for w in writers]
                if sum(near) > 0:
                    for w, x in zip(writers, near, strict=True):
                        scores[w, r] += x / sum(near) / len(places)
    return scores


def between(names: Sequence[str], mask: Tensor, readers: Sequence[str], value: dict[str, float]) -> Tensor:
    """Edge scores from node scores, edge by edge: the end that is worth less; ``logits`` is never that."""
    scores = torch.zeros(mask.shape)
    for w, r in mask.nonzero().tolist():
        ends = [names[w], *([readers[r]] if readers[r] != "logits" else [])]
        scores[w, r] = min((value[end] for end in ends), key=abs)
    return scores
