"""A trained model with its known circuit, as it lies in the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Circuit
from workbench.circuits.known.compiled import Compiled
from workbench.circuits.known.expression import Value
from workbench.circuits.known.siit.records import TrainedRecord
from workbench.circuits.task import Task
from workbench.models import Transformer
from workbench.models.files import read
from workbench.models.zoo.publish import CARD

TRAINED = Path(__file__).parent / "trained"
"""The trained models, each in a folder with its key as name."""


@dataclass(frozen=True, eq=False)
class Trained:
    """An ordinary transformer that was trained to have the circuit of a compiled one.

    Attributes:
        model: the model.
        high: the compiled model whose circuit it has.
        true_edges: the circuit.
        card: seed, steps, figures.
    """

    model: Transformer
    high: Compiled
    true_edges: set[str]
    card: dict[str, Any]

    @property
    def length_edges(self) -> set[str]:
        """Edges that no pair of its inputs shows: on all of them they carry the same. All inputs have one length."""
        return set(self.card["inside"]["unseen"])

    @cached_property
    def circuit(self) -> Circuit:
        """``true_edges`` as a circuit of the model's graph."""
        return Circuit.from_edges(graph_of(self.model), self.true_edges)

    def run(self, xs: Sequence[Value]) -> list[Value]:
        """What the model makes of an input of the length that it was trained on.

        Raises:
            ValueError: an unknown token, or another length.
        """
        if len(xs) != self.high.max_len:
            raise ValueError(
                f"tokens: {self.model.name} was trained on inputs of {self.high.max_len} tokens; this has {len(xs)}."
            )
        with torch.no_grad():
            return self.high.decode(self.model(self.high.encode([xs]))[:, 1:])

    def task(self, n: int = 64, seed: int = 0) -> Task:
        """The compiled model's pairs of inputs and its answers, see :meth:`Compiled.task`."""
        task = self.high.task(n, seed)
        name = self.model.name
        return replace(
            task, name=name, title=task.title.replace(self.high.model.name, name), spec={**task.spec, "name": name}
        )


def bundled(record: TrainedRecord) -> Trained:
    """The trained model that comes with the package.

    Raises:
        ValueError: its files are not there, or are damaged.
    """
    folder = TRAINED / record.key
    model = read(folder, torch.float32, record.key)
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return Trained(model, record.pair.high, set(card["inside"]["circuit"]), card)
