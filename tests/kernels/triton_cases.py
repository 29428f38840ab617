"""Run in a process of its own, with TRITON_INTERPRET=1: the Triton row sweep against the pattern in float64."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import pytest
import torch

from tests.kernels.brute import brute, log_weights
from tests.kernels.cases import check, grid
from workbench.kernels import NonFiniteScores, attention_statistics, column_statistics

CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "both sides": {"causal": False},
    "window": {"window": 7},
    "window to both sides": {"window": 5, "causal": False},
    "wide window, so that some tiles are seen by all": {"window": 30},
    "padding": {"key_mask": torch.rand(2, 40, generator=torch.Generator().manual_seed(0)) < 0.5},
    "padding on the left": {"key_mask": torch.arange(40)[None] >= torch.tensor([[20], [0]])},
    "lengths": {"lengths": torch.tensor([33, 0]), "causal": False},
    "cap": {"softcap": 2.0},
    "sinks and recent": {"sinks": (0, 3, 39), "recent": 3},
    "sinks of each batch row": {"sinks": torch.eye(2, 40).bool(), "recent": 0},
    "scale": {"scale": 0.5, "tile": (32, 16)},
}
SIZES = {"flat": (0.25, 1.0), "extreme": (64.0, 64.0)}


def main() -> None:
    """Every case, then what is refused and what falls back."""
    assert os.environ["TRITON_INTERPRET"] == "1"
    generator = torch.Generator().manual_seed(0)
    done = 0
    for kind, (size_q, size_k) in SIZES.items():
        q = grid(generator, 2, 2, 19, 16, size=size_q)
        k = grid(generator, 2, 1, 40, 16, size=size_k)
        v = grid(generator, 2, 2, 40, 5)
        for name, options in CASES.items():
            if name == "cap" and kind == "extreme":
                continue  # float32 cannot tell which of many is nearest to the cap
            options = {"tile": (16, 16), "want_output": True, **options}
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Attention in tiles runs in plain torch")
                found = attention_statistics(q, k, v, backend="triton", **options)
            try:
                check(found, brute(q, k, v, **options))
            except AssertionError as error:
                raise AssertionError(f"{name}, {kind}: {error}") from error
            done += 1
    one_key_and_odd_sizes(generator)
    gradients(generator)
    columns(generator)
    refusals(generator)
    sys.stdout.write(f"{done} cases agree\n")


def one_key_and_odd_sizes(generator: torch.Generator) -> None:
    for n, m, d in ((1, 1, 3), (1, 17, 20), (5, 33, 33)):
        q, k, v = (grid(generator, 1, 2, size, d) for size in (n, m, m))
        found = attention_statistics(q, k, v, scale=0.25, backend="triton", want_output=True, tile=(16, 32))
        check(found, brute(q, k, v, scale=0.25))
    for dtype in (torch.bfloat16, torch.float16):
        q, k = (torch.randn(1, 2, 20, 16, generator=generator).to(dtype) for _ in range(2))
        check(attention_statistics(q, k, backend="triton"), brute(q.float(), k.float()))


def gradients(generator: torch.Generator) -> None:
    """Autograd of the materialised pattern in float64 against the kernels, which make the scores again in tiles."""
    q, k = grid(generator, 2, 4, 37, 20, size=0.25), grid(generator, 2, 2, 45, 20)
    for name, options in CASES.items():
        if name in ("sinks and recent", "sinks of each batch row"):
            continue
        given = {key: x for key, x in options.items() if key != "tile"}
        if "key_mask" in given:
            given["key_mask"] = torch.rand(2, 45, generator=generator) < 0.5
        check_gradients(name, q, k, given, 1e-5)
    check_gradients("peaked", 32 * q, k, {"scale": 0.5}, 1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        check_gradients(str(dtype), q.to(dtype), k.to(dtype), {"window": 40}, 1e-2)
    for n, m, d in ((1, 1, 3), (1, 40, 16), (70, 70, 33)):
        check_gradients(f"{n}, {m}", grid(generator, 1, 2, n, d, size=0.5), grid(generator, 1, 1, m, d), {}, 1e-5)


def columns(generator: torch.Generator) -> None:
    """What keys receive, against sums over the pattern in float64."""
    q, k = grid(generator, 2, 4, 37, 20, size=1.0), grid(generator, 2, 2, 80, 20)
    mask = torch.rand(2, 80, generator=generator) < 0.5
    for options in ({}, {"causal": False}, {"window": 7}, {"window": 5, "causal": False}, {"softcap": 2.0},
                    {"key_mask": mask}, {"lengths": torch.tensor([70, 0]), "causal": False}):  # fmt: skip
        _, log_p, see = log_weights(q, k, **options)
        p, count = log_p.exp(), see.sum(-2)
        lse = attention_statistics(q, k, backend="torch", **options).lse
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Attention in tiles runs in plain torch")
            found = column_statistics(q, k, lse, eps=0.03, backend="triton", **options)
        torch.testing.assert_close(found.received_sum.double(), p.sum(-2), rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(found.received_mean.double(), p.sum(-2) / count.clamp(min=1), rtol=1e-5, atol=1e-12)
        over, undecided = (p > 0.03).sum(-2), ((p - 0.03).abs() < 1e-6).sum(-2)
        assert ((found.sink_rate * count - over).abs() <= undecided + 1e-3).all()
        assert over.any()
        assert torch.equal(found.visible, count)


def check_gradients(name: str, q: torch.Tensor, k: torch.Tensor, options: dict[str, Any], rtol: float) -> None:
    def loss(entropy: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        there = lse > -torch.inf  # of rows that see nothing neither is differentiated
        up = torch.linspace(0.5, 2, lse.numel(), dtype=lse.dtype).view(lse.shape)  # each row pulls differently
        return (up * (entropy - 0.3 * lse))[there].sum()

    ours = [x.clone().requires_grad_() for x in (q, k)]
    found = attention_statistics(*ours, backend="triton", **options)
    wide = [x.double().requires_grad_() for x in (q, k)]
    s, log_p, see = log_weights(*wide, **options)
    seen = torch.where(see, log_p, 0)
    entropy = -(torch.where(see, seen.exp(), 0) * seen).sum(-1)
    lse = torch.where(see.any(-1), s.masked_fill(~see, -1e9).logsumexp(-1), -torch.inf)
    expected = torch.autograd.grad(loss(entropy, lse), wide)
    found_by = torch.autograd.grad(loss(found.entropy, found.lse), ours)
    for which, mine, theirs in zip("qk", found_by, expected, strict=True):
        assert theirs.abs().max() > 0 or see.sum() <= 1
        difference = float((mine.double() - theirs).abs().max())
        assert difference <= rtol * float(theirs.abs().max()) + 1e-12, f"gradient by {which}, {name}: {difference}"


def refusals(generator: torch.Generator) -> None:
    q, k = grid(generator, 2, 2, 20, 16), grid(generator, 2, 2, 20, 16)
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = k.clone()
        broken[1, 1, 18, 3] = value
        with pytest.raises(NonFiniteScores, match="batch 1, head 1, query 18"):
            attention_statistics(q, broken, backend="triton", tile=(16, 16))
    for given, why in ((q.double(), "float32, not float64"), (torch.zeros(1, 1, 2, 300), "up to 256 numbers, not 300")):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            attention_statistics(given, given, backend="triton")
            attention_statistics(given, given, backend="triton")
        assert len(said) == 1
        assert why in str(said[0].message)


if __name__ == "__main__":
    main()
