"""Which digit is it? An image of one digit, and one of another (scikit-learn's handwritten digits of 8 by 8 pixels)."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import TooFewPairs
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.models.zoo import digits


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: right is the class of the clean image's digit, wrong that of the corrupted one's.

    Images are of the part of the data that ``digits-vit`` was not trained on.

    Args:
        model: a vision model with a class for each digit. One that reads images of another size gets them through its
            image processor.
        n: number of pairs.
        seed: chooses images.

    Raises:
        ValueError: the model has no class for each digit, or reads other images and has no processor.
    """
    classes = _classes(model)
    images, labels = digits.split()[2:]
    if n > len(images) ** 2 // 2:
        raise TooFewPairs(f"There are not {n:,} unlike pairs of {len(images)} images; ask for fewer.", len(images))
    draw = random.Random(seed)
    pairs: dict[tuple[int, int], None] = {}  # in the order drawn
    while len(pairs) < n:
        one, other = draw.sample(range(len(images)), 2)
        if labels[one] != labels[other]:
            pairs[one, other] = None
    sides = [list(side) for side in zip(*pairs, strict=True)]
    clean, corrupted = (_pixels(model, images[side]) for side in sides)
    shown = [[int(labels[i]) for i in side] for side in sides]
    texts = [
        [f"the digit {digit} (image {i} of those held out)" for digit, i in zip(of, side, strict=True)]
        for of, side in zip(shown, sides, strict=True)
    ]
    right, wrong = (torch.tensor([[classes[digit]] for digit in of]) for of in shown)
    return Task(
        name="digits",
        title="Digits",
        clean=clean,
        corrupted=corrupted,
        lengths=torch.full((n,), n_positions(model, clean)),
        right=right,
        wrong=wrong,
        clean_text=texts[0],
        corrupted_text=texts[1],
        spec={"name": "digits", "n": n, "seed": seed},
    )


def _classes(model: Transformer) -> list[int]:
    """Which class of the model each digit is."""
    labels = model.cfg.labels or ()
    if model.cfg.head == "none" or any(str(digit) not in labels for digit in range(10)):
        raise ValueError(f"{model.name} has no class for each of the digits 0 to 9; use digits-vit.")
    return [labels.index(str(digit)) for digit in range(10)]


def _pixels(model: Transformer, images: Tensor) -> Tensor:
    """Images [batch, 1, 8, 8] as the model reads them."""
    cfg = model.cfg.image
    assert cfg is not None
    if (cfg.channels, cfg.height, cfg.width) == tuple(images.shape[1:]):
        return images
    return model.to_pixels([digits.picture(image) for image in images]).cpu()
