"""The activations that one run kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from workbench.models.lookup import meant

_IN_ATTENTION = {"q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result", "k_heads", "v_heads"}
_IN_MLP = {"in", "pre", "pre_linear", "mid", "post"}
_NORM = {"scale", "normalized"}


def hook_name(short: str, layer: int | None = None, norm: str | None = None) -> str:
    """Full name of an activation from its short one, as in TransformerLens.

    ``("pattern", 9)`` -> ``blocks.9.attn.hook_pattern``, ``("resid_pre", 3)`` -> ``blocks.3.hook_resid_pre``,
    ``("scale", 2, "ln1")`` -> ``blocks.2.ln1.hook_scale``, ``("embed",)`` -> ``hook_embed``,
    ``("normalized",)`` -> ``ln_final.hook_normalized``.
    """
    if layer is None:
        return f"ln_final.hook_{short}" if short in _NORM else f"hook_{short}"
    if short in _NORM or norm is not None:
        return f"blocks.{layer}.{norm or 'ln1'}.hook_{short}"
    part = "attn." if short in _IN_ATTENTION else "mlp." if short in _IN_MLP else ""
    return f"blocks.{layer}.{part}hook_{short}"


class ActivationCache(Mapping[str, Tensor]):
    """Activations by name; ``cache["pattern", 9]`` is short for ``cache["blocks.9.attn.hook_pattern"]``."""

    def __init__(self, activations: Mapping[str, Tensor]) -> None:
        self._activations = dict(activations)

    def __getitem__(self, key: str | tuple[str, int] | tuple[str, int, str]) -> Tensor:
        name = hook_name(*key) if isinstance(key, tuple) else key
        if name not in self._activations and f"hook_{name}" in self._activations:
            name = f"hook_{name}"
        try:
            return self._activations[name]
        except KeyError:
            hint = meant(name, list(self._activations), 3)
            raise KeyError(f"The cache holds no '{name}'; {hint} Ask for it with names=['{name}'].") from None

    def __contains__(self, key: object) -> bool:
        name = hook_name(*key) if isinstance(key, tuple) else key
        return name in self._activations or f"hook_{name}" in self._activations

    def __iter__(self) -> Iterator[str]:
        return iter(self._activations)

    def __len__(self) -> int:
        return len(self._activations)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations)"
