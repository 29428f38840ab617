"""A task: pairs of prompts that differ in what matters, and a number that says how much of the behaviour is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.circuits import stream
from workbench.models import Transformer
from workbench.models.images import Pixels
from workbench.models.sentences import pool
from workbench.models.tokens import shorten

Metric = Literal["logit-diff", "prob-diff", "kl", "similarity", "custom"]
METRIC_NAMES: dict[Metric, str] = {
    "logit-diff": "logit difference",
    "prob-diff": "probability difference",
    "kl": "minus KL divergence from the clean run (nats)",
    "similarity": "cosine similarity to the reference",
    "custom": "your metric",
}
# What a task of prompts and answers can be measured by; the others need more than that.
OF_ANSWERS: tuple[Metric, ...] = ("logit-diff", "prob-diff", "kl")
MetricFn = Callable[[Tensor, "Task"], Float[Tensor, " batch"]]
# Below this share of prompts with the right answer above the wrong one, a circuit explains little but noise.
ENOUGH = 0.75


@dataclass(frozen=True)
class TaskCheck:
    """How well a model does a task.

    Attributes:
        accuracy: share of prompts whose right answers are above the wrong ones (metric above 0); for a metric of
            another kind, whose metric is higher on the clean than on the corrupted prompt.
        top1: share of prompts whose most likely answer is a right one; the accuracy where a task has no answers.
        metric_clean, metric_corrupted: mean of the metric on the clean and on the corrupted prompts.
        n_examples: number of prompts.
        warning: one sentence where the model does not do the task, else None.
    """

    accuracy: float
    top1: float
    metric_clean: float
    metric_corrupted: float
    n_examples: int
    warning: str | None = None


@dataclass(frozen=True)
class Task:
    """Clean and corrupted inputs of pairwise equal length, and what to measure where they are answered.

    Attributes:
        name: key of the task.
        title: its name for people.
        clean, corrupted: [batch, pos] token ids, padded on the right; or [batch, channel, height, width] pixels.
        lengths: [batch] real tokens of each pair (of an image its positions in the model); the answer is read at the
            last of them, unless ``at`` says where.
        right, wrong: [batch, n] ids of right and wrong answers (tokens, or classes of a classifier), padded with -1;
            where there is none, its logit is 0.
        metric_kind: ``logit-diff`` (mean logit of the right minus of the wrong answers), ``prob-diff`` (summed
            probabilities), ``kl`` (minus the Kullback-Leibler divergence of the model's clean answer from this one, in
            nats; Conmy et al. 2023, section 3), ``similarity`` (cosine of the mean vector of the real tokens with a
            reference; Reimers and Gurevych 2019) or ``custom`` (``fn``).
        clean_text, corrupted_text: the prompts; of images, what they show.
        spec: what the task was made from; enough to make it again.
        at: [batch] where the answer is read; None for the last real token.
        extra: tensors that the metric needs, one row for each example: ``clean_log_probs`` [batch, d_vocab] for ``kl``,
            ``reference`` [batch, d_model] for ``similarity``, anything for ``custom``.
        fn: ``(values, batch) -> [batch]``, differentiable, of what :meth:`score` takes and of the task's rows.
        whole: the metric reads all positions, of a model without a head.
        offset: how many examples of the whole task come before these.
    """

    name: str
    title: str
    clean: Int[Tensor, "batch pos"] | Pixels
    corrupted: Int[Tensor, "batch pos"] | Pixels
    lengths: Int[Tensor, " batch"]
    right: Int[Tensor, "batch n_right"]
    wrong: Int[Tensor, "batch n_wrong"]
    clean_text: list[str]
    corrupted_text: list[str]
    metric_kind: Metric = "logit-diff"
    spec: dict[str, Any] = field(default_factory=dict)
    at: Int[Tensor, " batch"] | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    fn: MetricFn | None = None
    whole: bool = False
    offset: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def metric_name(self) -> str:
        """The metric's name and unit for axis titles."""
        return METRIC_NAMES[self.metric_kind]

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """Position at which each example is answered."""
        return self.lengths - 1 if self.at is None else self.at

    def metric(self, out: Tensor) -> Float[Tensor, " batch"]:
        """The behaviour of each example, from what the model gives for it; higher is more of it. Differentiable.

        Args:
            out: logits [batch, pos, d_vocab], those of a classifier [batch, class], or of a model without a head the
                vectors [batch, pos, d_model].
        """
        if out.ndim == 2 or self.whole:
            return self.score(out)
        return self.score(out[torch.arange(len(out)), self.last.to(out.device)])

    def score(self, values: Tensor) -> Float[Tensor, " batch"]:
        """:meth:`metric` from what is there at the answer's place alone.

        Args:
            values: logits [batch, d_vocab] or [batch, class]; of a model without a head all vectors
                [batch, pos, d_model].
        """
        if self.fn is not None:
            return self.fn(values, self)
        if self.metric_kind == "similarity":
            return self._similarity(values)
        if self.metric_kind == "kl":
            clean = self.extra["clean_log_probs"].to(values.device)
            return (clean.exp() * (values.float().log_softmax(-1) - clean)).sum(-1)
        if self.metric_kind == "prob-diff":
            values = values.softmax(-1)
        return self._difference(values, mean=self.metric_kind == "logit-diff")

    def checked_score(self, values: Tensor) -> Float[Tensor, " batch"]:
        """:meth:`score`, which must be a number on every example.

        Raises:
            ValueError: naming the first example on which it is not.
        """
        found = self.score(values)
        self.refuse_nan(found.detach())
        return found

    def _difference(self, values: Tensor, mean: bool = True) -> Float[Tensor, " batch"]:
        return _gather(values, self.right, mean) - _gather(values, self.wrong, mean)

    def _similarity(self, vectors: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, " batch"]:
        real = torch.arange(vectors.shape[1]) < self.lengths[:, None]
        mean = pool(vectors, real.to(vectors.device))
        return torch.cosine_similarity(mean, self.extra["reference"].to(mean), dim=-1)

    @property
    def _has_answers(self) -> bool:
        return self.right.shape[1] > 0

    def select(self, index: Int[Tensor, " n"]) -> Task:
        """The examples at ``index``, in that order, without padding that they do not need."""
        lengths, picked = self.lengths[index], index.tolist()
        width = int(lengths.max()) if self.clean.ndim == 2 else None
        return replace(
            self,
            clean=self.clean[index][:, :width],
            corrupted=self.corrupted[index][:, :width],
            lengths=lengths,
            right=self.right[index],
            wrong=self.wrong[index],
            clean_text=[self.clean_text[i] for i in picked],
            corrupted_text=[self.corrupted_text[i] for i in picked],
            at=None if self.at is None else self.at[index],
            extra={name: tensor[index] for name, tensor in self.extra.items()},
        )

    def rows(self, start: int, stop: int) -> Task:
        """The examples ``start`` to ``stop``, without padding that they do not need."""
        return replace(self.select(torch.arange(len(self))[start:stop]), offset=self.offset + start)

    def batches(self, size: int) -> Iterator[Task]:
        """The examples in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    @torch.no_grad()
    def answers(self, model: Transformer, side: Literal["clean", "corrupted"] = "clean") -> Tensor:
        """What :meth:`score` takes, from one plain forward of all examples on one side.

        Logits [batch, d_vocab] where the answer is read; of a classifier [batch, class]; of a model without a head the
        vectors of all positions [batch, pos, d_model].
        """
        inputs = (self.clean if side == "clean" else self.corrupted).to(model.device)
        mask = stream.attention_mask(model, self)
        if stream.answers_once(model):
            return model(inputs, attention_mask=mask)  # type: ignore[no-any-return]
        logits: Tensor = model(inputs, attention_mask=mask, logits_at=self.last)
        return logits[:, 0]

    def correct(self, clean: Tensor, corrupted: Tensor) -> Bool[Tensor, " batch"]:
        """Which examples the model does, see :attr:`TaskCheck.accuracy`; from :meth:`answers` of both sides."""
        if self.metric_kind == "kl":
            return self._difference(clean) > 0
        if self.metric_kind in OF_ANSWERS:
            return self.score(clean) > 0
        return self.score(clean) > self.score(corrupted)

    def first(self, clean: Tensor) -> Bool[Tensor, " batch"]:
        """Where the best right answer is above the best wrong one; everywhere if there are no answers to compare."""
        if not self._has_answers or not self.wrong.shape[1]:
            return torch.ones(len(self), dtype=torch.bool, device=clean.device)
        return _best(clean, self.right) > _best(clean, self.wrong)

    def check(self, model: Transformer, batch_size: int = 32) -> TaskCheck:
        """Measure how well ``model`` does this task: one plain forward on either side.

        Raises:
            ValueError: the metric of an example is not a number; it is named.
        """
        sums = torch.zeros(4, dtype=torch.float64)
        for start in range(0, len(self), batch_size):
            batch = self.rows(start, start + batch_size)
            clean, corrupted = batch.answers(model), batch.answers(model, "corrupted")
            metrics = [batch.score(values) for values in (clean, corrupted)]
            batch.refuse_nan(metrics[0], "clean")
            batch.refuse_nan(metrics[1], "corrupted")
            correct = batch.correct(clean, corrupted)
            top = correct
            if self._has_answers:
                top = (clean.argmax(-1, keepdim=True) == batch.right.to(clean.device)).any(-1)
            sums += torch.stack([x.double().sum().cpu() for x in (correct, top, *metrics)])
        accuracy, top1, metric_clean, metric_corrupted = (sums / len(self)).tolist()
        warning = None
        if accuracy < ENOUGH:
            warning = (
                f"{model.name} does '{self.name}' on only {accuracy:.0%} of {len(self)} prompts; "
                "a circuit found on it explains little. Choose another task or model."
            )
        return TaskCheck(accuracy, top1, metric_clean, metric_corrupted, len(self), warning)

    def refuse_nan(
        self, values: Float[Tensor, " batch"], side: Literal["clean", "corrupted", "patched"] = "patched"
    ) -> None:
        """See that a metric is a number on every example.

        Args:
            values: the metric of these examples.
            side: what it was measured on: either prompt, or a run between the two.

        Raises:
            ValueError: naming the first example on which it is NaN or infinite.
        """
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if bad:
            what = "NaN" if values[bad[0]].isnan() else "infinite"
            text = (self.corrupted_text if side == "corrupted" else self.clean_text)[bad[0]]
            place = (
                f"a patched run of '{shorten(text)}'" if side == "patched" else f"the {side} prompt '{shorten(text)}'"
            )
            raise ValueError(
                f"The metric of '{self.name}' is not a number ({what}) on example {self.offset + bad[0] + 1}, on "
                f"{place}; mend the metric or leave the example out."
            )

    def with_metric(self, metric: Metric, model: Transformer | None = None) -> Task:
        """The same prompts, measured otherwise.

        At the clean run itself ``kl`` is 0 and so is its gradient: methods that take one gradient there (``eap``) see
        nothing by it; patching methods such as ``acdc`` and ``exact`` do.

        Args:
            metric: ``logit-diff``, ``prob-diff`` or ``kl``.
            model: for ``kl``, the model whose clean answers are the measure; they are kept, d_vocab numbers each.

        Raises:
            ValueError: another metric, ``kl`` without a model, or a task without answers to compare.
        """
        if metric == self.metric_kind and self.fn is None and metric != "kl":
            return self
        if metric not in OF_ANSWERS:
            raise ValueError(f"A task can be measured by {', '.join(OF_ANSWERS)}, not '{metric}'.")
        if not self._has_answers:
            raise ValueError(f"The task '{self.name}' has no right and wrong answers to measure '{metric}' by.")
        extra = {}
        if metric == "kl":
            if model is None:
                raise ValueError("The metric 'kl' compares with the model's clean answers: give the model as well.")
            values = [batch.answers(model).float().log_softmax(-1).cpu() for batch in self.batches(32)]
            extra = {"clean_log_probs": torch.cat(values)}
        return replace(self, metric_kind=metric, extra=extra, fn=None, spec={**self.spec, "metric": metric})


def _gather(values: Tensor, ids: Tensor, mean: bool) -> Float[Tensor, " batch"]:
    """Sum or mean of the values at ids [batch, n] that are there."""
    ids = ids.to(values.device)
    found = values.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0).sum(-1)
    return found / (ids >= 0).sum(-1).clamp(min=1) if mean else found


def _best(values: Tensor, ids: Tensor) -> Float[Tensor, " batch"]:
    """The highest of the values at ids [batch, n] that are there."""
    ids = ids.to(values.device)
    return values.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf).amax(-1)
