"""Places in a model where parts begin or are read: ``a9.h6``, ``m4@-1``, ``input@2-5``, ``resid7``, ``a9.h6<q>``.

Grammar: ``PLACE[@POSITIONS]``. A place is a head ``a9.h6``, all heads of a layer ``a9``, an MLP ``m4``, the residual
stream that enters a layer ``resid4``, or ``input`` (what enters layer 0: a token with its position). Positions are
numbers and ranges, ``@3``, ``@2-5``, ``@0,4``; those below 0 count from each prompt's end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.models.config import ModelConfig

Kind = Literal["resid", "head", "mlp"]
STEPS = 3
"""Places of one layer, in the order of computation: the stream that enters it, its heads, its MLP."""

_PLACE = re.compile(r"(?:input|resid(?P<resid>\d+)|m(?P<mlp>\d+)|a(?P<attn>\d+)(?:\.h(?P<head>\d+))?)")
_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")
_HOW = "write a place such as a9.h6, m4, resid7 or input, with positions behind it where they matter: input@2-5"


@dataclass(frozen=True)
class Site:
    """One place.

    Attributes:
        name: as it was written.
        kind: what stands there.
        layer: its layer; the number of layers for what leaves the last.
        heads: which heads, for heads.
        positions: first and last position of each range; None for all positions.
    """

    name: str
    kind: Kind
    layer: int
    heads: tuple[int, ...] = ()
    positions: tuple[tuple[int, int], ...] | None = None

    @property
    def order(self) -> int:
        """Places in the order of computation."""
        return STEPS * self.layer + {"resid": 0, "head": 1, "mlp": 2}[self.kind]

    def where(self, lengths: Tensor, width: int) -> Bool[Tensor, "batch pos"]:
        """Which positions are meant.

        Args:
            lengths: [batch] positions that each prompt has.
            width: positions of the longest.

        Raises:
            ValueError: a prompt has no such position.
        """
        places = torch.arange(width, device=lengths.device)[None]
        if self.positions is None:
            return (places < lengths[:, None]).expand(len(lengths), -1)
        chosen = torch.zeros(len(lengths), width, dtype=torch.bool, device=lengths.device)
        for first, last in self.positions:
            low, high = (at if at >= 0 else lengths + at for at in (first, last))
            low, high = torch.as_tensor(low).expand(len(lengths)), torch.as_tensor(high).expand(len(lengths))
            missing = (low < 0) | (high >= lengths) | (high < low)
            if bool(missing.any()):
                i = int(missing.nonzero()[0])
                raise ValueError(
                    f"'{self.name}' names positions that prompt {i} does not have: it has {int(lengths[i])}, "
                    f"0 to {int(lengths[i]) - 1}."
                )
            chosen |= (places >= low[:, None]) & (places <= high[:, None])
        return chosen


def parse(name: str, cfg: ModelConfig) -> Site:
    """The place that a name means.

    Raises:
        ValueError: it is no name of a place, or this model does not have it.
    """
    place, at, positions = name.strip().partition("@")
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError(f"'{name}' names no place in a model; {_HOW}.")
    found = {key: int(value) for key, value in match.groupdict().items() if value is not None}
    layer = found.get("resid", found.get("mlp", found.get("attn", 0)))
    last = cfg.n_layers if "resid" in found else cfg.n_layers - 1
    if layer > last:
        raise ValueError(f"'{name}' does not exist: this model has layers 0 to {cfg.n_layers - 1}.")
    ranges = _ranges(name, positions) if at else None
    if "mlp" in found and cfg.attn_only:
        raise ValueError(f"'{name}' does not exist: this model has no MLPs.")
    if "attn" not in found:
        return Site(name, "mlp" if "mlp" in found else "resid", layer, (), ranges)
    if found.get("head", 0) >= cfg.n_heads:
        raise ValueError(f"'{name}' does not exist: layer {layer} has heads 0 to {cfg.n_heads - 1}.")
    heads = (found["head"],) if "head" in found else tuple(range(cfg.n_heads))
    return Site(name, "head", layer, heads, ranges)


def _ranges(name: str, text: str) -> tuple[tuple[int, int], ...]:
    found = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"'{name}': '{part}' is no position; write @3, @-1, @2-5 or @0,4.")
        first = int(match[1])
        found.append((first, first if match[2] is None else int(match[2])))
    return tuple(found)
