"""The families that a model can come from: one record each, naming where the weights go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families import gemma, gpt2, gptneo, llama, neox, opt, phi


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
    Family("gpt_neo", "GPT-Neo", ("gpt_neo",), gptneo.adapt),
    Family("gpt_neox", "GPT-NeoX, Pythia", ("gpt_neox",), neox.adapt),
    Family("llama", "LLaMA, SmolLM", ("llama",), llama.adapt),
    Family("mistral", "Mistral", ("mistral",), llama.adapt),
    Family("qwen2", "Qwen2, Qwen2.5", ("qwen2",), llama.adapt),
    Family("qwen3", "Qwen3", ("qwen3",), llama.adapt),
    Family("gemma", "Gemma 2 and 3 (text)", ("gemma2", "gemma3_text"), gemma.adapt),
    Family("phi", "Phi-1, Phi-1.5, Phi-2", ("phi",), phi.adapt),
    Family("opt", "OPT", ("opt",), opt.adapt),
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
