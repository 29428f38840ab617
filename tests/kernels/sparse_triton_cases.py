"""Run in a process of its own with TRITON_INTERPRET=1: the Triton kernels against the float64 reference."""

from __future__ import annotations

import torch

from tests.kernels import sparse_reference as reference
from workbench.kernels import entmax_attention, sigmoid_attention, softpick_attention


def compare(tiled, pattern, tolerance, kind=torch.float32, alpha=None, d_value=12, n=36, m=40, **sight):
    """Outputs and gradients of both, relative to the largest number of each."""
    torch.manual_seed(0)
    shapes = (2, 4, n, 8), (2, 2, m, 8), (2, 2, m, d_value)
    inputs = [torch.randn(shape).to(kind) for shape in shapes]
    weights = torch.randn(2, 4, n, d_value).to(kind)
    found = []
    for ours in (True, False):
        given = [x.clone().requires_grad_() for x in inputs]
        learned = alpha.clone().requires_grad_() if isinstance(alpha, torch.Tensor) else alpha
        extra = {} if alpha is None else {"alpha": learned}
        if ours:
            out = tiled(*given, backend="triton", **extra, **sight)
        else:
            out = reference.attention(pattern(learned) if extra else pattern(), *given, **sight)
        given += [learned] if isinstance(alpha, torch.Tensor) else []
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), given)])
    for name, mine, theirs in zip(("output", "q", "k", "v", "alpha"), *found, strict=False):
        assert mine.dtype == (kind if name != "alpha" else torch.float32)
        error = ((mine.double() - theirs.double()).abs().max() / theirs.abs().max()).item()
        # p^(2 - alpha), which makes the gradients, is steep where p nears 0: rounding of a score weighs more there
        assert error < (tolerance if name == "output" else 10 * tolerance), (tiled.__name__, name, alpha, sight, error)


mask = torch.ones(2, 40, dtype=torch.bool)
mask[0, 3:21], mask[1] = False, False
compare(entmax_attention, reference.entmax, 1e-5, alpha=2.0)
compare(entmax_attention, reference.entmax, 1e-5, alpha=1.5, window=20, key_mask=mask)
compare(entmax_attention, reference.entmax, 1e-5, alpha=torch.tensor([1.2, 1.5, 1.6, 1.9]), causal=False, window=30)
compare(entmax_attention, reference.entmax, 2e-2, kind=torch.bfloat16, alpha=1.5)
compare(softpick_attention, reference.softpick, 1e-5, causal=False, key_mask=mask)
compare(softpick_attention, reference.softpick, 1e-5, window=20)
compare(softpick_attention, reference.softpick, 5e-3, kind=torch.float16)
compare(sigmoid_attention, reference.sigmoid, 1e-5, causal=False, window=20, key_mask=mask)
compare(sigmoid_attention, reference.sigmoid, 1e-5, n=1, m=33, d_value=20)
print("equal")  # noqa: T201
