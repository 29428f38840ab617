"""LayerNorm and RMSNorm with their scale and their normalised value open to taps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.models.taps import NO_TAPS, Taps

HALF = (torch.float16, torch.bfloat16)


class Norm(nn.Module):
    """LayerNorm or RMSNorm: ``x_hat * weight (+ bias)`` with ``x_hat = centred(x) / scale``.

    ``hook_scale`` is the divisor [batch, pos, 1] and ``hook_normalized`` is ``x_hat``, as in TransformerLens. In
    half precision both are worked out in float32, as Hugging Face does; the scale stays so.
    """

    def __init__(self, kind: str, d_model: int, eps: float) -> None:
        super().__init__()
        self.kind, self.centred, self.eps = kind, kind == "layer", eps
        self.weight = nn.Parameter(torch.ones(d_model)) if kind != "none" else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if self.centred else None

    def extra_repr(self) -> str:
        """Kind and size, as torch prints them."""
        return self.kind if self.weight is None else f"{self.kind}, {len(self.weight)}, eps={self.eps:g}"

    def _centre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dtype in HALF:
            x = x.float()
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred, (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(x_hat [..., d_model], scale [..., 1])``."""
        centred, scale = self._centre(x)
        return (centred / scale).to(x.dtype), scale

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
            out = x.view_as(x)  # a tensor of the reader's own, so that a gradient there is the reader's alone
        elif tap.wants(f"{name}.hook_scale", f"{name}.hook_normalized"):
            centred, scale = self._centre(x)
            scale = tap(f"{name}.hook_scale", scale)
            # Gemma rounds after its weight only, which is in float32 then.
            x_hat = tap(f"{name}.hook_normalized", (centred / scale).to(self.weight.dtype))
            out = x_hat * self.weight if self.bias is None else x_hat * self.weight + self.bias
            out = out.to(x.dtype)
        elif self.centred:
            out = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        elif x.dtype not in HALF:
            out = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        elif self.weight.dtype == x.dtype:
            # Rounded before the weight and after it, as LLaMA's own norm does.
            out = F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype) * self.weight
        else:
            # Gemma multiplies in float32; its adapter leaves the weight so.
            out = F.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps).to(x.dtype)
        return tap(f"{name}.hook_out", out)
