"""Taking over the parameters of named parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def of_blocks(blocks: Iterable[Any], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of each block's parts by our names.

    Args:
        blocks: Hugging Face's modules, one a layer.
        parts: our name of a part (``attn.q``) -> theirs (``self_attn.q_proj``).
    """
    return {
        f"blocks.{layer}.{ours}.{kind}": tensor
        for layer, block in enumerate(blocks)
        for ours, theirs in parts.items()
        for kind, tensor in block.get_submodule(theirs).named_parameters()
    }


def named(module: Any, parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of a module's parts: our name of a part -> theirs."""
    return {
        f"{ours}.{kind}": tensor
        for ours, theirs in parts.items()
        for kind, tensor in module.get_submodule(theirs).named_parameters()
    }


def labels_of(config: Any) -> tuple[str, ...]:
    """The names of a classifier's classes, in order."""
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))
