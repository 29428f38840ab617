"""A task: pairs of prompts that differ in what matters, and a number that says how much of the behaviour is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models import Transformer
from workbench.models.tokens import pad_right, shorten

Metric = Literal["logit-diff", "prob-diff"]
METRIC_NAMES: dict[Metric, str] = {"logit-diff": "logit difference", "prob-diff": "probability difference"}
# Below this share of prompts with the right answer above the wrong one, a circuit explains little but noise.
ENOUGH = 0.75


@dataclass(frozen=True)
class TaskCheck:
    """How well a model does a task.

    Attributes:
        accuracy: share of prompts whose metric is above 0 (right above wrong).
        top1: share of prompts whose most likely next token is a right one.
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
    """Clean and corrupted prompts of pairwise equal length, and what to measure at their last position.

    Attributes:
        name: key of the task.
        title: its name for people.
        clean, corrupted: [batch, pos] token ids, padded on the right.
        lengths: [batch] real tokens of each pair; the answer is read at the last of them, unless ``at`` says where.
        right, wrong: [batch, n] ids of right and wrong answers, padded with -1; where there is none, its logit is 0.
        metric_kind: ``logit-diff`` (mean logit of the right minus of the wrong answers) or ``prob-diff`` (summed
            probabilities).
        clean_text, corrupted_text: the prompts.
        spec: what the task was made from; enough to make it again.
        at: [batch] where the answer is read; None for the last real token.
    """

    name: str
    title: str
    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    right: Int[Tensor, "batch n_right"]
    wrong: Int[Tensor, "batch n_wrong"]
    clean_text: list[str]
    corrupted_text: list[str]
    metric_kind: Metric = "logit-diff"
    spec: dict[str, Any] = field(default_factory=dict)
    at: Int[Tensor, " batch"] | None = None

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

    def metric(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The behaviour of each example; higher is more of it. Differentiable."""
        return self.score(logits[torch.arange(len(logits)), self.last.to(logits.device)])

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """:meth:`metric` from the logits at the answer's position alone."""
        values = logits if self.metric_kind == "logit-diff" else logits.softmax(-1)
        right, wrong = self._gather(values, self.right), self._gather(values, self.wrong)
        return right - wrong

    def _gather(self, values: Tensor, ids: Tensor) -> Tensor:
        ids = ids.to(values.device)
        found = values.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0).sum(-1)
        return found / (ids >= 0).sum(-1).clamp(min=1) if self.metric_kind == "logit-diff" else found

    def rows(self, start: int, stop: int) -> Task:
        """The examples ``start`` to ``stop``, without padding that they do not need."""
        lengths = self.lengths[start:stop]
        width = int(lengths.max())
        return replace(
            self,
            clean=self.clean[start:stop, :width],
            corrupted=self.corrupted[start:stop, :width],
            lengths=lengths,
            right=self.right[start:stop],
            wrong=self.wrong[start:stop],
            clean_text=self.clean_text[start:stop],
            corrupted_text=self.corrupted_text[start:stop],
            at=None if self.at is None else self.at[start:stop],
        )

    def batches(self, size: int) -> Iterator[Task]:
        """The examples in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    @torch.no_grad()
    def answers(
        self, model: Transformer, side: Literal["clean", "corrupted"] = "clean"
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits where the answer is read, from one plain forward of all examples on one side."""
        tokens = self.clean if side == "clean" else self.corrupted
        logits: Tensor = model(tokens.to(model.device), logits_at=self.last)
        return logits[:, 0]

    def check(self, model: Transformer, batch_size: int = 32) -> TaskCheck:
        """Measure how well ``model`` does this task: one plain forward on either side."""
        clean, corrupted, top = [], [], []
        for batch in self.batches(batch_size):
            logits = batch.answers(model)
            clean.append(batch.score(logits))
            best = logits.argmax(-1, keepdim=True)
            top.append((best == batch.right.to(best.device)).any(-1))
            corrupted.append(batch.score(batch.answers(model, "corrupted")))
        metric = torch.cat(clean)
        accuracy = float((metric > 0).float().mean())
        warning = None
        if accuracy < ENOUGH:
            warning = (
                f"{model.name} does '{self.name}' on only {accuracy:.0%} of {len(self)} prompts; "
                "a circuit found on it explains little. Choose another task or model."
            )
        return TaskCheck(
            accuracy=accuracy,
            top1=float(torch.cat(top).float().mean()),
            metric_clean=float(metric.mean()),
            metric_corrupted=float(torch.cat(corrupted).mean()),
            n_examples=len(self),
            warning=warning,
        )


def from_pairs(
    model: Transformer,
    clean: Sequence[str],
    corrupted: Sequence[str],
    right: Sequence[str | Sequence[str]],
    wrong: Sequence[str | Sequence[str]],
    *,
    metric: Metric = "logit-diff",
    name: str = "custom",
    title: str = "Your prompts",
    spec: dict[str, Any] | None = None,
) -> Task:
    """A task from anybody's own prompts.

    Args:
        model: gives the tokenizer.
        clean, corrupted: prompts; each pair must have equally many tokens.
        right, wrong: for each pair the next token, or several, that the behaviour raises and lowers; each exactly one
            token, so mind the space in front (``" Mary"``).
        metric: ``logit-diff`` or ``prob-diff``.
        name, title: what results call the task.
        spec: what the task was made from; by default a digest of the prompts and answers.

    Raises:
        ValueError: lists of unlike length, an empty prompt, a pair whose prompts differ in token length (which, and
            the lengths), a prompt beyond the context, an answer that is not one token, an unknown metric.
    """
    if metric not in METRIC_NAMES:
        raise ValueError(f"Unknown metric '{metric}'; choose one of {', '.join(METRIC_NAMES)}.")
    sizes = {"clean": len(clean), "corrupted": len(corrupted), "right": len(right), "wrong": len(wrong)}
    if len(set(sizes.values())) > 1 or not len(clean):
        listed = ", ".join(f"{size} {what}" for what, size in sizes.items())
        raise ValueError(f"A task needs one entry of each kind for every pair, and at least one pair; got {listed}.")
    answers = {
        "right": [[options] if isinstance(options, str) else list(options) for options in right],
        "wrong": [[options] if isinstance(options, str) else list(options) for options in wrong],
    }
    rows: dict[str, list[list[int]]] = {"clean": [], "corrupted": [], "right": [], "wrong": []}
    for i, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
        for side, text in (("clean", one), ("corrupted", other)):
            if not text.strip():
                raise ValueError(f"The {side} prompt of pair {i + 1} is empty: write at least one word.")
            rows[side].append(model.text.ids(text))
        if len(rows["clean"][i]) != len(rows["corrupted"][i]):
            raise ValueError(
                f"Pair {i + 1} differs in length: the clean prompt '{shorten(one)}' has {len(rows['clean'][i])} tokens "
                f"the corrupted '{shorten(other)}' has {len(rows['corrupted'][i])}; patching needs equally many."
            )
        for side in ("right", "wrong"):
            if not answers[side][i]:
                raise ValueError(f"Pair {i + 1} has no {side} answer; give at least one token.")
            rows[side].append([model.to_single_token(word) for word in answers[side][i]])
    digest = hashlib.sha256(json.dumps([list(clean), list(corrupted), answers, metric]).encode()).hexdigest()[:12]
    return Task(
        name=name,
        title=title,
        clean=pad_right(rows["clean"], model.text.pad),
        corrupted=pad_right(rows["corrupted"], model.text.pad),
        lengths=torch.tensor([len(row) for row in rows["clean"]]),
        right=pad_right(rows["right"], -1),
        wrong=pad_right(rows["wrong"], -1),
        clean_text=list(clean),
        corrupted_text=list(corrupted),
        metric_kind=metric,
        spec=spec or {"name": name, "n": len(clean), "pairs": digest},
    )
