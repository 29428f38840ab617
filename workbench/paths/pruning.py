"""Path pruning: components whose direct contribution hurts are cut from the classifier, and still feed later layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.observed import plain
from workbench.circuits.intervals import LEVEL, bounds, resamples
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.models import Transformer
from workbench.models.taps import Tap
from workbench.paths.examples import Data, split
from workbench.paths.written import BATCH, Level, Written, answers, collect, components_of, scored, weighted_taps

By = Literal["loss", "accuracy"]
SHARES = (0.5, 0.5)


@dataclass(frozen=True)
class Compared:
    """The model as it is and with a change, on examples that the change was not chosen on.

    Attributes:
        before, after: [example] of the loss in nats.
        right_before, right_after: [example] of the accuracy.
        unit: of the loss.
    """

    before: Float[Tensor, " example"]
    after: Float[Tensor, " example"]
    right_before: Float[Tensor, " example"]
    right_after: Float[Tensor, " example"]
    unit: str

    @property
    def loss(self) -> float:
        """Mean change of the loss; below 0 is better."""
        return float((self.after - self.before).mean())

    @property
    def accuracy(self) -> float:
        """Mean change of the accuracy."""
        return float((self.right_after - self.right_before).mean())

    def interval(self, of: By = "loss", *, level: float = LEVEL) -> tuple[float, float]:
        """Bootstrap interval of the mean paired difference, over examples (Efron 1979; percentiles)."""
        change = self.after - self.before if of == "loss" else self.right_after - self.right_before
        return bounds(resamples(len(change)) @ change.double(), level)

    def to_dict(self, *, level: float = LEVEL) -> dict[str, Any]:
        """Means and intervals as plain numbers."""
        return {
            "examples": len(self.before),
            "unit": self.unit,
            "level": level,
            "loss_before": float(self.before.mean()),
            "loss_after": float(self.after.mean()),
            "loss": self.loss,
            "loss_interval": list(self.interval("loss", level=level)),
            "accuracy_before": float(self.right_before.mean()),
            "accuracy_after": float(self.right_after.mean()),
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval("accuracy", level=level)),
        }


def compare(
    model: Transformer, written: Written, weights: Tensor, before: tuple[Tensor, Tensor] | None = None
) -> Compared:
    """What weights of the components do to loss and accuracy; ``before`` where those of the model itself are known."""
    before = written.scores(model, written.ones()) if before is None else before
    after = written.scores(model, weights)
    return Compared(before[0], after[0], before[1], after[1], written.unit)


@dataclass(frozen=True)
class PathPruning:
    """What a search cut, and what that is worth.

    Attributes:
        model, fingerprint: of which model.
        level: ``sublayer`` or ``head``.
        by: what was searched for.
        components: all that could be cut.
        cut: in the order in which they were cut.
        path: (loss, accuracy) on the examples of the search, before the first cut and after each.
        report: on the other examples, all cuts together.
        alone: [component, 2] change of loss and of accuracy on the other examples when one alone is cut.
        alone_intervals: [component, 2, 2] their bootstrap intervals.
        complete: False where it was stopped before no cut helped any more.
    """

    model: str
    fingerprint: str
    level: Level
    by: By
    components: tuple[str, ...]
    cut: tuple[str, ...]
    path: tuple[tuple[float, float], ...]
    report: Compared
    alone: Float[Tensor, "component 2"]
    alone_intervals: Float[Tensor, "component 2 2"]
    complete: bool = True

    @property
    def weights(self) -> Float[Tensor, " component"]:
        """0 for what was cut, 1 for the rest."""
        return torch.tensor([float(name not in self.cut) for name in self.components])

    def taps(self, model: Transformer) -> dict[str, Tap]:
        """Run the model with it: ``model(tokens, pruning.taps(model))``; see :func:`cut_taps`.

        Raises:
            ValueError: another model.
        """
        check_model(self.model, self.fingerprint, model, "pruning")
        return cut_taps(model, self.cut, level=self.level)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "level": self.level,
            "by": self.by,
            "components": list(self.components),
            "cut": list(self.cut),
            "path": [list(pair) for pair in self.path],
            "report": self.report.to_dict(),
            "alone": plain(self.alone),
            "alone_intervals": plain(self.alone_intervals),
            "complete": self.complete,
        }


def prune(
    model: Transformer,
    data: Data | Written,
    labels: Tensor | Sequence[int] | None = None,
    *,
    by: By = "loss",
    level: Level = "sublayer",
    most: int | None = None,
    least: float = 0.0,
    candidates: int | None = None,
    shares: tuple[float, float] = SHARES,
    parts: Int[Tensor, " example"] | Sequence[int] | None = None,
    seed: int | None = 0,
    batch_size: int = BATCH,
    progress: ProgressFn | None = None,
) -> PathPruning:
    """Cut, one by one, the component without whose direct contribution the model does best, while that helps.

    Path pruning of Chang et al. 2023 (arXiv 2308.06548): a component is cut from what the classifier reads and still
    feeds later layers, whose outputs stay as they are. What enters the final norm is ``x - sum of what is cut``, and
    the norm takes its scale anew. The search sees one part of the data, the report another, with intervals over its
    examples.

    Cost: one forward for each example; then, for each cut, as many runs of the head as there are components left, or as
    ``candidates``. After that two for each component for the report.

    Args:
        model: a pre-norm classifier, or a causal language model (loss of the next token).
        data: texts, rows of tokens, images; or what :func:`workbench.paths.written.collect` kept.
        labels: of a classifier, the right class of each example.
        by: ``loss``: a cut has to lower it; ``accuracy``: a cut has to raise it, or to keep it and lower the loss.
        level: ``sublayer``, or ``head`` to cut heads one by one.
        most: cuts at most; None for no bound but the last component.
        least: nats by which a cut has to lower the loss.
        candidates: try this many at each step only, those that promise most by the gradient of the loss; None for all.
        shares: of the examples, for the search and for the report.
        parts: [example] 0 for the search, 1 for the report, -1 for neither, instead of ``shares``.
        seed: of the draw; None takes examples in their order.
        batch_size: examples at a time.
        progress: called after every batch and every cut; returning False stops and keeps the cuts that are made.

    Raises:
        ValueError: options out of range, post-norm models, missing labels, too few examples.
        Stopped: stopped before the data were run.
    """
    if by not in get_args(By):
        raise ValueError(f"Unknown aim '{by}'; choose one of {', '.join(get_args(By))}.")
    if least < 0 or (most is not None and most < 1) or (candidates is not None and candidates < 1):
        raise ValueError(f"least is at least 0, most and candidates 1; got {least}, {most} and {candidates}.")
    written = gathered(model, data, labels, level, batch_size, progress)
    search, report = (written.of(chosen) for chosen in split(written.n, shares, seed, parts))
    bound = len(written.components) - 1
    cuts, path, complete = _greedy(model, search, by, min(most or bound, bound), least, candidates, progress)
    weights = written.ones()
    weights[cuts] = 0
    before = report.scores(model, report.ones())
    alone = [compare(model, report, one, before) for one in 1 - torch.eye(len(weights)).to(weights)]
    return PathPruning(
        model.name,
        written.fingerprint,
        written.level,
        by,
        written.components,
        tuple(written.components[i] for i in cuts),
        tuple(path),
        compare(model, report, weights, before),
        torch.tensor([[one.loss, one.accuracy] for one in alone], dtype=torch.float64),
        torch.tensor([[one.interval("loss"), one.interval("accuracy")] for one in alone], dtype=torch.float64),
        complete,
    )


def gathered(
    model: Transformer,
    data: Data | Written,
    labels: Tensor | Sequence[int] | None,
    level: Level,
    batch_size: int,
    progress: ProgressFn | None,
) -> Written:
    """Data run once, or what was kept of an earlier run of the same model.

    Raises:
        ValueError: what was kept belongs to another model.
    """
    if not isinstance(data, Written):
        return collect(model, data, labels, level=level, batch_size=batch_size, progress=progress)
    check_model(data.model, data.fingerprint, model, "record of components")
    return data


def _greedy(
    model: Transformer,
    search: Written,
    by: By,
    most: int,
    least: float,
    candidates: int | None,
    progress: ProgressFn | None,
) -> tuple[list[int], list[tuple[float, float]], bool]:
    """Cuts, the (loss, accuracy) before each and at the end, and whether it came to its own end."""
    weights, cuts = search.ones(), list[int]()

    def at(weights: Tensor) -> tuple[float, float]:
        loss, right = search.scores(model, weights)
        return float(loss.mean()), float(right.mean())

    path = [at(weights)]
    report = Reporter(progress, most, "cutting paths")
    while len(cuts) < most:
        left = [i for i in range(len(weights)) if i not in cuts]
        if candidates is not None and candidates < len(left):
            _, slope = loss_and_gradient(model, search, weights)
            left.sort(key=lambda i: -float(slope[i]))
            left = left[:candidates]
        tried = {}
        for i in left:
            one = weights.clone()
            one[i] = 0
            tried[i] = at(one)
        best = min(tried, key=lambda i: tried[i] if by == "loss" else (-tried[i][1], tried[i][0]))
        if not _helps(path[-1], tried[best], by, least):
            return cuts, path, True
        cuts.append(best)
        weights[best] = 0
        path.append(tried[best])
        report.step()
        if not report.going:
            return cuts, path, len(cuts) == most
    return cuts, path, True


def _helps(before: tuple[float, float], after: tuple[float, float], by: By, least: float) -> bool:
    lower = after[0] < before[0] - least
    return lower if by == "loss" else after[1] > before[1] or (after[1] == before[1] and lower)


def loss_and_gradient(model: Transformer, written: Written, weights: Tensor) -> tuple[float, Tensor]:
    """Mean loss over examples in nats at weights of the components, and its gradient there, of their shape."""
    weights = weights.detach()
    slopes = torch.zeros_like(weights)
    share = 1.0 / torch.bincount(written.example, minlength=written.n)[written.example] / written.n
    total = 0.0
    for some in written.pieces(model):
        with torch.enable_grad():
            stream = written.stream(weights, some).requires_grad_()
            loss, _ = scored(answers(model, stream), written.target[some])
            mean = (loss * share[some]).sum()
            (gradient,) = torch.autograd.grad(mean, stream)
        # The stream is linear in the weights.
        by_channel = torch.stack([(part[some] * gradient).sum((0, 1)) for part in written.parts])
        slopes += by_channel.sum(1) if weights.ndim == 1 else by_channel
        total += float(mean.detach())
    return total, slopes


def cut_taps(model: Transformer, components: Sequence[str], *, level: Level = "sublayer") -> dict[str, Tap]:
    """Taps that keep components from the classifier and leave them to later layers.

    The taps hold the sum of one forward: they serve one forward after the other, not two at once.

    Raises:
        ValueError: a component that does not exist, naming those that do.
    """
    return weight_taps(model, dict.fromkeys(components, 0.0), level=level)


def weight_taps(
    model: Transformer, weights: Mapping[str, float | Tensor], *, level: Level = "sublayer"
) -> dict[str, Tap]:
    """Taps that weigh the direct contributions of some components, by name: a number, or one for each channel.

    Raises:
        ValueError: a component that does not exist, naming those that do; a weight of another shape.
    """
    names = components_of(model, level)
    dtype = torch.promote_types(model.dtype, torch.float32)
    full = torch.ones(len(names), model.cfg.d_model, dtype=dtype, device=model.device)
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"{model.name} has no component '{name}' at level '{level}'; it has {', '.join(names)}.")
        if torch.as_tensor(weight).shape not in (torch.Size([]), full[0].shape):
            raise ValueError(f"The weight of '{name}' is a number, or {model.cfg.d_model}, one for each channel.")
        full[names.index(name)] = weight
    return weighted_taps(model, level, full)


def check_model(name: str, fingerprint: str, model: Transformer, what: str) -> None:
    """Refuse what belongs to another model.

    Raises:
        ValueError: naming both.
    """
    if fingerprint != model.fingerprint:
        raise ValueError(
            f"This {what} belongs to '{name}' ({fingerprint}), not to '{model.name}' ({model.fingerprint}); load that "
            "model, or make one for this."
        )
