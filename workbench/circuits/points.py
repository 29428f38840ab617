"""Where the attribution methods take their gradients: what enters block 0 in each of their runs.

What the gradients are multiplied with is another question, and has three answers: what edges carry
(:mod:`workbench.circuits.eap`), what they carry at each position (:mod:`workbench.circuits.positions`), and what
neurons hold (:mod:`workbench.circuits.neurons`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.eap_gp import gradient_path
from workbench.circuits.option_values import check_range
from workbench.circuits.task import Task
from workbench.models import Transformer

Method = Literal["eap-ig", "eap", "clean-corrupted", "eap-gp"]


def n_points(method: Method, steps: int) -> int:
    """How many runs a method takes the mean gradient of.

    Raises:
        ValueError: a method that is none of these, or fewer than one step.
    """
    if method not in get_args(Method):
        raise ValueError(
            f"'{method}' gives no scores by position or neuron; choose one of {', '.join(get_args(Method))}."
        )
    check_range("steps", steps, method)
    return {"eap": 1, "clean-corrupted": 2}.get(method, steps)


def settings_of(method: Method, steps: int) -> dict[str, int]:
    """The options that a method has."""
    return {"steps": steps} if method in ("eap-ig", "eap-gp") else {}


def gradient_points(
    model: Transformer,
    batch: Task,
    clean: Float[Tensor, "batch pos d_model"],
    ablated: Float[Tensor, "batch pos d_model"],
    method: Method,
    steps: int,
) -> Iterable[Float[Tensor, "batch pos d_model"]]:
    """What enters block 0 in each run; made one at a time.

    Args:
        model: the model.
        batch: examples.
        clean, ablated: what enters block 0 in the clean and in the ablated run; the latter may broadcast.
        method: ``eap`` the clean run; ``eap-ig`` ``steps`` runs from the ablated towards the clean one;
            ``clean-corrupted`` both ends; ``eap-gp`` ``steps`` runs along a path of gradients.
        steps: of ``eap-ig`` and ``eap-gp``.
    """
    ablated = ablated.expand_as(clean)
    if method == "eap":
        return [clean]
    if method == "clean-corrupted":
        return [clean, ablated]
    if method == "eap-gp":
        return gradient_path(model, batch, clean, ablated, steps)
    return (torch.lerp(ablated, clean, k / steps) for k in range(steps))


__all__ = ["Method", "gradient_points", "n_points", "settings_of"]
