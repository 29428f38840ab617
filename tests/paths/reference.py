"""Every path of a small model one by one, from Hugging Face's weights and what its modules saw in one run.

A dictionary from words to what each path has given the stream so far. A sublayer adds, for each path and each of its
components, that path's word with the component behind it. Nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
Words = dict[tuple[str, ...], Tensor]


@dataclass
class Step:
    """What changes the stream: components that read it together, or a norm of the whole of it.

    ``parts``: name -> (linear map or None, what it adds by itself). ``norm``: the same for a norm, with the name of the
    sublayer before it.
    """

    parts: dict[str, tuple[Map | None, Tensor | None]] = field(default_factory=dict)
    norm: tuple[str, Map, Tensor] | None = None


@dataclass
class Run:
    """One prompt: the embedding [pos, d_model], the steps, and the readout: logits of a stream, and what it adds."""

    start: Tensor
    steps: list[Step]
    readout: Map
    added: Tensor
    logits: Tensor

    def words(self, start: Tensor | None = None) -> Words:
        """What every path gives the last stream, [pos, d_model]."""
        found: Words = {("embed",): self.start if start is None else start}
        for step in self.steps:
            if step.norm is not None:
                name, linear, shift = step.norm
                found = {word: linear(x) for word, x in found.items()}
                found["bias", name] = found.get(("bias", name), 0) + shift
                continue
            before = dict(found)
            for name, (linear, constant) in step.parts.items():
                if linear is not None:
                    found |= {(*word, name): linear(x) for word, x in before.items()}
                if constant is not None:
                    found["bias", name] = constant.expand_as(self.start)
        return found

    def contributions(self) -> Words:
        """What every path says for every token, [pos, d_vocab] or [class]; the word ``bias`` is the readout's."""
        found = {word: self.readout(x) for word, x in self.words().items()}
        found["bias",] = self.added.expand_as(self.logits)
        return found


def run(hf: Any, inputs: dict[str, Tensor]) -> Run:
    """One prompt through a Hugging Face model with everything that is not linear held."""
    hf.set_attn_implementation("eager")
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, module in hf.named_modules():
        hooks.append(module.register_forward_hook(_keep(seen, name)))
    with torch.no_grad():
        out = hf(**inputs, output_attentions=True, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    made = {"gpt2": _gpt2, "llama": _llama, "gpt_neox": _neox, "bert": _bert, "vit": _vit}[hf.config.model_type]
    return made(hf, seen, [a[0] for a in out.attentions], out.hidden_states[0][0], out.logits[0])


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(module: Any, given: Any, out: Any) -> None:
        if given and isinstance(given[0], Tensor):
            seen[f"{name}<"] = given[0][0]
        if isinstance(out, Tensor):
            seen[f"{name}>"] = out[0]

    return hook


def _layer_norm(module: Any, x: Tensor) -> tuple[Map, Tensor]:
    scale = (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt()
    return lambda r: (r - r.mean(-1, keepdim=True)) / scale * module.weight, module.bias


def _rms_norm(module: Any, x: Tensor) -> Map:
    scale = (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
    return lambda r: r / scale * module.weight


def _heads(
    layer: int,
    pattern: Tensor,
    v: tuple[Tensor, Tensor | None],
    o: tuple[Tensor, Tensor | None],
    norm: Map,
    shift: Tensor,
) -> dict[str, tuple[Map | None, Tensor | None]]:
    """Heads of one attention; ``v`` and ``o`` are (matrix [out, in], bias)."""
    heads, size = len(pattern), o[0].shape[1] // len(pattern)
    parts: dict[str, tuple[Map | None, Tensor | None]] = {}
    for h in range(heads):
        group = heads * size // v[0].shape[0]
        kv = slice(h // group * size, (h // group + 1) * size)
        wv, wo = v[0][kv], o[0][:, h * size : (h + 1) * size]
        own = shift @ wv.T + (0 if v[1] is None else v[1][kv])

        def linear(r: Tensor, a: Tensor = pattern[h], wv: Tensor = wv, wo: Tensor = wo) -> Tensor:
            return a @ (norm(r) @ wv.T) @ wo.T

        constant = pattern[h] @ own.expand(pattern.shape[1], -1) @ wo.T
        parts[f"a{layer}.h{h}"] = (linear, constant)
    if o[1] is not None:
        parts[f"a{layer}"] = (None, o[1])
    return parts


def _plain_mlp(
    up: tuple[Tensor, Tensor], down: tuple[Tensor, Tensor], pre: Tensor, post: Tensor, norm: Map, shift: Tensor
) -> tuple[Map, Tensor]:
    gate = post / pre

    def linear(r: Tensor) -> Tensor:
        return (norm(r) @ up[0].T * gate) @ down[0].T

    return linear, ((shift @ up[0].T + up[1]) * gate) @ down[0].T + down[1]


def _wb(module: Any) -> tuple[Tensor, Tensor]:
    return module.weight, module.bias


def _gpt2(hf: Any, seen: dict[str, Tensor], patterns: list[Tensor], start: Tensor, logits: Tensor) -> Run:
    steps, d = [], start.shape[-1]
    for i, block in enumerate(hf.transformer.h):
        name = f"transformer.h.{i}"
        norm, shift = _layer_norm(block.ln_1, seen[f"{name}.ln_1<"])
        v = block.attn.c_attn.weight[:, 2 * d :].T, block.attn.c_attn.bias[2 * d :]
        o = block.attn.c_proj.weight.T, block.attn.c_proj.bias
        steps.append(Step(_heads(i, patterns[i], v, o, norm, shift)))
        norm, shift = _layer_norm(block.ln_2, seen[f"{name}.ln_2<"])
        up, down = ((m.weight.T, m.bias) for m in (block.mlp.c_fc, block.mlp.c_proj))
        pre, post = seen[f"{name}.mlp.c_fc>"], seen[f"{name}.mlp.c_proj<"]
        steps.append(Step({f"m{i}": _plain_mlp(up, down, pre, post, norm, shift)}))
    norm, shift = _layer_norm(hf.transformer.ln_f, seen["transformer.ln_f<"])
    head = hf.lm_head.weight
    return Run(start, steps, lambda r: norm(r) @ head.T, shift @ head.T, logits)


def _llama(hf: Any, seen: dict[str, Tensor], patterns: list[Tensor], start: Tensor, logits: Tensor) -> Run:
    steps, nothing = [], torch.zeros_like(start[0])
    for i, block in enumerate(hf.model.layers):
        name = f"model.layers.{i}"
        norm = _rms_norm(block.input_layernorm, seen[f"{name}.input_layernorm<"])
        parts = _heads(i, patterns[i], _wb(block.self_attn.v_proj), _wb(block.self_attn.o_proj), norm, nothing)
        if block.self_attn.v_proj.bias is None:
            parts = {head: (linear, None) for head, (linear, _) in parts.items()}
        steps.append(Step(parts))
        second = _rms_norm(block.post_attention_layernorm, seen[f"{name}.post_attention_layernorm<"])
        gate = torch.nn.functional.silu(seen[f"{name}.mlp.gate_proj>"])
        up, down = block.mlp.up_proj, block.mlp.down_proj

        def linear(r: Tensor, second: Map = second, gate: Tensor = gate, up: Any = up, down: Any = down) -> Tensor:
            return (second(r) @ up.weight.T * gate) @ down.weight.T

        constant = None if up.bias is None else (up.bias * gate) @ down.weight.T + down.bias
        steps.append(Step({f"m{i}": (linear, constant)}))
    last = _rms_norm(hf.model.norm, seen["model.norm<"])
    head = hf.lm_head.weight
    return Run(start, steps, lambda r: last(r) @ head.T, torch.zeros_like(logits[0]), logits)


def _neox(hf: Any, seen: dict[str, Tensor], patterns: list[Tensor], start: Tensor, logits: Tensor) -> Run:
    """Attention and MLP read the same stream."""
    steps = []
    for i, block in enumerate(hf.gpt_neox.layers):
        name = f"gpt_neox.layers.{i}"
        norm, shift = _layer_norm(block.input_layernorm, seen[f"{name}.input_layernorm<"])
        heads = len(patterns[i])
        fused = block.attention.query_key_value
        v = (
            fused.weight.view(heads, 3, -1, start.shape[-1])[:, 2].flatten(0, 1),
            fused.bias.view(heads, 3, -1)[:, 2].flatten(),
        )
        parts = _heads(i, patterns[i], v, _wb(block.attention.dense), norm, shift)
        norm, shift = _layer_norm(block.post_attention_layernorm, seen[f"{name}.post_attention_layernorm<"])
        pre, post = seen[f"{name}.mlp.dense_h_to_4h>"], seen[f"{name}.mlp.dense_4h_to_h<"]
        up, down = _wb(block.mlp.dense_h_to_4h), _wb(block.mlp.dense_4h_to_h)
        parts[f"m{i}"] = _plain_mlp(up, down, pre, post, norm, shift)
        steps.append(Step(parts))
    norm, shift = _layer_norm(hf.gpt_neox.final_layer_norm, seen["gpt_neox.final_layer_norm<"])
    head = hf.get_output_embeddings().weight
    return Run(start, steps, lambda r: norm(r) @ head.T, shift @ head.T, logits)


def _bert(hf: Any, seen: dict[str, Tensor], patterns: list[Tensor], start: Tensor, logits: Tensor) -> Run:
    """Each sum is normalised; the logits come through a dense layer, its activation and a norm."""
    steps, nothing = [], torch.zeros_like(start[0])
    for i, block in enumerate(hf.bert.encoder.layer):
        name, attention = f"bert.encoder.layer.{i}", block.attention
        v, o = _wb(attention.self.value), _wb(attention.output.dense)
        steps.append(Step(_heads(i, patterns[i], v, o, lambda r: r, nothing)))
        norm, shift = _layer_norm(attention.output.LayerNorm, seen[f"{name}.attention.output.LayerNorm<"])
        steps.append(Step(norm=(f"a{i}", norm, shift)))
        pre, post = seen[f"{name}.intermediate.dense>"], seen[f"{name}.output.dense<"]
        fed = _plain_mlp(_wb(block.intermediate.dense), _wb(block.output.dense), pre, post, lambda r: r, nothing)
        steps.append(Step({f"m{i}": fed}))
        norm, shift = _layer_norm(block.output.LayerNorm, seen[f"{name}.output.LayerNorm<"])
        steps.append(Step(norm=(f"m{i}", norm, shift)))
    head = hf.cls.predictions
    w, b = _wb(head.transform.dense)
    place = "cls.predictions.transform"
    gate = seen[f"{place}.LayerNorm<"] / seen[f"{place}.dense>"]
    norm, shift = _layer_norm(head.transform.LayerNorm, seen[f"{place}.LayerNorm<"])
    out = head.decoder.weight

    def readout(r: Tensor) -> Tensor:
        return norm(r @ w.T * gate) @ out.T

    return Run(start, steps, readout, (norm(b * gate) + shift) @ out.T + head.decoder.bias, logits)


def _vit(hf: Any, seen: dict[str, Tensor], patterns: list[Tensor], start: Tensor, logits: Tensor) -> Run:
    """Patches; the first position says the class."""
    steps = []
    for i, block in enumerate(hf.vit.layers):
        name = f"vit.layers.{i}"
        norm, shift = _layer_norm(block.layernorm_before, seen[f"{name}.layernorm_before<"])
        v, o = _wb(block.attention.v_proj), _wb(block.attention.o_proj)
        steps.append(Step(_heads(i, patterns[i], v, o, norm, shift)))
        norm, shift = _layer_norm(block.layernorm_after, seen[f"{name}.layernorm_after<"])
        pre, post = seen[f"{name}.mlp.fc1>"], seen[f"{name}.mlp.fc2<"]
        fed = _plain_mlp(_wb(block.mlp.fc1), _wb(block.mlp.fc2), pre, post, norm, shift)
        steps.append(Step({f"m{i}": fed}))
    norm, shift = _layer_norm(hf.vit.layernorm, seen["vit.layernorm<"])
    w, b = _wb(hf.classifier)
    return Run(start, steps, lambda r: (norm(r) @ w.T)[0], shift @ w.T + b, logits)
