"""What an attention mechanism is: a few functions, the numbers it learns, and how it describes itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.models.lookup import meant

Scores = Float[Tensor, "batch head query key"]
Visible = Bool[Tensor, "batch head query key"]
Pattern = Float[Tensor, "batch head query key"]
Heads = Float[Tensor, "batch pos head d_head"]


def hidden(scores: Scores) -> Visible:
    """True where a query may not look: ``scores <= lowest finite number / 2``.

    Masks write the lowest finite number, a hook may write -inf. Half of it leaves room for what a hook does to
    masked scores, such as scaling them; in float16 it also hides real scores below -32752.
    """
    return scores <= torch.finfo(scores.dtype).min / 2


def opened(scores: Scores) -> tuple[Scores, Visible]:
    """``(s, visible)``: scores in float32, or float64 where they are that, with 0 wherever a query may not look.

    The zero keeps masked numbers out of every sum and product, and their gradient at exactly zero.
    """
    blind = hidden(scores)
    exact = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.masked_fill(blind, 0).to(exact), ~blind


def visible_keys(visible: Visible) -> Float[Tensor, "batch head query 1"]:
    """How many keys each query may look at, and 1 where it may look at none."""
    return visible.sum(-1, keepdim=True).clamp(min=1).float()


def row_max(s: Scores, visible: Visible) -> Float[Tensor, "batch head query 1"]:
    """The highest visible score of each row, without gradient; 0 where there is none."""
    with torch.no_grad():
        top = s.masked_fill(~visible, -math.inf).amax(-1, keepdim=True)
        return top.masked_fill(~visible.any(-1, keepdim=True), 0)


@dataclass(frozen=True)
class Call:
    """What a mechanism may look at in one layer's call, besides the scores.

    Attributes:
        q: queries [batch query head d_head], positions already applied.
        k: keys [batch key head d_head], one per query head.
        scale: the model's factor on ``q . k``.
        parameters: the layer's learnable tensors, first axis head.
        options: the mechanism's settings, defaults filled in.
        layer: index of the layer, from 0.
    """

    q: Float[Tensor, "batch query head d_head"]
    k: Float[Tensor, "batch key head d_head"]
    scale: float
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, float] = field(default_factory=dict)
    layer: int = 0

    def per_head(self, name: str, like: Tensor) -> Float[Tensor, "head 1 1"]:
        """The learnable number that each head has under ``name``, ready to meet ``like`` [batch head query key]."""
        return self.parameters[name].to(like.dtype)[:, None, None]


def scaled_product(call: Call) -> Scores:
    """``scale * q . k``: the scores of every mechanism that makes none of its own."""
    return torch.einsum("bqhe,bkhe->bhqk", call.q, call.k) * call.scale


@dataclass(frozen=True)
class Parameter:
    """A learnable tensor of one layer.

    Attributes:
        name: what ``Call.parameters`` has it under.
        shape: names of the axes after the head axis: ``d_head``, ``half`` (half of d_head) or ``slice`` (one head's
            share of d_model).
        initial: what every entry starts from.
    """

    name: str
    shape: tuple[str, ...]
    initial: float


@dataclass(frozen=True)
class Mechanism:
    """One way from queries and keys to head outputs.

    Attributes:
        key: name in the registry.
        title: name in prose.
        formula: one line of plain text; s are a row's visible scores, n how many there are.
        reference: who proposed it, and where.
        weights: pattern [batch head query key] from masked scores of that shape. What may not be looked at gets 0, so
            a row without any visible key is all zeros.
        scores: the scores [batch head query key] before the mask.
        tiled: head outputs [batch query head d_head] from v, a call whose keys may be shared by groups of heads, and
            whether attention is causal, without ever holding a pattern; None where there is no such way, or it gives
            None where the settings allow none.
        values: the values that are mixed, from the layer's own v and the first layer's, both [batch key head d_head].
        output: head outputs [batch query head d_head] from ``z`` of that shape and the attention's normalised input
            [batch query d_model].
        options: settings and their defaults.
        ranges: least and greatest allowed value of a setting; one that is not listed may be anything finite.
        parameters: what it learns.
        rows: what the weights of a row sum to, whatever the settings.
        whole: the weights of one query depend on other queries, so every query of the text must be there at once.
    """

    key: str
    title: str
    formula: str
    reference: str
    weights: Callable[[Tensor, Call], Tensor]
    scores: Callable[[Call], Tensor] = scaled_product
    tiled: Callable[[Tensor, Call, bool], Tensor | None] | None = None
    values: Callable[[Tensor, Tensor, Call], Tensor] | None = None
    output: Callable[[Tensor, Tensor, Call], Tensor] | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    rows: Literal["one", "at most one", "any"] = "one"
    whole: bool = False


def options_of(mechanism: Mechanism, given: Mapping[str, float]) -> dict[str, float]:
    """Every setting of the mechanism: those given, and the defaults of the rest.

    Raises:
        ValueError: there is no such setting, or its value is out of range.
    """
    for name, value in given.items():
        if name not in mechanism.options:
            what = meant(name, list(mechanism.options))
            raise ValueError(f"Attention mechanism '{mechanism.key}' has no option '{name}'; {what}")
        least, most = mechanism.ranges.get(name, (-math.inf, math.inf))
        if not (least <= value <= most and math.isfinite(value)):
            raise ValueError(f"Option '{name}' of '{mechanism.key}' must lie in [{least:g}, {most:g}], not {value:g}.")
    return {**mechanism.options, **given}


def parameter_shapes(mechanism: Mechanism, n_heads: int, d_head: int, d_model: int) -> dict[str, tuple[int, ...]]:
    """Shape of each learnable tensor of one layer, head axis first.

    Raises:
        ValueError: the sizes of the model do not suit the mechanism.
    """
    named = {axis for parameter in mechanism.parameters for axis in parameter.shape}
    if "half" in named and d_head % 2:
        raise ValueError(f"'{mechanism.key}' attention cuts heads in halves; d_head = {d_head} is odd.")
    if "slice" in named and d_model != n_heads * d_head:
        raise ValueError(
            f"'{mechanism.key}' attention gives each head d_head numbers of the residual stream, so d_model must be "
            f"n_heads * d_head; {d_model} is not {n_heads} * {d_head}."
        )
    sizes = {"d_head": d_head, "half": d_head // 2, "slice": d_head}
    return {parameter.name: (n_heads, *(sizes[axis] for axis in parameter.shape)) for parameter in mechanism.parameters}
