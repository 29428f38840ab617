"""One transformer block, driven by the configuration.

Shapes in comments: batch b, position p, query head h, key-value head g, d_model d, d_head e, d_mlp m.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.models.attention import Attention, Positions, projection
from workbench.models.config import ModelConfig
from workbench.models.norm import HALF, Norm
from workbench.models.taps import NO_TAPS, Taps

Residual = Float[Tensor, "batch pos d_model"]


def _new_gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation; in half precision in the steps, and so with the rounding, of Hugging Face's."""
    if x.dtype not in HALF:
        return F.gelu(x, approximate="tanh")
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


def _fast_gelu(x: Tensor) -> Tensor:
    """The same approximation in other steps."""
    if x.dtype not in HALF:
        return F.gelu(x, approximate="tanh")
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "solu": lambda x: x * x.softmax(-1),
    "solu_ln": lambda x: x * x.softmax(-1),  # and then a norm of the MLP's own
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_new": _new_gelu,
    "gelu_fast": _fast_gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class MLP(nn.Module):
    """Two- or three-matrix MLP: ``out(act(in(x)))``, or gated ``out(act(gate(x)) * in(x))``."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[cfg.act_fn]
        self.gate = projection(cfg, cfg.d_model, cfg.d_mlp, cfg.mlp_bias) if cfg.gated_mlp else None
        self.up = projection(cfg, cfg.d_model, cfg.d_mlp, cfg.mlp_bias)
        self.out = projection(cfg, cfg.d_mlp, cfg.d_model, cfg.mlp_bias)
        self.scale = nn.Parameter(torch.ones(cfg.d_model)) if cfg.layer_scale else None
        self.ln = Norm("layer", cfg.d_mlp, cfg.norm_eps) if cfg.act_fn == "solu_ln" else None

    def forward(self, x: Tensor, tap: Taps = NO_TAPS, name: str = "") -> Tensor:
        """MLP output [b p d] of the normalised residual ``x``. ``hook_pre`` is what the activation takes in."""
        x = tap(f"{name}.hook_in", x)
        if self.gate is None:
            post = self.act(tap(f"{name}.hook_pre", self.up(x)))  # b p m
        else:
            pre = tap(f"{name}.hook_pre", self.gate(x))  # b p m
            post = self.act(pre) * tap(f"{name}.hook_pre_linear", self.up(x))
        if self.ln is not None:
            post = self.ln(tap(f"{name}.hook_mid", post))
        out: Tensor = self.out(tap(f"{name}.hook_post", post))
        return out if self.scale is None else out * self.scale


class Block(nn.Module):
    """Pre-norm block: ``mid = pre + attn(ln1(pre))``, ``post = mid + mlp(ln2(mid))``.

    A parallel block reads once: ``post = pre + attn(ln1(pre)) + mlp(ln2(pre))``, with ``ln2 = ln1`` where the norm
    is shared. With post-norms, what is added goes through ``ln1_post`` and ``ln2_post`` first.

    A post-norm block (BERT) normalises the sums: ``mid = ln1(pre + attn(pre))``, ``post = ln2(mid + mlp(mid))``.
    """

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.cfg = cfg

        def norm() -> Norm:
            return Norm(cfg.norm, cfg.d_model, cfg.norm_eps)

        self.ln1, self.attn = norm(), Attention(cfg, layer)
        self.mlp = None if cfg.attn_only else MLP(cfg)
        self.ln2 = None if cfg.shared_norm or cfg.attn_only else norm()
        self.ln1_post = norm() if cfg.post_norms else None
        self.ln2_post = norm() if cfg.post_norms else None

    @property
    def mlp_norm(self) -> Norm:
        """The norm through which the MLP reads."""
        return self.ln1 if self.ln2 is None else self.ln2

    def forward(self, resid: Residual, tap: Taps, name: str, positions: Positions) -> Residual:
        """The residual stream after this block."""
        resid = tap(f"{name}.hook_resid_pre", resid)
        if self.cfg.norm_place == "post":
            return self._post_norm(resid, tap, name, positions)
        normed = self.ln1(resid, tap, f"{name}.ln1")
        attended = self.attn(normed, tap, f"{name}.attn", positions)
        if self.ln1_post is not None:
            attended = self.ln1_post(attended, tap, f"{name}.ln1_post")
        attended = tap(f"{name}.hook_attn_out", attended)
        if self.mlp is None:
            return tap(f"{name}.hook_resid_post", resid + attended)
        mid = resid + attended if self.cfg.parallel else tap(f"{name}.hook_resid_mid", resid + attended)
        if self.ln2 is not None:
            normed = self.ln2(resid if self.cfg.parallel else mid, tap, f"{name}.ln2")
        else:
            normed = normed.view_as(normed)  # a tensor of the MLP's own, so that a gradient there is the MLP's alone
        fed = self.mlp(normed, tap, f"{name}.mlp")
        if self.ln2_post is not None:
            fed = self.ln2_post(fed, tap, f"{name}.ln2_post")
        fed = tap(f"{name}.hook_mlp_out", fed)
        # In half precision the order of a sum counts; parallel models add what both wrote first.
        after = (fed + attended) + resid if self.cfg.parallel else mid + fed
        return tap(f"{name}.hook_resid_post", after)

    def _post_norm(self, resid: Residual, tap: Taps, name: str, positions: Positions) -> Residual:
        attended = tap(f"{name}.hook_attn_out", self.attn(resid, tap, f"{name}.attn", positions))
        mid = self.ln1(attended + resid, tap, f"{name}.ln1")
        if self.mlp is None or self.ln2 is None:
            return tap(f"{name}.hook_resid_post", mid)
        mid = tap(f"{name}.hook_resid_mid", mid)
        fed = tap(f"{name}.hook_mlp_out", self.mlp(mid, tap, f"{name}.mlp"))
        return tap(f"{name}.hook_resid_post", self.ln2(fed + mid, tap, f"{name}.ln2"))
