"""Optimal ablation: the constants in place of which writers are missed least.

Li and Janson 2024 (arXiv 2409.09951), section 2: to ablate a part is to replace what it writes by one constant for all
inputs and positions. Zeros and means are such constants, but they can lead the model astray, which says nothing of
what the part told it. The optimal constant takes away what the part says of the input and does no other harm:

    a* = argmin over a of E[distance(model, model with the part replaced by a)].

All writers' constants are learned in one run by Adam, from their means over the tokens of the corrupted prompts. In
every step each example ablates writers of its own: ``one``, drawn at random (the definition above), ``some`` (each
with a chance of one half, as circuits do), or ``all``. Steps are in units of how much a writer's output varies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablator, WriterOutputs, batch_size_for, graph_of, record, writer_names
from workbench.circuits.eap import BUDGET
from workbench.circuits.mask_training import Loss, check_training, distance
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.task import Task
from workbench.models import Transformer

Together = Literal["one", "some", "all"]


def optimal_constants(
    model: Transformer,
    task: Task,
    *,
    together: Together = "one",
    steps: int = 200,
    learning_rate: float = 0.1,
    loss: Loss | None = None,
    prompts: int = 16,
    seed: int = 0,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> WriterOutputs:
    """Learn one constant for every writer that replaces what it writes at all positions of all prompts.

    Args:
        model: any hooked model.
        task: prompts; the constants fit the clean ones, and start from means over the corrupted ones.
        together: how many writers each example ablates.
        steps: each costs one plain forward and one backward.
        learning_rate: of Adam, in standard deviations of a writer's output; it sinks to 0.
        loss: how far an ablated run is from the model, see :data:`workbench.circuits.mask_training.LOSSES`; None for
            ``kl``, or ``square`` where the model has one output.
        prompts: examples in a step.
        seed: of examples and writers.
        budget: bytes beside the model.
        progress: called after every step; returning False keeps the constants so far.

    Returns:
        Constants with axes of length 1 for batch and position: embed [1, 1, d_model], z a layer [1, 1, head, d_head],
        mlp a layer [1, 1, d_model]. In the very first step of the search they are the means.

    Raises:
        ValueError: an unknown choice or loss, or a number that is not positive.
    """
    if together not in get_args(Together):
        raise ValueError(f"Unknown choice '{together}'; together is one of {', '.join(get_args(Together))}.")
    loss = loss or ("square" if model.cfg.n_out == 1 else "kl")
    check_training(model, loss, steps, learning_rate, prompts)
    size = min(prompts, batch_size_for(model, task, budget))
    mean = Ablator(model, task, "mean", size)(task)
    first = task.rows(0, size)
    spread = _spread(record(model, first.clean, stream.attention_mask(model, first)), mean)
    moved = mean.map(lambda x: torch.zeros_like(x).requires_grad_())
    parameters = [moved.embed, *moved.z, *moved.mlp]
    adam = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)
    report = Reporter(progress, steps, "learning constants")
    while report.going and report.done < steps:
        constants = _moved(mean, spread, moved)
        start = int(torch.randint(0, max(1, len(task) - size + 1), (), generator=draw))
        batch = task.rows(start, start + size)
        chosen = _choose(together, len(batch), len(graph_of(model).writers), draw)
        off = ablated_distance(model, batch, constants, chosen, loss)
        adam.param_groups[0]["lr"] = learning_rate * (1 - report.done / steps)
        for parameter, gradient in zip(parameters, torch.autograd.grad(off, parameters), strict=True):
            parameter.grad = gradient
        adam.step()
        report.step()
    return _moved(mean, spread, moved).map(Tensor.detach)


def ablated_distance(
    model: Transformer,
    batch: Task,
    constants: WriterOutputs,
    chosen: Bool[Tensor, "batch writers"],
    loss: Loss,
) -> Float[Tensor, ""]:
    """How far the model is from itself once each example's ``chosen`` writers write constants; differentiable."""
    plain = batch.answers(model)
    logits = ablated_logits(model, batch, constants, chosen)
    return distance(batch, logits, batch.score(plain), plain.log_softmax(-1), loss, 1.0)


def ablated_logits(
    model: Transformer, batch: Task, constants: WriterOutputs, chosen: Bool[Tensor, "batch writers"]
) -> Float[Tensor, "batch d_vocab"]:
    """Logits where the answer is read once each example's ``chosen`` writers write constants; differentiable."""
    graph, chosen = graph_of(model), chosen.to(model.device)
    columns = [slice(0, 1), *(graph.attention_writers(layer) for layer in range(graph.n_layers))]
    columns += [slice(graph.mlp_writer(layer), graph.mlp_writer(layer) + 1) for layer in range(len(constants.mlp))]
    values = [constants.embed, *constants.z, *constants.mlp]
    taps: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, which, value in zip(writer_names(model), columns, values, strict=True):
        ablate = chosen[:, None, which]  # batch 1 writers: broadcasts over positions, and over what they write
        taps[name] = partial(_replace, ablate=ablate[..., None] if value.ndim == 4 else ablate, value=value)
    at = None if stream.answers_once(model) else batch.last
    with torch.enable_grad():
        mask = stream.attention_mask(model, batch)
        found: Tensor = model(batch.clean.to(model.device), taps, attention_mask=mask, logits_at=at)
    return found if at is None else found[:, 0]


def _replace(x: Tensor, *, ablate: Tensor, value: Tensor) -> Tensor:
    return torch.where(ablate, value, x)


def _choose(together: Together, n: int, writers: int, draw: torch.Generator) -> Bool[Tensor, "batch writers"]:
    """Which writers each example ablates."""
    if together == "one":
        return torch.nn.functional.one_hot(torch.randint(0, writers, (n,), generator=draw), writers).bool()
    return torch.rand(n, writers, generator=draw) < (0.5 if together == "some" else 2)


def _spread(outputs: WriterOutputs, mean: WriterOutputs) -> WriterOutputs:
    """Root mean square of each writer's distance from its mean: [1, 1, 1] or [1, 1, head, 1]; 1 where it is 0."""

    def rms(x: Tensor, middle: Tensor) -> Tensor:
        size = (x - middle).square().mean((0, 1, -1), keepdim=True).sqrt()
        return torch.where(size > 0, size, 1.0)

    return outputs.combine(mean, rms)


def _moved(mean: WriterOutputs, spread: WriterOutputs, moved: WriterOutputs) -> WriterOutputs:
    """Constants that are so many spreads away from the means."""
    return mean.combine(moved.combine(spread, torch.mul), torch.add)


__all__ = ["Together", "ablated_distance", "ablated_logits", "optimal_constants"]
