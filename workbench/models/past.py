"""Keys and values of the tokens that a model has read, so that the next token costs one position."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Past:
    """A key-value cache. It belongs to the caller: each call that is given it adds its own keys and values.

    Keys are kept as they meet the queries, with their positions; heads that share keys keep one copy. One cache
    serves one model, and every call runs the same layers.
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Number of tokens that are kept."""
        return max((k.shape[1] for k, _ in self._layers.values()), default=0)

    def read_by(self, layers: range) -> int:
        """Number of tokens that these layers have read.

        Raises:
            ValueError: they have not all read the same.
        """
        if self._layers and set(layers) != set(self._layers):
            raise ValueError(
                f"The key-value cache was filled by the layers {min(self._layers)} to {max(self._layers)}, this call "
                f"runs {layers.start} to {layers.stop - 1}; use one cache for one model and one range of layers."
            )
        return len(self)

    def extend(
        self, layer: int, k: Float[Tensor, "batch pos head d_head"], v: Float[Tensor, "batch pos head d_head"]
    ) -> tuple[Float[Tensor, "batch key head d_head"], Float[Tensor, "batch key head d_head"]]:
        """Keys and values of ``layer`` with those of the new tokens behind them.

        Raises:
            ValueError: the batch, or the number of heads, is not that of the earlier calls.
        """
        if layer in self._layers:
            before = self._layers[layer]
            if any(
                old.shape[::2] != new.shape[::2] or old.shape[3] != new.shape[3]
                for old, new in zip(before, (k, v), strict=True)
            ):
                raise ValueError(
                    f"The key-value cache holds [batch, ., head] = {list(before[0].shape[::2])}, the call brings "
                    f"{list(k.shape[::2])}; use one cache for one batch of one model, and the same taps on every call."
                )
            k, v = torch.cat((before[0], k), 1), torch.cat((before[1], v), 1)
        self._layers[layer] = (k, v)
        return k, v

    def cut(self, n: int) -> None:
        """Keep the first ``n`` tokens only; what a call that failed half-way left behind goes too."""
        self._layers = {layer: (k[:, :n], v[:, :n]) for layer, (k, v) in self._layers.items() if n}
