"""Layers left out, exchanged or repeated: what the loss becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.layers import Given
from workbench.attention.observed import plain
from workbench.circuits.intervals import bounds, resamples
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.lens.depth import LEVEL, check_level
from workbench.lens.places import (
    Streams,
    answers_at_positions,
    check_answers,
    given_texts,
    read_streams,
    real_rows,
)
from workbench.models import Transformer
from workbench.models.taps import Tap

Change = Literal["skip", "skip-attention", "skip-mlp", "swap", "repeat"]
CHANGES: tuple[Change, ...] = get_args(Change)


@dataclass(frozen=True)
class LayerCurve:
    """What a change of each layer does to the loss of texts.

    Attributes:
        model: name of the model.
        change: ``skip`` a layer, ``skip-attention`` or ``skip-mlp`` a sublayer, ``swap`` a layer with the next,
            ``repeat`` a layer.
        unit: what the loss is.
        layers: index of each changed layer; of a swap the first of the two.
        base: [text] loss of the model as it is.
        loss: [layer, text] loss with the change.
        kl: [layer, text] KL(model as it is || changed model), in nats, mean over positions.
        level: of the intervals.
        complete: False where it was stopped before the last text; those read are kept.
    """

    model: str
    change: Change
    unit: str
    layers: tuple[int, ...]
    base: Float[Tensor, " text"]
    loss: Float[Tensor, "layer text"]
    kl: Float[Tensor, "layer text"]
    level: float
    complete: bool

    @property
    def increase(self) -> Float[Tensor, " layer"]:
        """Mean rise of the loss over texts."""
        return (self.loss - self.base).mean(1)

    @property
    def interval(self) -> Float[Tensor, "layer 2"]:
        """Bootstrap interval of :attr:`increase`, over texts (paired with the model as it is)."""
        means = resamples(len(self.base)) @ (self.loss - self.base).double().T
        return torch.tensor([bounds(column, self.level) for column in means.T])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return {
            "model": self.model,
            "change": self.change,
            "unit": self.unit,
            "layers": list(self.layers),
            "base": plain(self.base),
            "loss": plain(self.loss),
            "kl": plain(self.kl),
            "increase": plain(self.increase),
            "interval": plain(self.interval),
            "level": self.level,
            "complete": self.complete,
        }


@torch.no_grad()
def layer_curve(
    model: Transformer,
    data: Sequence[str] | Sequence[Tensor] | Tensor,
    change: Change = "skip",
    *,
    labels: Int[Tensor, " example"] | Sequence[int] | None = None,
    level: float = LEVEL,
    batch_size: int = 8,
    progress: ProgressFn | None = None,
) -> LayerCurve:
    """Change one layer after the other and measure the loss (Veit et al. 2016, arXiv 1605.06431, sections 4.1, 4.3).

    Everything behind the change is computed anew: nothing is held. A layer is left out by going on with the stream that
    entered it, a sublayer by adding nothing (a norm behind it, in BERT, still works). A swap runs layer l + 1 and then
    l; each keeps its own window and kind of rotary positions. A repeated layer runs twice.

    Cost: half a forward for each layer, on average, since what lies before the change is taken from the plain run; that
    keeps the stream at every layer of one batch.

    Args:
        model: a language model, masked language model or classifier.
        data: texts, rows of tokens or images; each counts once.
        change: what to do with each layer.
        labels: right classes of a classifier. Without them the loss of a classifier, and of a model that looks both
            ways, is its KL from the model as it is; that of a causal language model is the cross-entropy of the next
            token.
        level: of the intervals.
        batch_size: texts at a time.
        progress: called after every layer of every batch; returning False stops and keeps the batches that are done.

    Raises:
        ValueError: a change that is none or that the model does not admit; labels that do not fit; texts without a next
            token.
        Stopped: stopped before the first batch was done.
    """
    check_answers(model, "A layer curve")
    check_level(level)
    layers = _layers(model, change)
    batches = given_texts(model, data, batch_size)
    right = _labels(model, labels, sum(len(given.tokens) for given in batches))
    score = _Score(model, right)
    for given in batches:
        score.check(given)
    report = Reporter(progress, len(batches) * len(layers), "changing layers")
    base: list[Tensor] = []
    loss: list[Tensor] = []
    kl: list[Tensor] = []
    done = 0
    for given in batches:
        first = sum(len(one) for one in base)
        streams = read_streams(model, given)
        plain_logits = _answer(model, streams.resid[-1], streams, model.cfg.n_layers)
        own, _ = score(plain_logits, plain_logits, given, first)
        found = []
        for layer in layers:
            found.append(score(_changed(model, streams, change, layer), plain_logits, given, first))
            report.step()
            if not report.going:
                break
        if len(found) == len(layers):
            base.append(own)
            loss.append(torch.stack([one for one, _ in found]))
            kl.append(torch.stack([one for _, one in found]))
            done += 1
        if not report.going:
            break
    if not base:
        raise Stopped("Stopped before every layer was changed on the first batch; nothing was kept.")
    return LayerCurve(
        model=model.name,
        change=change,
        unit=score.unit,
        layers=layers,
        base=torch.cat(base).cpu(),
        loss=torch.cat(loss, 1).cpu(),
        kl=torch.cat(kl, 1).cpu(),
        level=level,
        complete=done == len(batches),
    )


def _layers(model: Transformer, change: Change) -> tuple[int, ...]:
    if change not in CHANGES:
        raise ValueError(f"There is no change '{change}'; choose one of {', '.join(CHANGES)}.")
    n, cfg = model.cfg.n_layers, model.cfg
    if change == "skip-mlp" and cfg.attn_only:
        raise ValueError(f"{model.name} has no MLPs to leave out; choose 'skip'.")
    if change == "swap" and n < 2:
        raise ValueError(f"{model.name} has {n} layer, and a swap needs two.")
    if any(block.attn.mechanism.values is not None and not block.attn.is_softmax for block in model.blocks):
        raise ValueError(
            f"The attention of {model.name} reads the first layer's values, so its layers cannot be moved; choose "
            "another mechanism."
        )
    return tuple(range(n - 1 if change == "swap" else n))


def _changed(model: Transformer, streams: Streams, change: Change, layer: int) -> Tensor:
    """Logits with one change."""
    resid, after = streams.resid[layer], layer + 1
    if change in ("skip-attention", "skip-mlp"):
        what = "attn" if change == "skip-attention" else "mlp"
        taps: dict[str, Tap] = {f"blocks.{layer}.hook_{what}_out": lambda x: torch.zeros_like(x)}
        return _answer(model, resid, streams, layer, taps)
    if change == "swap":
        for one in (layer + 1, layer):
            resid = _run_block(model, resid, streams, one)
        after = layer + 2
    elif change == "repeat":
        resid = _run_block(model, streams.resid[layer + 1], streams, layer)
    return _answer(model, resid, streams, after)


def _run_block(model: Transformer, resid: Tensor, streams: Streams, layer: int) -> Tensor:
    found: Tensor = model(resid, attention_mask=streams.mask, start_at_layer=layer, stop_at_layer=layer + 1)
    return found


def _answer(
    model: Transformer,
    resid: Tensor,
    streams: Streams,
    layer: int,
    taps: dict[str, Tap] | None = None,
) -> Tensor:
    """Logits [batch, pos or 1, n_out] from the stream that enters a layer."""
    found: Tensor = model(resid, taps, attention_mask=streams.mask, start_at_layer=layer)
    return (found if answers_at_positions(model) else found[:, None]).float()


class _Score:
    """Loss and KL of each text."""

    def __init__(self, model: Transformer, labels: Tensor | None) -> None:
        self.model, self.labels = model, labels
        self.next = model.cfg.causal and answers_at_positions(model)

    @property
    def unit(self) -> str:
        """What the loss is."""
        if self.next:
            return "nats per next token"
        return "nats per right class" if self.labels is not None else "nats from the model as it is"

    def check(self, given: Given) -> None:
        """Refuse texts of one token, which have no next."""
        lengths = given.real.sum(1) if given.real is not None else torch.tensor([given.n])
        if self.next and int(lengths.min()) < 2:
            raise ValueError("A text of one token has no next token to predict; leave it out, or give longer texts.")

    def __call__(
        self, logits: Tensor, plain_logits: Tensor, given: Given, first: int
    ) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
        """Loss and KL, means over the real positions of each text; ``first`` is the number of texts before."""
        log_probs, own = logits.log_softmax(-1), plain_logits.log_softmax(-1)
        real = real_rows(given, answers_at_positions(self.model)).to(logits.dtype)
        p = own.exp()
        kl = _mean((p * (own - log_probs).masked_fill(p == 0, 0.0)).sum(-1), real)
        if self.next:
            assert given.ids is not None
            told = -log_probs[:, :-1].gather(-1, given.ids[:, 1:, None])[..., 0]
            return _mean(told, real[:, 1:] * real[:, :-1]), kl
        if self.labels is not None:
            right = self.labels[first : first + len(logits)]
            return -log_probs[:, 0].gather(-1, right[:, None])[:, 0], kl
        return kl, kl


def _mean(x: Float[Tensor, "text pos"], real: Float[Tensor, "text pos"]) -> Float[Tensor, " text"]:
    return (x * real).sum(1) / real.sum(1)


def _labels(model: Transformer, labels: Tensor | Sequence[int] | None, n: int) -> Tensor | None:
    if labels is None:
        return None
    if answers_at_positions(model):
        raise ValueError(f"{model.name} is no classifier; leave labels out.")
    found = torch.as_tensor(labels, device=model.device).long()
    if found.ndim != 1 or len(found) != n or int(found.min()) < 0 or int(found.max()) >= model.cfg.n_out:
        raise ValueError(f"Labels are one class from 0 to {model.cfg.n_out - 1} for each of the {n} examples.")
    return found
