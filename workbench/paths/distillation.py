"""Self-distillation: what the whole ensemble says is taught to its short paths while a classifier is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.models import Transformer
from workbench.models.taps import Keep, Tap
from workbench.models.zoo.record import Batch, ZooModel
from workbench.models.zoo.training import Progress, train
from workbench.paths.written import components_of

SHORT = 3
"""Components that the short paths end in: ``embed``, ``a0``, ``m0``."""


@dataclass(frozen=True)
class Distillation:
    """How short paths are taught.

    Attributes:
        short: how many components, from the embedding on, the short answer is read from.
        weight: of the teaching beside the loss of the whole model; 0 for none.
        temperature: both answers are divided by it.
    """

    short: int = SHORT
    weight: float = 1.0
    temperature: float = 2.0


def train_distilled(
    record: ZooModel,
    how: Distillation,
    *,
    seed: int | None = None,
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """Train a classifier of the zoo with self-distillation from long paths to short ones.

    Chang et al. 2023 (arXiv 2308.06548, abstract) distil the knowledge of long paths into short ones. Here the teacher
    is the answer of all components, and the student that of the first ``short`` alone, read by the same final norm
    and head: ``loss + weight T^2 KL(all / T || short / T)`` (Hinton et al. 2015, arXiv 1503.02531, section 2, for T^2).
    No gradient flows through the teacher.

    Args:
        record: what to train; its own loss is kept.
        how: see :class:`Distillation`.
        seed: instead of the record's.
        stop_after: break off after so many steps of the schedule.
        progress: told the loss of every step.

    Raises:
        ValueError: numbers out of range, or a post-norm model.
    """
    if record.config.norm_place == "post" or record.config.pooling == "none":
        raise ValueError(f"{record.title} is no pre-norm classifier; short paths have no answer of their own there.")
    most = record.config.n_layers * (1 if record.config.attn_only else 2)
    if not 1 <= how.short <= most or how.weight < 0 or how.temperature <= 0:
        raise ValueError(
            f"short lies between 1 and {most}, weight is at least 0 and temperature above 0; got {how.short}, "
            f"{how.weight} and {how.temperature}."
        )
    taught = replace(record, loss=_taught(record.loss, how), seed=record.seed if seed is None else seed)
    return train(taught, stop_after=stop_after, progress=progress)


def _taught(loss: Callable[[Transformer, Batch], Tensor], how: Distillation) -> Callable[[Transformer, Batch], Tensor]:
    def with_teaching(model: Transformer, batch: Batch) -> Tensor:
        found = loss(model, batch)
        if not how.weight:
            return found
        whole, short = answers_of(model, batch[0], how.short)
        return found + how.weight * teaching(whole, short, how.temperature)

    return with_teaching


def teaching(
    whole: Float[Tensor, "batch class"], short: Float[Tensor, "batch class"], temperature: float
) -> Float[Tensor, ""]:
    """``T^2 KL(whole / T || short / T)`` in nats, mean over the batch, with no gradient through ``whole``."""
    teacher = (whole.detach() / temperature).log_softmax(-1)
    student = (short / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def answers_of(
    model: Transformer, inputs: Tensor, short: int
) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch class"]]:
    """Logits of all components, and of the first ``short`` alone: the stream behind the last of these, read early."""
    name = components_of(model)[short - 1]
    layer = 0 if name == "embed" else int(name[1:])
    last = name[0] == "m" or model.cfg.attn_only
    place = "resid_pre" if name == "embed" else "resid_post" if last else "resid_mid"
    kept: dict[str, Tensor] = {}
    hook = f"blocks.{layer}.hook_{place}"
    taps: dict[str, Tap] = {hook: Keep(kept, hook, None)}
    whole = model(inputs, taps)
    return whole, model.logits(kept[hook])


@torch.no_grad()
def accuracy_by_component(model: Transformer, inputs: Tensor, labels: Tensor) -> Float[Tensor, " component"]:
    """Share of right answers of the first components alone, one more at a time; the last is the model's own."""
    n = len(components_of(model))
    return torch.stack(
        [(answers_of(model, inputs, k)[1].argmax(-1) == labels).double().mean() for k in range(1, n + 1)]
    )
