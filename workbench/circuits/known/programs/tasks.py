"""The tasks that programs are learned for: what goes in, what should come out, and examples drawn from a seed.

Seven are the tasks of Weiss, Goldberg and Yahav (2021, Thinking Like Transformers) in the sizes of Friedman, Wettig
and Chen (2023, Learning Transformer Programs); the eighth is that paper's in-context induction. Every input starts
with ``<s>``; reverse and sort also end with ``</s>``. Both count towards the length and the vocabulary, as there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.models.lookup import pick

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NOTHING = -1
"""The target at a position where nothing is asked."""

_EXAMPLES = 20_000
_MOST_DRAWS = 10 * _EXAMPLES  # reverse and sort have fewer unlike inputs than that
_DATA_SEED = 0

Words = Sequence[str]
Draw = Callable[[random.Random], list[str]]
Oracle = Callable[[Words], list[str | None]]


@dataclass(frozen=True)
class Sizes:
    """How many modules each layer of the discrete transformer has.

    Attributes:
        layers: how many layers.
        heads, counts: categorical and numerical heads of a layer.
        mlps, number_mlps: lookups of a layer that read categorical and numerical variables.
    """

    layers: int
    heads: int
    counts: int
    mlps: int
    number_mlps: int


@dataclass(frozen=True)
class ProgramTask:
    """A task with all that it takes to learn a program for it.

    Attributes:
        key: its name on the command line.
        description: what the program should answer, in a sentence.
        words: what inputs are made of.
        classes: what answers are made of.
        length: words of the longest input.
        causal: whether a position sees only itself and what comes before.
        sizes: of the discrete transformer; those of the best model in the paper, but for three of them.
        draw: one random input.
        oracle: ``words -> answers``, one for each word, None where nothing is asked.
        paper: accuracy in the paper [share of answers], its Table 1 and section 4.1.
        seed: that the program was learned with that comes with the package.
    """

    key: str
    description: str
    words: tuple[str, ...]
    classes: tuple[str, ...]
    length: int
    causal: bool
    sizes: Sizes
    draw: Draw
    oracle: Oracle
    paper: float
    seed: int = 0

    @property
    def module(self) -> str:
        """Its name where a hyphen may not be."""
        return self.key.replace("-", "_")

    @property
    def cardinality(self) -> int:
        """How many values a categorical variable has; every position, every word and padding is one."""
        return self.length

    def encode(self, inputs: Sequence[Words]) -> Int[Tensor, "n length"]:
        """Indices of the words, padded behind with ``len(words)``.

        Raises:
            ValueError: an input is empty, too long, or has a word that the task does not know.
        """
        known = {word: i for i, word in enumerate(self.words)}
        tokens = torch.full((len(inputs), self.length), len(self.words))
        for row, words in enumerate(inputs):
            if not 0 < len(words) <= self.length:
                raise ValueError(f"An input of '{self.key}' has 1 to {self.length} words, not {len(words)}.")
            if strange := [word for word in words if word not in known]:
                raise ValueError(f"'{strange[0]}' is not a word of '{self.key}'; they are {' '.join(self.words)}.")
            tokens[row, : len(words)] = torch.tensor([known[word] for word in words])
        return tokens

    def targets(self, inputs: Sequence[Words]) -> Int[Tensor, "n length"]:
        """Indices of the right answers; :data:`NOTHING` where nothing is asked."""
        known: dict[str | None, int] = {name: i for i, name in enumerate(self.classes)}
        targets = torch.full((len(inputs), self.length), NOTHING)
        for row, words in enumerate(inputs):
            targets[row, : len(words)] = torch.tensor([known.get(answer, NOTHING) for answer in self.oracle(words)])
        return targets


@dataclass(frozen=True)
class Examples:
    """Unlike inputs in three parts: 80 % to train on, 10 % to choose by, 10 % that nothing was chosen by."""

    train: tuple[tuple[str, ...], ...]
    validation: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]


@lru_cache
def examples(key: str) -> Examples:
    """The examples of a task, 20,000 or as many as there are; the same whatever seed training has.

    Raises:
        ValueError: there is no such task; the message suggests the closest.
    """
    task, generator = find(key), random.Random(_DATA_SEED)
    drawn: dict[tuple[str, ...], None] = {}
    for _ in range(_MOST_DRAWS):
        drawn[tuple(task.draw(generator))] = None
        if len(drawn) == _EXAMPLES:
            break
    inputs = list(drawn)
    # Short inputs were drawn early: without this the last part would have none.
    generator.shuffle(inputs)
    tenth = len(inputs) // 10
    return Examples(tuple(inputs[2 * tenth :]), tuple(inputs[:tenth]), tuple(inputs[tenth : 2 * tenth]))


def _letters(count: int, most: int, end: bool = False) -> Draw:
    letters = [str(i) for i in range(count)]
    return lambda r: [START, *r.choices(letters, k=r.randint(1, most)), *[END] * end]


def _reverse(words: Words) -> list[str | None]:
    return [None, *reversed(words[1:-1]), None]


def _sort(words: Words) -> list[str | None]:
    return [None, *sorted(words[1:-1]), None]


def _hist(words: Words) -> list[str | None]:
    count = Counter(words[1:])
    return [None, *(str(count[word]) for word in words[1:])]


def _double_hist(words: Words) -> list[str | None]:
    count = Counter(words[1:])
    alike = Counter(count.values())
    return [None, *(str(alike[count[word]]) for word in words[1:])]


def _most_freq(words: Words) -> list[str | None]:
    # Counter keeps the order of first sight among words that are as frequent, which is the rule for ties.
    ranked = [word for word, _ in Counter(words[1:]).most_common()]
    return [None, *ranked, *[START] * (len(words) - 1 - len(ranked))]


_CLOSES = {")": "(", "}": "{"}


def _dyck(words: Words) -> list[str | None]:
    answers: list[str | None] = [None]
    stack: list[str] = []
    for word in words[1:]:
        if answers[-1] != "F":
            if word not in _CLOSES:
                stack.append(word)
            elif not stack or stack.pop() != _CLOSES[word]:
                answers.append("F")
                continue
        answers.append("F" if answers[-1] == "F" else "P" if stack else "T")
    return answers


def _brackets(pairs: Sequence[str], most: int) -> Draw:
    def draw(r: random.Random) -> list[str]:
        begun: list[str] = []
        if r.random() < 0.5:
            for _ in range(r.randint(1, (most + 1) // 2)):
                pair = r.choice(pairs)
                begun = [pair[0], *begun, pair[1]] if r.random() < 0.5 else [*begun, *pair]
        free = r.choices("".join(pairs), k=most)
        return [START, *begun, *free][: most + 1]

    return draw


def _induction(words: Words) -> list[str | None]:
    told = dict(zip(words[1::2], words[2::2], strict=False))
    return [(told[word] if word in words[1:i] else UNKNOWN) if word.isalpha() else None for i, word in enumerate(words)]


def _pairs(r: random.Random) -> list[str]:
    number = {letter: r.choice("0123") for letter in "abcd"}
    letters = r.choices("abcd", k=5)
    return [START, *(word for letter in letters for word in (letter, number[letter]))][:10]


_SEVEN = tuple(str(i) for i in range(1, 8))
_SIX = tuple(str(i) for i in range(6))
_FIVE = tuple(str(i) for i in range(5))
_PTF = ("P", "T", "F")

TASKS: tuple[ProgramTask, ...] = (
    ProgramTask(
        "reverse", "The letters from back to front.", (*_FIVE, START, END), _FIVE,
        8, False, Sizes(3, 4, 4, 1, 1), _letters(5, 6, end=True), _reverse, 0.9979,
    ),
    ProgramTask(
        "hist", "For each letter, how often it is there.", (*_SIX, START), _SEVEN,
        8, False, Sizes(1, 2, 2, 1, 1), _letters(6, 7), _hist, 1.0,
    ),
    ProgramTask(
        # In the paper half as many heads and lookups; with that one seed ended at 90 %.
        "double-hist", "For each letter, how many letters are there as often as it.", (*_SIX, START), _SEVEN[:-1],
        8, False, Sizes(3, 4, 4, 2, 2), _letters(6, 7), _double_hist, 0.9840,
    ),
    ProgramTask(
        "sort", "The letters in order.", (*_FIVE, START, END), _FIVE,
        8, False, Sizes(3, 4, 4, 2, 2), _letters(5, 6, end=True), _sort, 0.9983,
    ),
    ProgramTask(
        "most-freq", "The unlike letters, the most frequent first, ties in order of first sight; then <s>.",
        (*_SIX, START), (*_SIX, START), 8, False, Sizes(3, 4, 4, 2, 2), _letters(6, 7), _most_freq, 0.7569,
    ),
    ProgramTask(
        "dyck-1", "Whether the brackets so far are balanced (T), can still be (P) or cannot (F).",
        ("(", ")", START), _PTF, 16, True, Sizes(3, 4, 4, 1, 1), _brackets(["()"], 15), _dyck, 0.9930,
    ),
    ProgramTask(
        # In the paper half as many heads; with that two seeds ended at 93 and 94 %.
        "dyck-2", "As dyck-1, with two kinds of brackets.",
        ("(", ")", "{", "}", START), _PTF, 16, True, Sizes(3, 4, 4, 2, 2), _brackets(["()", "{}"], 15), _dyck, 0.9909,
    ),
    ProgramTask(
        # In the paper one head a layer; three seeds of three missed it with that.
        "induction", "For each letter, the number that followed it, or <unk> where it is new.",
        (*"abcd", *"0123", START), (*"0123", UNKNOWN), 10, True, Sizes(2, 4, 0, 0, 0), _pairs, _induction, 1.0,
    ),
)  # fmt: skip


def names() -> list[str]:
    """The keys of all tasks."""
    return [task.key for task in TASKS]


def find(key: str) -> ProgramTask:
    """The task called ``key``.

    Raises:
        ValueError: there is none; the message suggests the closest.
    """
    return pick(TASKS, key, "program task")
