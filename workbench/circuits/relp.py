"""Relevance patching (RelP, Rezaei Jafari et al. 2025, arXiv 2508.21258): EAP with the coefficients of LRP.

The gradient in EAP's formula is replaced by the coefficient that layer-wise relevance propagation sends back. Every
rule is a change of one backward, so that the cost is EAP's:

- LN-rule: the scale of every norm is a constant.
- Identity rule: an activation f passes back ``f(x) / x`` in place of its derivative.
- Half rule: each factor of a gated MLP's product ``f(gate) * up`` passes back half of its gradient, so that what both
  take adds up to the product, not to twice of it.
- Attention rule (optional): the pattern is a constant, so that attention passes back through values alone.

In a model without norms whose activation is ReLU (a compiled program) it is EAP to the last digit. Norms of queries and
keys (Qwen 3, Gemma 3) keep their gradient, unless the attention rule cuts it off.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, WriterOutputs, graph_of
from workbench.circuits.attribution import edge_scores, reader_gradients, writer_differences
from workbench.circuits.graph import Scores
from workbench.circuits.partial import Keep, Prompts
from workbench.circuits.progress import ProgressFn
from workbench.circuits.sweep import BUDGET, Step, edge_means
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.blocks import MLP
from workbench.models.taps import Tap

SMALL = 1e-6  # below it f(x) / x is taken at this x: its limit at 0, where that exists


def relp(
    model: Transformer,
    task: Task,
    *,
    attention_rule: bool = False,
    ablation: Ablation = "resample",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
    resume: Scores | None = None,
    keep: Keep | None = None,
) -> Scores:
    """Score every edge by relevance patching: two forwards and one backward.

    Args:
        attention_rule: take attention patterns for constants.
        model, task, ablation, budget, progress: as in :func:`workbench.circuits.eap.eap`.

    Returns:
        Scores in units of the task's metric.

    Raises:
        ValueError: an unknown ablation.
        Stopped: stopped before the first batch was done.
    """
    graph = graph_of(model)

    def score(batch: Task, ablated: WriterOutputs, step: Step) -> Tensor:
        tokens, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
        embed = model(tokens, attention_mask=mask, stop_at_layer=0)
        gradients = reader_gradients(model, batch, embed, taps=rules(model, attention_rule=attention_rule))
        differences = writer_differences(model, graph, gradients.outputs, ablated)
        last = batch.last.to(model.device)
        scores = edge_scores(model, graph, differences, gradients, last, frozen_norms=True)
        step()
        return scores

    rest = Prompts(
        graph_of(model), task, "relp", {"ablation": ablation, "attention_rule": attention_rule}, resume, keep
    )
    return edge_means(model, rest, score, steps=1, budget=budget, progress=progress)


def rules(model: Transformer, *, attention_rule: bool = False) -> dict[str, Tap]:
    """Taps for one run that leave its values as they are and make its backward LRP's."""
    taps: dict[str, Tap] = {name: torch.Tensor.detach for name in model.hook_names if name.endswith("hook_scale")}
    for layer, block in enumerate(model.blocks):
        if attention_rule:
            taps[f"blocks.{layer}.attn.hook_pattern"] = torch.Tensor.detach
        if block.mlp is not None:
            taps |= {f"blocks.{layer}.mlp.hook_{part}": tap for part, tap in _mlp_rules(block.mlp).items()}
    return taps


def _mlp_rules(mlp: MLP) -> dict[str, Callable[[Tensor], Tensor | None]]:
    seen: dict[str, Tensor] = {}

    def see(part: str) -> Callable[[Tensor], None]:
        return lambda value: seen.update({part: value})

    def activated(value: Tensor) -> Tensor:
        return _pass_back(value, _ratio(mlp, seen["pre"]) * seen["pre"])

    def multiplied(value: Tensor) -> Tensor:
        pre, up = seen["pre"], seen["pre_linear"]
        return _pass_back(value, _ratio(mlp, pre) * up.detach() * pre / 2, mlp.act(pre.detach()) * up / 2)

    def normalised(value: Tensor) -> Tensor:
        assert mlp.ln is not None
        assert mlp.ln.weight is not None
        mid = seen["mid"]
        scale = mlp.ln.standardise(mid.detach())[1]
        return _pass_back(value, (mid - mid.mean(-1, keepdim=True)) * mlp.ln.weight / scale)

    if mlp.gate is not None:
        return {"pre": see("pre"), "pre_linear": see("pre_linear"), "post": multiplied}
    if mlp.ln is None:
        return {"pre": see("pre"), "post": activated}

    def middle(value: Tensor) -> Tensor:
        seen["mid"] = activated(value)
        return seen["mid"]

    return {"pre": see("pre"), "mid": middle, "post": normalised}


def _ratio(mlp: MLP, x: Tensor) -> Tensor:
    x = x.detach()
    away = torch.where(x.abs() < SMALL, SMALL, x)
    return mlp.act(away) / away


def _pass_back(value: Tensor, *parts: Tensor) -> Tensor:
    """``value`` with the gradient of the sum of ``parts``."""
    out = value.detach()
    for part in parts:
        out = out + (part - part.detach())
    return out
