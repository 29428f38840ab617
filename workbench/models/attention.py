"""Multi-head attention, driven by the configuration: grouped heads, positions, windows, any mechanism.

Shapes in comments: batch b, position p, query head h, key-value head g, d_model d, d_head e.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.models import mechanisms
from workbench.models.config import ModelConfig
from workbench.models.linear import SigmaLinear
from workbench.models.mechanisms import Call, Mechanism
from workbench.models.mechanisms.tiled import LONG
from workbench.models.norm import HALF, Norm
from workbench.models.past import Past
from workbench.models.taps import NO_TAPS, Taps

Residual = Float[Tensor, "batch pos d_model"]
Heads = Float[Tensor, "batch pos head d_head"]


@dataclass(frozen=True)
class Positions:
    """What the attention of one layer needs to know of the positions of one call.

    Attributes:
        cos, sin: [1 or batch, pos, 1, half of what is turned], for rotary positions; None otherwise.
        visible: [batch, 1, query, key], True where a query may look; None where causality, or nothing, limits it.
        added: [1 or batch, pos, d_model], added to what queries and keys read (shortformer); None otherwise.
        past: keys and values of earlier tokens; None where the call has the whole text.
        first: where the first layer leaves its values for later ones (value residual), one for each call.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    visible: Bool[Tensor, "batch 1 query key"] | None = None
    added: Tensor | None = None
    past: Past | None = None
    first: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Positions:
        """The same on another device; accelerate asks for it where a model lies on several."""

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)

        return replace(
            self, cos=moved(self.cos), sin=moved(self.sin), visible=moved(self.visible), added=moved(self.added)
        )

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


class Attention(nn.Module):
    """Multi-head attention; query heads may share key-value heads, which then stay grouped."""

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        queries, keys = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
        self.q = projection(cfg, cfg.d_model, queries, cfg.attn_bias)
        self.k = projection(cfg, cfg.d_model, keys, cfg.attn_bias)
        self.v = projection(cfg, cfg.d_model, keys, cfg.attn_bias)
        self.o = projection(cfg, queries, cfg.d_model, cfg.out_bias)
        self.scale = nn.Parameter(torch.ones(cfg.d_model)) if cfg.layer_scale else None
        self.q_norm = Norm(cfg.norm, cfg.d_head, cfg.norm_eps) if cfg.qk_norm else None
        self.k_norm = Norm(cfg.norm, cfg.d_head, cfg.norm_eps) if cfg.qk_norm else None
        self.mechanism: Mechanism = mechanisms.find(cfg.attention)
        self.options = mechanisms.options_of(self.mechanism, dict(cfg.attention_options))
        shapes = mechanisms.parameter_shapes(self.mechanism, cfg.n_heads, cfg.d_head, cfg.d_model)
        self.learned = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})
        chosen = cfg.attention_heads
        self.chosen = None if chosen is None else [head for at, head in chosen if at == layer]

    def extra_repr(self) -> str:
        """The mechanism and who uses it, as torch prints them."""
        options = "".join(f", {name}={value:g}" for name, value in self.options.items())
        return f"{self.mechanism.key}{options}{'' if self.chosen is None else f', in heads {self.chosen}'}"

    @property
    def is_softmax(self) -> bool:
        """Whether every head uses plain softmax, which has a fused kernel."""
        return self.mechanism.key == "softmax" or self.chosen == []

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
        """Output weights of each head, layer scale included: what a head adds is ``z @ W_O``."""
        weight = self.o.weight.T.view(self.cfg.n_heads, self.cfg.d_head, self.cfg.d_model)
        return weight if self.scale is None else weight * self.scale

    @property
    def b_O(self) -> Float[Tensor, " d_model"] | None:
        """What attention adds beside its heads; None for nothing."""
        return self.o.bias if self.scale is None or self.o.bias is None else self.o.bias * self.scale

    def write(self, z: Heads) -> Residual:
        """What head outputs add to the residual stream, biases included."""
        out: Tensor = self.o(z.flatten(2))
        return out if self.scale is None else out * self.scale

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
        if self.mechanism.values is not None and (self.layer == 0 or not self.is_softmax):
            v = self._mixed_values(q, k, v, positions.first)
        if positions.past is not None:
            k, v = positions.past.extend(self.layer, k, v)
        if tap.wants(f"{name}.hook_attn_scores", f"{name}.hook_pattern"):
            z = self.attend_openly(q, k, v, tap, name, positions)
        else:
            z = self.attend(q, k, v, positions)
        if self.mechanism.output is not None and not self.is_softmax:
            z = self._blend(self.mechanism.output(z, x, self._call(q, self.cfg.attn_scale, k)), z, 2)
        z = tap(f"{name}.hook_z", z)  # b p h e
        if tap.wants(f"{name}.hook_result"):
            result = tap(f"{name}.hook_result", torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(2) if self.b_O is None else result.sum(2) + self.b_O
        return self.write(z)

    def place(self, q: Heads, k: Tensor, positions: Positions) -> tuple[Heads, Tensor]:
        """Queries and keys as they meet: normalised where the model does that, and turned by their positions."""
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return positions.rotate(q), positions.rotate(k)

    def attend(self, q: Heads, k: Tensor, v: Tensor, positions: Positions) -> Heads:
        """Head outputs by the fused kernel; the pattern is never made where softmax is all there is to it."""
        exact = self.cfg.attn_rounding == "nothing" and q.dtype in HALF
        tiled = self._tiled(q, k, v, positions)
        if tiled is not None:
            return tiled
        if self.cfg.attn_softcap is not None or not self.is_softmax or exact:
            return self.attend_openly(q, k, v, NO_TAPS, "", positions)
        q, scale = self._scaled(q)
        grouped = q.shape[2] != k.shape[2] or q.shape[2] != v.shape[2]
        if grouped and k.shape[2] != v.shape[2]:
            k, v = self.match_heads(q, k), self.match_heads(q, v)
            grouped = False
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=positions.visible,
            is_causal=self.cfg.causal and positions.visible is None and q.shape[1] == k.shape[1] > 1,
            scale=scale,
            enable_gqa=grouped,
        )
        return z.transpose(1, 2)

    def _tiled(self, q: Heads, k: Tensor, v: Tensor, positions: Positions) -> Heads | None:
        """Head outputs of a long text without its pattern, the same numbers; None where it takes the pattern.

        Half precision does: there the pattern is made of rounded scores, and tiles are not.
        """
        plain = positions.visible is None and self.cfg.attn_softcap is None and self.chosen is None
        if self.mechanism.tiled is None or not plain or q.dtype in HALF or k.shape[1] < LONG:
            return None
        if k.shape[2] != v.shape[2]:
            k, v = self.match_heads(q, k), self.match_heads(q, v)
        call = Call(q, k, self.cfg.attn_scale, dict(self.learned.items()), self.options, self.layer)
        return self.mechanism.tiled(v, call, self.cfg.causal)

    def attend_openly(self, q: Heads, k: Tensor, v: Tensor, tap: Taps, name: str, positions: Positions) -> Heads:
        """Head outputs step by step, with scores and pattern [b h query key] open to taps."""
        k, v = self.match_heads(q, k), self.match_heads(q, v)
        visible = positions.visible
        if visible is None:
            n, m = q.shape[1], k.shape[1]
            everything = torch.ones(n, m, dtype=torch.bool, device=q.device)
            visible = everything.tril(m - n) if self.cfg.causal else everything
        if self.cfg.attn_rounding == "nothing" and q.dtype in HALF:
            q, k = q.float(), k.float()
        call = self._call(*self._scaled(q), k)
        # A few heads of another mechanism get scores of their own: the tap shows the ones that all heads share.
        whole = self.mechanism if self.chosen is None else mechanisms.find("softmax")
        scores = self._masked(whole.scores(call), visible)
        scores = tap(f"{name}.hook_attn_scores", scores)
        pattern = whole.weights(scores, call)
        if self.chosen:
            own = (
                scores if self.mechanism.scores is whole.scores else self._masked(self.mechanism.scores(call), visible)
            )
            pattern = self._blend(self.mechanism.weights(own, call), pattern, 1)
        pattern = tap(f"{name}.hook_pattern", pattern.to(v.dtype))
        z: Tensor = torch.einsum("bhqk,bkhe->bqhe", pattern, v)
        return z

    def _masked(self, scores: Tensor, visible: Tensor) -> Tensor:
        # The lowest finite number, not -inf: a row without any visible key then stays free of NaN.
        capped = scores if self.cfg.attn_softcap is None else softcap(scores, self.cfg.attn_softcap)
        return capped.masked_fill(~visible, torch.finfo(scores.dtype).min)

    def _scaled(self, q: Heads) -> tuple[Heads, float]:
        """Queries, and what is left to scale their products by."""
        # Other mechanisms may do more with queries than multiply them.
        early = self.cfg.attn_rounding == "queries" and self.is_softmax
        return (q * self.cfg.attn_scale, 1.0) if early else (q, self.cfg.attn_scale)

    def _call(self, q: Heads, scale: float, k: Tensor) -> Call:
        """What the mechanism may look at besides the scores."""
        learned: Mapping[str, Tensor] = dict(self.learned.items())
        return Call(q, self.match_heads(q, k), scale, learned, self.options, self.layer)

    def _mixed_values(self, q: Heads, k: Tensor, v: Tensor, first: dict[str, Tensor]) -> Tensor:
        """Values mixed with the first layer's of the same call."""
        assert self.mechanism.values is not None
        v = self.match_heads(q, v)
        if self.layer == 0:
            first["v"] = v
        elif "v" not in first:
            raise ValueError(
                f"The attention mechanism '{self.mechanism.key}' reads the first layer's values; "
                "run the model from its first layer."
            )
        call = self._call(q, self.cfg.attn_scale, k)
        return self._blend(self.mechanism.values(v, first["v"].to(v.device), call), v, 2)

    def _blend(self, special: Tensor, plain: Tensor, axis: int) -> Tensor:
        """``special`` for the heads that use the mechanism, ``plain`` for the others."""
        if self.chosen is None:
            return special
        shape = [1] * plain.ndim
        shape[axis] = self.cfg.n_heads
        uses = torch.zeros(self.cfg.n_heads, dtype=torch.bool, device=plain.device)
        uses[self.chosen] = True
        return torch.where(uses.view(shape), special, plain)

    def match_heads(self, q: Heads, x: Tensor) -> Heads:
        """Keys or values with one head for each query head."""
        return x if x.shape[2] == q.shape[2] else self.per_query_head(x, 2)


def softcap(x: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(x / cap)``: close to x where that is small, never beyond the cap (Gemma 2)."""
    return x if cap is None else torch.tanh(x / cap) * cap


def projection(cfg: ModelConfig, inputs: int, outputs: int, bias: bool) -> nn.Linear:
    """A linear layer of the kind that the configuration asks for."""
    if cfg.linear == "plain":
        return nn.Linear(inputs, outputs, bias=bias)
    return cast(nn.Linear, SigmaLinear(inputs, outputs, bias))  # the same surface
