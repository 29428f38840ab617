"""Sentences that say the same in other words, as sentence encoders tell (Reimers and Gurevych 2019)."""

from __future__ import annotations

import random

import torch

from workbench.circuits.task import Task
from workbench.circuits.tasks.draw import Pair, unlike_pairs
from workbench.circuits.tasks.pairs import encode
from workbench.models import Transformer
from workbench.models.sentences import sentence_embeddings

# Each is said in two ways.
_WHO = (
    ("doctor", "physician"),
    ("child", "kid"),
    ("woman", "lady"),
    ("thief", "robber"),
    ("teacher", "instructor"),
    ("soldier", "fighter"),
    ("writer", "author"),
    ("sailor", "seaman"),
)
_DID = (
    ("bought", "purchased"),
    ("repaired", "fixed"),
    ("found", "discovered"),
    ("hid", "concealed"),
    ("wanted", "desired"),
    ("described", "portrayed"),
)
_WHAT = (
    ("car", "automobile"),
    ("boat", "ship"),
    ("present", "gift"),
    ("picture", "painting"),
    ("coat", "jacket"),
    ("stone", "rock"),
    ("rug", "carpet"),
    ("bike", "bicycle"),
)
_WHERE = (
    ("in the city", "in the town"),
    ("near the road", "near the street"),
    ("in the woods", "in the forest"),
    ("by the sea", "by the ocean"),
    ("at the shop", "at the store"),
)
_PARTS = (_WHO, _DID, _WHAT, _WHERE)


def make(model: Transformer, n: int, seed: int = 0) -> Task:
    """``n`` pairs: the clean prompt says the reference in other words, the corrupted one says something else.

    The metric is the cosine of the prompt's vector (the mean over its tokens) with the reference's, which no ablation
    touches. Every part of the corrupted sentence (who, what, where) is another.

    Args:
        model: an encoder of sentences; pairs are those that its tokenizer cuts into equally many tokens.
        n: number of pairs.
        seed: chooses the sentences.

    Raises:
        ValueError: too few pairs are equally long.
    """

    def example(draw: random.Random, _turn: int) -> Pair:
        two = [draw.sample(part, 2) for part in _PARTS]
        reference = _sentence("The", [of[0][0] for of in two])
        clean, corrupted = (_sentence("This", [of[k][1] for of in two]) for k in (0, 1))
        return Pair(clean, corrupted, [reference], [])

    pairs = unlike_pairs(model, n, seed, example, "sentence-similarity")
    texts = [pair.clean for pair in pairs], [pair.corrupted for pair in pairs]
    tokens, lengths, _ = encode(model, *texts)
    none = torch.empty(n, 0, dtype=torch.long)
    references = [pair.right[0] for pair in pairs]
    vectors = [sentence_embeddings(model, references[i : i + 32]).cpu() for i in range(0, n, 32)]
    return Task(
        name="sentence-similarity",
        title="Sentence similarity",
        clean=tokens[0],
        corrupted=tokens[1],
        lengths=lengths,
        right=none,
        wrong=none,
        clean_text=texts[0],
        corrupted_text=texts[1],
        metric_kind="similarity",
        spec={"name": "sentence-similarity", "n": n, "seed": seed},
        extra={"reference": torch.cat(vectors)},
        whole=True,
    )


def _sentence(article: str, parts: list[str]) -> str:
    who, did, what, where = parts
    return f"{article} {who} {did} the {what} {where}."
