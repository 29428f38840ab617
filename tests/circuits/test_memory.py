"""Batches fit into the memory that they were given, counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.circuits.test_attribution import random_task
from tests.circuits.test_families import pair
from workbench.circuits import Task, discover
from workbench.circuits.activations import Ablator, batch_size_for, graph_of
from workbench.circuits.soft_run import SoftRun
from workbench.models import Transformer, fresh


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made and still held."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak = dict[int, tuple[StorageWeakRef, int]](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.held = {key: one for key, one in self.held.items() if not one[0].expired()}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.held.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return made


def learn(model: Transformer, batch: Task) -> None:
    """One step of a learned mask."""
    mask = graph_of(model).mask.float().requires_grad_()
    run = SoftRun(model, batch, Ablator(model, batch, "resample", len(batch))(batch))
    torch.autograd.grad(run.metric(mask * 0.7).sum(), mask)


def attribute(model: Transformer, batch: Task) -> None:
    discover(model, batch, "eap", budget=10**12)


@pytest.mark.parametrize("work", [learn, attribute])
@pytest.mark.parametrize("heads", [2, 16])
@pytest.mark.parametrize("kind", ["qwen2", "bert-masked", "gemma2"])
def test_a_batch_fits_into_the_memory_that_it_was_given(
    kind: str, heads: int, work: Callable[[Transformer, Task], None]
) -> None:
    small = pair(kind)[1].cfg
    model = fresh(
        replace(small, n_layers=5, n_heads=heads, n_key_value_heads=heads, d_model=64, d_head=64 // heads, windows=None)
    )
    task = random_task(vocab=60, batch=40, length=16)
    budget = 8 * 2**20
    size = batch_size_for(model, task, budget)
    assert 1 < size < 40
    with Live() as live:
        work(model, task.rows(0, size))
    assert 0.3 * budget < live.peak < budget
