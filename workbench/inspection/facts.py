"""What a model is: its sizes and choices in words, and whether Hugging Face computes it too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.models import ModelConfig, Transformer, registry
from workbench.models.files import is_own
from workbench.models.registry import Kind

if TYPE_CHECKING:
    from workbench.models.parity import Parity


def kind_of(cfg: ModelConfig) -> Kind:
    """``decoder`` (causal), ``encoder`` or ``vision``."""
    if cfg.image is not None:
        return "vision"
    return "decoder" if cfg.causal else "encoder"


def facts(model: Transformer) -> dict[str, str]:
    """Sizes and choices of a model, each in a few words, in the order in which one asks for them."""
    cfg, n = model.cfg, sum(p.numel() for p in model.parameters())
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    shared = f", sharing {cfg.n_key_value_heads} of keys and values" if cfg.group_size > 1 else ""
    mlp = f"{cfg.d_mlp:,} wide, {'gated ' if cfg.gated_mlp else ''}{cfg.act_fn}{', parallel' if cfg.parallel else ''}"
    return {
        "Kind": f"{kind_of(cfg)}, family {cfg.family}",
        "Parameters": f"{_amount(n)} in {str(model.dtype).removeprefix('torch.')} ({_amount(size / 1e6)} MB)",
        "Layers": str(cfg.n_layers),
        "Heads": f"{cfg.n_heads} a layer of width {cfg.d_head}{shared}",
        "Residual stream": f"{cfg.d_model:,} wide",
        "MLP": "none" if cfg.attn_only else mlp,
        "Norm": _norm(cfg),
        "Positions": _positions(cfg),
        "Attention": _attention(cfg),
        "Reads": _reads(cfg),
        "Gives": _gives(cfg),
    }


def _amount(n: float) -> str:
    """A number with three digits that count; whole below a million."""
    for unit, word in ((1e9, " billion"), (1e6, " million")):
        if n >= unit:
            return f"{n / unit:.3g}{word}"
    return f"{n:,.0f}" if n >= 100 else f"{n:.3g}"


def _norm(cfg: ModelConfig) -> str:
    if cfg.norm == "none":
        return "none"
    name = {"layer": "LayerNorm", "rms": "RMSNorm"}[cfg.norm]
    place = "before each sublayer" if cfg.norm_place == "pre" else "after each sublayer is added"
    return f"{name} {place}{' and after it' if cfg.post_norms else ''}{', on queries and keys' if cfg.qk_norm else ''}"


def _positions(cfg: ModelConfig) -> str:
    if cfg.positions == "rotary":
        return f"rotary, base {cfg.rotary_base:,.0f}"
    return "learned, added to the embedding" if cfg.positions == "learned" else "learned, for queries and keys only"


def _attention(cfg: ModelConfig) -> str:
    """The mechanism, where it is used, and who sees whom."""
    own = cfg.attention_heads
    named = cfg.attention + "".join(f", {name} {value:g}" for name, value in cfg.attention_options)
    if own is not None:
        named = f"{named} in {len(own)} of {cfg.n_layers * cfg.n_heads} heads"
    limited = {w for w in cfg.windows or () if w is not None}
    window = f", windows of {', '.join(map(str, sorted(limited)))}" if limited else ""
    cap = f", scores capped at {cfg.attn_softcap:g}" if cfg.attn_softcap is not None else ""
    return f"{named}; {'causal' if cfg.causal else 'both ways'}{window}{cap}"


def _reads(cfg: ModelConfig) -> str:
    if cfg.image is None:
        return f"up to {cfg.n_ctx:,} tokens, from a vocabulary of {cfg.d_vocab:,}"
    i = cfg.image
    colour = {1: "grey", 3: "RGB"}.get(i.channels, f"{i.channels} channels")
    patches = f"{i.n_patches} patches of {i.patch_height}x{i.patch_width}"
    return f"{i.height}x{i.width} pixels, {colour}, as {patches}{' after ' + ', '.join(i.prefix) if i.prefix else ''}"


def _gives(cfg: ModelConfig) -> str:
    if cfg.head == "none":
        return "the residual stream (no logits)"
    if cfg.pooling != "none":
        return f"logits of {cfg.n_out:,} classes"
    return f"logits of {cfg.n_out:,} tokens{', tied to the embedding' if cfg.tied else ''}"


# -- parity --------------------------------------------------------------------------------------------------

NO_COUNTERPART = (
    "This model was made with the workbench: there is no Hugging Face class that computes it, so there is nothing to "
    "compare it with."
)


def is_native(name: str) -> bool:
    """Whether a model was made with the workbench, so that no Hugging Face class computes it."""
    if name in registry.names():
        return registry.find(name).bundled
    return is_own(Path(name).expanduser())


def parity(name: str, text: str | None = None) -> Parity:
    """Compare a model with Hugging Face's own computation of it; loads it a second time.

    Args:
        name: registry name, local folder or hub id.
        text: what both read; a text of its own by default.

    Raises:
        ValueError: there is no such model, or no counterpart.
    """
    from workbench.models.parity import check

    if is_native(name):
        raise ValueError(NO_COUNTERPART)
    return check(name, text)


def parity_words(found: Parity) -> str:
    """What was compared and how closely it agrees, in one or two sentences."""
    parts = {"output": found.logits, "residual streams": found.residual, "gradients": found.gradient}
    known = {what: value for what, value in parts.items() if value is not None}
    where = f"over {found.layers} layers and {found.positions} positions in {found.dtype}"
    worst = max(known.values(), key=lambda value: math.inf if math.isnan(value) else value)
    if worst == 0 == found.pattern:
        same = ", ".join(known)
        return f"Compared with Hugging Face {where}: {same} and attention patterns are the same to the last bit."
    *first, last = known
    return (
        f"Compared with Hugging Face {where}: {', '.join(first)} and {last} differ by at most {worst:.1e} of their own "
        f"spread, attention patterns by at most {found.pattern:.1e}."
    )
