"""Successor heads: what a head writes when it reads ``Monday`` raises ``Tuesday`` most, by its weights alone.

Gould et al. 2023 ("Successor heads: recurring, interpretable attention heads in the wild", arXiv 2312.09230): the
effective OV circuit ``W_U W_OV MLP_0(W_E)`` of a head is fed with the members of sequences such as days, months and
numbers, and the score is the share of them whose successor gets the highest logit. Only the logits of the sequences'
own tokens are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.effective import Reads, effective, read_by
from workbench.attention.entropy import HeadValue
from workbench.attention.head_circuits import ov_weights, require_decoder, unembedding
from workbench.attention.observed import ByHead, plain
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer


@dataclass(frozen=True)
class OrdinalSequence:
    """Words in their natural order.

    Attributes:
        key: its name.
        words: in order.
        closed: the first follows the last.
    """

    key: str
    words: tuple[str, ...]
    closed: bool = False


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_RANKS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")

SEQUENCES: tuple[OrdinalSequence, ...] = (
    OrdinalSequence("digits", tuple(str(number) for number in range(1, 101))),
    OrdinalSequence("numbers", _NUMBERS),
    OrdinalSequence("ranks", _RANKS),
    OrdinalSequence("days", _DAYS, closed=True),
    OrdinalSequence("months", _MONTHS, closed=True),
    OrdinalSequence("letters", tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
)


@dataclass(frozen=True)
class SuccessorPair:
    """One member of a sequence and the next, both single tokens; ``spaced`` where a space stands before them."""

    sequence: str
    word: str
    next_word: str
    token: int
    next_token: int
    spaced: bool


@dataclass(frozen=True)
class Successors:
    """How often a head's OV circuit says what comes next.

    Attributes:
        model: name of the model.
        score: share of all pairs whose successor has the highest logit among the candidates, [layer, head].
        own: share of all pairs where the token itself has it instead: a head that copies, [layer, head].
        by_sequence: the score of the pairs of each sequence, [layer, head].
        pairs: what was asked.
        candidates: members that the tokenizer has, with a space before them (True) and without: those among which the
            successor must win; 1 in that many would be right by chance.
        reads: what heads were fed with, as in :func:`workbench.attention.effective.effective`.
    """

    model: str
    score: ByHead
    own: ByHead
    by_sequence: Mapping[str, ByHead]
    pairs: tuple[SuccessorPair, ...]
    candidates: Mapping[bool, int]
    reads: Reads

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each sequence that the tokenizer has."""
        return {key: sum(pair.sequence == key for pair in self.pairs) for key in self.by_sequence}

    def top(self, n: int = 5) -> list[HeadValue]:
        """The ``n`` heads with the highest score, the highest first."""
        best = self.score.flatten().argsort(descending=True, stable=True)[:n].tolist()
        heads = self.score.shape[1]
        return [HeadValue(at // heads, at % heads, float(self.score.flatten()[at])) for at in best]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists."""
        return {
            "model": self.model,
            "reads": self.reads,
            "pairs": self.counts,
            "candidates": {"spaced": self.candidates.get(True, 0), "plain": self.candidates.get(False, 0)},
            "score": plain(self.score),
            "own": plain(self.own),
            "by_sequence": {key: plain(score) for key, score in self.by_sequence.items()},
        }


@torch.no_grad()
def successors(
    model: Transformer,
    *,
    sequences: Sequence[OrdinalSequence] = SEQUENCES,
    reads: Reads = "mlp0",
    progress: ProgressFn | None = None,
) -> Successors:
    """The successor score of every head, from weights alone.

    A word counts where it and its successor are single tokens of the model's tokenizer, once with a space before both
    and once without. A successor competes with all members of all sequences that are written like it, with a space or
    without. Heads of the first layer read embeddings, those behind it what ``reads`` says. The weights of the norms
    count, their biases and those of values do not (they are the same for every token), nor do positions.

    Args:
        model: a decoder with a tokenizer.
        sequences: what to ask.
        reads: the effective embedding; the paper's is the first MLP's output.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: the model is no decoder of text, has no tokenizer, or none of these words as single tokens.
        Stopped: ``progress`` asked for it.
    """
    require_decoder(model)
    pairs, members = pairs_of(model, sequences)
    if not pairs:
        raise ValueError(f"No two neighbours of the sequences are single tokens for {model.name}; give others.")
    device = model.device
    source = torch.tensor([pair.token for pair in pairs], device=device)
    candidates = torch.tensor(sorted({*members[True], *members[False]}), device=device)
    place = {token: at for at, token in enumerate(candidates.tolist())}
    allowed = torch.stack([torch.isin(candidates, torch.tensor(members[pair.spaced], device=device)) for pair in pairs])
    target = torch.tensor([place[pair.next_token] for pair in pairs], device=device)
    itself = torch.tensor([place[pair.token] for pair in pairs], device=device)
    out = unembedding(model)[candidates]
    first, later = effective(model, source, "embedding"), effective(model, source, reads)
    report = Reporter(progress, model.cfg.n_layers, "reading successors")
    wins, own = [], []
    for layer in range(model.cfg.n_layers):
        x = read_by(model, layer, later if layer else first)
        best = best_of(model, layer, x, out, allowed)
        wins.append((best == target).double())
        own.append((best == itself).double().mean(-1))
        report.step()
        if not report.going:
            raise Stopped("Stopped before the OV circuits of all layers were read.")
    won = torch.stack(wins).cpu()
    keys = list(dict.fromkeys(sequence.key for sequence in sequences))
    chosen = {key: [at for at, pair in enumerate(pairs) if pair.sequence == key] for key in keys}
    return Successors(
        model.name,
        won.mean(-1),
        torch.stack(own).cpu(),
        {key: won[..., at].mean(-1) for key, at in chosen.items() if at},
        tuple(pairs),
        {spaced: len(tokens) for spaced, tokens in members.items()},
        reads,
    )


def best_of(
    model: Transformer,
    layer: int,
    x: Float[Tensor, "token d_model"],
    out: Float[Tensor, "candidate d_model"],
    allowed: Tensor,
) -> Tensor:
    """Which candidate each head raises most for each token, [head, token]; -1 where several are raised alike."""
    reads, writes = ov_weights(model, layer)
    logits = torch.einsum("hte,hef,cf->htc", x @ reads, writes, out).masked_fill(~allowed, -torch.inf)
    highest, best = logits.max(-1)
    return best.masked_fill((logits == highest[..., None]).sum(-1) > 1, -1)


def pairs_of(
    model: Transformer, sequences: Sequence[OrdinalSequence]
) -> tuple[list[SuccessorPair], dict[bool, list[int]]]:
    """Neighbours that are single tokens, and all members that are, with a space before them and without.

    A word that stands for one token with a space and without counts once, without.

    Raises:
        ValueError: there is no tokenizer; no sequence, or one of fewer than two words.
    """
    if not sequences or any(len(sequence.words) < 2 for sequence in sequences):
        raise ValueError("Give at least one sequence, and each at least two words.")
    if model.tokenizer is None:
        raise ValueError(f"{model.name} came without a tokenizer, so that there are no words to ask for.")
    pairs: list[SuccessorPair] = []
    members: dict[bool, list[int]] = {False: [], True: []}
    for spaced in (False, True):
        for sequence in sequences:
            ids = [_single(model, f" {word}" if spaced else word) for word in sequence.words]
            if spaced:
                ids = [None if token in members[False] else token for token in ids]
            members[spaced] += [token for token in ids if token is not None and token not in members[spaced]]
            last = len(ids) if sequence.closed else len(ids) - 1
            for at in range(last):
                then = (at + 1) % len(ids)
                token, next_token = ids[at], ids[then]
                if token is not None and next_token is not None:
                    words = sequence.words
                    pairs.append(SuccessorPair(sequence.key, words[at], words[then], token, next_token, spaced))
    return pairs, members


def _single(model: Transformer, word: str) -> int | None:
    """The one token of a word; a token that stands for any unknown word is none."""
    found = model.to_single_token(word) if model.text.is_single(word) else None
    return None if found == model.tokenizer.unk_token_id else found
