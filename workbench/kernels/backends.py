"""Which backend runs a sweep, and why not Triton where it does not."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import Literal

import torch

from workbench.kernels.problem import Problem

Backend = Literal["auto", "torch", "triton"]
LARGEST_HEAD = 256


def runs_triton(backend: str, problem: Problem) -> bool:
    """Whether Triton takes this sweep. Falls back to torch, with a warning, where it was asked for and cannot.

    Raises:
        ValueError: no such backend.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"There is no backend '{backend}'; choose auto, torch or triton.")
    if backend == "torch" or (backend == "auto" and not problem.q.is_cuda):
        return False
    why = _obstacle(problem)
    if why is not None:
        # At this line, not the caller's: Python's default filter then shows each reason once in a process.
        warnings.warn(f"Attention in tiles runs in plain torch: {why}.", stacklevel=1)
    return why is None


def _obstacle(problem: Problem) -> str | None:
    """What keeps Triton from this sweep; None for nothing."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if not problem.q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton needs a GPU"
    if problem.work != torch.float32:
        return "the Triton kernel calculates in float32, not float64"
    widest = max(problem.q.shape[-1], 0 if problem.v is None else problem.v.shape[-1])
    if widest > LARGEST_HEAD:
        return f"the Triton kernel does heads of up to {LARGEST_HEAD} numbers, not {widest}"
    return None
