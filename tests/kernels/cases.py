"""What statistics are tried on: drawn shapes, masks, windows and tiles, with numbers whose products float32 holds."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

Case = tuple[Tensor, Tensor, Tensor, dict[str, Any]]

# Where a result is a difference of large parts, its error is relative to those: the mean of logits of both signs,
# log-sum-exp, the length of a sum of vectors. Distance and spread of a peaked row are what float64 leaves of the
# difference of two positions, and so is its entropy, for which the reference also takes a difference of logits.
TINY = 1e-30
FLOORS = {"distance": 1e-12, "distance_spread": 2e-6}


def grid(generator: torch.Generator, *shape: int, size: float = 1.0) -> Tensor:
    """Multiples of size / 8 up to 2 size: in float32 products and sums of a few of them are exact."""
    return torch.randint(-16, 17, shape, generator=generator).float() * (size / 8)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Queries, keys, values and options of one call."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, kv_heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    keys = draw(st.integers(1, 40))
    causal = draw(st.booleans())
    queries = draw(st.integers(1, keys if causal else 40))
    heads = kv_heads * shared
    v_heads = draw(st.sampled_from([h for h in range(1, heads + 1) if heads % h == 0]))
    # With size 64 a logit of 16 numbers, scaled by 1/4, goes beyond 1e4 in both directions.
    q = grid(generator, batch, heads, queries, 16, size=draw(st.sampled_from([0.25, 1.0, 8.0, 64.0])))
    k = grid(generator, batch, kv_heads, keys, 16, size=draw(st.sampled_from([1.0, 64.0])))
    v = grid(generator, batch, v_heads, keys, draw(st.integers(1, 6)))
    options: dict[str, Any] = {"causal": causal, "recent": draw(st.integers(0, 20)), "want_output": True}
    if draw(st.booleans()):
        options["window"] = draw(st.integers(1, 12))
    if draw(st.booleans()):
        options["key_mask"] = torch.rand(batch, keys, generator=generator) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    if draw(st.booleans()):
        options["lengths"] = torch.randint(0, keys + 1, (batch,), generator=generator)
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([0.5, 0.125]))
    if draw(st.booleans()):
        options["sinks"] = draw(
            st.sampled_from([(), (0, 3), (50,), torch.rand(batch, keys, generator=generator) < 0.3])
        )
    if draw(st.booleans()):
        options["tile"] = (draw(st.integers(1, 16)), draw(st.integers(1, 16)))
    return q, k, v, options


def check(found: Any, expected: dict[str, Tensor], rtol: float = 1e-5) -> None:
    """Every field of a record, each with its relative tolerance."""
    largest = torch.maximum(expected["logit_min"].abs(), expected["logit_max"].abs())
    for name, want in expected.items():
        got = getattr(found, name)
        assert got.shape == want.shape, name
        if not want.is_floating_point():
            assert torch.equal(got, want), name
            continue
        assert not got.isnan().any(), name
        if name in ("logit_mean", "lse"):
            allowed = rtol * torch.maximum(largest, want.abs().nan_to_num(posinf=0))
        elif name == "entropy":
            allowed = rtol * want + 1e-15 * (1 + largest)
        elif name == "norm_of_sum":
            allowed = rtol * expected["sum_of_norms"]
        elif name == "output":
            allowed = rtol * expected["sum_of_norms"][..., None]
        else:
            allowed = rtol * want.abs() + FLOORS.get(name, 0)
        infinite = want.isinf()
        assert torch.equal(got[infinite].double(), want[infinite]), name
        wrong = (got.double() - want).abs() - allowed - TINY
        worst = wrong.masked_fill(infinite, -1).max() if wrong.numel() else torch.tensor(-1.0)
        assert worst <= 0, (name, float(worst))
