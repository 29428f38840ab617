"""Small models of the workbench's own form: a vision transformer for the digits, an encoder of text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests import micro
from workbench.models import ImageConfig, ModelConfig, Transformer, fresh, save

_COMMON: dict[str, Any] = {
    "n_heads": 4,
    "n_key_value_heads": 4,
    "d_model": 32,
    "d_head": 8,
    "d_mlp": 64,
    "norm": "layer",
    "norm_eps": 1e-6,
    "act_fn": "gelu",
    "gated_mlp": False,
    "positions": "learned",
    "attn_scale": 8**-0.5,
    "attn_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "tied": False,
    "causal": False,
}

VISION = ModelConfig(
    family="vit",
    n_layers=3,
    d_vocab=0,
    n_ctx=17,
    unembed_bias=True,
    d_vocab_out=10,
    image=ImageConfig(8, 8, 1, 2, 2),
    pooling="first",
    labels=tuple("0123456789"),
    **_COMMON,
)


def vision(**image: Any) -> Transformer:
    """8x8 grey images in patches of 2x2 unless ``image`` says otherwise; random weights that make real patterns."""
    assert VISION.image is not None
    changed = replace(VISION.image, **image)
    cfg = replace(VISION, image=changed, n_ctx=changed.n_patches + len(changed.prefix))
    return _stirred(fresh(cfg, name="vit"))


def encoder() -> Transformer:
    """Text both ways, without logits."""
    text = micro.tokenizer()
    cfg = ModelConfig(family="bert", n_layers=2, d_vocab=len(text), n_ctx=40, head="none", **_COMMON)
    return _stirred(fresh(cfg, tokenizer=text, name="encoder"))


def _stirred(model: Transformer) -> Transformer:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
    return model


def saved(model: Transformer, folder: Path) -> Path:
    """``model`` in a folder of its name."""
    return save(model, folder / model.name)
