"""EnsembleScale: direct contributions of components re-weighted, everything else frozen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.observed import plain
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.models import Transformer
from workbench.models.norm import HALF
from workbench.models.taps import Tap
from workbench.paths.examples import Data, split
from workbench.paths.pruning import check_model, compare, gathered, loss_and_gradient
from workbench.paths.written import BATCH, Level, Written, components_of, weighted_taps

Per = Literal["component", "channel"]
FORMAT = "workbench ensemble scale 1"
SHARES = (0.5, 0.25, 0.25)
PATIENCE = 10


@dataclass(frozen=True)
class EnsembleScale:
    """Learned weights of the components in what the final norm reads; plain data, no model.

    Attributes:
        model: name of the model.
        fingerprint: of the model; another's is refused.
        level: ``sublayer`` or ``head``.
        per: ``component`` for a number each, ``channel`` for one for each channel.
        components: what the rows of ``weights`` belong to.
        weights: [component] or [component, d_model]; 1 leaves a component as it is.
        history: (loss it learned on, loss on the validation part) before the first step and after each, in nats.
        settings: how it was learned.
        report: loss and accuracy with their intervals on the examples that neither part saw, as
            :meth:`workbench.paths.pruning.Compared.to_dict` gives it.
        complete: False where it was stopped.
    """

    model: str
    fingerprint: str
    level: Level
    per: Per
    components: tuple[str, ...]
    weights: Float[Tensor, " component"] | Float[Tensor, "component d_model"]
    history: tuple[tuple[float, float], ...]
    settings: dict[str, Any]
    report: dict[str, Any]
    complete: bool = True

    @property
    def by_component(self) -> Float[Tensor, " component"]:
        """A number for each component: the mean over channels where there are several."""
        return self.weights if self.weights.ndim == 1 else self.weights.mean(1)

    def taps(self, model: Transformer) -> dict[str, Tap]:
        """Run the model with it: ``model(tokens, scale.taps(model))``.

        The taps hold the sum of one forward: they serve one forward after the other, not two at once.

        Raises:
            ValueError: another model.
        """
        check_model(self.model, self.fingerprint, model, "ensemble scale")
        return weighted_taps(model, self.level, self.weights.to(model.device))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists; JSON holds it."""
        return self._about() | {"weights": plain(self.weights)}

    def _about(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "level": self.level,
            "per": self.per,
            "components": list(self.components),
            "history": [list(pair) for pair in self.history],
            "settings": self.settings,
            "report": self.report,
            "complete": self.complete,
        }

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file; :func:`load_scale` reads it.

        Raises:
            ValueError: the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path(path)
        unfinished = path.with_name(f"{path.name}.part")
        told = {"format": FORMAT, "about": json.dumps(self._about())}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"weights": self.weights.contiguous()}, unfinished, metadata=told)
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"The ensemble scale cannot be written to '{path}' ({error}).") from error
        return path


def load_scale(path: str | Path, model: Transformer) -> EnsembleScale:
    """Read what :meth:`EnsembleScale.save` wrote, for the model that it was learned on.

    Raises:
        ValueError: there is no such file, it holds something else, is damaged, or belongs to another model.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'; learn an ensemble scale and save it there.")
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            about = json.loads(said["about"]) if said.get("format") == FORMAT else None
            weights = file.get_tensor("weights") if about is not None else torch.empty(0)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The ensemble scale in '{path}' could not be read ({reason}).") from error
    if about is None:
        raise ValueError(f"'{path}' holds no ensemble scale; give a file that EnsembleScale.save wrote.")
    names = ("model", "fingerprint", "level", "per", "settings", "report", "complete")
    try:
        found = EnsembleScale(
            components=tuple(about["components"]),
            weights=weights,
            history=tuple((a, b) for a, b in about["history"]),
            **{name: about[name] for name in names},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The ensemble scale in '{path}' is damaged ({error!r}); learn it again.") from error
    check_model(found.model, found.fingerprint, model, "ensemble scale")
    shape = (len(found.components), model.cfg.d_model)[: 1 if found.per == "component" else 2]
    fits = found.components == components_of(model, found.level) and tuple(weights.shape) == shape
    if not fits or not bool(weights.isfinite().all()):
        raise ValueError(f"The weights in '{path}' do not fit {model.name}, or are not finite; learn them again.")
    return found


def ensemble_scale(
    model: Transformer,
    data: Data | Written,
    labels: Tensor | Sequence[int] | None = None,
    *,
    per: Per = "component",
    level: Level = "sublayer",
    decay: float | Sequence[float] = 0.01,
    steps: int = 50,
    patience: int = PATIENCE,
    shares: tuple[float, float, float] = SHARES,
    parts: Int[Tensor, " example"] | Sequence[int] | None = None,
    seed: int | None = 0,
    batch_size: int = BATCH,
    progress: ProgressFn | None = None,
) -> EnsembleScale:
    """Learn how much of each component the classifier should read.

    EnsembleScale of Chang et al. 2023 (arXiv 2308.06548), here after training and with everything else frozen: what the
    final norm reads is ``x + sum_c (w_c - 1) out_c``, with all w = 1 at first. The norm takes its scale from that sum,
    so a common factor changes (nearly) nothing. Later layers read every component as it was. Minimised is
    ``mean loss + decay * sum_c mean_channel (w_c - 1)^2`` by L-BFGS (Liu and Nocedal 1989) on stored outputs of the
    components, all examples at once; kept are the weights with the lowest loss on the validation part. The report is on
    a third part.

    Cost: one forward for each example; then a few runs of the head forwards and backwards for each step.

    Args:
        model: a pre-norm classifier, or a causal language model (loss of the next token).
        data: texts, rows of tokens, images; or what :func:`workbench.paths.written.collect` kept.
        labels: of a classifier, the right class of each example.
        per: a number for each ``component``, or for each ``channel`` of each.
        level: ``sublayer``, or ``head``.
        decay: pull towards 1, in nats; of several the one with the lowest validation loss is kept.
        steps: of L-BFGS at most, for each ``decay``.
        patience: steps without a lower validation loss after which it ends.
        shares: of the examples, to learn on, to validate on and to report on.
        parts: [example] 0 to learn on, 1 to validate on, 2 to report on, -1 for none, instead of ``shares``.
        seed: of the draw; None takes examples in their order.
        batch_size: examples at a time.
        progress: called after every batch and every step; returning False stops and keeps what is learned.

    Raises:
        ValueError: options out of range, weights in half precision, post-norm models, missing labels, too few examples.
        Stopped: stopped before the data were run.
    """
    if per not in get_args(Per):
        raise ValueError(f"Weights are per {' or per '.join(get_args(Per))}; got '{per}'.")
    decays = [decay] if isinstance(decay, int | float) else list(decay)
    if not decays or min(decays) < 0 or steps < 1 or patience < 1:
        raise ValueError(f"decay is at least 0, steps and patience 1; got {decay}, {steps} and {patience}.")
    if model.dtype in HALF:
        raise ValueError(f"{model.name} is in half precision, too coarse to learn in; load it in float32.")
    written = gathered(model, data, labels, level, batch_size, progress)
    learn, validate, held = (written.of(chosen) for chosen in split(written.n, shares, seed, parts))
    report = Reporter(progress, steps * len(decays), "learning weights of paths")
    best: _Learner | None = None
    for one in decays:
        learner = _Learner(model, learn, validate, per, one)
        complete = _run(learner, steps, patience, report)
        if best is None or learner.lowest < best.lowest:
            best = learner
        if not complete:
            break
    assert best is not None
    weights = best.best
    settings: dict[str, Any] = {"decay": best.decay, "decays": decays, "steps": steps, "patience": patience}
    settings |= {"seed": seed, "kept_step": best.best_step}
    settings |= {"examples": [learn.n, validate.n, held.n], "unit": written.unit}
    return EnsembleScale(
        model.name,
        written.fingerprint,
        written.level,
        per,
        written.components,
        weights.cpu(),
        tuple(best.history),
        settings,
        compare(model, held, weights).to_dict(),
        complete,
    )


def _run(learner: _Learner, steps: int, patience: int, report: Reporter) -> bool:
    """Learn until validation stops getting better; False where it was stopped."""
    for step in range(1, steps + 1):
        learner.step()
        ended = learner.settled or step - learner.best_step >= patience
        report.done += steps - step if ended else 0
        report.step()
        if ended or not report.going:
            return report.going
    return True


class _Learner:
    """L-BFGS on the weights, one step at a time; remembers the best by validation."""

    def __init__(self, model: Transformer, learn: Written, validate: Written, per: Per, decay: float) -> None:
        self.model, self.learn, self.validate, self.decay = model, learn, validate, decay
        start = learn.ones()
        if per == "channel":
            start = start[:, None].repeat(1, model.cfg.d_model)
        self.weights = start.clone().requires_grad_()
        self.optimiser = torch.optim.LBFGS([self.weights], max_iter=1, max_eval=8, line_search_fn="strong_wolfe")
        self.history = [(self._loss(learn), self._loss(validate))]
        self.best, self.best_step, self.settled = start, 0, False
        self.tried: dict[float, float] = {}

    @property
    def lowest(self) -> float:
        """The lowest loss on the validation part."""
        return min(pair[1] for pair in self.history)

    def _loss(self, written: Written) -> float:
        return float(written.scores(self.model, self.weights.detach())[0].mean())

    def _objective(self) -> Tensor:
        weights = self.weights.detach()
        away = (weights - 1).square().reshape(len(weights), -1)
        loss, slope = loss_and_gradient(self.model, self.learn, weights)
        self.weights.grad = slope + 2 * self.decay * (weights - 1) / away.shape[1]
        total = loss + self.decay * float(away.mean(1).sum())
        self.tried[total] = loss
        return torch.tensor(total, dtype=torch.float64)

    def step(self) -> None:
        """One direction and a search along it."""
        before = self.weights.detach().clone()
        self.tried = {}
        self.optimiser.step(self._objective)  # type: ignore[no-untyped-call]
        after = self.weights.detach()
        self.settled = bool((after == before).all()) or not bool(after.isfinite().all())
        if self.settled:
            return
        validation = self._loss(self.validate)
        if validation < self.lowest:
            self.best, self.best_step = after.clone(), len(self.history)
        # The search along a direction ends where the objective was lowest.
        self.history.append((self.tried[min(self.tried)], validation))
