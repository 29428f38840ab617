"""The families that a model can come from: one record each, naming where the weights go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families import gpt2, llama


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        key: its name in a configuration.
        title: its name for people.
        model_types: the ``model_type`` of the Hugging Face configurations it covers.
        adapt: ``hf_model -> (configuration, weights)``; weights share the Hugging Face model's memory.
    """

    key: str
    title: str
    model_types: tuple[str, ...]
    adapt: Callable[[Any], tuple[ModelConfig, dict[str, Tensor]]]


FAMILIES = [
    Family("gpt2", "GPT-2", ("gpt2",), gpt2.adapt),
    Family("llama", "LLaMA, SmolLM", ("llama",), llama.adapt),
]


def family_of(model_type: str) -> Family:
    """The family that covers a Hugging Face ``model_type``.

    Raises:
        ValueError: none does; the message lists those that are.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise ValueError(
        f"Models of the type '{model_type}' are not supported yet; supported are {known}. "
        "ARCHITECTURE.md says how to add a family."
    )
