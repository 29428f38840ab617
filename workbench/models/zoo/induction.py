"""Induction heads (Elhage et al. 2021; Olsson et al. 2022) in two layers of attention without MLPs.

A text is a start token, a random series of unlike words, and then pieces of that series, each from a random place on,
until the context is full. Within a piece, the next word is what followed last time. A head of layer 0 writes into each
position which word stood before it; a head of layer 1 looks where the present word stood before.

The pieces matter. Of a series that simply comes round, the next word is also the one that was not seen for longest:
trained on that, a model of width 64 got three quarters right without any head that looks for the word. Rotary positions
keep places out of the residual stream. With learned ones all came right, but no head attended to the word before by
more than a quarter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.transformer import Transformer
from workbench.models.zoo.record import Batch, Schedule, ZooModel
from workbench.models.zoo.vocabulary import words_tokenizer

START = "[BOS]"
WORDS = (
    *"abcdefghijklmnopqrstuvwxyz",
    *(
        "apple river stone chair music winter paper horse window silver bread cloud dragon engine forest guitar hammer "
        "island jacket kitchen lemon mirror needle ocean pencil queen rabbit summer table umbrella village water "
        "yellow zebra bridge candle doctor"
    ).split(),
)
"""What the model knows, besides the start token 0."""

CONTEXT = 64
_SHORTEST, _LONGEST = 8, 32  # words in a series
_JUMP = 1 / 8  # how often a piece ends after a word
_STRONG = 0.4  # the mean attention that makes a head one of its kind; a look at no particular place gives 0.03


def tokenizer() -> Any:
    """Reads words between spaces, such as ``a b c a b``, and puts the start token before them."""
    return words_tokenizer([START, *WORDS], start=START)


def repeated(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "n pos"]:
    """Texts of the start token and a random series of unlike words, twice over.

    Args:
        n: number of texts.
        length: words in the series, at most 31.
        generator: of the random numbers.

    Returns:
        Tokens [n, 2 * length + 1]. From the second word of the second round on, each can be known.
    """
    return F.pad(_series(n, generator)[:, :length].repeat(1, 2), (1, 0))


def _series(n: int, generator: torch.Generator) -> Int[Tensor, "n word"]:
    return 1 + torch.rand(n, len(WORDS), generator=generator).argsort(1)


def batches(batch: int, generator: torch.Generator) -> Iterator[Batch]:
    """New texts each time, and for each position whether its word could be known (0 or 1)."""
    while True:
        yield pieces(batch, generator)


def pieces(n: int, generator: torch.Generator) -> Batch:
    """Texts of the start token, a series of 8 to 32 unlike words and pieces of it.

    Args:
        n: number of texts.
        generator: of the random numbers.

    Returns:
        Tokens [n, 64], and where a word follows the one that it followed before [n, 64]: 1 there, 0 elsewhere.
    """
    at = torch.arange(CONTEXT - 1)
    length = torch.randint(_SHORTEST, _LONGEST + 1, (n, 1), generator=generator)
    target = (torch.rand(n, CONTEXT - 1, generator=generator) * length).long()
    jumps = (torch.rand(n, CONTEXT - 1, generator=generator) < _JUMP) & (at > length) | (at == length)
    # Where the present piece began, and its place in the series there; the first one is the series itself.
    began = (jumps * at).cummax(1).values
    first = torch.where(began > 0, target.gather(1, began), 0)
    place = (first + at - began) % length
    words = _series(n, generator).gather(1, place)
    known = (at > length) & ~jumps & (place > 0)
    return F.pad(words, (1, 0)), F.pad(known.long(), (1, 0))


def loss(model: Transformer, batch: Batch) -> Tensor:
    """Cross-entropy in nats of every word, whether it can be known or not, as in a language model."""
    tokens, _ = batch
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: Transformer) -> dict[str, float]:
    """How much of the second round comes right, on new series, and how much induction and its parts look like it."""
    length = 24
    tokens = repeated(256, length, torch.Generator().manual_seed(1_000_001))
    found = model(tokens.to(model.device)).argmax(-1).cpu()
    right = found[:, length + 1 : -1] == tokens[:, length + 2 :]
    scores = head_scores(model)
    return {
        "accuracy": float(right.double().mean()),
        "prefix_matching": float(scores["prefix_matching"][1].max()),
        "previous_token": float(scores["previous_token"][0].max()),
    }


@torch.no_grad()
def head_scores(model: Transformer, *, n: int = 64, length: int = 24, seed: int = 2_000_003) -> dict[str, Tensor]:
    """What each head looks at in the second round of new series, as Olsson et al. 2022 measure it.

    Args:
        model: this model, or another one of its vocabulary.
        n: number of texts.
        length: words in a series.
        seed: of the series.

    Returns:
        Under ``prefix_matching`` the mean attention [layer, head] to the word that followed last time, under
        ``previous_token`` that to the word before.
    """
    tokens = repeated(n, length, torch.Generator().manual_seed(seed))
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens.to(model.device), patterns)
    queries = torch.arange(length + 1, 2 * length + 1)

    def mean_at(keys: Tensor) -> Float[Tensor, "layer head"]:
        return torch.stack([cache[name][:, :, queries, keys].mean((0, 2)).cpu() for name in patterns])

    return {"prefix_matching": mean_at(queries - length + 1), "previous_token": mean_at(queries - 1)}


def heads(model: Transformer) -> dict[str, Any]:
    """The heads [layer, head] of each kind, and the scores that say so."""
    scores = head_scores(model)
    return {
        "induction_heads": (scores["prefix_matching"] > _STRONG).nonzero().tolist(),
        "previous_token_heads": (scores["previous_token"] > _STRONG).nonzero().tolist(),
        **{name: [[round(float(s), 3) for s in layer] for layer in score] for name, score in scores.items()},
    }


RECORD = ZooModel(
    key="induction-2l",
    title="Two-layer induction",
    config=ModelConfig(
        family="zoo",
        n_layers=2,
        n_heads=4,
        n_key_value_heads=4,
        d_model=96,
        d_head=24,
        d_mlp=0,
        d_vocab=1 + len(WORDS),
        n_ctx=CONTEXT,
        norm="layer",
        norm_eps=1e-5,
        act_fn="relu",
        gated_mlp=False,
        positions="rotary",
        rotary_base=100.0,
        attn_scale=24**-0.5,
        tied=False,
        attn_only=True,
    ),
    seed=0,
    schedule=Schedule(steps=2000, batch=64, rate=3e-3, decay=0.01),
    reader=tokenizer,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    least={"accuracy": 0.95, "prefix_matching": 0.5, "previous_token": 0.5},
    inside=heads,
)
