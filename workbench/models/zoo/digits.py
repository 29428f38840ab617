"""A vision transformer that reads scikit-learn's handwritten digits (Dosovitskiy et al. 2021, in small).

The 1,797 images are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak
1998): bitmaps of 32 by 32, counted in blocks of 4 by 4. An image here is [1, 8, 8], from 0 (ground) to 1 (ink).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.config import ImageConfig, ModelConfig
from workbench.models.transformer import Transformer
from workbench.models.zoo.record import Batch, Schedule, ZooModel

SIDE = 8
"""Pixels."""

_INK = 16.0  # the greatest value in the data: a block of 4 by 4 that is full
_HELD_OUT = 5  # one image of so many
_TURN, _STRETCH, _SHIFT = 0.2, 0.12, 1.0  # radians, share of the size, pixels
_SMOOTHING = 0.05


class Split(NamedTuple):
    """The images in two parts.

    Attributes:
        train: pixels [n, 1, 8, 8] from 0 to 1, four fifths of the images of each digit.
        train_labels: which digit each is.
        test, test_labels: the last fifth, which training never sees. Both parts have digits by every writer.
    """

    train: Float[Tensor, "n 1 8 8"]
    train_labels: Int[Tensor, " n"]
    test: Float[Tensor, "n 1 8 8"]
    test_labels: Int[Tensor, " n"]


def split() -> Split:
    """The images, every fifth of each digit (in the order of the data) held out; always the same."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images).float()[:, None] / _INK
    labels = torch.from_numpy(data.target).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        held_out[(labels == digit).nonzero().flatten()[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return Split(pixels[~held_out], labels[~held_out], pixels[held_out], labels[held_out])


def picture(pixels: Float[Tensor, "1 8 8"]) -> Any:
    """One image as a grey PIL picture of 8 by 8, white on black; ``model.to_pixels`` gives it back to half a grey."""
    from PIL import Image

    return Image.fromarray((pixels[0] * 255).round().to(torch.uint8).cpu().numpy())


def processor() -> Any:
    """Reads a picture of any size: the mean of each of 8 by 8 blocks, from 0 (black) to 1 (white)."""
    from PIL import Image
    from transformers import ViTImageProcessorPil

    # Blocks are how the data was made of bitmaps; bilinear would smear ink into the neighbours.
    return ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.0],
        image_std=[1.0],
        resample=int(Image.Resampling.BOX),
        do_convert_rgb=False,
    )


def batches(batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """Training images drawn at random, each turned, stretched and shifted a little."""
    images, labels, _, _ = split()
    while True:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        yield moved(images[chosen], generator), labels[chosen]


def moved(images: Float[Tensor, "batch 1 8 8"], generator: torch.Generator) -> Float[Tensor, "batch 1 8 8"]:
    """Images turned by up to 11 degrees, stretched by up to 12 %, shifted by up to a pixel; every fourth as it is."""

    def draw(*most: float) -> Tensor:
        return (2 * torch.rand(len(images), len(most), generator=generator) - 1) * torch.tensor(most)

    turn = draw(_TURN)[:, 0]
    width, height = 1 + draw(_STRETCH, _STRETCH).T
    shift = draw(2 * _SHIFT / SIDE, 2 * _SHIFT / SIDE)  # the grid has sides of 2
    rows = (width * turn.cos(), -height * turn.sin(), shift[:, 0], width * turn.sin(), height * turn.cos(), shift[:, 1])
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    made = F.grid_sample(images, grid, align_corners=False)
    made[::4] = images[::4]
    return made


def loss(model: Transformer, batch: Batch) -> Tensor:
    """Cross-entropy in nats against labels that are 95 % sure."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, label_smoothing=_SMOOTHING)


@torch.no_grad()
def evaluate(model: Transformer) -> dict[str, float]:
    """Shares of the held-out and of the training images that are read right."""
    parts = split()

    def right(images: Tensor, labels: Tensor) -> float:
        return float((model(images.to(model.device)).argmax(-1).cpu() == labels).double().mean())

    return {
        "accuracy": right(parts.test, parts.test_labels),
        "accuracy_trained": right(parts.train, parts.train_labels),
    }


RECORD = ZooModel(
    key="digits-vit",
    title="Digits ViT",
    config=ModelConfig(
        family="zoo",
        n_layers=3,
        n_heads=4,
        n_key_value_heads=4,
        d_model=64,
        d_head=16,
        d_mlp=256,
        d_vocab=0,
        d_vocab_out=10,
        n_ctx=17,
        norm="layer",
        norm_eps=1e-6,
        act_fn="gelu",
        gated_mlp=False,
        positions="learned",
        attn_scale=16**-0.5,
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=False,
        unembed_bias=True,
        causal=False,
        image=ImageConfig(height=SIDE, width=SIDE, channels=1, patch_height=2, patch_width=2),
        pooling="first",
        labels=tuple("0123456789"),
    ),
    seed=0,
    schedule=Schedule(steps=3000, batch=128, rate=2e-3, decay=0.05),
    reader=processor,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    least={"accuracy": 0.97, "accuracy_trained": 0.99},
)
