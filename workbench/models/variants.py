"""The same model written differently: another attention mechanism, or norms folded into the matrices that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.models import mechanisms
from workbench.models.transformer import Transformer


def with_attention(
    model: Transformer,
    key: str,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    layers: Sequence[int] | None = None,
    **options: float,
) -> Transformer:
    """A model that shares the weights of ``model`` and turns scores into patterns in another way.

    What the mechanism learns starts where it says, or is kept where the model has that mechanism already. Settings and
    heads are those of this call alone, whatever the model had.

    Args:
        model: stays as it is.
        key: of the mechanism, such as ``sparsemax``; :data:`workbench.models.mechanisms.MECHANISMS` lists them.
        heads: (layer, head) pairs that use it while the others use softmax; None for all.
        layers: the same by whole layers.
        **options: the mechanism's settings, such as ``temperature=2.0``.

    Raises:
        ValueError: no such mechanism, setting, layer or head.
    """
    cfg, mechanism = model.cfg, mechanisms.find(key)
    if heads is not None and layers is not None:
        raise ValueError("Give heads or layers, not both.")
    if layers is not None:
        heads = [(layer, head) for layer in layers for head in range(cfg.n_heads)]
    if heads is not None and not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in heads):
        raise ValueError(f"Heads are (layer, head) pairs, such as [(5, 1)]; got {heads}.")
    for layer, head in heads or ():
        if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads):
            raise ValueError(
                f"There is no head {layer}.{head}: {model.name} has layers 0 to {cfg.n_layers - 1} "
                f"and heads 0 to {cfg.n_heads - 1}."
            )
    try:
        options = {name: float(value) for name, value in options.items()}
    except (TypeError, ValueError):
        raise ValueError(f"Settings of '{key}' are numbers; got {options}.") from None
    mechanisms.options_of(mechanism, options)
    changed = replace(
        cfg,
        attention=key,
        attention_options=tuple(sorted((name, float(value)) for name, value in options.items())),
        attention_heads=None if heads is None else tuple(sorted({(int(a), int(b)) for a, b in heads})),
    )
    weights = model.weights()
    if key != cfg.attention:
        weights = {name: tensor for name, tensor in weights.items() if ".learned." not in name}
        shapes = mechanisms.parameter_shapes(mechanism, cfg.n_heads, cfg.d_head, cfg.d_model)
        initial = {parameter.name: parameter.initial for parameter in mechanism.parameters}
        like = model.blocks[0].attn.q.weight
        for layer in range(cfg.n_layers):
            for name, shape in shapes.items():
                weights[f"blocks.{layer}.attn.learned.{name}"] = like.new_full(shape, initial[name])
    return Transformer(changed, weights, _reader(model), model.name)


def folded(model: Transformer, *, norms: bool = True, centre: bool = False, values: bool = False) -> Transformer:
    """A model with the same output whose weights are easier to read. Nothing is folded unless asked for.

    Args:
        model: stays as it is.
        norms: each norm's weight and bias go into the matrices that read it; what is left of the norm divides only.
        centre: what writes to the residual stream is centred over d_model, which LayerNorm takes out anyway; and the
            unembedding over the vocabulary, which shifts all logits of a position alike, so that probabilities stay
            (not where logits are capped, or there is only one).
        values: value biases go into the output bias: a pattern's rows sum to 1.

    Returns:
        A copy. ``cfg`` says what has become of biases and of the tie between embedding and unembedding.

    Raises:
        ValueError: the model cannot be folded that way.
    """
    cfg = model.cfg
    if cfg.norm_place == "post" and (norms or centre):
        raise ValueError(f"{model.name} normalises the residual stream itself (post-norm); its norms cannot be folded.")
    if cfg.linear != "plain":
        raise ValueError(f"{model.name} has sigma-reparametrised layers; folding them is not supported.")
    if centre and (cfg.norm != "layer" or cfg.post_norms):
        raise ValueError(
            f"Centring is sound only where LayerNorm reads the residual stream; {model.name} has norm '{cfg.norm}'"
            f"{' and norms after the sublayers' if cfg.post_norms else ''}."
        )
    mechanism = mechanisms.find(cfg.attention)
    if norms and cfg.norm != "none" and mechanism.output is not None:
        raise ValueError(f"'{cfg.attention}' attention reads what the norms give; their weights cannot be folded.")
    if values and (mechanism.rows != "one" or mechanism.values is not None or mechanism.output is not None):
        raise ValueError(
            f"'{cfg.attention}' attention does not hand a value's bias on as it is (rows need not sum to 1, or values "
            "and outputs are mixed); value biases cannot be moved."
        )
    weights = {name: tensor.clone() for name, tensor in model.weights().items()}
    changes: dict[str, Any] = {"tied": False}
    if cfg.layer_scale:
        changes |= _fold_scales(model, weights)
    if norms and cfg.norm != "none":
        changes |= _fold_norms(model, weights)
    if centre:
        _centre(model, weights)
    if values and changes.get("attn_bias", cfg.attn_bias):
        changes |= _fold_values(model, weights)
    return Transformer(replace(cfg, **changes), weights, _reader(model), model.name)


def _fold_norms(model: Transformer, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Norm weights and biases into what reads them; what that changes in the configuration."""
    cfg = model.cfg
    for layer in range(cfg.n_layers):
        at = f"blocks.{layer}"
        mlp = [] if cfg.attn_only else [f"{at}.mlp.up"] + [f"{at}.mlp.gate"] * cfg.gated_mlp
        attention = [f"{at}.attn.{part}" for part in "qkv"]
        if cfg.positions == "shortformer":
            raise ValueError("Shortformer positions are added after the norm; its weight cannot be folded.")
        _into(weights, f"{at}.ln1", [*attention, *(mlp if cfg.shared_norm else [])])
        if mlp and not cfg.shared_norm:
            _into(weights, f"{at}.ln2", mlp)
    changes = {"attn_bias": True, "mlp_bias": True} if cfg.norm == "layer" else {}
    if cfg.norm == "layer" and not cfg.attn_only and not cfg.mlp_bias:
        for layer in range(cfg.n_layers):
            weights[f"blocks.{layer}.mlp.out.bias"] = weights["ln_final.weight"].new_zeros(cfg.d_model)
    if cfg.head == "unembed" and cfg.pooling == "none" and cfg.head_act is None:
        _into(weights, "ln_final", ["unembedding"])
        changes |= {"unembed_bias": True} if cfg.norm == "layer" else {}
    return changes


def _fold_scales(model: Transformer, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Layer scale into the matrices that write."""
    for layer in range(model.cfg.n_layers):
        for part, writer in (("attn", "attn.o"), ("mlp", "mlp.out")):
            scale = weights.pop(f"blocks.{layer}.{part}.scale")
            for kind in ("weight", "bias"):
                if (name := f"blocks.{layer}.{writer}.{kind}") in weights:
                    weights[name] = weights[name] * (scale[:, None] if kind == "weight" else scale)
    return {"layer_scale": False}


def _into(weights: dict[str, Tensor], norm: str, readers: Sequence[str]) -> None:
    """One norm's weight and bias into the matrices ``readers``; what stays is the identity."""
    gain, shift = weights[f"{norm}.weight"], weights.get(f"{norm}.bias")
    for reader in readers:
        matrix = weights[f"{reader}.weight"]
        if shift is not None:
            moved = matrix @ shift
            before = weights.get(f"{reader}.bias")
            weights[f"{reader}.bias"] = moved if before is None else before + moved
        weights[f"{reader}.weight"] = (matrix * gain).to(matrix.dtype)  # Gemma's gain has more digits
    weights[f"{norm}.weight"] = torch.ones_like(gain)
    if shift is not None:
        weights[f"{norm}.bias"] = torch.zeros_like(shift)


def _centre(model: Transformer, weights: dict[str, Tensor]) -> None:
    """Every vector written to the residual stream, and the logits, less their mean."""
    for name in ("embed.weight", "pos_embed.weight", "type_embed.weight", "prefix.weight"):
        if name in weights and model.cfg.positions != "shortformer":
            weights[name] = weights[name] - weights[name].mean(-1, keepdim=True)
    writers = [f"blocks.{layer}.{part}" for layer in range(model.cfg.n_layers) for part in ("attn.o", "mlp.out")]
    cfg = model.cfg
    shifts = cfg.head == "unembed" and cfg.logit_softcap is None and cfg.n_out > 1
    for writer in [*writers, "patch_embed"] + ["unembedding"] * shifts:
        for kind in ("weight", "bias"):
            if (name := f"{writer}.{kind}") in weights:
                weights[name] = weights[name] - weights[name].mean(0, keepdim=True)


def _fold_values(model: Transformer, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Value biases through the output matrix into its bias."""
    for layer, block in enumerate(model.blocks):
        bias = weights[f"blocks.{layer}.attn.v.bias"]
        per_head = block.attn.per_query_head(bias.view(-1, model.cfg.d_head), 0).flatten()
        moved = weights[f"blocks.{layer}.attn.o.weight"] @ per_head
        before = weights.get(f"blocks.{layer}.attn.o.bias")
        weights[f"blocks.{layer}.attn.o.bias"] = moved if before is None else before + moved
        weights[f"blocks.{layer}.attn.v.bias"] = torch.zeros_like(bias)
    return {"out_bias": True}


def _reader(model: Transformer) -> Any:
    """Tokenizer or image processor."""
    return model.tokenizer if model.images is None else model.images.processor
