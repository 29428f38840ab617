"""Where a model's weights lie: their number type, the pages of the file they came from, and more than one device."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.models.lookup import meant

if TYPE_CHECKING:
    from workbench.models.transformer import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PAGE_OUT = 21  # MADV_PAGEOUT of <linux/mman.h>: drop from memory what the file still has


def dtype_of(dtype: torch.dtype | str) -> torch.dtype | None:
    """A number type by name; None for ``auto``, the file's own.

    Raises:
        ValueError: naming those that are known.
    """
    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise ValueError(f"Weights cannot be {dtype}; choose one of auto, {', '.join(DTYPES)}.")
        return dtype
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise ValueError(f"There is no number type '{dtype}'; choose one of auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def device_of(device: str | torch.device) -> torch.device:
    """A device by name; ``auto`` is a GPU if there is one.

    Raises:
        ValueError: there is no such device on this machine.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(
            f"This machine has no device '{device}'; choose cpu, or auto for a GPU if there is one."
        ) from None
    return chosen


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Turn parameters into another number type one by one, and let go of each one's part of the file as it is done.

    A file that is mapped into memory is read where it is used. Turned all at once, it would lie in memory whole
    beside the result: 3 times the model in bfloat16 from a float32 file instead of 1.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            before = parameter.data
            parameter.data = before.to(dtype)
            let_go(before)


def let_go(tensor: Tensor) -> None:
    """Ask the system to drop a mapped tensor's pages from memory; its values stay, to be read from the file again."""
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    page = os.sysconf("SC_PAGE_SIZE")
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
    first, last = -(-start // page) * page, end // page * page
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGE_OUT)


def spread(
    model: Transformer,
    device_map: str | Mapping[str, Any] = "auto",
    *,
    max_memory: Mapping[int | str, int | str] | None = None,
    folder: str | Path | None = None,
) -> Transformer:
    """Lay a model over several devices, main memory and disk, with accelerate; taps and caches work as before.

    A block is never cut. What lies on disk is read when its block runs and dropped afterwards, so that calls from
    several threads at once are not safe as they are elsewhere.

    Args:
        model: changed in place.
        device_map: ``auto``, ``balanced``, ``sequential``, or module -> device (``{"blocks.0": 0, "": "cpu"}``).
        max_memory: how much each device may hold, such as ``{0: "10GB", "cpu": "4GB"}``; the rest goes to disk.
        folder: where on disk; needed if anything goes there.

    Returns:
        The model.

    Raises:
        ValueError: the map names what does not exist, or something must go to disk and there is no folder.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = ["Block"]
    if isinstance(device_map, str):
        if device_map not in ("auto", "balanced", "sequential"):
            raise ValueError(f"device_map='{device_map}' is not known; choose auto, balanced or sequential.")
        memory: Any = dict(max_memory) if max_memory is not None else None
        if device_map != "sequential":
            memory = get_balanced_memory(model, max_memory=memory, no_split_module_classes=whole)
        placed: dict[str, Any] = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    else:
        placed = dict(device_map)
        known = {"", *(name for name, _ in model.named_modules())}
        if unknown := sorted(set(placed) - known):
            raise ValueError(
                f"The model has no part called '{unknown[0]}'; {meant(unknown[0], sorted(known - {''}), 3)}"
            )
    if "disk" in placed.values() and folder is None:
        raise ValueError("The model does not fit into memory: give a folder for the rest with offload_folder=...")
    if set(placed.values()) == {"disk"}:
        raise ValueError("Not even the model's embedding fits into the memory that it may use; allow more.")
    try:
        with _quiet():
            dispatch_model(
                model,
                device_map=placed,
                offload_dir=None if folder is None else str(folder),
                preload_module_classes=whole,
                force_hooks=True,
            )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"The model cannot be laid out so ({' '.join(str(error).split())}).") from error
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep accelerate's remark off the terminal that what it laid on disk is not in memory."""
    log = logging.getLogger("accelerate.big_modeling")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
