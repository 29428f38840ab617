"""Pictures to pixels, pixels to patches, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.models.test_variants import DECODER, VISION
from workbench.models import ImageConfig, Transformer, fresh
from workbench.models.images import Images


@pytest.fixture(scope="module")
def vision() -> Transformer:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.0], image_std=[1.0], do_convert_rgb=False
    )
    return fresh(VISION, tokenizer=processor)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), h=st.integers(1, 4), w=st.integers(1, 4), c=st.integers(1, 3))
def test_patches_put_together_are_the_image(rows: int, columns: int, h: int, w: int, c: int) -> None:
    images = Images(ImageConfig(rows * h, columns * w, c, h, w))
    pixels = torch.randn(2, c, rows * h, columns * w)
    patches = images.to_patches(pixels)
    assert patches.shape == (2, rows * columns, c, h, w)
    assert torch.equal(images.to_image(patches), pixels)
    # The patch in row r and column k is that piece of the image.
    r, k = rows - 1, columns - 1
    assert torch.equal(patches[:, r * columns + k], pixels[:, :, r * h : (r + 1) * h, k * w : (k + 1) * w])
    assert len(images.position_names()) == 1 + rows * columns


def test_a_model_reads_pixels_and_patches_alike(vision: Transformer) -> None:
    pixels = torch.randn(3, 1, 8, 8)
    logits = vision(pixels)
    assert logits.shape == (3, 10)
    assert torch.equal(vision(vision.to_patches(pixels)), logits)
    _, cache = vision.run_with_cache(pixels)
    assert set(cache) <= set(vision.hook_names)
    assert cache["hook_embed"].shape == (3, 17, 32)
    torch.testing.assert_close(vision(cache["resid_pre", 1], start_at_layer=1), logits)


def test_pictures_of_every_kind_become_the_same_pixels(vision: Transformer, tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(values).save(tmp_path / "digit.png")
    expected = torch.from_numpy(values / 255).float()[None, None]
    for picture in (values, Image.fromarray(values), tmp_path / "digit.png", str(tmp_path / "digit.png")):
        torch.testing.assert_close(vision.to_pixels(picture), expected)
    grey = Image.fromarray(values).convert("RGB")  # colours are taken out for a model of one channel
    assert (vision.to_pixels([grey, values]) - expected).abs().max() < 0.01
    assert vision.to_pixels(Image.fromarray(values).resize((40, 30))).shape == (1, 1, 8, 8)


def test_images_that_do_not_fit_are_refused_in_one_sentence(vision: Transformer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8x9 pixels, the model reads 8x8; resize it"):
        vision(torch.zeros(1, 1, 8, 9))
    with pytest.raises(ValueError, match="3 channels, the model reads 1; convert it to grey"):
        vision(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\[batch, 1, 8, 8\]; got \[8, 8\]"):
        vision.to_patches(torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"patches \[batch, 16, 1, 2, 2\]; got"):
        vision(torch.zeros(1, 15, 1, 2, 2))
    with pytest.raises(ValueError, match="There is no file"):
        vision.to_pixels(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        vision.to_pixels(tmp_path / "text.png")
    with pytest.raises(ValueError, match="came without an image processor"):
        fresh(VISION).to_pixels(np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="reads images, not tokens"):
        vision(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="reads tokens"):
        fresh(DECODER)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="reads text, not images"):
        fresh(DECODER).to_patches(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="cannot be cut into patches of 3x3"):
        ImageConfig(8, 8, 1, 3, 3)
