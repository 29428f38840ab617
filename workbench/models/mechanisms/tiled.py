"""Head outputs of mechanisms without a pattern, for texts whose pattern would be large and that nobody looks at."""

from __future__ import annotations

from torch import Tensor

from workbench.kernels import entmax_attention, sigmoid_attention, softpick_attention, sparsemax_attention
from workbench.models.mechanisms.record import Call, Heads
from workbench.models.mechanisms.sparse import ALPHAS, STEPS

# From so many keys on tiles are faster than the pattern; below, a text in a few strips gains nothing.
LONG = 1024


def sparsemax(v: Tensor, call: Call, causal: bool) -> Heads:
    """Head outputs of sparsemax."""
    return _turned(sparsemax_attention(*_turn(v, call), scale=call.scale, causal=causal))


def entmax15(v: Tensor, call: Call, causal: bool) -> Heads:
    """Head outputs of 1.5-entmax."""
    return _turned(entmax_attention(*_turn(v, call), alpha=1.5, scale=call.scale, causal=causal))


def entmax(v: Tensor, call: Call, causal: bool) -> Heads | None:
    """Head outputs of alpha-entmax; None where ``iterations`` may cut it short."""
    if call.options["iterations"] < STEPS:
        return None
    alpha = call.parameters["alpha"].clamp(*ALPHAS)
    return _turned(entmax_attention(*_turn(v, call), alpha=alpha, scale=call.scale, causal=causal))


def softpick(v: Tensor, call: Call, causal: bool) -> Heads:
    """Head outputs of softpick."""
    return _turned(softpick_attention(*_turn(v, call), eps=call.options["eps"], scale=call.scale, causal=causal))


def sigmoid(v: Tensor, call: Call, causal: bool) -> Heads:
    """Head outputs of sigmoid attention."""
    bias, log_n = call.options["bias"], call.options["log_n"]
    return _turned(sigmoid_attention(*_turn(v, call), bias=bias, log_n=log_n, scale=call.scale, causal=causal))


def _turn(v: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Heads before positions, as the kernels have them."""
    return call.q.transpose(1, 2), call.k.transpose(1, 2), v.transpose(1, 2)


def _turned(z: Tensor) -> Heads:
    return z.transpose(1, 2)
