"""Which heads matter: each one pruned alone, measured at the output, and by a gradient without pruning.

A pruned head's output z is replaced by its mean over examples and positions, or by zero, at every position; the other
heads, and every later layer, react to it. Li et al. 2023 ("How does attention work in vision transformers? A visual
analytics attempt", arXiv 2303.13731) compare such pruning metrics for vision; Michel et al. 2019 ("Are sixteen heads
really better than one?", arXiv 1905.10650) take a gradient instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.asked import Asked, asked
from workbench.attention.entropy import HeadValue, listed
from workbench.attention.layers import Text, taken
from workbench.attention.observed import ByHead, plain
from workbench.attention.pruning import Pruned, gradients, mean_outputs, per_run
from workbench.attention.running import Mean, Running
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer
from workbench.models.lookup import pick

Pruning = Literal["mean", "zero"]


@dataclass(frozen=True)
class ImportanceMetric:
    """One way to say how much a head matters; higher matters more.

    Attributes:
        key: its name.
        title: its name in prose.
        unit: nats, or a share of 1.
        formula: one line of plain text; m is the model, m-h the model without the head, t the right class or token.
        source: where it comes from.
        needs: ``target`` for a right answer, ``logits`` for outputs, ``stream`` for neither.
    """

    key: str
    title: str
    unit: str
    formula: str
    source: str
    needs: str


IMPORTANCE: tuple[ImportanceMetric, ...] = (
    ImportanceMetric("loss", "Rise of the loss", "nats", "log p_m(t) - log p_m-h(t)", "Michel et al. 2019", "target"),
    ImportanceMetric(
        "probability", "Drop of the right answer", "share", "p_m(t) - p_m-h(t)", "Li et al. 2023", "target"
    ),
    ImportanceMetric(
        "js",
        "Divergence of outputs",
        "nats",
        "H((p_m + p_m-h) / 2) - (H(p_m) + H(p_m-h)) / 2",
        "Lin 1991; Li et al. 2023",
        "logits",
    ),
    ImportanceMetric(
        "accuracy",
        "Drop of accuracy",
        "share",
        "[t = argmax p_m] - [t = argmax p_m-h]",
        "Michel et al. 2019",
        "target",
    ),
    ImportanceMetric(
        "shift",
        "Shift of the residual stream",
        "share",
        "1 - cos(x_m, x_m-h), x before the final norm",
        "own",
        "stream",
    ),
    ImportanceMetric("gradient", "Gradient", "nats", "abs(Σ z · dL/dz)", "Michel et al. 2019", "target"),
)
KEYS = tuple(metric.key for metric in IMPORTANCE)


@dataclass(frozen=True)
class Importance:
    """How much each head matters, by several metrics.

    Attributes:
        model: name of the model.
        values: each measured metric, [layer, head, example]: the mean over an example's outputs; NaN where the work was
            stopped before.
        base: loss (nats), probability and accuracy of the model as it is, means over examples; empty without targets.
        ablation: what a pruned head writes.
        n_examples: how many there were.
        complete: False where it was stopped.
        notes: what a reader should know of how this was made.
    """

    model: str
    values: Mapping[str, Float[Tensor, "layer head example"]]
    base: Mapping[str, float]
    ablation: Pruning
    n_examples: int
    complete: bool
    notes: tuple[str, ...] = ()

    def of(self, key: str) -> Float[Tensor, "layer head example"]:
        """A metric of every example.

        Raises:
            ValueError: there is no such metric, or it was not measured here.
        """
        found = self.values.get(pick(IMPORTANCE, key, "importance metric").key)
        if found is None:
            raise ValueError(f"'{key}' was not measured of {self.model}. {' '.join(self.notes)}".strip())
        return found

    def score(self, key: str) -> ByHead:
        """Mean of a metric over examples, [layer, head]; NaN for heads that were not reached.

        Raises:
            ValueError: as for :meth:`of`.
        """
        return self.of(key).nanmean(-1)

    def mean(self, key: str, level: float = 0.95) -> Mean:
        """The same with its interval, Student's over examples."""
        running = Running()
        running.add(self.of(key))
        return running.result(level)

    def top(self, key: str, n: int = 5) -> list[HeadValue]:
        """The ``n`` heads that matter most by a metric, the first first."""
        score = self.score(key)
        return listed(score, ~score.isnan(), descending=True)[:n]

    def agreement(self) -> tuple[list[str], Float[Tensor, "metric metric"]]:
        """Keys of the measured metrics, and Spearman's rank correlation over heads between each two of them.

        NaN where a metric gives every head the same. Heads that one of the two did not reach are left out.
        """
        from scipy.stats import rankdata  # type: ignore[import-untyped]

        keys = [key for key in KEYS if key in self.values]
        scores = [self.score(key).flatten() for key in keys]
        found = torch.full((len(keys), len(keys)), torch.nan, dtype=torch.float64)
        for i, one in enumerate(scores):
            for j, other in enumerate(scores):
                both = one.isfinite() & other.isfinite()
                ranks = torch.stack([torch.from_numpy(rankdata(x[both].numpy())) for x in (one, other)])
                if both.sum() > 1 and bool((ranks.std(1) > 0).all()):
                    found[i, j] = torch.corrcoef(ranks)[0, 1]
        return keys, found

    def to_dict(self) -> dict[str, Any]:
        """Means over examples, and what they are of, as plain numbers and lists (NaN as None)."""
        keys, agreement = self.agreement()
        return {
            "model": self.model,
            "ablation": self.ablation,
            "examples": self.n_examples,
            "complete": self.complete,
            "base": dict(self.base),
            "notes": list(self.notes),
            "scores": {key: plain(self.score(key)) for key in keys},
            "agreement": {"metrics": keys, "spearman": plain(agreement)},
        }


@torch.no_grad()
def head_importance(
    model: Transformer,
    tokens: Tensor | Text,
    *,
    labels: Tensor | None = None,
    answers: Tensor | None = None,
    attention_mask: Tensor | None = None,
    metrics: Sequence[str] | None = None,
    ablation: Pruning = "mean",
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Importance:
    """How much each head matters, each one pruned alone.

    What is right: a decoder's next tokens, or ``answers``; a classifier's ``labels``, or else its own answers; a masked
    language model's ``labels``. Every metric is a mean over the outputs of an example and then over examples. Heads of
    one layer are pruned in a stack on the batch axis, from their own layer on: layers before it run once. Cost: about
    ``layers heads / 2`` forwards without the head, and as many heads as there are outputs; the gradient costs one
    forward and backward.

    Args:
        model: any model.
        tokens, attention_mask: as in :func:`workbench.attention.statistics`.
        labels, answers: see above; [batch] or, for masks to fill, [batch, pos] with negative numbers elsewhere.
        metrics: keys of :data:`IMPORTANCE`; by default all that can be measured.
        ablation: ``mean``, over all real positions of all examples, or ``zero``.
        budget: bytes beside the model.
        progress: called after every stack of pruned heads; returning False stops and keeps the heads that are done.

    Raises:
        ValueError: an unknown metric or ablation, one that cannot be measured, labels or answers that do not fit.
        Stopped: stopped before one head was done.
    """
    if ablation not in get_args(Pruning):
        raise ValueError(f"A head is pruned to its {' or to '.join(get_args(Pruning))}; there is no '{ablation}'.")
    chosen = None if metrics is None else [pick(IMPORTANCE, key, "importance metric").key for key in metrics]
    question = asked(model, taken(model, tokens, attention_mask), labels, answers)
    work = _Work.of(model, question, _measurable(question, chosen), ablation, budget, progress)
    going = work.prepare() and work.prune()
    notes = [] if question.note is None else [question.note]
    if not going:
        done = int(torch.stack(list(work.values.values())).isfinite().all(-1).all(0).sum())
        if not any(bool(values.isfinite().any()) for values in work.values.values()):
            raise Stopped("Stopped before one head was pruned.")
        of = work.found[0] * work.found[1]
        notes.append(f"Stopped: {done} of {of} heads were done in all {work.found[2]} examples.")
    base = {key: sum(values) / len(values) for key, values in work.base.items() if values}
    return Importance(model.name, work.values, base, ablation, work.found[2], going, tuple(notes))


def _measurable(question: Asked, chosen: list[str] | None) -> list[str]:
    """Keys of the metrics to measure.

    Raises:
        ValueError: one that was asked for cannot be; or none was.
    """
    has = {"stream", *(["logits"] if question.speaks else []), *(["target"] if question.target is not None else [])}
    possible = [metric.key for metric in IMPORTANCE if metric.needs in has]
    missing = [key for key in chosen or () if key not in possible]
    if missing:
        raise ValueError(f"{', '.join(missing)} cannot be measured here. {question.note or ''}".strip())
    if chosen is not None and not chosen:
        raise ValueError(f"Ask for one metric at least: {', '.join(possible)}.")
    return [key for key in possible if chosen is None or key in chosen]


@dataclass
class _Work:
    """One search for important heads: what is there so far, and how much is taken at a time."""

    model: Transformer
    question: Asked
    keys: list[str]
    ablation: Pruning
    numbers: int
    examples: int
    stack: int
    report: Reporter
    found: tuple[int, int, int]
    fill: Tensor
    values: dict[str, Tensor]
    base: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Transformer,
        question: Asked,
        keys: list[str],
        ablation: Pruning,
        budget: int,
        progress: ProgressFn | None,
    ) -> _Work:
        """Sizes that fit the budget, half of it for runs and half for outputs."""
        cfg, all_of_them = model.cfg, len(question.rows)
        run, kept = per_run(model, question.given.n), (cfg.n_layers + 1) * question.given.n * cfg.d_model
        width = model.blocks[0].attn.q.weight.element_size() if len(model.blocks) else 4
        examples = max(1, min(all_of_them, budget // 2 // ((kept + 4 * run) * width)))
        stack = max(1, min(cfg.n_heads, (budget // 2 // width - examples * kept) // (examples * run)))
        batches = -(-all_of_them // examples)
        steps = [ablation == "mean", "gradient" in keys]
        pruned = cfg.n_layers * -(-cfg.n_heads // stack) if set(keys) != {"gradient"} else 0
        found = (cfg.n_layers, cfg.n_heads, all_of_them)
        return cls(
            model,
            question,
            keys,
            ablation,
            # Logits, their logarithms and what is made of them on the way: about ten numbers for each.
            max(1, budget // 2 // 40),
            examples,
            stack,
            Reporter(progress, batches * (pruned + sum(steps)), "pruning heads"),
            found,
            torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head, dtype=model.dtype, device=model.device),
            {key: torch.full(found, torch.nan, dtype=torch.float64) for key in keys},
        )

    def parts(self) -> list[tuple[slice, Asked]]:
        """Examples that are run together."""
        starts = range(0, self.found[2], self.examples)
        return [(slice(at, at + self.examples), self.question.part(at, at + self.examples)) for at in starts]

    def prepare(self) -> bool:
        """Mean outputs of the heads, and the gradient; False where it was stopped."""
        if self.ablation == "mean":
            means = mean_outputs(self.model, [part for _, part in self.parts()], self.report)
            if means is None:
                return False
            self.fill = means.to(self.fill)
        if "gradient" in self.keys:
            for where, part in self.parts():
                self.values["gradient"][..., where] = gradients(self.model, part, self.numbers, self.examples)
                self.report.step()
                if not self.report.going:
                    return False
        return True

    def prune(self) -> bool:
        """Every head of every example; False where it was stopped."""
        keys = [key for key in self.keys if key != "gradient"]
        layers, heads, _ = self.found
        for where, part in self.parts() if keys else ():
            run = Pruned(self.model, part, self.fill, self.numbers)
            for layer in reversed(range(layers)):
                for start in range(0, heads, self.stack):
                    some = list(range(start, min(start + self.stack, heads)))
                    scores = run.scores(layer, some, keys)
                    for key in keys:
                        self.values[key][layer, some, where] = scores[key]
                    self.report.step()
                    if not self.report.going and self.report.done < self.report.total:
                        self._tell(run)
                        return False
            self._tell(run)
        return True

    def _tell(self, run: Pruned) -> None:
        for key, values in run.base.items():
            self.base.setdefault(key, []).extend(values.tolist())
