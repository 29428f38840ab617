"""Tasks from anybody's own prompts: texts become tokens, answers one token or one class each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.circuits.task import OF_ANSWERS, Metric, Task
from workbench.circuits.tasks.kinds import kind_of, models_for
from workbench.models import Transformer
from workbench.models.lookup import meant
from workbench.models.tokens import pad_right, shorten

MASK = "[MASK]"
"""How prompts for masked language models write the place of the answer, whatever their tokenizer calls it."""
_MOST_NAMED = 9
Answers = Sequence[str | Sequence[str]]


def from_pairs(
    model: Transformer,
    clean: Sequence[str],
    corrupted: Sequence[str],
    right: Answers,
    wrong: Answers,
    *,
    metric: Metric = "logit-diff",
    name: str = "custom",
    title: str = "Your prompts",
    spec: dict[str, Any] | None = None,
    where: Sequence[str] | None = None,
) -> Task:
    """A task from anybody's own prompts.

    Args:
        model: gives the tokenizer, and its clean answers if the metric is ``kl``.
        clean, corrupted: prompts; each pair must have equally many tokens. A masked language model is asked for what
            stands at the one ``[MASK]`` of a prompt, in both prompts of a pair at the same place.
        right, wrong: for each pair the next token, or several, that the behaviour raises and lowers; each exactly one
            token, so mind the space in front (``" Mary"``). Of a classifier the names of classes.
        metric: ``logit-diff``, ``prob-diff`` or ``kl``.
        name, title: what results call the task.
        spec: what the task was made from; by default a digest of the prompts and answers.
        where: what errors call each pair, such as ``line 7``; by default ``pair 7``.

    Raises:
        ValueError: lists of unlike length, an empty prompt, a pair whose prompts differ in token length (which, and
            the lengths), a prompt beyond the context, an answer that is not one token or not a class, a masked
            language model and not one ``[MASK]``, an unknown metric, or a model that gives no such answers.
    """
    if metric not in OF_ANSWERS:
        raise ValueError(f"Unknown metric '{metric}'; choose one of {', '.join(OF_ANSWERS)}.")
    _check_counts(clean=clean, corrupted=corrupted, right=right, wrong=wrong)
    where = where or [f"pair {i + 1}" for i in range(len(clean))]
    if kind_of(model) in ("encoder", "vision"):
        raise ValueError(
            f"{model.name} answers with no word, so that prompts with right and wrong words cannot be put to it; use "
            f"{models_for(['decoder', 'masked-lm', 'classifier'])}, or tasks.from_function with a metric of its output."
        )
    answers = {
        "right": [[options] if isinstance(options, str) else list(options) for options in right],
        "wrong": [[options] if isinstance(options, str) else list(options) for options in wrong],
    }
    tokens, lengths, at = encode(model, clean, corrupted, where)
    ids: dict[str, list[list[int]]] = {"right": [], "wrong": []}
    for side, rows in answers.items():
        for i, options in enumerate(rows):
            if not options:
                raise ValueError(f"{_start(where[i])} has no {side} answer; give at least one token.")
            ids[side].append([_answer_id(model, option, side, where[i]) for option in options])
    task = Task(
        name=name,
        title=title,
        clean=tokens[0],
        corrupted=tokens[1],
        lengths=lengths,
        right=pad_right(ids["right"], -1),
        wrong=pad_right(ids["wrong"], -1),
        clean_text=list(clean),
        corrupted_text=list(corrupted),
        metric_kind="logit-diff" if metric == "kl" else metric,
        spec=spec or {"name": name, "n": len(clean), "pairs": digest(list(clean), list(corrupted), answers, metric)},
        at=at,
    )
    return task.with_metric("kl", model) if metric == "kl" else task


def digest(*parts: Any) -> str:
    """Twelve letters that stand for plain data."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def encode(
    model: Transformer, clean: Sequence[str], corrupted: Sequence[str], where: Sequence[str] | None = None
) -> tuple[tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]], Int[Tensor, " batch"], Tensor | None]:
    """Tokens of clean and corrupted prompts, the length of each pair, and for a masked language model the mask's place.

    Raises:
        ValueError: see :func:`from_pairs`.
    """
    where = where or [f"pair {i + 1}" for i in range(len(clean))]
    rows: tuple[list[list[int]], list[list[int]]] = ([], [])
    for i, pair in enumerate(zip(clean, corrupted, strict=True)):
        for side, text, ids in zip(("clean", "corrupted"), pair, rows, strict=True):
            if not text.strip():
                raise ValueError(f"The {side} prompt of {where[i]} is empty: write at least one word.")
            ids.append(token_ids(model, text))
    unlike = [i for i in range(len(clean)) if len(rows[0][i]) != len(rows[1][i])]
    if unlike:
        i, *others = unlike
        named = ", ".join(where[k] for k in others[:_MOST_NAMED])
        rest = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        more = f" (the same of {named}{rest})" if others else ""
        raise ValueError(
            f"{_start(where[i])} differs in length: the clean prompt '{shorten(clean[i])}' has {len(rows[0][i])} "
            f"tokens and the corrupted '{shorten(corrupted[i])}' has {len(rows[1][i])}; patching needs equally "
            f"many{more}."
        )
    at = None
    if kind_of(model) == "masked-lm":
        places = [_mask_place(model, one, other, where[i]) for i, (one, other) in enumerate(zip(*rows, strict=True))]
        at = torch.tensor(places)
    tokens = pad_right(rows[0], model.text.pad), pad_right(rows[1], model.text.pad)
    return tokens, torch.tensor([len(row) for row in rows[0]]), at


def token_ids(model: Transformer, text: str) -> list[int]:
    """Token ids of a prompt; of a masked language model with its own token for ``[MASK]``."""
    mask = getattr(model.tokenizer, "mask_token", None)
    return model.text.ids(text.replace(MASK, mask) if mask and kind_of(model) == "masked-lm" else text)


def _mask_place(model: Transformer, clean: list[int], corrupted: list[int], where: str) -> int:
    mask = getattr(model.tokenizer, "mask_token_id", None)
    if mask is None:
        raise ValueError(
            f"The tokenizer of {model.name} has no token for a masked word; give it one, or use a decoder."
        )
    places = [[i for i, token in enumerate(row) if token == mask] for row in (clean, corrupted)]
    if len(places[0]) != 1 or places[0] != places[1]:
        raise ValueError(
            f"The prompts of {where} need one {MASK} each, at the same place, where {model.name} is asked for a word; "
            f"they have {len(places[0])} and {len(places[1])}."
        )
    return places[0][0]


def _answer_id(model: Transformer, answer: str, side: str, where: str) -> int:
    """The token of an answer; of a classifier the number of a class."""
    if not isinstance(answer, str):
        raise ValueError(f"The {side} answer {answer!r} of {where} is no text; write it as one.")
    if kind_of(model) != "classifier":
        try:
            return model.to_single_token(answer)
        except ValueError as error:
            raise ValueError(f"The {side} answer of {where}: {error}") from None
    labels = model.cfg.labels or tuple(str(i) for i in range(model.cfg.n_out))
    known = [label.lower() for label in labels]
    if answer.strip().lower() not in known:
        raise ValueError(
            f"The {side} answer {answer!r} of {where} is no class of {model.name}; {meant(answer, list(labels))}"
        )
    return known.index(answer.strip().lower())


def _check_counts(**given: Sequence[Any]) -> None:
    sizes = {what: len(entries) for what, entries in given.items()}
    if len(set(sizes.values())) > 1 or not min(sizes.values()):
        listed = ", ".join(f"{size} {what}" for what, size in sizes.items())
        raise ValueError(f"A task needs one entry of each kind for every pair, and at least one pair; got {listed}.")


def _start(where: str) -> str:
    return where[0].upper() + where[1:]


__all__ = ["MASK", "digest", "encode", "from_pairs", "token_ids"]
