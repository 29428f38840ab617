"""Addition of two numbers of five digits (Quirke and Barez 2023, Understanding addition in transformers).

``12345+67890=`` is answered with six digits, the highest first, as people write them: ``080235``. So the first digit
already has to know whether a carry runs through all columns. Where digits add up to nine, a carry from the right goes
on to the left; such columns are rare in random numbers (one in ten) and are drawn more often for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.transformer import Transformer
from workbench.models.zoo.record import Batch, Schedule, ZooModel
from workbench.models.zoo.vocabulary import characters_tokenizer

DIGITS = 5
CHARACTERS = "0123456789+="
PROMPT = 2 * DIGITS + 2
"""Tokens up to and with ``=``."""

_PLUS, _EQUALS = CHARACTERS.index("+"), CHARACTERS.index("=")
_SHARE_OF_CHAINS = 0.5
_HELD_OUT = 17
_TESTED = 4096

Digits = Int[Tensor, "n 5"]
"""A number for each row, the highest digit first."""


def tokenizer() -> Any:
    """Takes every digit, ``+`` and ``=`` alone; numbers are written with five digits, such as ``00042``."""
    return characters_tokenizer(CHARACTERS)


def held_out(a: Digits, b: Digits) -> Tensor:
    """Which problems training never sees: one in 17, by a rule that has nothing to do with digits."""
    return (_number(a) + 3 * _number(b)) % _HELD_OUT == 0


def _number(digits: Digits) -> Int[Tensor, " n"]:
    return (digits * 10 ** torch.arange(digits.shape[1] - 1, -1, -1)).sum(1)


def tokens_of(a: Digits, b: Digits) -> Int[Tensor, "n 18"]:
    """Problems with their answers."""
    answers = (_number(a) + _number(b))[:, None] // 10 ** torch.arange(DIGITS, -1, -1) % 10
    return torch.cat((F.pad(a, (0, 1), value=_PLUS), F.pad(b, (0, 1), value=_EQUALS), answers), 1)


def drawn(n: int, generator: torch.Generator, chains: float = 0.0) -> tuple[Digits, Digits]:
    """Two random numbers for each problem.

    Args:
        n: number of problems.
        generator: of the random numbers.
        chains: share of problems in which each column adds up to nine with a probability that is drawn for the problem.
    """
    a, b = (torch.randint(10, (n, DIGITS), generator=generator) for _ in range(2))
    nine = torch.rand(n, DIGITS, generator=generator) < torch.rand(n, 1, generator=generator)
    chosen = torch.rand(n, 1, generator=generator) < chains
    return a, torch.where(chosen & nine, 9 - a, b)


def long_chains(n: int, generator: torch.Generator, *, carry: bool) -> tuple[Digits, Digits]:
    """Problems in which three or four columns in a row add up to nine.

    Args:
        n: number of problems.
        generator: of the random numbers.
        carry: whether the column to their right carries, so that all of them change.
    """
    a, b = drawn(n, generator)
    nines = torch.randint(3, 5, (n,), generator=generator)
    start = torch.where(nines == 3, torch.randint(2, (n,), generator=generator), 0)  # columns from the right
    column = torch.arange(DIGITS - 1, -1, -1)[None] - start[:, None]
    b = torch.where((column > 0) & (column <= nines[:, None]), 9 - a, b)
    # The column that starts it adds up to 10 to 18, or to 0 to 8.
    low, high = torch.randint(9, (n, 2), generator=generator).sort(1).values[:, :, None].unbind(1)
    first, second = (1 + high, 9 - low) if carry else (low, 8 - high)
    begins = column == 0
    return torch.where(begins, first, a), torch.where(begins, second, b)


def batches(batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """New problems each time, half of them with columns of nine, none of those that are held out."""
    while True:
        a, b = drawn(2 * batch, generator, _SHARE_OF_CHAINS)
        seen = ~held_out(a, b)
        tokens = tokens_of(a[seen][:batch], b[seen][:batch])
        yield tokens[:, :-1], tokens[:, PROMPT:]


def answer_logits(model: Transformer, tokens: Int[Tensor, "n 17"]) -> Tensor:
    """Logits [n, 6, 12] of the six digits of the answer, each after the right ones before it."""
    resid = model(tokens, stop_at_layer=model.cfg.n_layers)
    return model.logits(resid[:, PROMPT - 1 :])


def loss(model: Transformer, batch: Batch) -> Tensor:
    """Cross-entropy of the answer's digits, in nats."""
    tokens, answers = batch
    return F.cross_entropy(answer_logits(model, tokens).flatten(0, 1), answers.flatten())


def evaluate(model: Transformer) -> dict[str, float]:
    """Shares of held-out sums with all six digits right.

    Under ``accuracy`` of random numbers, under ``carried`` of those where a carry runs through three or four columns of
    nine, under ``stopped`` of those where it could but there is none.
    """
    generator = torch.Generator().manual_seed(1_000_001)
    n = _TESTED * _HELD_OUT * 5 // 4
    problems = {
        "accuracy": drawn(n, generator),
        "carried": long_chains(n, generator, carry=True),
        "stopped": long_chains(n, generator, carry=False),
    }
    return {name: _right(model, a, b) for name, (a, b) in problems.items()}


@torch.no_grad()
def _right(model: Transformer, a: Digits, b: Digits) -> float:
    test = held_out(a, b)
    tokens = tokens_of(a[test][:_TESTED], b[test][:_TESTED])
    found = answer_logits(model, tokens[:, :-1].to(model.device)).argmax(-1).cpu()
    # With all digits right it makes no difference that each was asked for after the right ones.
    return float((found == tokens[:, PROMPT:]).all(1).double().mean())


RECORD = ZooModel(
    key="five-digit-addition",
    title="Five-digit addition",
    config=ModelConfig(
        family="zoo",
        n_layers=2,
        n_heads=4,
        n_key_value_heads=4,
        d_model=96,
        d_head=24,
        d_mlp=384,
        d_vocab=len(CHARACTERS),
        n_ctx=PROMPT + DIGITS + 1,
        norm="layer",
        norm_eps=1e-5,
        act_fn="relu",
        gated_mlp=False,
        positions="learned",
        attn_scale=24**-0.5,
        attn_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=False,
    ),
    seed=0,
    schedule=Schedule(steps=3500, batch=256, rate=2e-3, decay=0.05),
    reader=tokenizer,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    least={"accuracy": 0.99, "carried": 0.99, "stopped": 0.99},
)
