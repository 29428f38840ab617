"""One transformer block, driven by the configuration.

Shapes in comments: batch b, position p, query head h, key-value head g, d_model d, d_head e, d_mlp m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.models.config import ModelConfig
from workbench.models.taps import Taps

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "solu": lambda x: x * x.softmax(-1),
    "solu_ln": lambda x: x * x.softmax(-1),  # and then a norm of the MLP's own
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}

NO_TAPS = Taps()


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(x / cap)``: close to x where that is small, never beyond the cap (Gemma 2)."""
    return x if cap is None else torch.tanh(x / cap) * cap


Residual = Float[Tensor, "batch pos d_model"]
Heads = Float[Tensor, "batch pos head d_head"]


@dataclass(frozen=True)
class Positions:
    """What the attention of one layer needs to know of the positions of one call.

    Attributes:
        cos, sin: [1 or batch, pos, 1, half of what is turned], for rotary positions; None otherwise.
        visible: [batch, 1, query, key], True where a query may look; None where causality, or nothing, limits it.
        added: [1 or batch, pos, d_model], added to what queries and keys read (shortformer); None otherwise.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    visible: Bool[Tensor, "batch 1 query key"] | None = None
    added: Tensor | None = None

    def beside(self, x: Tensor) -> Tensor:
        """What queries and keys read of the normalised residual stream ``x`` [..., pos, d_model]."""
        return x if self.added is None else x + self.added

    def rotate(self, x: Heads) -> Heads:
        """Turn each pair (i, i + n / 2) of the first n numbers by its position's angle (RoPE, Su et al. 2021)."""
        if self.cos is None or self.sin is None:
            return x
        turned = 2 * self.cos.shape[-1]
        left, right = x[..., :turned].chunk(2, dim=-1)
        parts = [left * self.cos - right * self.sin, right * self.cos + left * self.sin]
        return torch.cat(parts if turned == x.shape[-1] else [*parts, x[..., turned:]], dim=-1)


class Norm(nn.Module):
    """LayerNorm or RMSNorm: ``x_hat * weight (+ bias)`` with ``x_hat = centred(x) / scale``.

    ``hook_scale`` is the divisor [batch, pos, 1] and ``hook_normalized`` is ``x_hat``, as in TransformerLens.
    """

    def __init__(self, kind: str, d_model: int, eps: float) -> None:
        super().__init__()
        self.kind, self.centred, self.eps = kind, kind == "layer", eps
        self.weight = nn.Parameter(torch.ones(d_model)) if kind != "none" else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if self.centred else None

    def _centre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred, (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(x_hat [..., d_model], scale [..., 1])``."""
        centred, scale = self._centre(x)
        return centred / scale, scale

    def pull_back(self, gradient: Tensor, x_hat: Tensor, scale: Tensor) -> Tensor:
        """Gradient at the input from the gradient at the output: the norm's Jacobian in closed form.

        With g = gradient * weight: ``(g - [mean(g)] - x_hat * mean(g * x_hat)) / scale``, the bracket for
        LayerNorm only. Leading axes broadcast.
        """
        if self.weight is None:
            return gradient
        g = gradient * self.weight
        along = (g * x_hat).mean(-1, keepdim=True)
        if self.centred:
            g = g - g.mean(-1, keepdim=True)
        return (g - x_hat * along) / scale

    def forward(self, x: Tensor, tap: Taps = NO_TAPS, name: str = "") -> Tensor:
        """Normalise ``x`` [..., d_model]; the fused kernel unless the parts are tapped."""
        if self.weight is None:
            out = x
        elif tap.wants(f"{name}.hook_scale", f"{name}.hook_normalized"):
            centred, scale = self._centre(x)
            scale = tap(f"{name}.hook_scale", scale)
            x_hat = tap(f"{name}.hook_normalized", centred / scale)
            out = x_hat * self.weight if self.bias is None else x_hat * self.weight + self.bias
        elif self.centred:
            out = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        else:
            out = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return tap(f"{name}.hook_out", out)


class Attention(nn.Module):
    """Multi-head attention; query heads may share key-value heads, which then stay grouped."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        queries, keys = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
        self.q = nn.Linear(cfg.d_model, queries, bias=cfg.attn_bias)
        self.k = nn.Linear(cfg.d_model, keys, bias=cfg.attn_bias)
        self.v = nn.Linear(cfg.d_model, keys, bias=cfg.attn_bias)
        self.o = nn.Linear(queries, cfg.d_model, bias=cfg.out_bias)
        self.q_norm = Norm(cfg.norm, cfg.d_head, cfg.norm_eps) if cfg.qk_norm else None
        self.k_norm = Norm(cfg.norm, cfg.d_head, cfg.norm_eps) if cfg.qk_norm else None

    def heads_of(self, linear: nn.Linear) -> Float[Tensor, "head d_head d_model"]:
        """Weights of ``q``, ``k`` or ``v`` seen by each *query* head (a view where heads share none)."""
        weight = linear.weight.view(-1, self.cfg.d_head, self.cfg.d_model)
        return weight if linear is self.q else self.per_query_head(weight, 0)

    def bias_of(self, linear: nn.Linear) -> Float[Tensor, "head d_head"] | None:
        """Bias of ``q``, ``k`` or ``v`` seen by each query head."""
        if not self.cfg.attn_bias:
            return None
        bias = linear.bias.view(-1, self.cfg.d_head)
        return bias if linear is self.q else self.per_query_head(bias, 0)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights of each head."""
        return self.o.weight.T.view(self.cfg.n_heads, self.cfg.d_head, self.cfg.d_model)

    def per_query_head(self, x: Tensor, axis: int) -> Tensor:
        """Repeat shared key-value heads so that every query head has its own."""
        return x if self.cfg.group_size == 1 else x.repeat_interleave(self.cfg.group_size, dim=axis)

    def forward(self, x: Residual, tap: Taps, name: str, positions: Positions) -> Residual:
        """Attention output [b p d] of the normalised residual ``x``."""
        b, p, _ = x.shape
        e = self.cfg.d_head
        beside = positions.beside(x)
        q = tap(f"{name}.hook_q", self.q(beside).view(b, p, -1, e))  # b p h e
        k = tap(f"{name}.hook_k", self.k(beside).view(b, p, -1, e))  # b p g e
        v = tap(f"{name}.hook_v", self.v(x).view(b, p, -1, e))  # b p g e
        if tap.wants(f"{name}.hook_k_heads"):
            k = tap(f"{name}.hook_k_heads", self.per_query_head(k, 2))  # b p h e
        if tap.wants(f"{name}.hook_v_heads"):
            v = tap(f"{name}.hook_v_heads", self.per_query_head(v, 2))  # b p h e
        q, k = self.place(q, k, positions)
        if positions.cos is not None:
            q, k = tap(f"{name}.hook_rot_q", q), tap(f"{name}.hook_rot_k", k)
        if tap.wants(f"{name}.hook_attn_scores", f"{name}.hook_pattern"):
            z = self.attend_openly(q, k, v, tap, name, positions)
        else:
            z = self.attend(q, k, v, positions)
        z = tap(f"{name}.hook_z", z)  # b p h e
        if tap.wants(f"{name}.hook_result"):
            result = tap(f"{name}.hook_result", torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(2) + self.o.bias if self.cfg.out_bias else result.sum(2)
        out: Tensor = self.o(z.reshape(b, p, -1))
        return out

    def place(self, q: Heads, k: Tensor, positions: Positions) -> tuple[Heads, Tensor]:
        """Queries and keys as they meet: normalised where the model does that, and turned by their positions."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return positions.rotate(q), positions.rotate(k)

    def attend(self, q: Heads, k: Tensor, v: Tensor, positions: Positions) -> Heads:
        """Head outputs by the fused kernel; the pattern is never made unless scores are capped."""
        if self.cfg.attn_softcap is not None:
            return self.attend_openly(q, k, v, NO_TAPS, "", positions)
        grouped = q.shape[2] != k.shape[2] or q.shape[2] != v.shape[2]
        if grouped and k.shape[2] != v.shape[2]:
            k, v = self.match_heads(q, k), self.match_heads(q, v)
            grouped = False
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=positions.visible,
            is_causal=self.cfg.causal and positions.visible is None,
            scale=self.cfg.attn_scale,
            enable_gqa=grouped,
        )
        return z.transpose(1, 2)

    def attend_openly(self, q: Heads, k: Tensor, v: Tensor, tap: Taps, name: str, positions: Positions) -> Heads:
        """Head outputs step by step, with scores and pattern [b h query key] open to taps."""
        k, v = self.match_heads(q, k), self.match_heads(q, v)
        visible = positions.visible
        if visible is None:
            n = q.shape[1]
            everything = torch.ones(n, n, dtype=torch.bool, device=q.device)
            visible = everything.tril() if self.cfg.causal else everything
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) * self.cfg.attn_scale
        scores = softcap(scores, self.cfg.attn_softcap)
        # The lowest finite number, not -inf: a row without any visible key then stays free of NaN.
        scores = tap(f"{name}.hook_attn_scores", scores.masked_fill(~visible, torch.finfo(scores.dtype).min))
        pattern = tap(f"{name}.hook_pattern", scores.softmax(-1, dtype=torch.float32).to(v.dtype))
        z: Tensor = torch.einsum("bhqk,bkhe->bqhe", pattern, v)
        return z

    def match_heads(self, q: Heads, x: Tensor) -> Heads:
        """Keys or values with one head for each query head."""
        return x if x.shape[2] == q.shape[2] else self.per_query_head(x, 2)


class MLP(nn.Module):
    """Two- or three-matrix MLP: ``out(act(in(x)))``, or gated ``out(act(gate(x)) * in(x))``."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[cfg.act_fn]
        self.gate = nn.Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias) if cfg.gated_mlp else None
        self.up = nn.Linear(cfg.d_model, cfg.d_mlp, bias=cfg.mlp_bias)
        self.out = nn.Linear(cfg.d_mlp, cfg.d_model, bias=cfg.mlp_bias)
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
        return out


class Block(nn.Module):
    """Pre-norm block: ``mid = pre + attn(ln1(pre))``, ``post = mid + mlp(ln2(mid))``.

    A parallel block reads once: ``post = pre + attn(ln1(pre)) + mlp(ln2(pre))``, with ``ln2 = ln1`` where the norm
    is shared. With post-norms, what is added goes through ``ln1_post`` and ``ln2_post`` first.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg

        def norm() -> Norm:
            return Norm(cfg.norm, cfg.d_model, cfg.norm_eps)

        self.ln1, self.attn = norm(), Attention(cfg)
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
        return tap(f"{name}.hook_resid_post", mid + tap(f"{name}.hook_mlp_out", fed))
