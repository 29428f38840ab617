"""What all trained masks share: batches ready to be run softly, and how far a run is from the model's.

Pairs are batched by the position at which their prompts first differ, so that what both begin with can be left out
(:func:`workbench.circuits.soft_run.shared_start`). Batches are kept between steps as far as the budget goes; the others
are made again, which costs three plain forwards and changes no value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.circuits.activations import Ablation, Ablator, batch_size_for
from workbench.circuits.option_values import check_range
from workbench.circuits.soft_run import SoftRun, shared_start
from workbench.circuits.task import Task
from workbench.models import Transformer

Loss = Literal["metric", "faithfulness", "square", "kl"]
LOSSES: dict[str, str] = {
    "metric": "mean |metric of the circuit - metric of the model|, as a share of what ablating everything changes",
    "faithfulness": "|1 - faithfulness| of the batch: the same of its mean metric; examples may make up for others",
    "square": "mean square of what 'metric' takes the mean of",
    "kl": "mean KL(model || circuit) of the next token where the answer is read, in nats",
}


@dataclass(frozen=True)
class Ready:
    """One batch with what its runs are compared with.

    Attributes:
        run: takes a mask.
        full, empty: [batch] the metric of the model and of the run with everything ablated.
        log_probs: [batch, d_vocab] of the model where the answer is read.
    """

    run: SoftRun
    full: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]
    log_probs: Float[Tensor, "batch d_vocab"]

    def distance(self, mask: Float[Tensor, "writers readers"], loss: Loss, scale: float) -> Float[Tensor, ""]:
        """How far the run with this mask is from the model, see :data:`LOSSES`; differentiable."""
        return distance(self.run.batch, self.run.logits(mask), self.full, self.log_probs, loss, scale)


class Batches:
    """A task's batches, ready to be run.

    Args:
        model, task, ablation: what is run, and what edges carry that the mask leaves out.
        prompts: at most so many pairs in a batch.
        budget: bytes beside the model.
        seed: of the order.

    Attributes:
        size: pairs in a batch.
        order: batches left in this pass, the next one last.
        generator: draws the order of each pass.
        scale: |mean metric of the model - mean metric with everything ablated|.

    Raises:
        ValueError: an unknown ablation, or one that does not change the metric.
    """

    def __init__(
        self, model: Transformer, task: Task, ablation: Ablation, *, prompts: int, budget: int, seed: int
    ) -> None:
        fits = batch_size_for(model, task, budget)
        self.model, self.ablation, self.budget = model, ablation, budget
        self.ablator = Ablator(model, task, ablation, fits)
        self.generator, self.order = torch.Generator().manual_seed(seed), list[int]()
        self.size = min(prompts, fits)
        self.tasks = list(by_start(task).batches(self.size))
        self.kept: dict[int, Ready] = {}
        self.used = 0
        full, empty = [], []
        for i in range(len(self.tasks)):
            ready = self.ready(i)
            full.append(ready.full)
            empty.append(ready.empty)
        change = float(torch.cat(full).mean() - torch.cat(empty).mean())
        if abs(change) < 1e-6 * max(1.0, float(torch.cat(full).mean().abs())):
            raise ValueError(
                f"The ablation '{ablation}' does not change the metric of '{task.name}', so that no mask can be "
                "learned; choose other prompts or another ablation."
            )
        self.scale = abs(change)

    def next(self) -> Ready:
        """One batch after the other, in a new order in every pass."""
        self.order = self.order or torch.randperm(len(self.tasks), generator=self.generator).tolist()
        return self.ready(self.order.pop())

    def ready(self, i: int) -> Ready:
        """Batch ``i``."""
        if i in self.kept:
            return self.kept[i]
        batch = self.tasks[i]
        run = SoftRun(self.model, batch, self.ablator(batch), shared_start(self.model, batch, self.ablation))
        logits = batch.answers(self.model)
        with torch.no_grad():
            empty = run.metric(torch.zeros(run.graph.mask.shape))
        made = Ready(run, batch.score(logits), empty, logits.log_softmax(-1))
        size = run.n_bytes + made.log_probs.nbytes
        if self.used + size <= self.budget:
            self.kept[i] = made
            self.used += size
        return made


def distance(
    batch: Task,
    logits: Float[Tensor, "batch d_vocab"],
    full: Float[Tensor, " batch"],
    log_probs: Float[Tensor, "batch d_vocab"],
    loss: Loss,
    scale: float,
) -> Float[Tensor, ""]:
    """How far logits are from a model with the metrics ``full`` and ``log_probs``, see :data:`LOSSES`."""
    if loss == "kl":
        return (log_probs.exp() * (log_probs - logits.log_softmax(-1))).sum(-1).mean()
    off = (batch.score(logits) - full) / scale
    if loss == "faithfulness":
        return off.mean().abs()
    return off.abs().mean() if loss == "metric" else off.square().mean()


def by_start(task: Task) -> Task:
    """The task with its pairs in the order of the position at which their prompts first differ."""
    first: Int[Tensor, " batch"] = (task.clean == task.corrupted).flatten(1).long().cumprod(1).sum(1)
    return task.select(first.argsort(stable=True))


def check_training(model: Transformer, loss: str, steps: int, learning_rate: float, prompts: int) -> None:
    """Refuse an unknown loss, one that says nothing of this model, no steps, and steps of no size.

    Raises:
        ValueError: saying what to choose.
    """
    check_loss(model, loss)
    for option, value in (("learning_rate", learning_rate), ("steps", steps), ("prompts", prompts)):
        check_range(option, value)


def check_loss(model: Transformer, loss: str) -> None:
    """Refuse an unknown loss, and one that says nothing of this model.

    Raises:
        ValueError: saying what to choose.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"Unknown loss '{loss}'; choose one of {', '.join(get_args(Loss))}.")
    if loss == "kl":
        stream.check_distribution(model, "loss='metric'")


__all__ = ["LOSSES", "Batches", "Loss", "Ready", "by_start", "check_loss", "check_training", "distance"]
