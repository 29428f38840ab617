"""Images to pixels and patches, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.models.config import ImageConfig

Pixels = Float[Tensor, "batch channel height width"]
Patches = Float[Tensor, "batch patch channel height width"]


@dataclass(frozen=True)
class Images:
    """What a vision model takes in.

    Attributes:
        cfg: sizes.
        processor: a Hugging Face image processor that resizes, scales and normalises pictures; None for models that
            are given pixels as they want them.
    """

    cfg: ImageConfig
    processor: Any = None

    def pixels(self, images: Any) -> Pixels:
        """Pixel values as the model wants them.

        Args:
            images: a tensor [channel, height, width] or [batch, channel, height, width], which is taken as it is;
                or a picture, or several: a PIL image, an array [height, width(, channel)] of whole numbers from 0 to
                255, or the path of an image file. Pictures go through the processor.

        Raises:
            ValueError: the size or the number of channels is not the model's, a file is no image, or there is a
                picture but no processor.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            given = images[None] if images.ndim == 3 else images
        else:
            pictures = list(images) if isinstance(images, list | tuple) else [images]
            given = torch.cat([self._prepared(picture) for picture in pictures])
        return self.checked(given)

    def _prepared(self, picture: Any) -> Pixels:
        if self.processor is None:
            raise ValueError(
                "This model came without an image processor: give pixel values as a float tensor "
                "[batch, channel, height, width], or pass a processor to from_hf."
            )
        picture = _opened(picture, self.cfg.channels)
        prepared: Pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"]
        return prepared

    def checked(self, pixels: Tensor) -> Pixels:
        """The same pixels.

        Raises:
            ValueError: they do not fit the model.
        """
        c = self.cfg
        wanted = f"[batch, {c.channels}, {c.height}, {c.width}]"
        if pixels.ndim != 4:
            raise ValueError(f"Images are [batch, channel, height, width], here {wanted}; got {list(pixels.shape)}.")
        _, channels, height, width = pixels.shape
        if channels != c.channels:
            raise ValueError(
                f"The image has {channels} channels, the model reads {c.channels}; convert it "
                f"{'to grey' if c.channels == 1 else 'to RGB'}, or give it to model.to_pixels as a picture."
            )
        if c.resize is None and (height, width) != (c.height, c.width):
            raise ValueError(
                f"The image is {height}x{width} pixels, the model reads {c.height}x{c.width}; "
                "resize it, or give it to model.to_pixels as a picture."
            )
        if height < c.patch_height or width < c.patch_width:
            raise ValueError(
                f"The image is {height}x{width} pixels, less than one patch of {c.patch_height}x{c.patch_width}; "
                "give a larger one."
            )
        return pixels

    def to_patches(self, images: Any) -> Patches:
        """An image cut into patches, row by row.

        Args:
            images: as for :meth:`pixels`.

        Raises:
            ValueError: the image does not fit the model.
        """
        pixels, h, w = self.pixels(images), self.cfg.patch_height, self.cfg.patch_width
        # Pixels that fill no patch at the right and the bottom are left out, as a convolution leaves them.
        rows, columns = pixels.shape[2] // h, pixels.shape[3] // w
        cut = pixels[:, :, : rows * h, : columns * w].reshape(*pixels.shape[:2], rows, h, columns, w)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def to_image(self, patches: Patches, grid: tuple[int, int] | None = None) -> Pixels:
        """Patches put together again; the inverse of :meth:`to_patches`.

        Args:
            patches: row by row.
            grid: rows and columns; by default those of the model's own image size.

        Raises:
            ValueError: the number of patches is not that of the grid.
        """
        rows, columns = grid or self.cfg.grid
        if patches.ndim != 5 or patches.shape[1] != rows * columns:
            raise ValueError(
                f"Patches are [batch, {rows * columns}, channel, height, width] for a grid of {rows}x{columns}; "
                f"got {list(patches.shape)}."
            )
        laid = patches.reshape(len(patches), rows, columns, *patches.shape[2:]).permute(0, 3, 1, 4, 2, 5)
        return laid.flatten(4, 5).flatten(2, 3)

    def position_names(self, grid: tuple[int, int] | None = None) -> list[str]:
        """What stands at each position of the residual stream: ``cls``, ..., then each patch as ``row,column``."""
        rows, columns = grid or self.cfg.grid
        return [*self.cfg.prefix, *(f"{row},{column}" for row in range(rows) for column in range(columns))]


def resized(table: Float[Tensor, "pos d_model"], cfg: ImageConfig, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of another grid of patches, interpolated as DINOv2 does (Oquab et al. 2023)."""
    if grid == cfg.grid or cfg.resize is None:
        return table
    before, patches = table[: len(cfg.prefix)], table[len(cfg.prefix) :]
    laid = patches.float().reshape(*cfg.grid, -1).permute(2, 0, 1)[None]
    antialias = cfg.resize == "bicubic-antialias"
    laid = F.interpolate(laid, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat((before, laid[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)))


def _opened(picture: Any, channels: int) -> Any:
    """A picture as PIL holds it, in grey or in colour."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, str | Path):
        try:
            picture = Image.open(picture)
            picture.load()
        except FileNotFoundError:
            raise ValueError(f"There is no file '{picture}'.") from None
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"'{picture}' cannot be read as an image ({error}).") from None
    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
            raise ValueError(
                f"A picture is an array [height, width] or [height, width, channel]; got {list(array.shape)}."
            )
        if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
            raise ValueError(
                "A picture as an array has whole numbers from 0 to 255; give pixel values that are scaled already as a "
                "float tensor [batch, channel, height, width]."
            )
        picture = Image.fromarray(
            (array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array).astype(np.uint8)
        )
    return picture.convert("L" if channels == 1 else "RGB")


def names_of(labels: Sequence[str] | None, n: int) -> list[str]:
    """The names of ``n`` classes; numbers where a model has none."""
    return list(labels) if labels else [str(i) for i in range(n)]
