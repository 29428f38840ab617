"""Activation patching by hooks on Hugging Face's own modules: replace what a place gives, run, read the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.circuits.decomposition.cases import Inputs, Place

# Module of a layer whose input is the heads side by side, and the one whose output the MLP writes.
PLACES = {
    "gpt2": ("attn.c_proj", "mlp"),
    "llama": ("self_attn.o_proj", "mlp"),
    "gemma2": ("self_attn.o_proj", "post_feedforward_layernorm"),
    "qwen3": ("self_attn.o_proj", "mlp"),
    "gpt_neox": ("attention.dense", "mlp"),
    "bert": ("attention.output.dense", "output.dense"),
    "vit": ("attention.o_proj", "mlp"),
}


class Patching:
    """One Hugging Face model and some prompts."""

    def __init__(self, hf: Any, inputs: Inputs) -> None:
        self.hf, self.inputs = hf, inputs
        body = getattr(hf, hf.base_model_prefix, hf)
        layers = next(found for path in ("h", "layers", "encoder.layer") if (found := _get(body, path)) is not None)
        heads, mlp = PLACES[hf.config.model_type]
        # (module, whether what it takes in is meant and not what it gives)
        self.modules: dict[tuple[str, int], tuple[nn.Module, bool]] = {}
        for i, layer in enumerate(layers):
            self.modules["resid", i] = (layer, True)
            self.modules["head", i] = (layer.get_submodule(heads), True)
            self.modules["mlp", i] = (layer.get_submodule(mlp), False)
        self.modules["resid", len(layers)] = (layers[-1], False)
        self.n_heads = hf.config.num_attention_heads

    def run(
        self, tokens: Tensor, replace: dict[tuple[str, int], tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Any, dict]:
        """(the model's output, what every place gives), with values put where a mask is True."""
        seen: dict[tuple[str, int], Tensor] = {}

        def passed(key: tuple[str, int], value: Tensor) -> Tensor:
            if replace is not None and key in replace:
                values, mask = replace[key]
                value = torch.where(mask, values, value)
            seen[key] = value.detach()
            return value

        handles = []
        for key, (module, takes_in) in self.modules.items():
            if takes_in:
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _, args, kwargs, key=key: _swap(args, kwargs, lambda x, key=key: passed(key, x)),
                        with_kwargs=True,
                    )
                )
            else:
                handles.append(
                    module.register_forward_hook(
                        lambda _, args, out, key=key: (
                            (passed(key, out[0]), *out[1:]) if isinstance(out, tuple) else passed(key, out)
                        )
                    )
                )
        try:
            with torch.no_grad():
                given = {} if self.inputs.mask is None else {"attention_mask": self.inputs.mask}
                out = self.hf(tokens, **given)
        finally:
            for handle in handles:
                handle.remove()
        return out, seen

    def answer(self, out: Any) -> Tensor:
        return out.logits if hasattr(out, "logits") else out.last_hidden_state

    def baseline(self, kind: str) -> dict[tuple[str, int], Tensor]:
        """What every place is compared with."""
        _, seen = self.run(self.inputs.others if kind == "others" else self.inputs.tokens)
        if kind == "others":
            return seen
        real = torch.arange(max(self.inputs.lengths)) < torch.tensor(self.inputs.lengths)[:, None]
        mean = {key: x[real].mean(0).expand_as(x) for key, x in seen.items()}
        return mean if kind == "mean" else {key: torch.zeros_like(x) for key, x in seen.items()}

    def patched(self, places: Sequence[Place], baseline: dict[tuple[str, int], Tensor]) -> Any:
        """The output with all these places at their baseline."""
        replace: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        for place in places:
            key = ("head" if place.kind == "heads" else place.kind, place.layer)
            values = baseline[key]
            mask = place.chosen(self.inputs.lengths, values.shape[1])[..., None].expand_as(values).clone()
            if place.kind == "head":
                e = values.shape[-1] // self.n_heads
                mask[..., : place.head * e] = False
                mask[..., (place.head + 1) * e :] = False
            if key in replace:
                mask = mask | replace[key][1]
            replace[key] = (values, mask)
        return self.run(self.inputs.tokens, replace)[0]


def _get(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _swap(args: tuple[Any, ...], kwargs: dict[str, Any], fn: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (fn(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": fn(kwargs["hidden_states"])}
