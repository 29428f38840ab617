"""The models that were trained to have a circuit: of which program, how large, how long, with which seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from workbench.circuits.known.compile import compile_program
from workbench.circuits.known.compiled import Compiled, Draw
from workbench.circuits.known.library import PROGRAMS, giving
from workbench.circuits.known.siit.measure import figures, unseen
from workbench.circuits.known.siit.pair import Pair
from workbench.models import Transformer
from workbench.models.lookup import pick
from workbench.models.zoo import Schedule, ZooModel

LEAST: Mapping[str, float] = {"accuracy": 0.99, "interchange": 0.99, "strict": 0.99, "circuit_alone": 0.98}
"""What a model must reach before its weights are written."""


@dataclass(frozen=True)
class TrainedRecord:
    """A model that is trained to have the circuit of a program of the library.

    Attributes:
        program: key of the program.
        steps: updates of the weights.
        ratio: how many times narrower it is than the compiled model.
        rate: the highest learning rate.
        seed: of the first weights, the inputs and the interventions.
        one_by_one: see :class:`Pair`.
    """

    program: str
    steps: int = 4000
    ratio: float = 1.0
    rate: float = 2e-3
    seed: int = 0
    one_by_one: bool = False

    @property
    def key(self) -> str:
        """Its name: ``siit-`` and the program's."""
        return f"siit-{self.program}"

    @property
    def title(self) -> str:
        """What it computes."""
        return pick(PROGRAMS, self.program, "program").title

    @cached_property
    def pair(self) -> Pair:
        """The compiled model, and the size of this one."""
        return Pair(_compiled(self.program), self.ratio, self.one_by_one)

    def zoo(self) -> ZooModel:
        """The record that :func:`workbench.models.zoo.make` trains from."""
        pair = self.pair

        def evaluate(model: Transformer) -> dict[str, float]:
            return figures(pair, model)

        def inside(_: Transformer) -> dict[str, Any]:
            return {
                "program": self.program,
                "circuit": sorted(pair.true_edges),
                "nodes": pair.nodes,
                "unseen": unseen(pair),
            }

        return ZooModel(
            key=self.key,
            title=self.title,
            config=pair.config,
            seed=self.seed,
            schedule=Schedule(steps=self.steps, batch=256, rate=self.rate, decay=0.0),
            reader=lambda: None,
            batches=pair.batches,
            loss=pair.loss,
            evaluate=evaluate,
            least=LEAST,
            inside=inside,
        )


@lru_cache(maxsize=8)
def _compiled(key: str) -> Compiled:
    program = pick(PROGRAMS, key, "program")
    # Sentences only: of random words nobody asks who gets the flowers.
    draw: Draw = partial(giving, n=program.max_len) if key == "simple-ioi" else program.draw
    return compile_program(program.make(), program.vocab, program.max_len, program.causal, name=key, draw=draw)


RECORDS: tuple[TrainedRecord, ...] = (
    *map(
        TrainedRecord,
        ("hist", "rank", "maximum", "repeats", "local-maximum", "equals-first", "detect-pattern", "induction"),
    ),
    TrainedRecord("simple-ioi", steps=3000, one_by_one=True),
)
