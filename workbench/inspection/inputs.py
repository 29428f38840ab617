"""What a model is given: a text, an uploaded image or a sample, with a name for each position."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.models import Transformer

MOST_WEIGHTS = 32_000_000
"""Attention weights kept of one run: layers x heads x positions squared; 128 MB."""
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Given:
    """One input, ready for a model.

    Attributes:
        tensor: tokens [1, pos], or pixels [1, channel, height, width].
        names: what stands at each position: a token as text, ``cls``, or a patch as ``row,column``.
        subject: the text, or what is on the image.
        grid: rows and columns of patches; None for text.
        image: what a person sees, from 0 to 1 [channel, height, width]; None for text.
    """

    tensor: Tensor
    names: tuple[str, ...]
    subject: str = ""
    grid: tuple[int, int] | None = None
    image: Float[Tensor, "channel height width"] | None = None


def read(model: Transformer, text: str) -> Given:
    """A text for a model that reads tokens; numbers of tokens, such as ``3 14 113``, where it has no tokenizer.

    Raises:
        ValueError: the text is empty, too long, or no numbers where numbers are needed.
    """
    if model.images is not None:
        raise ValueError(f"{model.name} reads images; give the file of one, or the number of a sample.")
    if model.tokenizer is None:
        words = re.split(r"[\s,]+", text.strip())
        if not all(word.isdecimal() for word in words):
            raise ValueError(f"{model.name} has no tokenizer: write token numbers from 0 to {model.cfg.d_vocab - 1}.")
        tokens, names = torch.tensor([[int(word) for word in words]], device=model.device), words
    else:
        tokens = model.to_tokens(text)
        names = model.to_str_tokens(tokens[0])
    return _fitting(model, Given(tokens, tuple(names), text))


def see(model: Transformer, pixels: Float[Tensor, "1 channel height width"], subject: str = "an image") -> Given:
    """An image for a vision model, from :func:`pixels_of` or :func:`sample`; ``subject`` says what is on it.

    Raises:
        ValueError: the image does not fit the model.
    """
    given = model.to_pixels(pixels)
    assert model.images is not None
    i = model.images.cfg
    grid = given.shape[2] // i.patch_height, given.shape[3] // i.patch_width
    names = tuple(model.images.position_names(grid))
    return _fitting(model, Given(given, names, subject, grid, shown(model, given)))


def named(model: Transformer, said: str) -> Given:
    """An image for a vision model: a sample by its number, or an image file.

    Raises:
        ValueError: nothing is named, there is no such sample or file, or the model cannot read it.
    """
    said = said.strip()
    if not said:
        raise ValueError(f"{model.name} reads images: give the number of a sample, such as 33, or an image file.")
    if said.isdecimal():
        pixels, title = sample(model, int(said))
        return see(model, pixels, f"sample {said}: {title}")
    path = Path(said).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"Cannot read '{path}' ({reason}); give an image file or the number of a sample.") from None
    return see(model, pixels_of(model, picture(data)), path.name)


def _fitting(model: Transformer, given: Given) -> Given:
    """The same.

    Raises:
        ValueError: its patterns would not fit into memory comfortably.
    """
    heads, n = model.cfg.n_layers * model.cfg.n_heads, len(given.names)
    most = math.isqrt(MOST_WEIGHTS // max(heads, 1))
    if n > most:
        raise ValueError(
            f"The input has {n:,} positions; with the {heads} heads of {model.name} at most {most:,} can be "
            "looked at together. Shorten it."
        )
    return given


def picture(data: bytes) -> Any:
    """The PIL image in the bytes of a file.

    Raises:
        ValueError: they are no image, or one of over 50 million pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data))
        if opened.width * opened.height > MOST_PIXELS:
            size = f"{opened.width:,}x{opened.height:,}"
            raise ValueError(f"The image has {size} pixels; give one of at most {MOST_PIXELS // 10**6} million.")
        opened.load()
    except UnidentifiedImageError:
        raise ValueError("The file is no image that can be read; give a PNG or a JPEG.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The image cannot be read ({error}); save it again as PNG.") from None
    return opened


def pixels_of(model: Transformer, image: Any, *, invert: bool = False) -> Float[Tensor, "1 channel height width"]:
    """The pixel values of a PIL image, as the model wants them.

    The model's image processor makes them where it has one. Without one the image is resized to the model's size,
    its pixels averaged, and scaled so that black is 0 and white 1.

    Args:
        model: a vision model.
        image: a PIL image.
        invert: take light for dark, as for ink on paper where a model was trained on light strokes.

    Raises:
        ValueError: the model reads no images, or not this one.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if model.images is None:
        raise ValueError(f"{model.name} reads text, not images.")
    cfg = model.images.cfg
    # Transparent parts are shown on white, as every viewer shows them.
    flat = Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image.convert("RGBA"))
    plain = flat.convert("L" if cfg.channels == 1 else "RGB")
    if invert:
        plain = ImageOps.invert(plain)
    if model.images.processor is not None:
        return model.to_pixels(plain)
    small = plain.resize((cfg.width, cfg.height), Image.Resampling.BOX)
    values = torch.tensor(np.asarray(small), dtype=torch.float32).reshape(cfg.height, cfg.width, cfg.channels) / 255
    return model.to_pixels(values.permute(2, 0, 1))


def n_samples(model: Transformer) -> int:
    """How many sample images there are for a vision model; 0 for a model of text."""
    if model.images is None:
        return 0
    return len(_digits()[1]) if model.images.cfg.channels == 1 else len(_PHOTOS)


def sample(model: Transformer, number: int) -> tuple[Float[Tensor, "1 channel height width"], str]:
    """A sample image for a vision model, and what is on it: handwritten digits for grey ones, photographs for others.

    The digits are those that the bundled model was not trained on.

    Raises:
        ValueError: there is no such sample, or the model reads no images.
    """
    import numpy as np
    from PIL import Image

    n = n_samples(model)
    if not 0 <= number < n:
        raise ValueError(f"There are the samples 0 to {n - 1}, not {number}.")
    assert model.images is not None
    cfg = model.images.cfg
    if cfg.channels != 1:
        from sklearn.datasets import load_sample_image

        name, title = _PHOTOS[number]
        return pixels_of(model, Image.fromarray(np.asarray(load_sample_image(name)))), title
    digits, labels = _digits()
    if (cfg.height, cfg.width) == (8, 8):
        return digits[number : number + 1].to(model.device), labels[number]
    grey = (digits[number, 0] * 255).round().to(torch.uint8).numpy()
    return pixels_of(model, Image.fromarray(grey)), labels[number]


_PHOTOS = (("flower.jpg", "a flower"), ("china.jpg", "a temple"))  # scikit-learn's own


@cache
def _digits() -> tuple[Float[Tensor, "image 1 8 8"], list[str]]:
    """Digits that the bundled model was not trained on, from 0 (ground) to 1 (ink), and which each is.

    Raises:
        ValueError: scikit-learn is missing.
    """
    from workbench.models.zoo.digits import split

    try:
        found = split()
    except ImportError:
        raise ValueError("The sample images are scikit-learn's; install it with: pip install scikit-learn") from None
    return found.test, [str(int(label)) for label in found.test_labels]


def shown(model: Transformer, pixels: Float[Tensor, "1 channel height width"]) -> Float[Tensor, "channel height width"]:
    """The image as a person sees it, from 0 to 1: the processor's scaling undone, or spread from least to most."""
    image = pixels[0].detach().float().cpu()
    processor = None if model.images is None else model.images.processor
    mean, spread = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is not None and spread is not None and getattr(processor, "do_normalize", True):
        return (image * torch.tensor(spread).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)).clamp(0, 1)
    least, most = image.min(), image.max()
    if least >= 0 and most <= 1:
        return image
    return (image - least) / (most - least).clamp(min=1e-9)
