"""What some mechanisms do besides weighing keys: to the values before, to the head outputs after."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.models.mechanisms.record import Call, Heads
from workbench.models.mechanisms.softmaxes import lambda_start


def mixed_values(v: Heads, first_v: Heads, call: Call) -> Heads:
    """``a v + b v_first``, a and b learnable per head (Zhou et al. 2024, arXiv 2410.17897)."""
    a, b = (call.parameters[name].to(v.dtype)[:, None] for name in ("a", "b"))
    return a * v + b * first_v


def gate(z: Heads, x: Tensor, call: Call) -> Heads:
    """``z sigmoid(w_h . x_h + bias_h)``, x_h the head's slice of x [batch query d_model] (Bondarenko et al. 2023).

    Head h of n reads numbers ``h d_head`` to ``(h + 1) d_head`` of the normalised input.
    """
    exact = torch.promote_types(z.dtype, torch.float32)
    w, bias = call.parameters["w"].to(exact), call.parameters["bias"].to(exact)
    slices = x.to(exact).reshape(*x.shape[:-1], *w.shape)  # batch query head d_head
    opening: Tensor = ((slices * w).sum(-1) + bias).sigmoid()
    return z * opening[..., None].to(z.dtype)


def head_norm(z: Heads, _x: Tensor, call: Call) -> Heads:
    """``(1 - lambda_start) gain z / rms(z)`` for each head by itself (Ye et al. 2024).

    The norm undoes the scale that subtracting one map from the other takes away.
    """
    exact = z.to(torch.promote_types(z.dtype, torch.float32))
    scale = (exact.pow(2).mean(-1, keepdim=True) + call.options["eps"]).rsqrt()
    gain = call.parameters["gain"].to(exact.dtype) * (1 - lambda_start(call.layer))
    return (exact * scale * gain).to(z.dtype)
