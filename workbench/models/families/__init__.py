"""The families that a model can come from: one record each, naming where the weights go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.families import bert, gemma, gpt2, gptneo, llama, neox, opt, phi, vision


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        key: its name in a configuration.
        title: its name for people.
        model_types: the ``model_type`` of the Hugging Face configurations it covers.
        adapt: ``hf_model -> (configuration, weights)``; weights share the Hugging Face model's memory.
        classes: names of the Hugging Face classes it takes; the first is loaded where a folder names none of them.
        kind: ``decoder``, ``encoder`` or ``vision``.
        has: in a few words what sets it apart, for the docs.
        unused: starts of the names of tensors that its files may hold beside the model's own.
    """

    key: str
    title: str
    model_types: tuple[str, ...]
    adapt: Callable[[Any], tuple[ModelConfig, dict[str, Tensor]]]
    classes: tuple[str, ...]
    has: str
    kind: Literal["decoder", "encoder", "vision"] = "decoder"
    unused: tuple[str, ...] = ()


_LLAMA = "rotary positions, RMSNorm, SwiGLU, grouped key and value heads"
FAMILIES = [
    Family("gpt2", "GPT-2", ("gpt2",), gpt2.adapt, ("GPT2LMHeadModel",), "learned positions, LayerNorm, GELU, biases"),
    Family(
        "gpt_neo",
        "GPT-Neo",
        ("gpt_neo",),
        gptneo.adapt,
        ("GPTNeoForCausalLM",),
        "as GPT-2, unscaled scores, a window on every other layer",
    ),
    Family(
        "gpt_neox",
        "GPT-NeoX, Pythia",
        ("gpt_neox",),
        neox.adapt,
        ("GPTNeoXForCausalLM",),
        "parallel or serial blocks, heads turned in part",
    ),
    Family(
        "llama",
        "LLaMA, SmolLM",
        ("llama",),
        llama.adapt,
        ("LlamaForCausalLM",),
        f"{_LLAMA}, biases or none, tied or untied",
    ),
    Family("mistral", "Mistral", ("mistral",), llama.adapt, ("MistralForCausalLM",), "as LLaMA, sliding window"),
    Family("qwen2", "Qwen2, Qwen2.5", ("qwen2",), llama.adapt, ("Qwen2ForCausalLM",), "as LLaMA, biases on q, k, v"),
    Family("qwen3", "Qwen3", ("qwen3",), llama.adapt, ("Qwen3ForCausalLM",), "as LLaMA, queries and keys normalised"),
    Family(
        "gemma",
        "Gemma 2 and 3 (text)",
        ("gemma2", "gemma3_text"),
        gemma.adapt,
        ("Gemma2ForCausalLM", "Gemma3ForCausalLM"),
        "norms after the sublayers too, soft caps, windows, scaled embeddings",
    ),
    Family(
        "phi",
        "Phi-1, Phi-1.5, Phi-2",
        ("phi",),
        phi.adapt,
        ("PhiForCausalLM",),
        "parallel blocks with one norm, heads turned in part, a bias on the logits",
    ),
    Family("opt", "OPT", ("opt",), opt.adapt, ("OPTForCausalLM",), "learned positions, LayerNorm, ReLU"),
    Family(
        "bert",
        "BERT, MiniLM",
        ("bert",),
        bert.adapt,
        ("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
        "post-norm encoder, token types; residual stream, masked-word or class logits",
        "encoder",
        ("cls.", "bert.pooler.", "pooler.", "embeddings.position_ids", "bert.embeddings.position_ids"),
    ),
    Family(
        "roberta",
        "RoBERTa, XLM-RoBERTa",
        ("roberta", "xlm-roberta"),
        bert.adapt,
        (
            "RobertaModel",
            "RobertaForMaskedLM",
            "RobertaForSequenceClassification",
            "XLMRobertaModel",
            "XLMRobertaForMaskedLM",
            "XLMRobertaForSequenceClassification",
        ),
        "as BERT, positions that skip padding",
        "encoder",
        ("lm_head.", "roberta.pooler.", "pooler.", "embeddings.position_ids", "roberta.embeddings.position_ids"),
    ),
    Family(
        "vit",
        "ViT",
        ("vit",),
        vision.adapt,
        ("ViTForImageClassification", "ViTModel"),
        "images in patches, a class token",
        "vision",
        ("pooler.", "vit.pooler."),
    ),
    Family(
        "deit",
        "DeiT",
        ("deit",),
        vision.adapt,
        ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTModel"),
        "as ViT, a distillation token, one classifier or the mean of two",
        "vision",
        ("pooler.", "deit.pooler.", "distillation_classifier.", "cls_classifier."),
    ),
    Family(
        "dinov2",
        "DINOv2, with registers",
        ("dinov2", "dinov2_with_registers"),
        vision.adapt_dino,
        (
            "Dinov2Model",
            "Dinov2ForImageClassification",
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersForImageClassification",
        ),
        "as ViT, layer scale, register tokens, GELU or SwiGLU, any image size",
        "vision",
        ("embeddings.mask_token", "dinov2.embeddings.mask_token", "dinov2_with_registers.embeddings.mask_token"),
    ),
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
        "docs/families.md says how to add a family."
    )


def class_of(family: Family, config: Any) -> str:
    """Name of the Hugging Face class to load: the first that the configuration names and the family takes.

    A configuration that names none of them gets the family's first class that goes with it.
    """
    import transformers

    for name in config.architectures or ():
        if name in family.classes:
            return str(name)
    fitting = [name for name in family.classes if getattr(transformers, name).config_class is type(config)]
    return fitting[0] if fitting else family.classes[0]
