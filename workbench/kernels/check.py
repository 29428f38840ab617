"""What comes in, checked and put in order: every mistake is one sentence with the shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels.problem import CPU_KEYS, CPU_ROWS, GPU_TILE, SMALLEST, Problem, Sight

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def problem(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    v: Float[Tensor, "batch v_head key d_value"] | None,
    *,
    causal: bool,
    scale: float | None,
    window: int | None,
    key_mask: Bool[Tensor, "batch key"] | None,
    lengths: Int[Tensor, " batch"] | None,
    softcap: float | None,
    tile: tuple[int, int] | None,
) -> Problem:
    """The sweep that these arguments ask for.

    Raises:
        ValueError: shapes, types or settings do not fit; the sentence names them.
    """
    _check_shapes(q, k, v)
    batch, heads, queries, d_head = q.shape
    keys = k.shape[2]
    if causal and queries > keys:
        raise ValueError(
            f"There are {queries} queries and only {keys} keys, so causal attention has no place for the first "
            "queries; give all keys, or causal=False."
        )
    if window is not None and window < 1:
        raise ValueError(f"A window of {window} keys shows nothing; it must be 1 (the query's own key) or more.")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap:g}; it must be positive, or None for no cap.")
    if tile is not None and (len(tile) != 2 or min(tile) < 1):
        raise ValueError(f"tile is {tile}; it must be two positive numbers, of queries and of keys.")
    mask = _mask(key_mask, lengths, batch, keys, q.device)
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    return Problem(
        q,
        k.to(work),
        None if v is None else v.to(work),
        Sight(queries, keys, causal, window, mask),
        d_head**-0.5 if scale is None else scale,
        softcap,
        _tile(batch * heads, heads // k.shape[1], q.is_cuda) if tile is None else tile,
    )


def sink_mask(
    sinks: Sequence[int] | Bool[Tensor, "batch key"], batch: int, keys: int, device: torch.device
) -> Bool[Tensor, "batch key"]:
    """Where sink keys are, [batch or 1, key]. Indices beyond the last key are left out: short texts have no such key.

    Raises:
        ValueError: a mask of another shape, or a negative index.
    """
    if isinstance(sinks, Tensor):
        if sinks.dtype != torch.bool or sinks.shape != (batch, keys):
            raise ValueError(
                f"sinks is {_shape(sinks)} of {sinks.dtype}; give indices of keys, or a mask [batch, key] of shape "
                f"[{batch}, {keys}] and type bool."
            )
        return sinks.to(device)
    if any(at < 0 for at in sinks):
        raise ValueError(f"sinks has the index {min(sinks)}; indices of keys count from 0.")
    mask = torch.zeros(1, keys, dtype=torch.bool, device=device)
    mask[:, [at for at in sinks if at < keys]] = True
    return mask


def _check_shapes(q: Tensor, k: Tensor, v: Tensor | None) -> None:
    given = {"q": q, "k": k} | ({} if v is None else {"v": v})
    shapes = ", ".join(f"{name} {_shape(x)}" for name, x in given.items())
    for name, x in given.items():
        if x.ndim != 4:
            raise ValueError(f"{name} must be [batch, head, position, d_head], but the shapes are {shapes}.")
        if x.numel() == 0:
            raise ValueError(f"{name} is empty: the shapes are {shapes}; give one query and one key or more.")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name} has the type {x.dtype}; queries, keys and values are floating-point numbers.")
        if x.device != q.device:
            raise ValueError(f"q is on {q.device} and {name} on {x.device}; bring them to one device.")
        if x.shape[0] != q.shape[0]:
            raise ValueError(f"q and {name} differ in the batch: the shapes are {shapes}.")
        if q.shape[1] % x.shape[1]:
            raise ValueError(
                f"The {q.shape[1]} query heads do not share the {x.shape[1]} heads of {name} evenly: "
                f"the shapes are {shapes}."
            )
    if k.shape[3] != q.shape[3]:
        raise ValueError(f"q and k differ in d_head: the shapes are {shapes}.")
    if v is not None and v.shape[2] != k.shape[2]:
        raise ValueError(f"k and v differ in the number of keys: the shapes are {shapes}.")


def _mask(
    key_mask: Tensor | None, lengths: Tensor | None, batch: int, keys: int, device: torch.device
) -> Bool[Tensor, "batch key"] | None:
    if key_mask is not None:
        if key_mask.shape != (batch, keys):
            raise ValueError(f"key_mask is {_shape(key_mask)}; it must be [batch, key], here [{batch}, {keys}].")
        key_mask = key_mask.to(device=device, dtype=torch.bool)
    if lengths is not None:
        if lengths.shape != (batch,):
            raise ValueError(f"lengths is {_shape(lengths)}; it must have one number for each of {batch} batch rows.")
        if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > keys):
            raise ValueError(
                f"lengths go from {int(lengths.min())} to {int(lengths.max())}, but there are {keys} keys."
            )
        within = torch.arange(keys, device=device) < lengths.to(device)[:, None]
        key_mask = within if key_mask is None else key_mask & within
    return None if key_mask is None or bool(key_mask.all()) else key_mask


def _tile(heads: int, shared: int, on_gpu: bool) -> tuple[int, int]:
    """Powers of two that make a tile as large as it should be: all heads together, on a CPU those of one key head."""
    if not on_gpu:
        return min(max(_power(CPU_ROWS / shared), 16), 128), CPU_KEYS
    size = min(max(_power(math.sqrt(GPU_TILE / max(1, heads))), SMALLEST), 1024)
    return size, size


def _power(size: float) -> int:
    """The power of two next to it."""
    return int(2 ** max(0, round(math.log2(max(size, 1)))))


def _shape(x: Tensor) -> str:
    return str(list(x.shape))
