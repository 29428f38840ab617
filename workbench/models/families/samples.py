"""A few small configurations of every family, with random weights: what parity is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.models.families import Family, family_of


@dataclass(frozen=True)
class Sizes:
    """What every configuration has, whatever it calls it."""

    width: int = 32
    heads: int = 4
    inner: int = 48
    layers: int = 3
    context: int = 40
    vocab: int = 64


_Names = dict[str, tuple[str, ...]]
# Our name of a size -> theirs; none where the configuration has no such field.
_USUAL: _Names = {
    "width": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "inner": ("intermediate_size",),
    "layers": ("num_hidden_layers",),
    "context": ("max_position_embeddings",),
    "vocab": ("vocab_size",),
}
_DINO: _Names = _USUAL | {"inner": (), "context": (), "vocab": ()}
_NAMES: dict[str, _Names] = {
    "gpt2": _USUAL
    | {"width": ("n_embd",), "heads": ("n_head",), "inner": ("n_inner",)}
    | {"layers": ("n_layer",), "context": ("n_positions",)},
    "gpt_neo": _USUAL | {"heads": ("num_heads",), "layers": ("num_layers",)},
    "opt": _USUAL | {"width": ("hidden_size", "word_embed_proj_dim"), "inner": ("ffn_dim",)},
    "vit": _USUAL | {"context": (), "vocab": ()},
    "deit": _USUAL | {"context": (), "vocab": ()},
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
}


@dataclass(frozen=True)
class Sample:
    """One small configuration.

    Attributes:
        key: its name.
        made: name of the Hugging Face class.
        options: what the configuration says besides its sizes.
        sizes: how large it is.
    """

    key: str
    made: str
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sizes = Sizes()

    @property
    def family(self) -> Family:
        """The family that it is a sample of."""
        return family_of(self._class().config_class.model_type)

    def _class(self) -> Any:
        import transformers

        return getattr(transformers, self.made)

    def model(
        self,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        weights: Literal["wild", "usual"] = "wild",
        **sizes: int,
    ) -> Any:
        """A Hugging Face model with random weights, ready to run.

        Args:
            seed: of the random numbers; the same seed gives the same weights.
            dtype: number type of the weights. Frequencies of rotary positions stay in float32, as in models from files.
            weights: ``wild``, all of a standard deviation of 0.25, so that attention is sharp and nothing is trivially
                0 or 1; or ``usual``, as Hugging Face initialises a model, norms and biases perturbed, so that
                rounding is not made larger from layer to layer.
            **sizes: fields of :class:`Sizes` to change.
        """
        made = self._class()
        names = _NAMES.get(made.config_class.model_type, _USUAL)
        chosen = replace(self.sizes, **sizes)
        given = {theirs: getattr(chosen, ours) for ours, called in names.items() for theirs in called}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = made(made.config_class(**given, **self.options))
            (_wild if weights == "wild" else _perturb)(model)
        for parameter in model.parameters():  # not the buffers: model.to(dtype) would round the frequencies too
            parameter.data = parameter.data.to(dtype)
        return model.eval()


def _centre(model: Any, name: str) -> float:
    """Around which number a parameter lies: 1 for the weights of norms, but for Gemma's, which are kept less one."""
    if not name.endswith(("weight", "lambda1")) or model.config.model_type.startswith("gemma"):
        return 0.0
    return float(any(part in name.lower() for part in ("norm", ".ln_", "lambda1")))


@torch.no_grad()
def _wild(model: Any) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(_centre(model, name) + 0.25 * torch.randn_like(parameter))


@torch.no_grad()
def _perturb(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.copy_(_centre(model, name) + 0.1 * torch.randn_like(parameter))


_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
_GROUPED = {"num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 16, "final_logit_softcapping": 5.0}
_IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
_RECTANGLE = {"image_size": (12, 20), "patch_size": (3, 4), "num_channels": 1}
_DINO_IMAGE = {**_IMAGE, "mlp_ratio": 2}
_CLASSES = {"num_labels": 5}
_SMALL = Sizes(width=24, heads=3, inner=56, layers=2)
_LLAMA = Sizes(layers=2)


def _ropes(kind: str, **options: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **options}}


SAMPLES: tuple[Sample, ...] = (
    Sample("gpt2", "GPT2LMHeadModel", _ENDS, _SMALL),
    Sample(
        "gpt2-unscaled",
        "GPT2LMHeadModel",
        {**_ENDS, "scale_attn_weights": False, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    Sample(
        "gpt-neo",
        "GPTNeoForCausalLM",
        {**_ENDS, "window_size": 5, "attention_types": [[["global", "local"], 2]]},
        Sizes(layers=4),
    ),
    Sample("gpt-neox", "GPTNeoXForCausalLM", {"rotary_pct": 0.25}),
    Sample("gpt-neox-serial", "GPTNeoXForCausalLM", {"use_parallel_residual": False}),
    Sample(
        "gpt-neox-unbiased",
        "GPTNeoXForCausalLM",
        {"attention_bias": False, "rotary_pct": 1.0, "tie_word_embeddings": True, "hidden_act": "gelu_new"},
    ),
    Sample("llama-grouped", "LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}, _LLAMA),
    Sample("llama-ungrouped", "LlamaForCausalLM", {"num_key_value_heads": 4}, _LLAMA),
    Sample("llama-biased", "LlamaForCausalLM", {**_GROUPED, "attention_bias": True, "mlp_bias": True}, _LLAMA),
    Sample("llama-wide-heads", "LlamaForCausalLM", {"num_key_value_heads": 1, "head_dim": 14}),
    Sample(
        "llama-3-positions",
        "LlamaForCausalLM",
        {
            **_GROUPED,
            **_ropes(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=20
            ),
        },
    ),
    Sample(
        "llama-yarn",
        "LlamaForCausalLM",
        {**_GROUPED, **_ropes("yarn", factor=4.0, original_max_position_embeddings=10)},
    ),
    Sample("mistral", "MistralForCausalLM", {**_GROUPED, "sliding_window": 5}),
    Sample("mistral-unlimited", "MistralForCausalLM", {**_GROUPED, "sliding_window": None, "head_dim": 12}),
    Sample("qwen2", "Qwen2ForCausalLM", _GROUPED),
    Sample(
        "qwen2-window",
        "Qwen2ForCausalLM",
        {
            **_GROUPED,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    Sample("qwen3", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 12}),
    Sample("qwen3-biased", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 8, "attention_bias": True}),
    Sample("gemma2", "Gemma2ForCausalLM", {**_GEMMA, "attn_logit_softcapping": 2.0}),
    Sample(
        "gemma2-uncapped",
        "Gemma2ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": None, "head_dim": 12},
    ),
    Sample(
        "gemma3",
        "Gemma3ForCausalLM",
        {**_GEMMA, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Sample("phi", "PhiForCausalLM"),
    Sample("phi-grouped", "PhiForCausalLM", {**_GROUPED, "partial_rotary_factor": 0.25}),
    Sample("opt", "OPTForCausalLM"),
    Sample("opt-unbiased", "OPTForCausalLM", {"enable_bias": False, "tie_word_embeddings": False}),
    Sample("bert", "BertModel"),
    Sample("bert-decoder", "BertModel", {"is_decoder": True, "type_vocab_size": 3}),
    Sample("bert-masked", "BertForMaskedLM"),
    Sample("bert-masked-untied", "BertForMaskedLM", {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    Sample("bert-classes", "BertForSequenceClassification", _CLASSES),
    Sample("roberta", "RobertaModel"),
    Sample("roberta-masked", "RobertaForMaskedLM"),
    Sample("roberta-classes", "RobertaForSequenceClassification", _CLASSES),
    Sample("xlm-roberta", "XLMRobertaModel"),
    Sample("xlm-roberta-masked", "XLMRobertaForMaskedLM"),
    Sample("xlm-roberta-classes", "XLMRobertaForSequenceClassification", _CLASSES),
    Sample("vit", "ViTModel", _IMAGE),
    Sample("vit-classes", "ViTForImageClassification", {**_RECTANGLE, **_CLASSES, "qkv_bias": False}),
    Sample("deit", "DeiTModel", _IMAGE),
    Sample("deit-classes", "DeiTForImageClassification", {**_RECTANGLE, **_CLASSES}),
    Sample("deit-teacher", "DeiTForImageClassificationWithTeacher", {**_IMAGE, **_CLASSES}),
    Sample("dinov2", "Dinov2Model", _DINO_IMAGE),
    Sample("dinov2-classes", "Dinov2ForImageClassification", {**_DINO_IMAGE, **_CLASSES, "use_swiglu_ffn": True}),
    Sample("dinov2-registers", "Dinov2WithRegistersModel", {**_DINO_IMAGE, "num_register_tokens": 4}),
    Sample(
        "dinov2-registers-classes",
        "Dinov2WithRegistersForImageClassification",
        {**_DINO_IMAGE, **_CLASSES, "num_register_tokens": 2, "patch_size": 8},
    ),
)
"""The first of a family is the one that a test measures again for the docs."""


def find(key: str) -> Sample:
    """The sample of that name.

    Raises:
        KeyError: there is none.
    """
    return {sample.key: sample for sample in SAMPLES}[key]


def samples_of(family: Family) -> list[Sample]:
    """All samples of a family."""
    return [sample for sample in SAMPLES if sample.made in family.classes]


def inputs_for(hf: Any, lengths: Sequence[int] = (17, 9, 1), seed: int = 0) -> list[dict[str, Tensor]]:
    """Random inputs for a Hugging Face model, as arguments of :func:`workbench.models.parity.compare`.

    Args:
        hf: the model.
        lengths: tokens of each text, or for a vision model how many images: as many as there are lengths.
        seed: of the random numbers.

    Returns:
        For text three batches: all of the largest length, then of these lengths padded on the left and on the right,
        with token types where the model has them. For images one batch of the model's size and, if the model takes
        any size, one of another.
    """
    generator, c = torch.Generator().manual_seed(seed), hf.config
    if hasattr(c, "image_size"):
        height, width = c.image_size if not isinstance(c.image_size, int) else (c.image_size, c.image_size)
        sizes = [(height, width), *([(height + 9, 2 * width)] if c.model_type.startswith("dinov2") else [])]
        return [{"inputs": torch.randn(len(lengths), c.num_channels, *size, generator=generator)} for size in sizes]
    shape = (len(lengths), max(lengths))
    pad = getattr(c, "pad_token_id", None) or 0
    tokens = torch.randint(min(3, c.vocab_size - 1), c.vocab_size, shape, generator=generator)
    plain = {"inputs": tokens}
    if c.model_type in ("bert", "roberta", "xlm-roberta"):
        plain["token_types"] = torch.randint(0, c.type_vocab_size, shape, generator=generator)
    right = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    masks = (right.flip(1), right)
    return [plain, *({**plain, "inputs": tokens.masked_fill(m == 0, pad), "attention_mask": m} for m in masks)]
