"""How closely a model agrees with Hugging Face's own: logits, residual streams, patterns, gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models import files
from workbench.models.embedding import n_positions
from workbench.models.load import from_hf, hugging_face, locate, quiet
from workbench.models.transformer import Transformer

TEXT = "When Mary and John went to the store, John gave a drink to"
"""What :func:`check` compares on unless it is told otherwise."""

# Inside a Hugging Face block, by family: what writes a layer's heads into the residual stream, ...
_WRITERS = (
    "attn.c_proj",  # GPT-2
    "attn.attention.out_proj",  # GPT-Neo
    "self_attn.o_proj",  # LLaMA and kin, Gemma
    "self_attn.dense",  # Phi
    "self_attn.out_proj",  # OPT
    "attention.output.dense",  # BERT
    "attention.dense",  # GPT-NeoX
    "attention.o_proj",  # ViT, DINOv2
)
# ... and what reads the stream between attention and MLP. Gemma has the name of LLaMA's for another norm.
_MLP_READERS = (
    "pre_feedforward_layernorm",  # Gemma
    "post_attention_layernorm",  # LLaMA and kin, GPT-NeoX
    "ln_2",  # GPT-2, GPT-Neo
    "final_layer_norm",  # OPT
    "intermediate",  # BERT
    "layernorm_after",  # ViT
    "norm2",  # DINOv2
)


@dataclass(frozen=True)
class Parity:
    """The worst differences between our model and Hugging Face's on one input, over real positions.

    Attributes:
        logits: of the output, that of the fused kernels as well as that of attention step by step: the largest
            absolute difference in units of the reference's standard deviation.
        residual: of the residual streams before, inside and after every block, in such units; the worst of them.
        pattern: of the attention patterns, absolute: they are shares already.
        gradient: of the gradients of a logit difference at the heads of every layer, in units of the standard
            deviation of that layer's; None if they were not compared.
        dtype: number type of the weights, such as ``float32``.
        positions: how many real positions were compared.
        layers: how many blocks.
    """

    logits: float
    residual: float
    pattern: float
    gradient: float | None
    dtype: str
    positions: int
    layers: int

    @property
    def worst(self) -> float:
        """The largest of the differences; NaN if any is."""
        found = [self.logits, self.residual, self.pattern, *([] if self.gradient is None else [self.gradient])]
        return _largest(found)


def compare(
    hf_model: Any,
    model: Transformer,
    inputs: Tensor,
    *,
    attention_mask: Tensor | None = None,
    token_types: Tensor | None = None,
    gradients: bool = False,
) -> Parity:
    """Run both models on the same input and measure how far they are apart.

    Args:
        hf_model: Hugging Face's; its attention runs step by step for a while, and is put back.
        model: ours.
        inputs: tokens [batch, pos], or images [batch, channel, height, width].
        attention_mask: 1 for real tokens, 0 for padding on either side; both models count positions by it.
        token_types: as for ours; of a model that has them.
        gradients: also compare the gradients of a logit difference, at the last real position, at every head's output.

    Raises:
        ValueError: parity does not know the blocks of this Hugging Face class.
    """
    if attention_mask is None and not model.cfg.causal and model.cfg.image is None:
        attention_mask = model.text.mask_of(inputs)
    ours: dict[str, Any] = {"attention_mask": attention_mask, "token_types": token_types}
    given = _arguments(hf_model, model, inputs, attention_mask, token_types)
    real = _real(model, inputs, attention_mask)
    inputs = inputs.to(model.device)
    with _evaluating(hf_model):
        with torch.no_grad():
            fused = _apart(_read(model(inputs, **ours), real), _read(_answer(hf_model(**given)), real))
            logits, cache = model.run_with_cache(inputs, _is_compared, **ours)
            theirs, streams = _step_by_step(hf_model, model, given)
            # OPT lays all positions of a batch in one row between attention and MLP.
            streams = {name: stream.reshape(cache[name].shape) for name, stream in streams.items()}
        gradient = _gradients_apart(hf_model, model, inputs, given, ours, real) if gradients else None
    openly = _apart(_read(logits, real), _read(_answer(theirs), real))
    patterns = [
        (cache["pattern", layer].cpu() - theirs.attentions[layer].cpu()).abs().amax((1, 3))[real].max()
        for layer in range(model.cfg.n_layers)
    ]
    return Parity(
        logits=_largest([fused, openly]),
        residual=_largest([_apart(_read(cache[name], real), _read(other, real)) for name, other in streams.items()]),
        pattern=_largest([float(pattern) for pattern in patterns]),
        gradient=gradient,
        dtype=str(model.dtype).removeprefix("torch."),
        positions=int(real.sum()),
        layers=model.cfg.n_layers,
    )


def check(name: str | Path, text: str | None = None) -> Parity:
    """Load a model both ways and compare, in float32 on the CPU, gradients too.

    Args:
        name: as for :func:`workbench.models.load`.
        text: what to compare on, for a vision model the path of an image; by default :data:`TEXT`, for a model without
            a tokenizer random tokens, or two images of random pixels.

    Raises:
        ValueError: the model cannot be loaded, or has no counterpart in Hugging Face.
    """
    called, folder = locate(name, None)
    if folder is not None and files.is_own(folder):
        raise ValueError(
            f"'{called}' is a model of the workbench's own format: there is no Hugging Face model beside it."
        )
    with quiet(bars=folder is None):
        hf, reader = hugging_face(called, folder, torch.float32)
    model = from_hf(hf, reader, name=called)
    if model.cfg.image is None:
        if model.tokenizer is None and text is None:
            n = min(14, model.cfg.n_ctx)
            drawn = torch.randint(model.cfg.d_vocab, (1, n), generator=torch.Generator().manual_seed(0))
            return compare(hf, model, drawn, gradients=True)
        return compare(hf, model, model.to_tokens(TEXT if text is None else text), gradients=True)
    c = model.cfg.image
    random = torch.randn(2, c.channels, c.height, c.width, generator=torch.Generator().manual_seed(0))
    return compare(hf, model, random if text is None else model.to_pixels(text), gradients=True)


def _is_compared(name: str) -> bool:
    return name.endswith(("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_pattern"))


def _arguments(
    hf: Any, model: Transformer, inputs: Tensor, mask: Tensor | None, types: Tensor | None
) -> dict[str, Any]:
    """Hugging Face's names for one input."""
    if model.cfg.image is not None:
        return {"pixel_values": inputs.to(hf.device, hf.dtype)}
    given = {"input_ids": inputs, "attention_mask": mask, "token_type_ids": types}
    # Most families would count padding on the left; RoBERTa itself does not.
    if mask is not None and model.cfg.pad_token is None and "position_ids" in inspect.signature(hf.forward).parameters:
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return {name: tensor.to(hf.device) for name, tensor in given.items() if tensor is not None}


def _real(model: Transformer, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Which positions [batch, pos] of the residual stream are compared."""
    if mask is not None:
        return mask.bool().cpu()
    return torch.ones(len(inputs), n_positions(model, inputs), dtype=torch.bool)


def _answer(out: Any) -> Tensor:
    """The logits, or what a model without a head gives."""
    answer: Tensor = out.logits if "logits" in out else out.last_hidden_state
    return answer


def _read(x: Tensor, real: Tensor) -> Tensor:
    """The real positions of [batch, pos, ...]; of one answer an example those that were read off a real position."""
    return x.detach().cpu()[real if x.ndim > 2 else real[:, 0]]


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference in units of the reference's standard deviation, or of its size where that is 0."""
    if not theirs.numel():
        return 0.0
    mine, reference = ours.detach().cpu().double(), theirs.detach().cpu().double()
    spread = float(reference.std(correction=0)) or float(reference.abs().max()) or 1.0
    return float((mine - reference).abs().max()) / spread


def _largest(values: list[float]) -> float:
    """The largest; NaN if any is."""
    return float(torch.tensor(values, dtype=torch.float64).max())


@contextmanager
def _evaluating(hf: Any) -> Iterator[None]:
    """Without dropout."""
    was = hf.training
    hf.eval()
    try:
        yield
    finally:
        hf.train(was)


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    """Hooks that are gone afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks(hf: Any, model: Transformer) -> list[nn.Module]:
    """Hugging Face's blocks, one a layer."""
    found = next((list(part) for part in hf.modules() if isinstance(part, nn.ModuleList)), [])
    if len(found) != model.cfg.n_layers:
        raise ValueError(f"Parity cannot find the {model.cfg.n_layers} blocks of {type(hf).__name__}.")
    return found


def _part(block: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The first of these parts that a block has."""
    parts: dict[str, nn.Module] = dict(block.named_modules())
    for name in names:
        if name in parts:
            return parts[name]
    raise ValueError(f"Parity knows no part of {type(block).__name__} among {', '.join(names)}; add its name there.")


def _step_by_step(hf: Any, model: Transformer, given: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Hugging Face's output with its patterns, and its residual streams by our names."""
    kept: dict[str, Tensor] = {}
    handles, blocks = [], _blocks(hf, model)

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], out: Any = None) -> None:
            kept[name] = args[0] if out is None else out[0] if isinstance(out, tuple) else out

        return hook

    for layer, block in enumerate(blocks):
        handles.append(block.register_forward_hook(keep(f"blocks.{layer}.hook_resid_post")))
        if not model.cfg.parallel:
            reader = _part(block, _MLP_READERS)
            handles.append(reader.register_forward_pre_hook(keep(f"blocks.{layer}.hook_resid_mid")))
    usual = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        with _hooked(handles):
            out = hf(**given, output_hidden_states=True, output_attentions=True)
    finally:
        hf.set_attn_implementation(usual)
    # The last of them has gone through the final norm in most families.
    before = {f"blocks.{layer}.hook_resid_pre": out.hidden_states[layer] for layer in range(len(blocks))}
    return out, before | kept


def _gradients_apart(
    hf: Any, model: Transformer, inputs: Tensor, given: dict[str, Any], ours: dict[str, Any], real: Tensor
) -> float:
    """The worst difference between gradients at the heads' outputs [batch, pos, head * d_head] of any layer."""
    heads: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # A model whose weights are frozen has no graph before the first of these.
        z = args[0] if args[0].requires_grad else args[0].detach().requires_grad_(True)
        heads.append(z)
        return (z, *args[1:])

    with torch.enable_grad():
        writers = [_part(block, _WRITERS) for block in _blocks(hf, model)]
        with _hooked([writer.register_forward_pre_hook(keep) for writer in writers]):
            answer = _contrast(_answer(hf(**given)), real)
        theirs = torch.autograd.grad(answer, heads)
        start = {"blocks.0.hook_resid_pre": lambda x: x.detach().requires_grad_(True)}
        logits, cache = model.run_with_cache(inputs, lambda name: name.endswith("hook_z"), taps=start, **ours)
        mine = torch.autograd.grad(_contrast(logits, real), list(cache.values()))
    pairs = zip(mine, theirs, strict=True)
    return _largest([_apart(_read(one.flatten(2), real), _read(other, real)) for one, other in pairs])


def _contrast(out: Tensor, real: Tensor) -> Tensor:
    """First answer less the last one, at the last real position of each example, summed."""
    if out.ndim > 2:
        last = (real * torch.arange(real.shape[1])).argmax(-1)
        out = out[torch.arange(len(out)), last.to(out.device)]
    else:
        out = out[real[:, 0].to(out.device)]
    return (out[:, 0] - out[:, -1]).sum() if out.shape[-1] > 1 else out.sum()
