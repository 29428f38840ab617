"""Parts of a model switched off while one looks: heads, MLPs and edges, several at once.

    effect = switch_off(model, task, ["a23.h0", "m3->a23.h3<q>"], ablation="resample")
    effect.before, effect.after      # the mean metric
    effect.answers                   # the most probable answers to one prompt, before and after

A head or an MLP that is off gives every reader its ablated output; an edge that is off gives it to one reader. All
else carries on with what it then reads, so this is the whole effect, direct and through later layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.circuits import Graph, Task, stream
from workbench.circuits.activations import (
    Ablation,
    Ablator,
    WriterOutputs,
    batch_size_for,
    check_ablation,
    graph_of,
)
from workbench.circuits.evaluate import compares_answers
from workbench.circuits.graph import head_of, layer_of
from workbench.circuits.patching import PatchedRun
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.sweep import BUDGET
from workbench.head import word_of
from workbench.inspection import Answer, Given
from workbench.models import Transformer
from workbench.models.lookup import meant
from workbench.models.taps import Tap


@dataclass(frozen=True)
class Effect:
    """What switching parts off does.

    Attributes:
        off: names of heads, MLPs and edges.
        ablation: what they carry instead.
        unit: of the metric.
        before, after: its mean over the prompts.
        accuracy_before, accuracy_after: share of prompts whose right answers are above the wrong ones; None where the
            metric does not compare answers.
        n_examples: prompts.
        prompt: number of the prompt that ``answers`` are of.
        prompt_before, prompt_after: the metric there.
        answers: the most probable ones there; empty for a model that gives none.
    """

    off: tuple[str, ...]
    ablation: str
    unit: str
    before: float
    after: float
    accuracy_before: float | None
    accuracy_after: float | None
    n_examples: int
    prompt: int
    prompt_before: float
    prompt_after: float
    answers: list[Answer]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


def check_parts(graph: Graph, parts: Iterable[str]) -> None:
    """Refuse what is neither a head, an MLP, ``input`` nor an edge of a graph.

    Raises:
        ValueError: the message suggests the closest names.
    """
    for part in parts:
        if "->" in part:
            graph.edge(part)
        elif part not in graph.writer_index:
            raise ValueError(f"'{part}' cannot be switched off; {meant(part, graph.writers, 3)}")


def without(graph: Graph, parts: Iterable[str]) -> Bool[Tensor, "writers readers"]:
    """All edges of a graph but those, and but those that leave the named heads and MLPs.

    Raises:
        ValueError: a name is in no such graph.
    """
    parts, mask = list(parts), graph.mask.clone()
    check_parts(graph, parts)
    for part in parts:
        if "->" in part:
            mask[graph.edge(part)] = False
        else:
            mask[graph.writer_index[part]] = False
    return mask


@torch.no_grad()
def switch_off(
    model: Transformer,
    task: Task,
    parts: Sequence[str],
    ablation: Ablation = "resample",
    *,
    prompt: int = 0,
    k: int = 5,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Effect:
    """Run a model with parts switched off, and as it is.

    Args:
        model: the model.
        task: prompts and metric.
        parts: heads, MLPs and edges, such as ``a3.h5``, ``m2`` and ``a3.h5->a4.h1<q>``.
        ablation: what they carry instead.
        prompt: the prompt to show answers of, from 0.
        k: how many answers of either run.
        budget: bytes beside the model; prompts are taken in batches that fit.
        progress: called after every batch; returning False stops, and the batches so far are reported.

    Raises:
        ValueError: a part or a prompt that there is not, or an unknown ablation.
    """
    check_ablation(ablation)
    if not 0 <= prompt < len(task):
        raise ValueError(f"There are the prompts 0 to {len(task) - 1}, not {prompt}.")
    graph = graph_of(model)
    check_parts(graph, parts)
    size = batch_size_for(model, task, budget)
    ablator, batches = Ablator(model, task, ablation, size), list(task.batches(size))
    report = Reporter(progress, len(batches), "switching off")
    before, after = [], []
    for batch in batches:
        if not report.going:
            break
        before.append(batch.score(batch.answers(model)).cpu())
        after.append(batch.score(_patched(model, batch, ablator(batch), parts)).cpu() if parts else before[-1])
        report.step()
    one = task.rows(prompt, prompt + 1)
    plain = one.answers(model)
    patched = _patched(model, one, ablator(one), parts) if parts else plain
    old, new, compared = torch.cat(before).float(), torch.cat(after).float(), compares_answers(task)
    return Effect(
        off=tuple(parts),
        ablation=ablation,
        unit=task.metric_name,
        before=float(old.mean()),
        after=float(new.mean()),
        accuracy_before=float((old > 0).float().mean()) if compared else None,
        accuracy_after=float((new > 0).float().mean()) if compared else None,
        n_examples=len(old),
        prompt=prompt,
        prompt_before=float(one.score(plain)),
        prompt_after=float(one.score(patched)),
        answers=_answers(model, plain, patched, k),
    )


def _patched(model: Transformer, batch: Task, ablated: WriterOutputs, parts: Sequence[str]) -> Tensor:
    """What the task scores, with parts switched off."""
    if any("->" in part for part in parts):
        return PatchedRun(model, batch, ablated).logits(without(graph_of(model), parts))
    # Whole writers only: what they write is put in its place in one plain forward, several times faster.
    taps: dict[str, Tap] = {}
    heads: dict[int, list[int]] = {}
    for part in parts:
        if place := head_of(part):
            heads.setdefault(place[0], []).append(place[1])
        elif (layer := layer_of(part)) is None:
            taps["blocks.0.hook_resid_pre"] = ablated.embed.expand_as
        else:
            taps[f"blocks.{layer}.hook_mlp_out"] = ablated.mlp[layer].expand_as
    for layer, chosen in heads.items():
        taps[f"blocks.{layer}.attn.hook_z"] = partial(_with_heads, chosen=chosen, ablated=ablated.z[layer])
    inputs, mask = batch.clean.to(model.device), stream.attention_mask(model, batch)
    if stream.answers_once(model):
        return cast(Tensor, model(inputs, taps, attention_mask=mask))
    return cast(Tensor, model(inputs, taps, attention_mask=mask, logits_at=batch.last))[:, 0]


def _with_heads(z: Tensor, chosen: list[int], ablated: Tensor) -> Tensor:
    z[:, :, chosen] = ablated[:, :, chosen].to(z.dtype)  # a tap gets a copy
    return z


def _answers(model: Transformer, plain: Tensor, patched: Tensor, k: int) -> list[Answer]:
    """The most probable answers of either run, the most probable first."""
    if plain.ndim != 2:
        return []  # vectors, not answers
    old, new = plain[0].float().softmax(-1).cpu(), patched[0].float().softmax(-1).cpu()
    k = min(k, len(old))
    chosen = {*old.topk(k).indices.tolist(), *new.topk(k).indices.tolist()}
    order = sorted(chosen, key=lambda index: -max(float(old[index]), float(new[index])))
    return [Answer(index, word_of(model, index), float(old[index]), float(new[index])) for index in order]


def one_prompt(model: Transformer, given: Given, other: Given | None = None, position: int | None = None) -> Task:
    """A task of one input alone, measured by the logit of the model's own best answer.

    Args:
        model: a model with logits.
        given: the input.
        other: the corrupted one, as long; by default the input itself, so that means are over its own positions.
        position: where the answer is read; the last by default.

    Raises:
        ValueError: the two differ in length, or the model gives no logits.
    """
    if model.cfg.head == "none":
        raise ValueError(f"{model.name} gives vectors, not answers; switch parts off in a run of a task instead.")
    n, other = len(given.names), other or given
    if len(other.names) != n:
        raise ValueError(f"The other text has {len(other.names)} tokens and the text {n}; patching needs equally many.")
    at = torch.tensor([n - 1 if position is None else position])
    task = Task(
        name="prompt",
        title="One prompt",
        clean=given.tensor.cpu(),
        corrupted=other.tensor.cpu(),
        lengths=torch.tensor([n]),
        right=torch.zeros(1, 1, dtype=torch.long),
        wrong=torch.full((1, 1), -1),
        clean_text=[given.subject],
        corrupted_text=[other.subject],
        at=at,
    )
    best = task.answers(model).argmax(-1, keepdim=True).cpu()
    return replace(task, right=best)
