"""Information flow in every family, against parts taken from Hugging Face's modules one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.circuits import family_reference as reference
from tests.circuits.family_reference import KINDS
from tests.circuits.test_families import close, pair, task_for
from workbench.circuits import Task, discover
from workbench.circuits.stream import is_sum, share_of_answer


def norms_between(hf: Any) -> list[nn.Module]:
    """The norms that lie between writers and readers, in BERT and RoBERTa all of their blocks' and in Gemma one."""
    ends = ("attention.output.LayerNorm", "output.LayerNorm", "post_attention_layernorm")
    inside = [(name, module) for name, module in hf.named_modules() if ".layer." in name or ".layers." in name]
    return [module for name, module in inside if name.endswith(ends)]


@contextmanager
def linear_norms(ref: reference.Reference, task: Task) -> Iterator[None]:
    """Norms with the scales that they have in the plain run: affine maps."""
    norms, scales = norms_between(ref.hf), {}
    for norm in norms:
        norm.forward = partial(remember, norm, scales)
    with torch.no_grad():
        ref.run(task, reference.as_it_is)
    for norm in norms:
        norm.forward = partial(affine, norm, scales[norm])
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def remember(norm: Any, scales: dict[nn.Module, Tensor], x: Tensor) -> Tensor:
    if hasattr(norm, "bias"):
        scales[norm] = (x.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    else:
        scales[norm] = (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return affine(norm, scales[norm], x)


def affine(norm: Any, scale: Tensor, x: Tensor) -> Tensor:
    if hasattr(norm, "bias"):
        return (x - x.mean(-1, keepdim=True)) / scale * norm.weight + norm.bias
    return x / scale * (1 + norm.weight)


def height(ref: reference.Reference, reader: int) -> tuple[int, bool]:
    """Layer of a reader, and whether it is behind the layer's attention."""
    name = ref.graph.readers[reader]
    if name == "logits":
        return len(ref.layers), False
    return int(name[1:].split(".")[0]), name.startswith("m") and not ref.parallel


@torch.no_grad()
def brute(ref: reference.Reference, task: Task, read_at: Tensor) -> Tensor:
    """Shares of every writer in every reader's stream; a part is what the stream loses without its writer."""
    _, outputs = ref.run(task, reference.as_it_is)
    scores = torch.zeros(ref.graph.mask.shape)
    with linear_norms(ref, task):
        for r in range(len(ref.graph.readers)):
            layer, behind = height(ref, r)
            whole = ref.stream(layer, behind, r, outputs, reference.as_it_is)
            writers = ref.graph.mask[:, r].nonzero().flatten().tolist()
            near = []
            for w in writers:
                without = ref.stream(layer, behind, r, outputs, lambda u, _, out, w=w: out * (u != w))
                near.append((whole.abs().sum(-1) - without.abs().sum(-1)).clamp(min=0))
            shares = torch.stack(near) / torch.stack(near).sum(0).clamp(min=1e-30)
            real = (torch.arange(whole.shape[1]) < task.lengths[:, None]) / task.lengths[:, None]
            scores[writers, r] = (shares * (read_at if r == len(ref.graph.readers) - 1 else real)).sum((1, 2))
    return scores / len(task)


def read_at(kind: str, task: Task, n: int) -> Tensor:
    """How much each position counts for the answer, family by family."""
    weights = torch.zeros(len(task), n)
    if kind in ("vit-classes", "bert-classes", "roberta-classes"):
        weights[:, 0] = 1
    elif kind == "dinov2-registers-classes":
        prefix = 1 + pair(kind)[0].config.num_register_tokens
        weights[:, 0], weights[:, prefix:] = 0.5, 0.5 / (n - prefix)
    elif kind == "bert":
        for row, length in zip(weights, task.lengths.tolist(), strict=True):
            row[:length] = 1 / length
    else:
        weights[torch.arange(len(task)), task.last] = 1
    return weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_what_a_stream_loses_without_its_writer_while_scales_are_held(kind: str) -> None:
    hf, model = pair(kind)
    task, ref = task_for(kind), KINDS[kind](hf)
    assert bool(norms_between(hf)) != is_sum(model)
    n = model(task.clean, stop_at_layer=0).shape[1]
    expected = brute(ref, task, read_at(kind, task, n))
    found = discover(model, task, "information-flow").values
    close(found, expected, 1e-4)
    into = found.sum(0)
    assert ((into - 1).abs() < 1e-4).any()
    assert float(into.max()) < 1 + 1e-4


@pytest.mark.parametrize(("kind", "prefix"), [("deit-teacher", 2), ("vit-classes", 1)])
def test_two_first_tokens_count_half_each(kind: str, prefix: int) -> None:
    model, task = pair(kind)[1], task_for(kind)
    weights = share_of_answer(model, task, model.cfg.n_ctx)
    expected = torch.zeros_like(weights)
    expected[:, :prefix] = 1 / prefix
    torch.testing.assert_close(weights, expected)
