"""Parts on their way through the pieces of a model: linear maps, norms, attention, MLPs, the head.

Every function takes an activation in its two parts and gives the next; totals are what the model's own modules make of
totals. Shapes in comments: source s, prompt b, position p, query q, key k, head h, d_model d, d_head e.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from workbench.circuits.decomposition.parts import Parts, rows, unrows
from workbench.circuits.decomposition.rules import RULES, Rule
from workbench.models import Transformer
from workbench.models.attention import Attention, Positions, softcap
from workbench.models.blocks import MLP
from workbench.models.mechanisms.record import scaled_product
from workbench.models.norm import Norm


def linear(rule: Rule, x: Parts, module: nn.Linear) -> Parts:
    """Through a matrix, and past its bias."""
    moved = x.along(lambda part: part @ module.weight.T)
    bias: Tensor | None = module.bias
    if bias is None:
        return moved
    return moved.of(moved.total + bias, moved.carried + bias if moved.runs else rule.bias(moved, bias))


def norm(rule: Rule, x: Parts, module: Norm) -> Parts:
    """Through a LayerNorm or RMSNorm."""
    if module.weight is None:
        return x
    out: Tensor = module(x.total)
    return x.of(out, module(x.carried) if x.runs else rule.norm(x, module, out))


def function(rule: Rule, x: Parts, apply: Callable[[Tensor], Tensor]) -> Parts:
    """Through an activation."""
    out = apply(x.total)
    return x.of(out, apply(x.carried) if x.runs else rule.function(x, apply, out))


def product(rule: Rule, left: Parts, right: Parts, times: Callable[[Tensor, Tensor], Tensor]) -> Parts:
    """Of two activations."""
    out = times(left.total, right.total)
    return left.of(out, times(left.carried, right.carried) if left.runs else rule.product(left, right, times, out))


def capped(rule: Rule, x: Parts, cap: float | None) -> Parts:
    """Through a soft cap."""
    return x if cap is None else function(rule, x, lambda part: softcap(part, cap))


def scaled(x: Parts, factor: Tensor | None) -> Parts:
    """Times a learned factor for each number (layer scale)."""
    return x if factor is None else x.along(lambda part: part * factor)


def feed(rule: Rule, x: Parts, mlp: MLP) -> Parts:
    """Through an MLP, gated or not."""
    if mlp.gate is None:
        post = function(rule, linear(rule, x, mlp.up), mlp.act)
    else:
        gate = function(rule, linear(rule, x, mlp.gate), mlp.act)
        post = product(rule, gate, linear(rule, x, mlp.up), torch.mul)
    if mlp.ln is not None:
        post = norm(rule, post, mlp.ln)
    return scaled(linear(rule, post, mlp.out), mlp.scale)


def attend(
    rule: Rule, x: Parts, attn: Attention, positions: Positions, note: Callable[[str, Parts], Parts] | None = None
) -> Parts:
    """Head outputs [s b p h e] of what attention reads; ``note`` is shown ``hook_q``, ``hook_k`` and ``hook_v``."""
    q, k, v = project(rule, x, attn, positions)
    if note is not None:
        q, k, v = note("hook_q", q), note("hook_k", k), note("hook_v", v)
    return mix(rule, q, k, v, x, attn, positions)


def project(rule: Rule, x: Parts, attn: Attention, positions: Positions) -> tuple[Parts, Parts, Parts]:
    """Queries [s b p h e], keys and values (of the heads that the model has) of what attention reads."""
    beside = x.beside(positions.added)
    q, k, v = (
        linear(rule, given, module).along(
            lambda part: part.view(*part.shape[:-1], part.shape[-1] // attn.cfg.d_head, attn.cfg.d_head)
        )
        for given, module in ((beside, attn.q), (beside, attn.k), (x, attn.v))
    )
    return q, k, v


def mix(rule: Rule, q: Parts, k: Parts, v: Parts, x: Parts, attn: Attention, positions: Positions) -> Parts:
    """Head outputs [s b p h e] of queries, keys and values; ``x`` is what attention reads."""
    if attn.q_norm is not None and attn.k_norm is not None:
        q, k = norm(rule, q, attn.q_norm), norm(rule, k, attn.k_norm)
    q, k = q.along(positions.rotate), k.along(positions.rotate)
    return _run(q, k, v, x, attn, positions) if rule.by_runs else _weigh(rule, q, k, v, attn, positions)


def _run(q: Parts, k: Parts, v: Parts, x: Parts, attn: Attention, positions: Positions) -> Parts:
    """Attention of the totals, and of the irrelevant parts that are carried, by the model's own kernel."""

    def z(part: Callable[[Parts], Tensor]) -> Tensor:
        n = len(part(q))
        visible = positions.visible
        if visible is not None and len(visible) > 1:
            visible = visible.repeat(n, 1, 1, 1)
        given = [rows(part(activation)) for activation in (q, k, v)]
        out = attn.attend(given[0], given[1], given[2], replace(positions, visible=visible))
        if attn.mechanism.output is not None and not attn.is_softmax:
            call = attn._call(given[0], attn.cfg.attn_scale, given[1])
            out = attn._blend(attn.mechanism.output(out, rows(part(x)), call), out, 2)
        return unrows(out, n)

    total = z(lambda parts: parts.total)
    return q.of(total, z(lambda parts: parts.carried) if q.n else total[:0])


def _weigh(rule: Rule, q: Parts, k: Parts, v: Parts, attn: Attention, positions: Positions) -> Parts:
    """Scores, pattern and weighted values, each decomposed."""
    group = attn.cfg.group_size
    k, v = (kept.along(lambda part: part.repeat_interleave(group, dim=-2) if group > 1 else part) for kept in (k, v))
    n, m = q.total.shape[2], k.total.shape[2]
    visible = positions.visible
    if visible is None:
        visible = torch.ones(n, m, dtype=torch.bool, device=q.total.device)
        visible = visible.tril(m - n) if attn.cfg.causal else visible
    scale = attn.cfg.attn_scale

    def times(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("sbqhe,sbkhe->sbhqk", left, right * scale)

    weights = _weights(attn, q.total, k.total, visible)
    if rule.holds_pattern:
        cap = attn.cfg.attn_softcap
        out = weights(softcap(times(q.total, k.total), cap))
        pattern = Parts(out, out.new_zeros(1).expand(q.n, *out.shape[1:]))
    else:
        scores = capped(rule, product(rule, q, k, times), attn.cfg.attn_softcap)
        out = weights(scores.total)
        pattern = Parts(out, rule.pattern(scores, weights, out))
    return product(rule, pattern, v, lambda left, right: torch.einsum("sbhqk,sbkhe->sbqhe", left, right))


def _weights(attn: Attention, q: Tensor, k: Tensor, visible: Tensor) -> Callable[[Tensor], Tensor]:
    """From scores [s b h q k] to a pattern of that shape, whatever the mechanism."""
    call = attn._call(q[0], attn.cfg.attn_scale, k[0])

    def weights(scores: Tensor) -> Tensor:
        if not len(scores):
            return scores
        if attn.is_softmax:
            plain: Tensor = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
            return plain
        given = rows(scores.masked_fill(~visible, torch.finfo(scores.dtype).min))
        special = attn.mechanism.weights(given, call)
        plain = given.softmax(-1) if attn.chosen is not None else special
        return unrows(attn._blend(special, plain, 1), len(scores))

    return weights


def check_rule(rule: Rule, model: Transformer) -> None:
    """Refuse a rule that the model's attention does not admit.

    Raises:
        ValueError: saying which rules it does admit.
    """
    mechanism = model.blocks[0].attn.mechanism
    if all(block.attn.is_softmax for block in model.blocks):
        return
    if mechanism.values is not None:
        raise ValueError(
            f"{model.name} attends by '{mechanism.key}', whose values come from the first layer as well; no rule "
            "decomposes that. Choose another mechanism."
        )
    plain = mechanism.scores is scaled_product and mechanism.output is None
    if not plain and not rule.by_runs:
        admitted = ", ".join(f"'{other.key}'" for other in RULES if other.by_runs)
        raise ValueError(
            f"The rule '{rule.key}' needs scores that are products of queries and keys and heads that only weigh "
            f"values; {model.name} attends by '{mechanism.key}'. It admits {admitted}."
        )
