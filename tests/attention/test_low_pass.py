"""Constant components, spectra and factors against whole matrices: ``I - 1 1^T / n``, and Fourier sums by hand."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import census_rows
from workbench.attention.layers import LayerAttention
from workbench.attention.low_pass import constant_share, low_pass, ring_shares
from workbench.circuits.progress import Stopped

module = importlib.import_module("workbench.attention.low_pass")  # a function of the package has its name


def high(n: int) -> Tensor:
    """What takes the mean away."""
    return torch.eye(n, dtype=torch.float64) - torch.full((n, n), 1 / n, dtype=torch.float64)


def share(x: Tensor) -> Tensor:
    """Mean over the examples of ``||DC x||^2 / ||x||^2``, x [batch, pos, d_model]."""
    low = x.double() - high(x.shape[1]) @ x.double()
    return (low.square().sum((1, 2)) / x.double().square().sum((1, 2))).mean()


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "gemma2", "bert"])
@pytest.mark.parametrize("numbers", [2**22, 2 * 4 * 18 * 5])
def test_it_is_what_whole_matrices_say(kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_rows.strips, "__defaults__", (numbers,))
    hf, model = brute.pair(kind)
    n, tokens = 18, brute.given(model, batch=3, n=18)
    found = low_pass(model, tokens, worst=True, batch=2)
    _, cache = model.run_with_cache(tokens)
    layers = model.cfg.n_layers
    streams = {
        "resid": [cache["resid_pre", layer] for layer in range(layers)] + [cache["resid_post", layers - 1]],
        "attn": [cache["attn_out", layer] for layer in range(layers)],
        "mlp": [cache["mlp_out", layer] for layer in range(layers)],
    }
    for part, xs in streams.items():
        torch.testing.assert_close(found.share[part], torch.stack([share(x) for x in xs]))
        ratios = [(high(n) @ x).norm(dim=(1, 2)) / (x - high(n) @ x).norm(dim=(1, 2)) for x in xs]
        torch.testing.assert_close(found.ratio[part], torch.stack([r.mean() for r in ratios]))
    p = brute.patterns(hf, tokens)  # l h b q k
    smooth = high(n) @ p @ high(n)
    singular = torch.linalg.svdvals(smooth)
    assert found.worst is not None
    torch.testing.assert_close(found.worst, singular[..., 0].mean(-1), rtol=1e-4, atol=1e-6)
    white = (singular.square().sum(-1) / (n - 1)).sqrt().mean(-1)
    torch.testing.assert_close(found.white, white, rtol=1e-4, atol=1e-6)
    v = torch.stack([cache["v", layer] for layer in range(layers)]).permute(0, 3, 1, 2, 4)
    v = v.repeat_interleave(model.cfg.group_size, 1)
    measured = (high(n) @ p @ v).norm(dim=(-1, -2)) / (high(n) @ v).norm(dim=(-1, -2))
    torch.testing.assert_close(found.measured, measured.mean(-1), rtol=1e-4, atol=1e-6)
    # What is measured of some vectors cannot exceed what is the most for any.
    assert bool((measured <= singular[..., 0] + 1e-9).all())
    assert found.rings is None


def test_power_iteration_finds_the_largest_singular_value(monkeypatch: pytest.MonkeyPatch) -> None:
    hf, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=2, n=14)
    monkeypatch.setattr(module, "WHOLE", 0)
    monkeypatch.setattr(census_rows.strips, "__defaults__", (2 * 4 * 14 * 3,))
    found = low_pass(model, tokens, worst=True, iterations=400)
    exact = torch.linalg.svdvals(high(14) @ brute.patterns(hf, tokens))[..., 0].mean(-1)
    assert found.worst is not None
    torch.testing.assert_close(found.worst, exact, rtol=1e-3, atol=1e-6)
    few = low_pass(model, tokens, worst=True, iterations=2).worst
    assert few is not None
    assert bool((few <= exact + 1e-6).all())  # it comes from below


def test_padding_counts_nowhere() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=1, n=12)
    alone = low_pass(model, tokens, worst=True, skip=2)
    padded = torch.cat([torch.full((1, 5), 1), tokens], 1)
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 12)], 1).long()
    for row, given_mask in ((padded, mask), (torch.cat([tokens, torch.full((1, 5), 1)], 1), mask.flip(1))):
        found = low_pass(model, row, attention_mask=given_mask, worst=True, skip=2)
        assert found.worst is not None
        assert alone.worst is not None
        for a, b in (
            (found.worst, alone.worst),
            (found.white, alone.white),
            (found.measured, alone.measured),
            (found.share["resid"], alone.share["resid"]),
            (found.ratio["attn"], alone.ratio["attn"]),
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def of_pattern(pattern: Tensor) -> tuple[float, float, float]:
    """(white, measured, worst) of one hand-made pattern [query, key]."""
    n = len(pattern)
    q = torch.zeros(1, 1, n, 4, dtype=torch.float64)
    v = torch.randn(1, 1, n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = LayerAttention(0, q, q, v, None, False, None, 1.0, None, pattern[None, None], pattern[None, None])
    white, measured = module._factors(layer)
    return float(white), float(measured), float(module._worst(layer, 5, 0))


def test_patterns_whose_factors_are_known() -> None:
    n = 8
    assert of_pattern(torch.eye(n)) == pytest.approx((1, 1, 1))  # nothing is averaged
    assert of_pattern(torch.full((n, n), 1 / n)) == pytest.approx((0, 0, 0), abs=1e-7)  # everything is
    sink = torch.zeros(n, n)
    sink[:, 0] = 1
    assert of_pattern(sink) == pytest.approx((0, 0, 0), abs=1e-7)  # all read the same
    # Halfway between itself and the mean: every high frequency is halved.
    assert of_pattern(torch.eye(n) / 2 + 1 / (2 * n)) == pytest.approx((0.5, 0.5, 0.5), rel=1e-6)
    # Half of the queries read key 0 and half key 1: their difference is spread over all, sqrt(n / 2) times as long.
    two = torch.zeros(n, n)
    two[: n // 2, 0] = two[n // 2 :, 1] = 1
    assert of_pattern(two)[2] == pytest.approx(math.sqrt(n / 2), rel=1e-6)


def test_a_stream_that_is_the_same_everywhere_is_constant() -> None:
    _, model = brute.pair("llama-grouped")
    found = low_pass(model, torch.full((2, 9), 7))  # rotary: the same token is the same stream, whatever attends
    assert float(found.share["resid"].min()) == pytest.approx(1)
    assert float(found.ratio["resid"].max()) == pytest.approx(0, abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), n=st.integers(2, 9), level=st.floats(0, 10))
def test_shares_know_no_order_and_no_size(seed: int, n: int, level: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, 3, generator=generator, dtype=torch.float64) + level
    counted = torch.ones(2, n, dtype=torch.bool)
    share_of, ratio = constant_share(x, counted)
    for other in (x[:, torch.randperm(n, generator=generator)], -3 * x):
        torch.testing.assert_close(constant_share(other, counted), (share_of, ratio))
    torch.testing.assert_close(ratio.square(), 1 / share_of - 1, rtol=1e-6, atol=1e-9)


def test_rings_are_those_of_waves() -> None:
    row, column = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    for down, across in ((0, 0), (1, 0), (0, 3), (2, 2), (3, 4)):
        wave = torch.cos(2 * math.pi * (down * row / 6 + across * column / 8))[None, ..., None]
        rings = ring_shares(wave)
        assert float(rings[0, round(math.hypot(down, across))]) == pytest.approx(1)
        assert float(rings.sum()) == pytest.approx(1)


def test_an_images_streams_are_read_at_its_patches() -> None:
    model = digits.vision(height=6, width=8, prefix=("cls", "reg0")).double()
    images = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = low_pass(model, images, batch=2)
    _, cache = model.run_with_cache(images)
    assert found.rings is not None
    assert found.grid == (3, 4)
    for part, name in (("resid", "resid_pre"), ("attn", "attn_out"), ("mlp", "mlp_out")):
        for layer in range(model.cfg.n_layers):
            x = cache[name, layer][:, 2:].double()
            assert float(found.share[part][layer]) == pytest.approx(float(share(x)))
            # Ring 0 of a Fourier sum by hand is the constant component.
            assert float(found.rings[part][layer, 0]) == pytest.approx(float(share(x)))
            place = torch.arange(12).double()
            across = torch.exp(-2j * math.pi * place.remainder(4) / 4)
            down = torch.exp(-2j * math.pi * place.div(4, rounding_mode="floor") / 3)
            waves = (across, down, across * down, across / down)  # and their mirror images, just as strong
            energy = [(x * wave[:, None]).sum(1).abs().square().sum(-1) for wave in waves]
            ring1 = 2 * torch.stack(energy).sum(0) / (12 * x.square().sum((1, 2)))
            assert float(found.rings[part][layer, 1]) == pytest.approx(float(ring1.mean()))
    with pytest.raises(ValueError, match="all patches count"):
        low_pass(model, images, skip=1)


def test_it_can_be_stopped_and_refuses_what_it_cannot_measure() -> None:
    _, model = brute.pair("gpt2")
    tokens = brute.given(model, n=6)
    with pytest.raises(Stopped):
        low_pass(model, tokens, progress=lambda _: False)
    with pytest.raises(ValueError, match="fewer than 2 positions"):
        low_pass(model, tokens, skip=5)
    with pytest.raises(ValueError, match="at least 1"):
        low_pass(model, tokens, iterations=0)
    with pytest.raises(ValueError, match="rows need not sum to 1"):
        low_pass(model.with_attention("sigmoid"), tokens)
