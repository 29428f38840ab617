"""What every component gives the classifier directly, and what it passes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.asked import Asked
from workbench.attention.observed import plain
from workbench.attention.pruning import reads_first_values, run_layers
from workbench.attention.running import Mean, Running
from workbench.circuits.intervals import LEVEL
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.norm import Norm
from workbench.models.readout import pooled
from workbench.models.taps import Keep, Tap
from workbench.paths.examples import Data, ask
from workbench.paths.written import (
    BATCH,
    NUMBERS,
    answers,
    by_example,
    check_sum,
    components_of,
    read_rows,
    record,
    right_answers,
    scored,
)

Key = Literal["direct", "cut", "total", "passed_on", "loss_cut", "accuracy_cut", "loss_deleted", "accuracy_deleted"]
_TINY = 1e-6


@dataclass(frozen=True)
class Effects:
    """Effects of the ``1 + 2L`` components, each as a mean over the outputs of every example.

    Attributes:
        model: name of the model.
        components: ``embed``, ``a0``, ``m0``, ``a1``, ...
        direct: [component, example] what a component adds to the logit of the right answer by itself, through the final
            norm with its scale held. With ``readout_bias`` they sum to ``value``.
        cut: [component, example] how far that logit falls when the component is cut from the classifier alone and the
            final norm takes the scale of what is left.
        total: [component, example] how far it falls when the component is deleted from everything downstream.
        readout_bias: [example] what the final norm's shift and the unembedding's bias add.
        value: [example] the logit itself.
        centred: whether the mean of all logits is subtracted.
        loss, accuracy: [example] of the model as it is, in nats.
        loss_cut, accuracy_cut: [component, example] with the component cut from the classifier alone.
        loss_deleted, accuracy_deleted: [component, example] with it deleted from everything downstream.
        unit: of the losses.
        parallel: attention and MLP of a block read the same stream, so that there is no attention-then-MLP.
        complete: False where it was stopped before the last batch; the examples that were done are here.
    """

    model: str
    components: tuple[str, ...]
    direct: Float[Tensor, "component example"]
    cut: Float[Tensor, "component example"]
    total: Float[Tensor, "component example"]
    readout_bias: Float[Tensor, " example"]
    value: Float[Tensor, " example"]
    centred: bool
    loss: Float[Tensor, " example"]
    accuracy: Float[Tensor, " example"]
    loss_cut: Float[Tensor, "component example"]
    accuracy_cut: Float[Tensor, "component example"]
    loss_deleted: Float[Tensor, "component example"]
    accuracy_deleted: Float[Tensor, "component example"]
    unit: str
    parallel: bool
    complete: bool = True

    @property
    def passed_on(self) -> Float[Tensor, "component example"]:
        """What later components make of it: the total effect less that of the cut, both with the final norm free."""
        return self.total - self.cut

    def mean(self, key: Key, *, level: float = LEVEL) -> Mean:
        """Means over examples with Student's intervals; losses and accuracies as differences from the model as it is.

        Raises:
            ValueError: an unknown key.
        """
        if key not in get_args(Key):
            raise ValueError(f"Unknown effect '{key}'; choose one of {', '.join(get_args(Key))}.")
        values: Tensor = getattr(self, key)
        if key.startswith(("loss", "accuracy")):
            values = values - (self.loss if key.startswith("loss") else self.accuracy)
        running = Running()
        running.add(values)
        return running.result(level)

    @property
    def three_ways(self) -> Float[Tensor, "layer 3"]:
        """Mean direct effect of each layer's three paths: identity (all that came before), attention, MLP behind it."""
        mean = self.direct.mean(1)
        at = [i for i, name in enumerate(self.components) if name.startswith("a")]
        feeds = len(self.components) > len(at) + 1
        rows = [torch.stack([mean[:i].sum(), mean[i], mean[i + 1] if feeds else mean[i] * 0]) for i in at]
        return torch.stack(rows)

    def to_dict(self, *, level: float = LEVEL) -> dict[str, Any]:
        """Means over examples with half their intervals, as plain numbers and lists."""
        means = {key: self.mean(key, level=level) for key in get_args(Key)}
        return {
            "model": self.model,
            "components": list(self.components),
            "examples": len(self.value),
            "complete": self.complete,
            "centred": self.centred,
            "unit": self.unit,
            "parallel": self.parallel,
            "level": level,
            "value": float(self.value.mean()),
            "readout_bias": float(self.readout_bias.mean()),
            "loss": float(self.loss.mean()),
            "accuracy": float(self.accuracy.mean()),
            "three_ways": plain(self.three_ways),
            **{key: plain(mean.mean) for key, mean in means.items()},
            "half_widths": {key: plain(mean.half_width) for key, mean in means.items()},
        }


@torch.no_grad()
def effects(
    model: Transformer,
    data: Data,
    labels: Tensor | Sequence[int] | None = None,
    *,
    centred: bool = False,
    batch_size: int = BATCH,
    progress: ProgressFn | None = None,
) -> Effects:
    """Direct and total effect of every component, and the loss of deleting it in either sense.

    A pre-norm block is three parallel paths, ``X' = X | MSA(X) | FFN(X + MSA(X))`` (Chang et al. 2023, arXiv
    2308.06548, abstract). Each component gives the classifier something directly and passes something on to later ones.
    Deleting means writing 0.

    Cost: for each component one run of the layers behind it and two of the head.

    Args:
        model: a pre-norm classifier, or a causal language model (the right answer is the next token).
        data: texts, rows of tokens, or images.
        labels: of a classifier, the right class of each example.
        centred: subtract the mean of all logits, which no probability depends on.
        batch_size: examples at a time.
        progress: called after every component of every batch; returning False stops and keeps the batches that are
            done.

    Raises:
        ValueError: a post-norm model (what a component writes is scaled anew by every later norm), one without answers,
            missing labels, or ``centred`` with capped logits.
        Stopped: stopped before the first batch was done.
    """
    components = components_of(model)
    if model.head is not None:
        raise ValueError(f"{model.name} has a dense layer before its logits, so direct effects do not add up.")
    if centred and model.cfg.logit_softcap is not None:
        raise ValueError(f"{model.name} caps its logits one by one, so no mean can be split; leave centred out.")
    questions = ask(model, data, labels, batch_size)
    report = Reporter(progress, len(questions) * len(components), "deleting components")
    found: list[dict[str, Tensor]] = []
    for question in questions:
        one = _batch(model, question, components, centred, report)
        if one is None:
            break
        found.append(one)
    if not found:
        raise Stopped("Stopped before the first batch was done.")
    joined = {name: torch.cat([one[name] for one in found], -1) for name in found[0]}
    unit = "nats for each example" if questions[0].classifies else "nats for each token"
    return Effects(
        model.name, components, centred=centred, unit=unit, parallel=model.cfg.parallel,
        complete=len(found) == len(questions), **joined,
    )  # fmt: skip


def _batch(
    model: Transformer, question: Asked, components: tuple[str, ...], centred: bool, report: Reporter
) -> dict[str, Tensor] | None:
    """All numbers of one batch [component, example] or [example]; None where it was stopped."""
    final, parts = record(model, question, "sublayer", len(components))
    check_sum(model, final, parts)
    target, example = right_answers(question)
    before = _streams(model, question)
    measure = partial(_measure, model, target=target, centred=centred)
    value, loss, right = measure(final)
    direct, bias = direct_effects(model, parts, final, target, centred)
    rows: dict[str, list[Tensor]] = {}
    for index, name in enumerate(components):
        cut = measure(final - parts[index])
        gone = measure(_deleted(model, question, before, name))
        kept = {
            "cut": value - cut[0],
            "total": value - gone[0],
            "loss_cut": cut[1],
            "accuracy_cut": cut[2],
            "loss_deleted": gone[1],
            "accuracy_deleted": gone[2],
        }
        for key, x in kept.items():
            rows.setdefault(key, []).append(x)
        report.step()
        if not report.going and index + 1 < len(components):
            return None
    flat = {"direct": direct, "readout_bias": bias, "value": value, "loss": loss, "accuracy": right}
    flat |= {key: torch.stack(row) for key, row in rows.items()}
    return {key: by_example(x, example, len(question.rows)) for key, x in flat.items()}


def direct_effects(
    model: Transformer,
    parts: Float[Tensor, "component output read d_model"],
    final: Float[Tensor, "output read d_model"],
    target: Int[Tensor, " output"],
    centred: bool = False,
) -> tuple[Float[Tensor, "component output"], Float[Tensor, " output"]]:
    """Direct effects on the logit of the right answer with the final norm's scale held, and what the readout adds.

    Args:
        model: without a dense layer in the head.
        parts: summands of ``final``.
        final: what the final norm reads at the positions of each output.
        target: which logit.
        centred: less the mean of all logits.
    """
    norm, weight = model.ln_final, model.unembedding.weight
    bias = model.unembedding.bias if model.unembedding.bias is not None else weight.new_zeros(len(weight))
    direction, constant = weight[target], bias[target]
    if centred:
        direction, constant = direction - weight.mean(0), constant - bias.mean()
    scale = norm.standardise(final)[1] if norm.weight is not None else final.new_ones(1)
    shift = final.new_zeros(final.shape[-1]) if norm.bias is None else norm.bias

    def read(x: Tensor) -> Tensor:
        """[..., output, read, d_model] behind the norm, to logits."""
        flat = pooled(x.flatten(0, -3), model.cfg).reshape(*x.shape[:-2], -1)
        return torch.einsum("...nd,nd->...n", flat.double(), direction.double())

    direct = torch.stack([read(_held(norm, part, scale)) for part in parts])
    readout = read(shift.expand_as(final)) + constant
    if model.cfg.logit_softcap is not None:
        bare = direct.sum(0) + readout
        near = torch.where(bare.abs() < _TINY, torch.full_like(bare, _TINY), bare)
        gate = model.cfg.logit_softcap * (near / model.cfg.logit_softcap).tanh() / near
        direct, readout = direct * gate, readout * gate
    return direct, readout


def _held(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    """What a norm of this scale makes of a summand, without its shift."""
    if norm.weight is None:
        return x
    x = x - x.mean(-1, keepdim=True) if norm.centred else x
    return x / scale * norm.weight


def _streams(model: Transformer, question: Asked) -> list[Tensor]:
    """The stream that enters every block."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    kept: dict[str, Tensor] = {}
    run_layers(model, question, {name: Keep(kept, name, None) for name in names})
    return [kept[name] for name in names]


def _deleted(
    model: Transformer, question: Asked, before: list[Tensor], component: str
) -> Float[Tensor, "output read d_model"]:
    """What the final norm reads when a component has written 0 for everything downstream."""
    start = 0 if component == "embed" else int(component[1:])
    kind = {"e": "hook_resid_pre", "a": "hook_attn_out", "m": "hook_mlp_out"}[component[0]]
    taps: dict[str, Tap] = {f"blocks.{start}.{kind}": torch.zeros_like}
    first = 0 if reads_first_values(model) else start
    n = model.cfg.n_layers
    out = model(before[first], taps, attention_mask=question.mask, start_at_layer=first, stop_at_layer=n)
    return read_rows(question, out)


def _measure(model: Transformer, stream: Tensor, *, target: Tensor, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logit of the right answer, loss, and whether it is right, of each output."""
    size = max(1, NUMBERS // model.cfg.n_out)
    found = []
    for some in range(0, len(stream), size):
        logits, right = answers(model, stream[some : some + size]), target[some : some + size]
        value = logits.gather(1, right[:, None])[:, 0]
        found.append((value - logits.mean(1) if centred else value, *scored(logits, right)))
    value, loss, hit = (torch.cat([one[i] for one in found]) for i in range(3))
    return value, loss, hit
