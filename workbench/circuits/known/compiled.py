"""A compiled program: the model, how to run it, what its dimensions mean and which edges are its circuit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Circuit
from workbench.circuits.known.edges import Edges
from workbench.circuits.known.expression import Value
from workbench.circuits.known.sops import SOp
from workbench.circuits.known.variables import Variable
from workbench.circuits.task import Task
from workbench.models import Transformer

Draw = Callable[[random.Random], list[Value]]
Answered = tuple[list[Value], list[Value]]
NEAR = 1e-3


@dataclass(frozen=True, eq=False)
class Compiled:
    """A transformer made of a RASP program.

    Attributes:
        model: the model; its token 0 goes before every input, token ``i + 1`` is ``vocab[i]``.
        program: what it was compiled from.
        vocab: its tokens.
        max_len: the longest input, without token 0.
        labels: what each dimension of the residual stream means, such as ``tokens:a``, ``indices:3`` or ``one``.
        edges: names of the edges over which something is read, by what that depends on.
        output: the variable that the logits are of.
        draw: a random input of the longest length for which the program is meant.
    """

    model: Transformer
    program: SOp
    vocab: list[Value]
    max_len: int
    labels: list[str]
    edges: Edges
    output: Variable
    draw: Draw

    @property
    def true_edges(self) -> set[str]:
        """The circuit: edges that carry what differs between inputs. See :mod:`workbench.circuits.known.edges`."""
        return set(self.edges.of_tokens | self.edges.of_length)

    @property
    def length_edges(self) -> set[str]:
        """Those of them that carry only what depends on the length: no pair of inputs of one length shows them."""
        return set(self.edges.of_length)

    @property
    def fixed_edges(self) -> set[str]:
        """Edges that are no part of it, for they carry only what is the same on every input, such as positions."""
        return set(self.edges.fixed)

    @cached_property
    def circuit(self) -> Circuit:
        """``true_edges`` as a circuit of the model's graph."""
        return Circuit.from_edges(graph_of(self.model), self.true_edges)

    def encode(self, inputs: Sequence[Sequence[Value]]) -> Int[Tensor, "batch pos"]:
        """Token ids of inputs of one length, with token 0 in front.

        Raises:
            ValueError: an unknown token, an input longer than ``max_len``, or inputs of several lengths.
        """
        ids = {token: i + 1 for i, token in enumerate(self.vocab)}
        rows = []
        for xs in inputs:
            if len(xs) > self.max_len:
                raise ValueError(
                    f"tokens: the input has {len(xs)} tokens; {self.model.name} reads at most {self.max_len}."
                )
            for x in xs:
                try:
                    known = x in ids
                except TypeError:
                    known = False
                if not known:
                    listed = ", ".join(map(repr, self.vocab))
                    raise ValueError(f"tokens: {x!r} is not in the vocabulary of {self.model.name}: {listed}.")
            rows.append([0, *(ids[x] for x in xs)])
        if len({len(row) for row in rows}) > 1:
            raise ValueError("tokens: the inputs have several lengths; encode those of one length at a time.")
        return torch.tensor(rows)

    def decode(self, logits: Float[Tensor, "*batch d_vocab"]) -> list[Value]:
        """Values that logits stand for, of all positions in order.

        A number is the nearest that the program can give, or itself where none is within 0.001.
        """
        flat = logits.reshape(-1, logits.shape[-1])
        if not self.output.numerical:
            cases = self.output.cases
            return [cases[i] for i in flat.argmax(-1).tolist()]
        known = torch.tensor(self.output.values, dtype=torch.float64)
        numbers = flat[:, 0].double().cpu()
        nearest = (numbers[:, None] - known).abs().min(-1)
        return [
            self.output.values[i] if distance < NEAR else x
            for x, distance, i in zip(numbers.tolist(), nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]

    def run(self, xs: Sequence[Value]) -> list[Value]:
        """What the model makes of an input: one value a position.

        Raises:
            ValueError: an unknown token, or more than ``max_len`` of them.
        """
        return self.run_many([xs])[0]

    def run_many(self, inputs: Sequence[Sequence[Value]]) -> list[list[Value]]:
        """:meth:`run` of many inputs; those of one length go together.

        Raises:
            ValueError: an unknown token, or an input of more than ``max_len``.
        """
        found: list[list[Value]] = [[] for _ in inputs]
        for n in {len(xs) for xs in inputs} - {0}:
            rows = [i for i, xs in enumerate(inputs) if len(xs) == n]
            tokens = self.encode([inputs[i] for i in rows]).to(self.model.device)
            with torch.no_grad():
                values = self.decode(self.model(tokens)[:, 1:])
            for k, i in enumerate(rows):
                found[i] = values[k * n : (k + 1) * n]
        return found

    def task(self, n: int = 64, seed: int = 0) -> Task:
        """Pairs of inputs of the longest length whose answers differ.

        Answers are read at one position: the last one at which they differ about as often as anywhere.

        The metric of a categorical program is the logit of the clean input's answer minus that of the corrupted one's.
        The metric of a numerical program is the number itself, or minus it where it is negative; the clean input of a
        pair is the one whose number is farther from 0, so that the metric is above 0 on it and not above that on the
        corrupted one.

        Raises:
            ValueError: ``n`` is below 1, or the answers are the same on nearly all inputs.
        """
        if n < 1:
            raise ValueError(f"A task needs at least one pair of inputs, not {n}.")
        source = random.Random(seed)
        at = self._where(source)
        pairs = self._pairs(n, at, source)
        clean, corrupted = ([pair[side][0] for pair in pairs] for side in (0, 1))
        right, wrong = zip(*(self._answers(one[1], other[1]) for one, other in pairs), strict=True)
        return Task(
            name=self.model.name,
            title=f"{self.model.name} at position {at}",
            clean=self.encode(clean),
            corrupted=self.encode(corrupted),
            lengths=torch.full((n,), self.max_len + 1),
            right=torch.tensor(right)[:, None],
            wrong=torch.tensor(wrong)[:, None],
            clean_text=[" ".join(map(str, xs)) for xs in clean],
            corrupted_text=[" ".join(map(str, xs)) for xs in corrupted],
            spec={"name": self.model.name, "n": n, "seed": seed},
            at=torch.full((n,), at + 1),
        )

    def _answered(self, n: int, source: random.Random) -> list[tuple[Answered, Answered]]:
        """Pairs of inputs of the longest length, each with what the model makes of it."""
        inputs = [self.draw(source) for _ in range(2 * n)]
        answered = list(zip(inputs, self.run_many(inputs), strict=True))
        return list(zip(answered[:n], answered[n:], strict=True))

    def _where(self, source: random.Random) -> int:
        """The last position at which answers differ at least half as often as anywhere."""
        pairs = self._answered(256, source)
        often = [sum(one[1][i] != other[1][i] for one, other in pairs) for i in range(self.max_len)]
        if not max(often):
            raise ValueError(
                f"{self.program.name}: its values are the same on nearly all inputs of {self.max_len} tokens, so that "
                "there are no pairs to compare."
            )
        return max(i for i, count in enumerate(often) if 2 * count >= max(often))

    def _pairs(self, n: int, at: int, source: random.Random) -> list[tuple[tuple[list[Value], Value], ...]]:
        """Clean and corrupted inputs, each with its answer at a position."""
        found: list[tuple[tuple[list[Value], Value], ...]] = []
        while len(found) < n:
            for (one, x), (other, y) in self._answered(256, source):
                if x[at] != y[at]:
                    pair = (one, x[at]), (other, y[at])
                    swap = self.output.numerical and abs(y[at]) > abs(x[at])
                    found.append(pair[::-1] if swap else pair)
        return found[:n]

    def _answers(self, clean: Value, corrupted: Value) -> tuple[int, int]:
        """Ids of the right and of the wrong answer; -1 for none."""
        if self.output.numerical:
            return (0, -1) if clean > 0 else (-1, 0)
        cases = self.output.cases
        return cases.index(clean), cases.index(corrupted)
