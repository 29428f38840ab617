"""The linear map that each sublayer is while attention patterns, norm scales and activation gates are held.

The rule ``frozen`` of the decomposition, with two differences. Constants go to the last row, so that what a sublayer
adds for itself is known apart. And what is held is worked out once, not again for every row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.circuits.decomposition import flow
from workbench.circuits.decomposition.parts import Parts
from workbench.circuits.decomposition.rules import Rule
from workbench.circuits.decomposition.rules.frozen import Frozen
from workbench.circuits.decomposition.rules.record import held
from workbench.models.attention import Attention, Positions
from workbench.models.blocks import MLP
from workbench.models.norm import Norm


class Held(Frozen):
    """``frozen``, with all constants in the last row: biases of linear maps and shifts of norms."""

    def bias(self, moved: Parts, bias: Tensor) -> Tensor:
        """See :class:`Rule`."""
        return _in_last_row(moved.relevant, bias)

    def norm(self, x: Parts, norm: Norm, out: Tensor) -> Tensor:  # noqa: ARG002
        """``centred(b) / scale(x) * weight``; the shift in the last row."""
        relevant = held(norm, x)
        return relevant if norm.bias is None else _in_last_row(relevant, norm.bias)


def _in_last_row(rows: Tensor, constant: Tensor) -> Tensor:
    """Rows [row, ...] with a constant added to the last."""
    if not len(rows):
        return rows
    return torch.cat((rows[:-1], rows[-1:] + constant))


def attend(rule: Rule, x: Parts, attn: Attention, positions: Positions) -> Parts:
    """Head outputs [row, batch, pos, head, d_head] of rows that attention reads: values alone are moved."""
    bare = Parts(x.total, x.carried[:0])
    q, k, own = flow.project(rule, bare, attn, positions)
    values = x.carried @ attn.v.weight.T
    if attn.v.bias is not None:
        values = rule.bias(Parts(x.total, values), attn.v.bias)
    v = own.of(own.total, values.view(*values.shape[:-1], *own.total.shape[-2:]))
    return flow.mix(rule, q, k, v, bare, attn, positions)


def feed(rule: Rule, x: Parts, mlp: MLP) -> Parts:
    """What an MLP makes of rows; in a gated one they go through the matrix behind the gate alone."""
    if mlp.gate is None:
        return flow.feed(rule, x, mlp)
    bare = Parts(x.total, x.carried[:0])
    gate = flow.function(rule, flow.linear(rule, bare, mlp.gate), mlp.act)
    post = flow.product(rule, gate, flow.linear(rule, x, mlp.up), torch.mul)
    if mlp.ln is not None:
        post = flow.norm(rule, post, mlp.ln)
    return flow.scaled(flow.linear(rule, post, mlp.out), mlp.scale)
