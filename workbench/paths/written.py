"""What each component writes where the model's answers are read, worked out once: the members of the ensemble.

A pre-norm block is ``X' = X + MSA(X) + FFN(X + MSA(X))``: identity, attention, and attention-then-MLP, side by side.
Put in a row, L blocks make ``1 + 2L`` components whose sum the classifier reads (Chang et al. 2023, arXiv 2308.06548).
Each gives the classifier something directly and is what later ones read. Here the first alone is changed: components
are cut or weighted in the input of the final norm, and whatever reads them earlier reads them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.asked import Asked
from workbench.attention.pruning import run_layers
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.norm import HALF
from workbench.models.taps import Tap
from workbench.paths.examples import Data, ask

Level = Literal["sublayer", "head"]
BATCH = 16
NUMBERS = 2**24
"""Logits that are made at a time."""
LOOSE = 1e-3


@dataclass(frozen=True)
class Written:
    """What components write at the positions that answers are read from.

    Attributes:
        model: name of the model.
        fingerprint: of the model.
        level: ``sublayer``, or ``head`` where attentions are split.
        components: ``embed``, ``a0`` or ``a0.h0`` ... and ``bias a0`` (what attention adds beside its heads), ``m0``
            and so on.
        parts: [component, output, read, d_model]; of a classifier an example has one output, of a language model one at
            each position that has a next token. ``read`` counts the positions that one output is read from.
        total: [output, read, d_model] the stream that enters the final norm: the sum of ``parts``.
        target: [output] the right class or next token.
        example: [output] which example an output belongs to.
        n: number of examples.
        unit: what the loss is.
    """

    model: str
    fingerprint: str
    level: Level
    components: tuple[str, ...]
    parts: Float[Tensor, "component output read d_model"]
    total: Float[Tensor, "output read d_model"]
    target: Int[Tensor, " output"]
    example: Int[Tensor, " output"]
    n: int
    unit: str

    def of(self, examples: Bool[Tensor, " example"]) -> Written:
        """Some examples, counted anew from 0."""
        examples = examples.to(self.example.device)
        kept = examples[self.example]
        number = examples.long().cumsum(0) - 1
        return replace(
            self,
            parts=self.parts[:, kept],
            total=self.total[kept],
            target=self.target[kept],
            example=number[self.example[kept]],
            n=int(examples.sum()),
        )

    def pieces(self, model: Transformer) -> Iterator[slice]:
        """Runs of outputs whose logits fit into memory."""
        size = max(1, NUMBERS // model.cfg.n_out)
        for start in range(0, len(self.target), size):
            yield slice(start, start + size)

    def stream(self, weights: Tensor, some: slice = slice(None)) -> Float[Tensor, "output read d_model"]:
        """The input of the final norm with components weighted: [component], or [component, d_model] by channel."""
        change = (weights - 1).to(self.parts)
        out = self.total[some].clone()
        for factor, part in zip(change, self.parts, strict=True):
            out.addcmul_(factor, part[some])  # an einsum by channel would copy all parts in another order
        return out

    def logits(self, model: Transformer, weights: Tensor, some: slice = slice(None)) -> Float[Tensor, "output n_out"]:
        """Answers with components weighted; the final norm takes the scale of the weighted sum."""
        return answers(model, self.stream(weights, some))

    @torch.no_grad()
    def scores(
        self, model: Transformer, weights: Tensor
    ) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
        """Loss in nats and accuracy of each example, means over its outputs."""
        found = [scored(self.logits(model, weights, some), self.target[some]) for some in self.pieces(model)]
        loss, right = (torch.cat([pair[i] for pair in found]) for i in (0, 1))
        return self.by_example(loss), self.by_example(right)

    def by_example(self, values: Float[Tensor, "*n output"]) -> Float[Tensor, "*n example"]:
        """Means over the outputs of each example, in float64 on the CPU."""
        return by_example(values, self.example, self.n)

    def ones(self) -> Float[Tensor, " component"]:
        """Weights that change nothing."""
        dtype = torch.promote_types(self.total.dtype, torch.float32)
        return torch.ones(len(self.components), dtype=dtype, device=self.total.device)


def by_example(
    values: Float[Tensor, "*n output"], example: Int[Tensor, " output"], n: int
) -> Float[Tensor, "*n example"]:
    """Means over the outputs of each of ``n`` examples, in float64 on the CPU."""
    values, example = values.double().cpu(), example.cpu()
    sums = values.new_zeros(*values.shape[:-1], n).index_add_(-1, example, values)
    means: Tensor = sums / torch.bincount(example, minlength=n)
    return means


def answers(model: Transformer, stream: Float[Tensor, "output read d_model"]) -> Float[Tensor, "output n_out"]:
    """Logits of what enters the final norm at the positions that each output is read from."""
    out: Tensor = model.logits(stream.to(model.dtype))
    out = out.reshape(len(stream), -1)
    return out.float() if out.dtype in HALF else out


def scored(
    logits: Float[Tensor, "output n_out"], target: Int[Tensor, " output"]
) -> tuple[Float[Tensor, " output"], Float[Tensor, " output"]]:
    """Cross-entropy in nats, and 1.0 where the first answer is right."""
    return F.cross_entropy(logits, target, reduction="none"), (logits.argmax(-1) == target).to(logits.dtype)


@torch.no_grad()
def collect(
    model: Transformer,
    data: Data,
    labels: Tensor | Sequence[int] | None = None,
    *,
    level: Level = "sublayer",
    batch_size: int = BATCH,
    progress: ProgressFn | None = None,
) -> Written:
    """Run data once and keep what every component writes where answers are read.

    Cost: one forward without the head; components x outputs x d_model numbers are kept, at level ``head`` n_heads times
    as many.

    Args:
        model: a classifier, or a causal language model (judged on the next tokens).
        data: texts, rows of tokens, or images.
        labels: of a classifier, the right class of each example.
        level: ``sublayer``, or ``head`` to split attentions.
        batch_size: examples at a time.
        progress: called after every batch.

    Raises:
        ValueError: post-norm models, models without answers, missing or superfluous labels, or activations that are not
            finite.
        Stopped: ``progress`` asked for it.
    """
    components = components_of(model, level)
    questions = ask(model, data, labels, batch_size)
    report = Reporter(progress, len(questions), "running the data")
    parts: list[Tensor] = []
    totals: list[Tensor] = []
    targets: list[Tensor] = []
    examples: list[Tensor] = []
    n = 0
    for question in questions:
        final, seen = record(model, question, level, len(components))
        target, example = right_answers(question)
        check_sum(model, final, seen)
        parts.append(seen)
        totals.append(final)
        targets.append(target)
        examples.append(example + n)
        n += len(question.rows)
        report.step()
        if not report.going:
            raise Stopped("Stopped before all data were run.")
    return Written(
        model.name,
        model.fingerprint,
        level,
        components,
        torch.cat(parts, 1),
        torch.cat(totals),
        torch.cat(targets),
        torch.cat(examples),
        n,
        "nats for each image or text" if questions[0].classifies else "nats for each token",
    )


def record(
    model: Transformer, question: Asked, level: Level, n: int
) -> tuple[Float[Tensor, "output read d_model"], Float[Tensor, "component output read d_model"]]:
    """One forward: the stream that enters the final norm where answers are read, and what each component wrote."""
    found: list[Tensor | None] = [None] * n

    def see(index: int, x: Tensor) -> None:
        found[index] = read_rows(question, x)

    final = read_rows(question, run_layers(model, question, component_taps(model, level, see)))
    return final, torch.stack([part for part in found if part is not None])


def read_rows(question: Asked, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "output read d_model"]:
    """The positions that answers are read from: one for each output, or those that a classifier pools."""
    rows = x[question.rows]
    return rows.view(len(x), -1, x.shape[-1]) if question.classifies else rows[:, None]


def right_answers(question: Asked) -> tuple[Int[Tensor, " output"], Int[Tensor, " output"]]:
    """The right answer of each output, and its example."""
    target = question.target
    assert target is not None
    if question.classifies:
        return target, torch.arange(len(target), device=target.device)
    return target[question.rows], question.rows.nonzero()[:, 0]


def check_sum(model: Transformer, final: Tensor, parts: Tensor) -> None:
    """Refuse what is not finite, and components that do not add up to the stream.

    Raises:
        ValueError: naming the model.
    """
    if not bool(final.isfinite().all()):
        raise ValueError(
            f"The stream of {model.name} is not finite (NaN or infinite); check the weights, or load it in float32."
        )
    apart = float((parts.sum(0) - final).abs().max())
    if apart > LOOSE * float(parts.abs().amax()) and model.dtype not in HALF:
        raise ValueError(
            f"What the components of {model.name} write does not add up to its stream, so they cannot be cut one by "
            "one: its attention does more than weigh values. Take level='sublayer'."
        )


def components_of(model: Transformer, level: Level = "sublayer") -> tuple[str, ...]:
    """The names of what writes into the stream, in order.

    Raises:
        ValueError: an unknown level, no layers, or a model where components have no part of their own.
    """
    cfg = model.cfg
    if level not in get_args(Level):
        raise ValueError(f"Unknown level '{level}'; choose one of {', '.join(get_args(Level))}.")
    if cfg.norm_place == "post":
        raise ValueError(
            f"{model.name} normalises the whole stream after every sublayer (post-norm), so that what a component "
            "wrote is scaled anew by all that follow and is no summand of what the classifier reads; take a pre-norm "
            "model, or paths.decompose, which holds those norms."
        )
    if not cfg.n_layers:
        raise ValueError(f"{model.name} has no layers, so nothing can be cut; choose a deeper model.")
    if level == "head" and cfg.post_norms:
        raise ValueError(
            f"{model.name} normalises what each attention adds, so that its heads are no summands; take "
            "level='sublayer'."
        )
    names = ["embed"]
    for layer, block in enumerate(model.blocks):
        if level == "head":
            names += [f"a{layer}.h{head}" for head in range(cfg.n_heads)]
            names += [f"bias a{layer}"] * (block.attn.b_O is not None)
        else:
            names.append(f"a{layer}")
        names += [f"m{layer}"] * (block.mlp is not None)
    return tuple(names)


def component_taps(model: Transformer, level: Level, see: Callable[[int, Tensor], None]) -> dict[str, Tap]:
    """Taps of one forward that show what each component writes, [batch, pos, d_model], by its number."""
    number = {name: i for i, name in enumerate(components_of(model, level))}

    def whole(index: int) -> Tap:
        def tap(x: Tensor) -> None:
            see(index, x)

        return tap

    def heads(layer: int) -> Tap:
        def tap(z: Tensor) -> None:
            attn = model.blocks[layer].attn
            for head, weight in enumerate(attn.W_O):
                see(number[f"a{layer}.h{head}"], z[:, :, head] @ weight)
            if attn.b_O is not None:
                see(number[f"bias a{layer}"], attn.b_O.expand(*z.shape[:2], -1))

        return tap

    taps: dict[str, Tap] = {"blocks.0.hook_resid_pre": whole(0)}
    for layer, block in enumerate(model.blocks):
        if level == "head":
            taps[f"blocks.{layer}.attn.hook_z"] = heads(layer)
        else:
            taps[f"blocks.{layer}.hook_attn_out"] = whole(number[f"a{layer}"])
        if block.mlp is not None:
            taps[f"blocks.{layer}.hook_mlp_out"] = whole(number[f"m{layer}"])
    return taps


def weighted_taps(
    model: Transformer, level: Level, weights: Float[Tensor, " component"] | Float[Tensor, "component d_model"]
) -> dict[str, Tap]:
    """Taps that weigh components in the input of the final norm, and nowhere else.

    What leaves the last block is read by the final norm alone, so that is where the change is made. The taps hold the
    sum of one forward: they serve one forward after the other, not two at once.
    """
    changed: list[Tensor] = []

    def see(index: int, x: Tensor) -> None:
        if index == 0:
            changed.clear()
        factor = weights[index]
        if bool((factor != 1).any()):
            part = (factor - 1).to(x) * x
            changed[:] = [changed[0] + part] if changed else [part]

    def close(x: Tensor) -> Tensor:
        return x + changed[0] if changed else x

    return component_taps(model, level, see) | {f"blocks.{model.cfg.n_layers - 1}.hook_resid_post": close}
