"""The logit lens: what the model would answer if it stopped after each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.layers import taken
from workbench.attention.observed import plain
from workbench.circuits.decomposition.answers import answer_name
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.lens.places import (
    Streams,
    answers_at_positions,
    check_answers,
    positions_named,
    read_streams,
    real_rows,
    target_ids,
)
from workbench.models import Transformer


class Translator(Protocol):
    """What changes a stream before the head reads it; :class:`workbench.lens.TunedLens` is one."""

    @property
    def title(self) -> str:
        """What the reading is called then."""

    def check(self, model: Transformer, sublayers: bool) -> None:
        """Raise ValueError where it was not made for this model and these places."""

    def translate(self, place: str, resid: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The stream as it would be at the end."""


@dataclass(frozen=True)
class LogitLens:
    """What the model would answer at every place. Padding has NaN, ids -1 and rank 0.

    A classifier has one position: its answer.

    Attributes:
        model: name of the model.
        title: ``logit lens`` or ``tuned lens``.
        places: ``embed``, then (``a0``,) ``m0``, ... to the last layer, which is the model's own answer.
        names: what stands at each position [batch][pos] of the input.
        positions: positions that were read, of those; empty for a classifier.
        top: ids of the ``k`` most likely answers, the first first.
        top_words: each of these ids as text.
        top_probs: their probabilities.
        targets: ids that were followed.
        logits, probs: logit and probability of each target.
        ranks: place of each target among all answers; 1 is the most likely.
        entropy: of the answer, in nats.
        kl: KL(model's own answer || answer here), in nats; 0 at the last place.
        complete: False where it was stopped before the last position; the rest is NaN.
    """

    model: str
    title: str
    places: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    positions: tuple[int, ...]
    top: Int[Tensor, "place batch pos k"]
    top_words: dict[int, str]
    top_probs: Float[Tensor, "place batch pos k"]
    targets: Int[Tensor, "batch pos target"]
    logits: Float[Tensor, "place batch pos target"]
    probs: Float[Tensor, "place batch pos target"]
    ranks: Int[Tensor, "place batch pos target"]
    entropy: Float[Tensor, "place batch pos"]
    kl: Float[Tensor, "place batch pos"]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers (NaN as None)."""
        tensors = ("top", "top_probs", "targets", "logits", "probs", "ranks", "entropy", "kl")
        return {
            "model": self.model,
            "title": self.title,
            "places": list(self.places),
            "names": [list(row) for row in self.names],
            "positions": list(self.positions),
            "top_words": {str(index): word for index, word in self.top_words.items()},
            "complete": self.complete,
            **{name: plain(getattr(self, name)) for name in tensors},
        }


@torch.no_grad()
def logit_lens(
    model: Transformer,
    tokens: Tensor | str | Sequence[str],
    *,
    targets: Tensor | Sequence[int | str] | None = None,
    k: int = 5,
    sublayers: bool = False,
    positions: Sequence[int] | None = None,
    translator: Translator | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    token_types: Int[Tensor, "batch pos"] | None = None,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> LogitLens:
    """Read the residual stream after every layer through the model's own final norm and head.

    ``logits_l = head(ln_final(x_l))`` (nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023,
    arXiv 2303.08112, section 2). The norm works on x_l itself, with its own scale there. Models that normalise behind
    each layer (BERT) have no final norm and are read as they are; a masked language model through its dense head, a
    classifier where it pools. The last place is the model's own answer.

    Cost: one forward without the head, and the head once for each place and position. Memory: the stream at every
    place (place x batch x pos x d_model numbers) and logits of as many positions as ``budget`` has room for, at one
    place at a time; never place x pos x d_vocab.

    Args:
        model: a language model, masked language model or classifier of text or images.
        tokens: text or texts, tokens [batch, pos], pixels or patches.
        targets: answers to follow: words, class names or ids, the same everywhere, or a tensor [batch, target] or
            [batch, pos, target]. By default the model's own first answer at each position.
        k: how many of the most likely answers to keep.
        sublayers: read behind each attention as well.
        positions: positions to read, negative from the end; all by default. Not for a classifier.
        translator: a trained lens to read through.
        attention_mask: [batch, pos] 1 for real tokens.
        token_types: [batch, pos] segments (BERT).
        budget: bytes for logits.
        progress: called after every chunk of positions; returning False stops and keeps what is finished.

    Raises:
        ValueError: the model has no distribution of answers; an unknown target or position; ``k`` that is none; a
            translator of another model; activations that are not finite.
        Stopped: stopped before the first chunk.
    """
    check_answers(model, "The logit lens")
    if translator is not None:
        translator.check(model, sublayers)
    if not 1 <= k <= model.cfg.n_out:
        raise ValueError(f"k is how many answers to keep, from 1 to {model.cfg.n_out}; got {k}.")
    given = taken(model, tokens, attention_mask, token_types)
    chosen = _positions(model, given.n, positions)
    shape = (len(given.tokens), len(chosen) if answers_at_positions(model) else 1)
    wanted = target_ids(model, targets, shape)
    streams = read_streams(model, given, sublayers=sublayers)
    real = real_rows(given, answers_at_positions(model))
    real = real[:, list(chosen)] if answers_at_positions(model) else real
    table = _Table(len(streams.names), shape, k, 1 if wanted is None else wanted.shape[-1])
    rows = Rows(model, streams, real, chosen)
    chunks = rows.chunks(budget)
    report = Reporter(progress, len(chunks), "reading through the head")
    for chunk in chunks:
        final = rows.logits(len(streams.names) - 1, chunk).log_softmax(-1)
        ids = final.argmax(-1, keepdim=True) if wanted is None else wanted[real][chunk]
        places = real.nonzero()[chunk]
        for place in range(len(streams.names)):
            logits = rows.logits(place, chunk, translator)
            table.put(place, places, logits, final, ids)
        report.step()
        if not report.going:
            break
    return table.result(model, streams, chosen, translator, report.done == report.total)


def _positions(model: Transformer, n: int, positions: Sequence[int] | None) -> tuple[int, ...]:
    if not answers_at_positions(model):
        if positions is not None:
            raise ValueError(f"{model.name} gives one answer for the whole input; leave positions out.")
        return ()
    if positions is None:
        return tuple(range(n))
    for position in positions:
        if not -n <= position < n:
            raise ValueError(f"There is no position {position}: the input has the positions 0 to {n - 1}.")
    if not len(positions):
        raise ValueError("No position is chosen; give at least one, or leave positions out.")
    return tuple(position % n for position in positions)


class Rows:
    """Rows of answers: every real position, or every example of a model that pools.

    Args:
        model: the model.
        streams: of one batch.
        real: [batch, pos] which answers there are.
        positions: positions of the input that the second axis of ``real`` stands for.
    """

    def __init__(
        self, model: Transformer, streams: Streams, real: Bool[Tensor, "batch pos"], positions: Sequence[int]
    ) -> None:
        self.model, self.streams, self.real, self.positions = model, streams, real, list(positions)

    def chunks(self, budget: int) -> list[slice]:
        """Rows in pieces whose logits take no more than the budget, or one by one."""
        # Logits, their logarithms, those of the model, and two products of them.
        size = max(1, budget // (6 * 4 * self.model.cfg.n_out))
        n = int(self.real.sum())
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def resid(self, place: int, rows: slice | Tensor) -> Float[Tensor, "row d_model"]:
        """The stream at a place, of a model with an answer at each position."""
        flat: Tensor = self.streams.resid[place][:, self.positions][self.real]
        return flat[rows]

    def logits(
        self, place: int, rows: slice | Tensor, translator: Translator | None = None
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits of some rows at a place, in float32."""
        name = self.streams.names[place]

        def through(x: Tensor) -> Tensor:
            return x if translator is None else translator.translate(name, x)

        if answers_at_positions(self.model):
            return self.model.logits(through(self.resid(place, rows))[None])[0].float()
        mask = self.streams.mask
        resid = through(self.streams.resid[place][rows])
        return self.model.logits(resid, mask=None if mask is None else mask[rows]).float()


class _Table:
    """The numbers while they come in."""

    def __init__(self, n: int, shape: tuple[int, int], k: int, targets: int) -> None:
        def empty(*more: int) -> Tensor:
            return torch.full((n, *shape, *more), torch.nan)

        self.top, self.ranks = empty(k).fill_(-1).long(), empty(targets).fill_(0).long()
        self.top_probs, self.logits, self.probs = empty(k), empty(targets), empty(targets)
        self.entropy, self.kl = empty(), empty()
        self.targets = torch.full((*shape, targets), -1)

    def put(
        self,
        place: int,
        at: Int[Tensor, "row 2"],
        logits: Float[Tensor, "row d_vocab"],
        final: Float[Tensor, "row d_vocab"],
        ids: Int[Tensor, "row target"],
    ) -> None:
        """Numbers of some rows at one place."""
        log_probs = logits.log_softmax(-1)
        best = log_probs.topk(self.top.shape[-1], -1)
        own = logits.gather(-1, ids)
        b, p = at.cpu().T
        self.top[place, b, p] = best.indices.cpu()
        self.top_probs[place, b, p] = best.values.exp().cpu()
        self.targets[b, p] = ids.cpu()
        self.logits[place, b, p] = own.cpu()
        self.probs[place, b, p] = log_probs.gather(-1, ids).exp().cpu()
        above = [(logits > own[:, i : i + 1]).sum(-1) for i in range(ids.shape[-1])]
        self.ranks[place, b, p] = 1 + torch.stack(above, -1).cpu()
        self.entropy[place, b, p] = -_expected(log_probs, log_probs).cpu()
        self.kl[place, b, p] = _expected(final, final - log_probs).cpu()

    def result(
        self,
        model: Transformer,
        streams: Streams,
        positions: tuple[int, ...],
        translator: Translator | None,
        complete: bool,
    ) -> LogitLens:
        """The finished record.

        Raises:
            Stopped: nothing came in.
        """
        if not bool((self.targets >= 0).any()):
            raise Stopped("Stopped before the first positions were read; nothing was kept.")
        seen = sorted({*self.top.flatten().tolist(), *self.targets.flatten().tolist()})
        return LogitLens(
            model=model.name,
            title="logit lens" if translator is None else translator.title,
            places=streams.names,
            names=positions_named(model, streams.given),
            positions=positions,
            top=self.top,
            top_words={index: answer_name(model, index) for index in seen if index >= 0},
            top_probs=self.top_probs,
            targets=self.targets,
            logits=self.logits,
            probs=self.probs,
            ranks=self.ranks,
            entropy=self.entropy,
            kl=self.kl,
            complete=complete,
        )


def _expected(log_probs: Float[Tensor, "row n"], of: Float[Tensor, "row n"]) -> Float[Tensor, " row"]:
    """``sum p x`` with 0 where p is 0: the logarithm may be minus infinity there."""
    p = log_probs.exp()
    return (p * of.masked_fill(p == 0, 0.0)).sum(-1)
