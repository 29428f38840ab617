"""Which layers change little: block influence of a layer and of its two halves, and what leaving them out costs.

Men et al. 2024 ("ShortGPT: layers in large language models are more redundant than you expect", arXiv 2403.03853):
``BI = 1 - E cos(x, y)`` with x and y the residual stream before and after a layer, over positions. A layer that leaves
the stream's direction as it is has 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.asked import Asked, asked, unasked
from workbench.attention.layers import Text, taken
from workbench.attention.observed import plain
from workbench.attention.pruning import run_layers, without
from workbench.attention.running import Mean, Running
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.taps import Tap

Part = Literal["layer", "attention", "mlp"]
PARTS: tuple[Part, ...] = get_args(Part)
LOGITS = 2**22
"""Logits that are made at a time."""


@dataclass(frozen=True)
class Redundancy:
    """How much each layer changes.

    Attributes:
        model: name of the model.
        influence: ``1 - cos`` before and after the layer, its attention and its MLP, [layer]: means over an example's
            real positions and then over examples, with their interval.
        rise: rise of the loss without the layer, its attention or its MLP, [layer], in nats; what was asked for.
        loss: of the model as it is, in nats; None where nothing was left out.
        n_examples: examples that were read.
        complete: False where it was stopped before the last.
    """

    model: str
    influence: Mapping[Part, Mean]
    rise: Mapping[Part, Mean]
    loss: float | None
    n_examples: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Means, and half their intervals, as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "examples": self.n_examples,
            "complete": self.complete,
            "loss": self.loss,
            "influence": {part: plain(mean.mean) for part, mean in self.influence.items()},
            "influence_half_widths": {part: plain(mean.half_width) for part, mean in self.influence.items()},
            "rise": {part: plain(mean.mean) for part, mean in self.rise.items()},
            "rise_half_widths": {part: plain(mean.half_width) for part, mean in self.rise.items()},
        }


@torch.no_grad()
def redundancy(
    model: Transformer,
    data: Tensor | Text | Sequence[Tensor],
    *,
    labels: Tensor | None = None,
    leave_out: Sequence[Part] = (),
    level: float = 0.95,
    batch_size: int = 8,
    progress: ProgressFn | None = None,
) -> Redundancy:
    """Block influence of every layer, and the rise of the loss without it.

    The attention of a layer is judged by the stream before and after what it adds, the MLP likewise; in a parallel
    layer both from the same stream. In a post-norm layer (BERT) the norm that follows counts as part of each. Leaving
    a half out takes away what it adds, a whole layer both. Cost: one forward, and half a forward for each layer and
    part that is left out.

    Args:
        model: any model.
        data: a text or several; one batch of tokens or images, or several.
        labels: right classes [example], where the loss is asked of a classifier and not to be that of its own answers.
        leave_out: any of ``layer``, ``attention``, ``mlp``.
        level: of the intervals, Student's over examples.
        batch_size: texts that are read at a time.
        progress: called after every batch, and after every layer that was left out; returning False stops and keeps
            the batches that are done.

    Raises:
        ValueError: no data; an unknown part, or an MLP of a model without; no loss to be had; a level that is none.
        Stopped: stopped before one batch was done.
    """
    _check(model, leave_out, level)
    batches = _batches(model, data, labels, batch_size, bool(leave_out))
    if leave_out and any(batch.target is None for batch in batches):
        raise ValueError(f"{model.name} has no loss here: leave leave_out= away. {batches[0].note or ''}".strip())
    report = Reporter(progress, len(batches) * (1 + model.cfg.n_layers * len(leave_out)), "leaving layers out")
    influence = {part: Running() for part in PARTS if part != "mlp" or not model.cfg.attn_only}
    rise: dict[Part, Running] = {part: Running() for part in leave_out}
    losses: list[float] = []
    done = 0
    for batch in batches:
        before, changes = _influence(model, batch)
        report.step()
        final = before.pop()
        base = _loss(model, batch, final) if leave_out else torch.zeros(0)
        rises: dict[Part, list[Tensor]] = {part: [] for part in leave_out}
        for part, layer in ((part, layer) for part in leave_out for layer in range(model.cfg.n_layers)):
            if not report.going:
                break
            rises[part].append(_loss(model, batch, without(model, batch, before, layer, _taps(model, layer, part))))
            report.step()
        if any(len(found) < model.cfg.n_layers for found in rises.values()):
            break
        for part, values in changes.items():
            influence[part].add(values)
        for part, found in rises.items():
            rise[part].add(torch.stack(found) - base)
        losses += base.tolist()
        done += len(batch.rows)
        if not report.going:
            break
    if not done:
        raise Stopped("Stopped before one batch was read.")
    return Redundancy(
        model.name,
        {part: running.result(level) for part, running in influence.items()},
        {part: running.result(level) for part, running in rise.items()},
        sum(losses) / len(losses) if losses else None,
        done,
        report.done == report.total,
    )


def _check(model: Transformer, leave_out: Sequence[Part], level: float) -> None:
    unknown = [part for part in leave_out if part not in PARTS]
    if unknown:
        raise ValueError(f"What can be left out is {', '.join(PARTS)}; there is no '{unknown[0]}'.")
    if "mlp" in leave_out and model.cfg.attn_only:
        raise ValueError(f"{model.name} has no MLPs to leave out.")
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, such as 0.95; got {level}.")


def _batches(
    model: Transformer, data: Tensor | Text | Sequence[Tensor], labels: Tensor | None, size: int, judged: bool
) -> list[Asked]:
    """What each forward is given, checked before anything runs."""
    if size < 1:
        raise ValueError(f"A batch holds at least one text; got batch_size={size}.")
    given: list[Any]
    if isinstance(data, Tensor):
        given = [data[start : start + size] for start in range(0, len(data), size)]
    elif isinstance(data, str):
        given = [data]
    else:
        texts = all(isinstance(one, str) for one in data)
        given = [list(data[start : start + size]) for start in range(0, len(data), size)] if texts else list(data)
    if not given:
        raise ValueError("There is no data: give at least one text or one batch of tokens.")
    taken_in = [taken(model, one) for one in given]
    total = sum(len(one.tokens) for one in taken_in)
    if labels is not None and len(labels) != total:
        raise ValueError(f"There are {total} examples and {len(labels)} labels.")
    found, start = [], 0
    for one in taken_in:
        some = None if labels is None else labels[start : start + len(one.tokens)]
        found.append(asked(model, one, some) if judged else unasked(one))
        start += len(one.tokens)
    return found


def _influence(model: Transformer, batch: Asked) -> tuple[list[Tensor], dict[Part, Float[Tensor, "layer example"]]]:
    """The stream before every layer and after the last; 1 - cos of each part, a mean over real positions."""
    layers = model.cfg.n_layers
    held: dict[str, dict[int, Tensor]] = {"pre": {}, "mid": {}, "mlp": {}, "attn": {}}

    def keep(what: str, layer: int, x: Tensor) -> None:
        held[what][layer] = x

    taps: dict[str, Tap] = {}
    for layer in range(layers):
        taps[f"blocks.{layer}.hook_resid_pre"] = partial(keep, "pre", layer)
        if model.cfg.attn_only:
            continue
        if model.cfg.parallel:
            taps[f"blocks.{layer}.hook_attn_out"] = partial(keep, "attn", layer)
            taps[f"blocks.{layer}.hook_mlp_out"] = partial(keep, "mlp", layer)
        else:
            taps[f"blocks.{layer}.hook_resid_mid"] = partial(keep, "mid", layer)
    final = run_layers(model, batch, taps)
    streams = [*(held["pre"][layer] for layer in range(layers)), final]
    real = torch.ones(batch.rows.shape, dtype=torch.bool, device=final.device)
    real = real if batch.given.real is None else batch.given.real
    found: dict[Part, list[Tensor]] = {"layer": [], "attention": [], "mlp": []}
    for layer in range(layers):
        pre, post = streams[layer], streams[layer + 1]
        found["layer"].append(_turned(pre, post, real))
        if model.cfg.attn_only:
            found["attention"].append(found["layer"][-1])
        elif model.cfg.parallel:
            found["attention"].append(_turned(pre, pre + held["attn"][layer], real))
            found["mlp"].append(_turned(pre, pre + held["mlp"][layer], real))
        else:
            found["attention"].append(_turned(pre, held["mid"][layer], real))
            found["mlp"].append(_turned(held["mid"][layer], post, real))
    return streams, {part: torch.stack(values).cpu() for part, values in found.items() if values}


def _turned(before: Tensor, after: Tensor, real: Tensor) -> Float[Tensor, " example"]:
    """``1 - cos``, as half the squared distance of unit vectors, which keeps its digits near 0."""
    x, y = (torch.nn.functional.normalize(stream.double(), dim=-1) for stream in (before, after))
    apart = (x - y).square().sum(-1) / 2
    mean: Tensor = apart.masked_fill(~real, 0).sum(-1) / real.sum(-1)
    return mean


def _taps(model: Transformer, layer: int, part: Part) -> dict[str, Tap]:
    """What takes a part of a layer away."""
    name, nothing = f"blocks.{layer}", torch.zeros_like
    if part == "layer" and model.cfg.norm_place == "post":
        held: dict[str, Tensor] = {}

        def keep(x: Tensor) -> None:
            held["x"] = x

        return {f"{name}.hook_resid_pre": keep, f"{name}.hook_resid_post": lambda _: held["x"]}
    taps: dict[str, Tap] = {}
    if part in ("layer", "attention"):
        taps[f"{name}.hook_attn_out"] = nothing
    if part in ("layer", "mlp") and not model.cfg.attn_only:
        taps[f"{name}.hook_mlp_out"] = nothing
    return taps


def _loss(model: Transformer, batch: Asked, final: Tensor) -> Float[Tensor, " example"]:
    """Mean cost of each example's right answers, in nats."""
    total = torch.zeros(len(batch.rows), dtype=torch.float64, device=final.device)
    for logits, example, right in batch.outputs(model, final[None], LOGITS):
        assert right is not None
        logp = logits[0].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        total += batch.by_example(-logp.gather(-1, right[:, None])[None, :, 0], example)[0]
    return total.cpu()
