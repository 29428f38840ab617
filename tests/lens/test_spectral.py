"""Spectra against numpy's transform, written out, and signals whose frequency is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import digits
from workbench import lens
from workbench.lens.spectral import band_shares
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


def reference(x: np.ndarray, bins: int) -> list[float]:
    """Each of the n coefficients put into the band of its own frequency; energy by the signal itself (Parseval)."""
    n = len(x)
    shares = [0.0] * (bins + 1)
    for k in range(n):
        power = float((np.abs((x * np.exp(-2j * np.pi * k * np.arange(n) / n)[:, None]).sum(0)) ** 2).sum())
        frequency = min(k, n - k) / n
        band = 0 if k == 0 else int(np.ceil(round(frequency * 2 * bins, 9)))
        shares[band] += power / n
    return [share / float((x**2).sum()) for share in shares]


@settings(max_examples=30)
@given(n=st.integers(2, 23), d=st.integers(1, 4), bins=st.integers(2, 12), seed=st.integers(0, 1000))
def test_shares_are_those_of_the_plain_sum_and_sum_to_one(n: int, d: int, bins: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    found = band_shares(torch.from_numpy(x), bins)
    assert found.tolist() == pytest.approx(reference(x, bins), abs=1e-9)
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("cycles", "band"), [(0, 0), (2, 1), (4, 1), (5, 2), (16, 4)])
def test_a_wave_falls_into_the_band_of_its_frequency(cycles: int, band: int) -> None:
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(32).double() / 32)[:, None]
    shares = band_shares(wave, 4)
    assert int(shares.argmax()) == band
    assert float(shares[band]) == pytest.approx(1)


@pytest.fixture(scope="module")
def small() -> Transformer:
    return from_hf(find("gpt2").model())


def test_a_models_spectra_are_those_of_its_activations_averaged_over_texts(small: Transformer) -> None:
    tokens = torch.randint(0, 64, (3, 13), generator=torch.Generator().manual_seed(0))
    found = lens.spectra(small, tokens, skip=2, bins=6, cut=0.25, batch_size=2)
    _, cache = small.run_with_cache(tokens)
    hooks = {
        ("resid", 0): "blocks.0.hook_resid_pre",
        ("resid", 2): "blocks.1.hook_resid_post",
        ("attn", 1): "blocks.1.hook_attn_out",
        ("mlp", 0): "blocks.0.hook_mlp_out",
    }
    for (part, depth), hook in hooks.items():
        wanted = np.mean([reference(x[2:].double().numpy(), 6) for x in cache[hook]], 0)
        assert found.bands[part].mean[depth].tolist() == pytest.approx(wanted, abs=1e-6)  # type: ignore[index]
        three = [wanted[0], wanted[1:4].sum(), wanted[4:].sum()]
        assert found.low[part].mean[depth].tolist() == pytest.approx(three, abs=1e-6)  # type: ignore[index]
    assert found.n == 3
    assert bool((found.bands["attn"].half_width[:, 2:] > 0).all())  # eleven positions have nothing in band 1
    assert found.to_dict()["unit"] == "cycles per position"


def test_padding_takes_no_part(small: Transformer) -> None:
    tokens = torch.randint(0, 64, (1, 9), generator=torch.Generator().manual_seed(0))
    alone = lens.spectra(small, [tokens])
    longer = lens.spectra(small, [tokens, tokens[:, :7]])
    assert longer.n == 2
    short = lens.spectra(small, [tokens[:, :7]])
    both = (alone.bands["resid"].mean + short.bands["resid"].mean) / 2
    torch.testing.assert_close(longer.bands["resid"].mean, both)


def test_of_an_image_rings_of_the_patch_grid_are_measured() -> None:
    """A board of alternating patches has nothing but the constant and the highest frequency."""
    model = digits.vision()
    assert model.pos_embed is not None
    model.pos_embed.weight.zero_()
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((row // 2 + column // 2) % 2).float()[None, None]
    found = lens.spectra(model, board.repeat(2, 1, 1, 1))
    start = found.bands["resid"].mean[0]
    assert found.unit == "cycles per image"
    assert float(start[0] + start[3]) == pytest.approx(1)  # (2, 2) cycles: a ring of 2.8, rounded
    assert float(found.low["resid"].mean[0, 2]) == pytest.approx(float(start[3]))
    assert found.edges == (0.0, 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bins": 1}, "bins is at least 2"),
        ({"cut": 0.5}, "cut between 0 and 0.5"),
        ({"skip": 8}, "fewer than 2 positions beyond the first 8"),
        ({"level": 0.0}, "level of an interval"),
    ],
)
def test_bad_input_is_one_sentence(small: Transformer, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lens.spectra(small, torch.arange(9)[None], **options)


def test_images_have_no_first_token_to_leave_out() -> None:
    with pytest.raises(ValueError, match="of an image all patches count"):
        lens.spectra(digits.vision(), torch.zeros(1, 1, 8, 8), skip=1)


def test_a_stop_keeps_the_texts_that_were_read(small: Transformer) -> None:
    tokens = torch.randint(0, 64, (4, 6), generator=torch.Generator().manual_seed(0))
    found = lens.spectra(small, tokens, batch_size=2, progress=lambda _: False)
    assert (found.n, found.complete) == (2, False)
