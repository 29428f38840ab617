"""Addition modulo 113 (Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability).

One layer without norms and biases reads ``a b =`` and answers ``(a + b) mod 113`` at the last position. It learns 40 %
of the 12,769 pairs by heart first; weight decay then makes it find the rule, and the held-out pairs come right too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.transformer import Transformer
from workbench.models.zoo.record import Batch, Schedule, ZooModel
from workbench.models.zoo.vocabulary import words_tokenizer

MODULUS = 113
EQUALS = MODULUS
"""The token ``=``; the numbers are their own tokens."""

_TRAINED = 0.4  # with 0.3, as in the paper, the rule takes several times as long to come
_SPLIT_SEED = 0
_KEY_POWER = 0.02  # share of all power that makes a frequency a key one; an even spread gives each 1 / 56


class Split(NamedTuple):
    """Every pair of numbers once, in one of two parts.

    Attributes:
        train: tokens [n, 3] of ``a b =``, 40 % of the pairs.
        train_answers: [n], ``(a + b) mod 113``.
        test, test_answers: the other pairs.
    """

    train: Int[Tensor, "n 3"]
    train_answers: Int[Tensor, " n"]
    test: Int[Tensor, "n 3"]
    test_answers: Int[Tensor, " n"]


def split() -> Split:
    """The pairs that training sees, and the others; always the same."""
    pairs = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    tokens = F.pad(pairs, (0, 1), value=EQUALS)[order]
    answers = pairs.sum(1)[order] % MODULUS
    n = int(_TRAINED * len(pairs))
    return Split(tokens[:n], answers[:n], tokens[n:], answers[n:])


def tokenizer() -> Any:
    """Reads ``5 + 7 =`` and ``5 7 =`` alike; numbers from 0 to 112."""
    return words_tokenizer([*map(str, range(MODULUS)), "="], silent="+")


def batches(batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """The training pairs in a new order each time round; what is less than a batch at the end is left out."""
    tokens, answers, _, _ = split()
    while True:
        order = torch.randperm(len(tokens), generator=generator)
        for chosen in order[: len(order) // batch * batch].view(-1, batch):
            yield tokens[chosen], answers[chosen]


def loss(model: Transformer, batch: Batch) -> Tensor:
    """Cross-entropy of the answer at ``=``, in nats."""
    tokens, answers = batch
    return F.cross_entropy(model(tokens)[:, -1], answers)


def evaluate(model: Transformer) -> dict[str, float]:
    """Shares of held-out and of trained pairs that come right, and how much of the embedding is a few frequencies."""
    parts = split()
    power = frequency_power(model)
    return {
        "accuracy": _accuracy(model, parts.test, parts.test_answers),
        "accuracy_trained": _accuracy(model, parts.train, parts.train_answers),
        "key_frequency_power": float(power[[k - 1 for k in key_frequencies(model)]].sum()),
    }


@torch.no_grad()
def _accuracy(model: Transformer, tokens: Tensor, answers: Tensor) -> float:
    found = model(tokens.to(model.device))[:, -1].argmax(-1).cpu()
    return float((found == answers).double().mean())


def frequency_power(model: Transformer) -> Float[Tensor, " frequency"]:
    """Share of each frequency 1, ..., 56 in the squared embedding of the numbers, the constant part left out.

    The rule is worked out with ``cos`` and ``sin`` of ``2 pi k a / 113`` at a few frequencies k. The embedding of a
    model that knows nothing of the rule has power at all frequencies, about 0.018 each.
    """
    transformed = torch.fft.rfft(model.W_E[:MODULUS].detach().double().cpu(), dim=0)[1:]
    power: Tensor = transformed.abs().pow(2).sum(-1)
    return power / power.sum()


def key_frequencies(model: Transformer) -> list[int]:
    """The frequencies that the model works with, the strongest first."""
    power = frequency_power(model)
    return [int(k) + 1 for k in power.argsort(descending=True) if power[k] > _KEY_POWER]


RECORD = ZooModel(
    key="modular-addition",
    title="Modular addition",
    config=ModelConfig(
        family="zoo",
        n_layers=1,
        n_heads=4,
        n_key_value_heads=4,
        d_model=128,
        d_head=32,
        d_mlp=512,
        d_vocab=MODULUS + 1,
        d_vocab_out=MODULUS,
        n_ctx=3,
        norm="none",
        norm_eps=1e-5,
        act_fn="relu",
        gated_mlp=False,
        positions="learned",
        attn_scale=32**-0.5,
        tied=False,
    ),
    seed=0,
    schedule=Schedule(steps=3000, batch=1021, rate=2e-3, decay=1.0),
    reader=tokenizer,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    least={"accuracy": 0.99, "accuracy_trained": 0.99, "key_frequency_power": 0.7},
    inside=lambda model: {"key_frequencies": key_frequencies(model)},
)
