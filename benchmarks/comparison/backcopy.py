"""The Bigram-Backcopy task (Guo et al. 2024, arXiv 2410.13835): a Markov chain in which some tokens ask for a copy.

Token 0 begins every sequence, tokens 1 to ``triggers`` are triggers, all others are plain. After a trigger comes the
token before it once more; after any other token the next one is drawn from that token's row of the bigram table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Backcopy:
    """A fixed table of bigrams, and what can be known of it exactly.

    Attributes:
        vocab: tokens in all.
        triggers: how many of them ask for a copy.
        rate: probability of a trigger after a plain token.
        sharpness: spread of the logits from which the table's rows are made; 0 makes all plain tokens equally likely.
        seed: of the table.
    """

    vocab: int = 32
    triggers: int = 3
    rate: float = 0.15
    sharpness: float = 1.5
    seed: int = 0

    @cached_property
    def table(self) -> Tensor:
        """Probabilities [token, next]; zero in the rows of triggers, which never use one.

        The first token is followed by a plain one, and triggers only come after plain ones: there always is a plain
        token to copy.
        """
        generator = torch.Generator().manual_seed(self.seed)
        first = self.triggers + 1
        plain = self.vocab - first
        table = torch.zeros(self.vocab, self.vocab, dtype=torch.float64)
        words = torch.randn(plain, plain, generator=generator).double() * self.sharpness
        marks = torch.randn(plain, self.triggers, generator=generator).double()
        table[first:, first:] = words.softmax(-1) * (1 - self.rate)
        table[first:, 1:first] = marks.softmax(-1) * self.rate
        table[0, first:] = 1 / plain
        return table

    @cached_property
    def row_entropy(self) -> Tensor:
        """Entropy of each row of the table, in nats [token]."""
        return torch.special.entr(self.table).sum(-1)

    def is_trigger(self, tokens: Tensor) -> Tensor:
        """True at triggers, of the shape of ``tokens``."""
        return (tokens >= 1) & (tokens <= self.triggers)

    def draw(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """``count`` sequences [count, length]."""
        tokens = torch.zeros(count, length, dtype=torch.long)
        limits = self.table.cumsum(-1)
        limits[:, -1] = 1  # rounding must not leave a gap at the top
        for place in range(1, length):
            last = tokens[:, place - 1]
            chance = torch.rand(count, 1, generator=generator, dtype=torch.float64)
            drawn = torch.searchsorted(limits[last], chance, right=True)[:, 0].clamp(max=self.vocab - 1)
            tokens[:, place] = torch.where(self.is_trigger(last), tokens[:, place - 2], drawn)
        return tokens

    def next_probabilities(self, tokens: Tensor) -> Tensor:
        """The true distribution of the next token at every position [batch, pos, vocab]."""
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], 1)
        copied = torch.nn.functional.one_hot(before, self.vocab).to(self.table.dtype)
        return torch.where(self.is_trigger(tokens)[..., None], copied, self.table[tokens])

    def entropy(self, length: int) -> tuple[float, float]:
        """Expected entropy of the next token, exactly: a mean over ``length`` positions, and over bigram ones alone.

        The loss that no model without a view of the future can undercut. Followed forward: how likely a position holds
        each plain token, and how likely a trigger that came after it.
        """
        plain = torch.zeros(self.vocab, dtype=torch.float64)
        plain[0] = 1
        asked = torch.zeros_like(plain)
        to_trigger = self.table[:, 1 : self.triggers + 1].sum(-1)
        to_plain = self.table.clone()
        to_plain[:, 1 : self.triggers + 1] = 0
        total, positions = 0.0, 0.0
        for _ in range(length):
            total += float(plain @ self.row_entropy)
            positions += float(plain.sum())
            plain, asked = plain @ to_plain + asked, plain * to_trigger
        return total / length, total / positions
