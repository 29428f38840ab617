"""Run in a process of its own, with TRITON_INTERPRET=1: the Triton row sweep against the pattern in float64."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import pytest
import torch

from tests.kernels.brute import brute
from tests.kernels.cases import check, grid
from workbench.kernels import NonFiniteScores, attention_statistics

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
    q, k = grid(generator, 1, 2, 20, 16).requires_grad_(), grid(generator, 1, 1, 20, 16).requires_grad_()
    by = {}
    for backend in ("torch", "triton"):
        found = attention_statistics(q, k, backend=backend)
        by[backend] = torch.autograd.grad((found.entropy + found.lse.sin()).sum(), (q, k))
    for a, b in zip(by["torch"], by["triton"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


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
