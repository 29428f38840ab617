"""Models in the format of TransformerLens 1 and 2: a state dict and a configuration, as toy models are published.

Weights are ``blocks.0.attn.W_Q`` [head, d_model, d_head], ``W_O`` [head, d_head, d_model], ``mlp.W_in``
[d_model, d_mlp], ``unembed.W_U`` [d_model, d_vocab_out] and so on; masks and flags stored as buffers are passed over,
and biases that are missing are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from workbench.models.blocks import ACTIVATIONS
from workbench.models.config import ModelConfig
from workbench.models.lookup import meant

_NORMS = {None: "none", "LN": "layer", "LNPre": "layer", "RMS": "rms", "RMSPre": "rms"}
_POSITIONS = {"standard": "learned", "rotary": "rotary", "shortformer": "shortformer"}
# Masks and flags that TransformerLens keeps as buffers; none is a weight.
_BUFFERS = ("mask", "IGNORE", "causal_mask", "rotary_sin", "rotary_cos", "is_causal")
_REFUSED = (
    "rotary_adjacent_pairs",
    "use_normalization_before_and_after",
    "use_local_attn",
    "attn_scores_soft_cap",
    "scale_attn_by_inverse_layer_idx",
    "use_NTK_by_parts_rope",
    "use_qk_norm",
    "num_experts",
)


def adapt(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and weights by our names.

    Args:
        state: the state dict; tensors only.
        config: the configuration's fields, as ``HookedTransformerConfig.to_dict()`` gives them.

    Raises:
        ValueError: a field is missing or asks for what is not supported; a weight is missing, surplus or misshapen.
    """
    c = dict(config)
    for field in ("n_layers", "n_heads", "d_model", "d_head", "n_ctx", "d_vocab"):
        if not isinstance(c.get(field), int):
            raise ValueError(f"The configuration has no whole number '{field}'; give TransformerLens's own fields.")
    for field in _REFUSED:
        if c.get(field) not in (None, False, -1, -1.0):
            raise ValueError(f"TransformerLens models with {field}={c[field]} are not supported.")
    if c.get("final_rms") and _NORMS.get(c.get("normalization_type", "LN")) != "rms":
        raise ValueError(
            "TransformerLens models with final_rms=True and another norm in their blocks are not supported."
        )
    cfg = _config(c)
    left = {name: tensor for name, tensor in state.items() if not name.endswith(_BUFFERS)}
    found, missing = {}, []
    for ours, (theirs, shape) in _places(cfg).items():
        tensor = left.pop(theirs, None)
        if tensor is None:
            optional = ".b_" in theirs or (
                (".w" in theirs or ".b" in theirs) and "Pre" in str(c.get("normalization_type"))
            )
            if not optional:
                missing.append(theirs)
                continue
            tensor = torch.ones(shape) if ours.endswith("weight") else torch.zeros(shape)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"The weight '{theirs}' has the shape {list(tensor.shape)}; the configuration says {list(shape)}."
            )
        found[ours] = _turned(ours, tensor.float() if not tensor.is_floating_point() else tensor)
    if missing or left:
        said = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"surplus: {', '.join(sorted(left))}"] * bool(left)
        raise ValueError(f"The state dict does not fit the configuration ({'; '.join(said)}).")
    if cfg.positions == "rotary":
        turned = int(c.get("rotary_dim") or cfg.d_head)
        found["inverse_frequencies"] = cfg.rotary_base ** (-torch.arange(0, turned, 2).float() / turned)
    return cfg, found


def _config(c: dict[str, Any]) -> ModelConfig:
    norm, positions = c.get("normalization_type", "LN"), c.get("positional_embedding_type", "standard")
    attn_only, act = bool(c.get("attn_only", False)), c.get("act_fn") or "relu"
    for what, value, known in (
        ("normalization_type", norm, _NORMS),
        ("positional_embedding_type", positions, _POSITIONS),
        ("act_fn", act, ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"{what}='{value}' is not supported; {meant(str(value), [str(k) for k in known])}")
    scale = c.get("attn_scale")
    if scale in (None, -1, -1.0):
        scale = c["d_head"] ** 0.5
    return ModelConfig(
        family="transformer_lens",
        n_layers=c["n_layers"],
        n_heads=c["n_heads"],
        n_key_value_heads=c.get("n_key_value_heads") or c["n_heads"],
        d_model=c["d_model"],
        d_head=c["d_head"],
        d_mlp=1 if attn_only else int(c.get("d_mlp") or 4 * c["d_model"]),
        d_vocab=c["d_vocab"],
        n_ctx=c["n_ctx"],
        norm=cast(Any, _NORMS[norm]),
        norm_eps=float(c.get("eps", 1e-5)),
        act_fn=act,
        gated_mlp=bool(c.get("gated_mlp", False)),
        positions=cast(Any, _POSITIONS[positions]),
        attn_scale=1 / float(scale) if c.get("use_attn_scale", True) else 1.0,
        rotary_base=float(c.get("rotary_base", 10_000)),
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=False,
        parallel=bool(c.get("parallel_attn_mlp", False)),
        unembed_bias=True,
        attn_only=attn_only,
        rotary_dim=int(c["rotary_dim"]) if c.get("rotary_dim") not in (None, c["d_head"]) else None,
        logit_softcap=float(c["output_logits_soft_cap"]) if _positive(c.get("output_logits_soft_cap")) else None,
        causal=c.get("attention_dir", "causal") == "causal",
        d_vocab_out=None if c.get("d_vocab_out") in (None, -1) else int(c["d_vocab_out"]),
    )


def _positive(value: Any) -> bool:
    """Whether a number is given; TransformerLens writes -1 for none."""
    return value is not None and float(value) > 0


def _places(cfg: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Our name -> (TransformerLens's name, shape there)."""
    d, e, m, out = cfg.d_model, cfg.d_head, cfg.d_mlp, cfg.d_vocab_out or cfg.d_vocab
    places: dict[str, tuple[str, tuple[int, ...]]] = {"embed.weight": ("embed.W_E", (cfg.d_vocab, d))}
    if cfg.positions != "rotary":
        places["pos_embed.weight"] = ("pos_embed.W_pos", (cfg.n_ctx, d))
    places |= {"unembedding.weight": ("unembed.W_U", (d, out)), "unembedding.bias": ("unembed.b_U", (out,))}

    def norm(ours: str, theirs: str, size: int = d, kind: str = cfg.norm) -> None:
        if kind != "none":
            places[f"{ours}.weight"] = (f"{theirs}.w", (size,))
        if kind == "layer":
            places[f"{ours}.bias"] = (f"{theirs}.b", (size,))

    norm("ln_final", "ln_final")
    for layer in range(cfg.n_layers):
        at = f"blocks.{layer}"
        norm(f"{at}.ln1", f"{at}.ln1")
        for part, heads in (("q", cfg.n_heads), ("k", cfg.n_key_value_heads), ("v", cfg.n_key_value_heads)):
            mark = "_" if part != "q" and heads != cfg.n_heads else ""  # grouped heads are called _W_K there
            places[f"{at}.attn.{part}.weight"] = (f"{at}.attn.{mark}W_{part.upper()}", (heads, d, e))
            places[f"{at}.attn.{part}.bias"] = (f"{at}.attn.{mark}b_{part.upper()}", (heads, e))
        places[f"{at}.attn.o.weight"] = (f"{at}.attn.W_O", (cfg.n_heads, e, d))
        places[f"{at}.attn.o.bias"] = (f"{at}.attn.b_O", (d,))
        if cfg.attn_only:
            continue
        norm(f"{at}.ln2", f"{at}.ln2")
        for ours, theirs, shape in (("up", "in", (d, m)), ("out", "out", (m, d))):
            places[f"{at}.mlp.{ours}.weight"] = (f"{at}.mlp.W_{theirs}", shape)
            places[f"{at}.mlp.{ours}.bias"] = (f"{at}.mlp.b_{theirs}", shape[1:])
        if cfg.gated_mlp:
            places[f"{at}.mlp.gate.weight"] = (f"{at}.mlp.W_gate", (d, m))
            places[f"{at}.mlp.gate.bias"] = (f"{at}.mlp.b_gate", (m,))
        if cfg.act_fn == "solu_ln":
            norm(f"{at}.mlp.ln", f"{at}.mlp.ln", m, "layer")
    return places


def _turned(ours: str, tensor: Tensor) -> Tensor:
    """A weight as a linear layer keeps it: [out, in], heads one after another."""
    if ours.endswith(("embed.weight",)) or tensor.ndim == 1:
        return tensor
    if tensor.ndim == 2:
        return tensor.flatten() if ours.endswith("bias") else tensor.T
    if ours.endswith("attn.o.weight"):
        return tensor.flatten(0, 1).T
    return tensor.transpose(1, 2).flatten(0, 1)
