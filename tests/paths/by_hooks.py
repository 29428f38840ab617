"""Components cut and deleted by hooks on Hugging Face's own modules; nothing of the package is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[str, Tensor], Tensor]


class Hooked:
    """A Hugging Face GPT-2, LLaMA or ViT whose components can be seen, cut from the final norm, or deleted."""

    def __init__(self, hf: Any) -> None:
        self.hf, kind = hf.eval(), hf.config.model_type
        if kind == "gpt2":
            layers, self.embedding, self.norm = hf.transformer.h, hf.transformer.drop, hf.transformer.ln_f
            sub = [(block.attn, block.mlp) for block in layers]
        elif kind == "llama":
            layers, self.embedding, self.norm = hf.model.layers, hf.model.embed_tokens, hf.model.norm
            sub = [(block.self_attn, block.mlp) for block in layers]
        else:
            layers, self.embedding, self.norm = hf.vit.layers, hf.vit.embeddings, hf.vit.layernorm
            sub = [(block.attention, block.mlp) for block in layers]
        self.modules = {"embed": self.embedding}
        for layer, (attention, mlp) in enumerate(sub):
            self.modules |= {f"a{layer}": attention, f"m{layer}": mlp}

    def run(
        self, given: Tensor, *, deleted: str | None = None, cut: dict[str, float | Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what every component wrote (``final``: what the final norm read).

        ``deleted`` writes 0 for everything; ``cut`` weighs what the final norm reads of a component.
        """
        seen: dict[str, Tensor] = {}
        hooks = []

        def keep(name: str) -> Any:
            def hook(_: Any, __: Any, out: Any) -> Any:
                first = out[0] if isinstance(out, tuple) else out
                if name == deleted:
                    first = torch.zeros_like(first)
                seen[name] = first
                return (first, *out[1:]) if isinstance(out, tuple) else first

            return hook

        def before(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = given[0]
            for name, weight in (cut or {}).items():
                x = x + (weight - 1) * seen[name]
            seen["final"] = x
            return (x, *given[1:])

        for name, module in self.modules.items():
            hooks.append(module.register_forward_hook(keep(name)))
        hooks.append(self.norm.register_forward_pre_hook(before))
        try:
            with torch.no_grad():
                logits = self.hf(given).logits
        finally:
            for hook in hooks:
                hook.remove()
        return logits, seen


def next_token(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the next token, loss and accuracy, means over each row: [batch]."""
    logits, right = logits[:, :-1], tokens[:, 1:]
    value = logits.gather(-1, right[..., None])[..., 0]
    loss = F.cross_entropy(logits.transpose(1, 2), right, reduction="none")
    return value.mean(1), loss.mean(1), (logits.argmax(-1) == right).double().mean(1)


def of_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a classifier."""
    value = logits.gather(-1, labels[:, None])[:, 0]
    return value, F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(-1) == labels).double()
