"""Pairs drawn until there are enough unlike ones that a tokenizer can be asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.circuits.task import Task
from workbench.circuits.tasks.kinds import kind_of
from workbench.circuits.tasks.pairs import from_pairs, token_ids
from workbench.models import Transformer

# Draws in a row that bring nothing new before we say that there is no more.
_PATIENCE = 300


@dataclass(frozen=True)
class Pair:
    """One clean and one corrupted prompt with the right and the wrong answers to the clean one."""

    clean: str
    corrupted: str
    right: list[str]
    wrong: list[str]


Example = Callable[[random.Random, int], Pair]


class TooFewPairs(ValueError):  # noqa: N818 - named after what is the matter, as a sentence
    """There are fewer unlike pairs than were asked for; ``found`` says how many."""

    def __init__(self, message: str, found: int) -> None:
        super().__init__(message)
        self.found = found


def build(
    model: Transformer,
    n: int,
    seed: int,
    example: Example,
    *,
    name: str,
    title: str,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A task of ``n`` unlike pairs. The first pairs of a larger ``n`` are those of a smaller one.

    Args:
        model: whose tokenizer must find both prompts of a pair equally long, and every answer one token behind them.
        n: number of pairs.
        seed: of the generator that ``example`` draws by.
        example: draws a pair; it is told how many there are, for what is asked in turn.
        name, title: as in :func:`workbench.circuits.tasks.from_pairs`.
        options: those of the task that are not the default, for its record.

    Raises:
        TooFewPairs: there are not that many.
    """
    pairs = unlike_pairs(model, n, seed, example, name)
    spec = {"name": name, "n": n, "seed": seed, **(options or {})}
    columns = [[getattr(pair, side) for pair in pairs] for side in ("clean", "corrupted", "right", "wrong")]
    return from_pairs(model, *columns, name=name, title=title, spec=spec)


def unlike_pairs(model: Transformer, n: int, seed: int, example: Example, name: str) -> list[Pair]:
    """``n`` pairs of which no two are equal and each can be asked through the model's tokenizer.

    Raises:
        TooFewPairs: many draws in a row gave no new one.
    """
    draw = random.Random(seed)
    found: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    failed = 0
    while len(found) < n:
        pair = example(draw, len(found))
        key = pair.clean, pair.corrupted
        if key in seen or not _fits(model, pair):
            failed += 1
            if failed == _PATIENCE:
                raise TooFewPairs(_too_few(model, name, len(found), n), len(found))
            continue
        failed = 0
        seen.add(key)
        found.append(pair)
    return found


def _too_few(model: Transformer, name: str, found: int, n: int) -> str:
    if not found:
        return (
            f"The tokenizer of {model.name} cuts the prompts of '{name}' so that none can be asked; use "
            "tasks.from_pairs with words that it has."
        )
    return (
        f"Only {found} unlike pairs of '{name}' could be made for the tokenizer of {model.name}, and {n} were asked "
        f"for; ask for {found} at most, or use tasks.from_pairs with words of your own."
    )


def _fits(model: Transformer, pair: Pair) -> bool:
    """Whether both prompts are equally long and each answer adds one token of its own to the clean one."""
    ids = token_ids(model, pair.clean)
    if len(token_ids(model, pair.corrupted)) != len(ids):
        return False
    if kind_of(model) != "decoder":
        return True
    return all(continues(model, pair.clean, answer, ids) for answer in (*pair.right, *pair.wrong))


def continues(model: Transformer, prompt: str, answer: str, ids: list[int] | None = None) -> bool:
    """Whether a text goes on with an answer by one more token, the same one as the answer is alone."""
    before = model.text.ids(prompt) if ids is None else ids
    return model.text.is_single(answer) and model.text.ids(prompt + answer) == [*before, model.text.single(answer)]
