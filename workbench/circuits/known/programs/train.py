"""Learning a program: Gumbel-softmax samples that get colder step by step, the best discrete program kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from workbench.circuits.known.programs.finish import finish
from workbench.circuits.known.programs.flow import flow
from workbench.circuits.known.programs.model import DiscreteTransformer
from workbench.circuits.known.programs.program import Program
from workbench.circuits.known.programs.tasks import NOTHING, ProgramTask, examples
from workbench.circuits.progress import ProgressFn, Reporter

HOTTEST, COLDEST = 3.0, 0.05
"""Temperature of the first and of the last step; it falls by the same factor at each."""

EPOCHS = 32
# The paper takes 512. A step draws one set of weights for its whole batch, so that small batches try more of them.
_BATCH = 64
_RATE = 0.05
_CHECKS = 25  # how often the discrete program is measured
_MEASURED = 500
_PERFECT = 3  # checks in a row without an error after which there is nothing left to learn


@dataclass(frozen=True)
class Learned:
    """What came of training.

    Attributes:
        program: the discrete program.
        model: the network that it was read off; without a temperature it gives the same answers.
        seed, epochs: what it was asked for.
        steps: updates that were made.
        seconds: of processor time.
        complete: False where training was stopped before its end.
        figures: on held-out inputs, ``accuracy`` the share of answers that are right, as the paper counts, and
            ``whole`` the share of inputs with no wrong answer.
    """

    program: Program
    model: DiscreteTransformer
    seed: int
    epochs: int
    steps: int
    seconds: float
    complete: bool
    figures: dict[str, float] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """What is written beside a learned program."""
        return {
            "task": self.program.task.key,
            "seed": self.seed,
            "epochs": self.epochs,
            "steps": self.steps,
            "batch": _BATCH,
            "seconds": round(self.seconds),
            "complete": self.complete,
            "torch": torch.__version__.partition("+")[0],
            "figures": {name: round(figure, 5) for name, figure in self.figures.items()},
            "paper": self.program.task.paper,
            "live": list(self.program.live),
            "edges": flow(self.program).live_edges,
        }


def learn(task: ProgramTask, *, seed: int = 0, epochs: int = EPOCHS, progress: ProgressFn | None = None) -> Learned:
    """Learn a program from the examples of a task.

    One thread works, because sums over several come out in another order: so the seed alone decides the program, on
    one kind of processor and one release of PyTorch.

    Args:
        task: what to learn.
        seed: of first weights, batches and noise; the examples do not depend on it.
        epochs: rounds through the training examples.
        progress: told of every step; False asks to stop, and the best program so far is kept. The last step that is
            told of may come before the total: training ends when the program makes no more errors.

    Raises:
        ValueError: ``epochs`` is less than 1.
    """
    if epochs < 1:
        raise ValueError(f"Cannot learn in {epochs} epochs; choose 1 or more.")
    started, data = time.process_time(), examples(task.key)
    tokens, targets = task.encode(data.train), task.targets(data.train)
    check = data.validation[:_MEASURED]
    measured = task.encode(check), task.targets(check)
    reporter = Reporter(progress, epochs * (len(tokens) // _BATCH), "learning")
    with _one_thread(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = DiscreteTransformer(task)
        best, best_share, perfect = None, -1.0, 0
        for step in _steps(model, tokens, targets, reporter):
            if step % max(reporter.total // _CHECKS, 1) == 0 or step == reporter.total or not reporter.going:
                share = right(model, *measured)["accuracy"]
                if share >= best_share:
                    best_share, best = share, {name: weight.clone() for name, weight in model.state_dict().items()}
                perfect = perfect + 1 if share == 1 else 0
                if perfect == _PERFECT:
                    break
        assert best is not None
        model.load_state_dict(best)
        program = finish(model.requires_grad_(False), tokens, targets)
        figures = right(model, task.encode(data.test), task.targets(data.test))
    seconds = time.process_time() - started
    complete = reporter.going or reporter.done == reporter.total
    return Learned(program, model, seed, epochs, reporter.done, seconds, complete, figures)


def _steps(
    model: DiscreteTransformer, tokens: Int[Tensor, "n pos"], targets: Int[Tensor, "n pos"], reporter: Reporter
) -> Iterator[int]:
    """Train, and stop for a look after every step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    for step in range(reporter.total):
        temperature = HOTTEST * (COLDEST / HOTTEST) ** (step / max(reporter.total - 1, 1))
        chosen = torch.randint(len(tokens), (_BATCH,))
        with torch.enable_grad():
            scores = model(tokens[chosen], temperature)
            loss = F.cross_entropy(scores.flatten(0, 1), targets[chosen].flatten(), ignore_index=NOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        reporter.step()
        yield step + 1
        if not reporter.going:
            return


@torch.no_grad()
def right(model: DiscreteTransformer, tokens: Int[Tensor, "n pos"], targets: Int[Tensor, "n pos"]) -> dict[str, float]:
    """Shares of answers, and of inputs as a whole, that the discrete program gets right."""
    asked, same = targets != NOTHING, discrete(model, tokens) == targets
    return {
        "accuracy": float(same[asked].double().mean()),
        "whole": float((same | ~asked).all(1).double().mean()),
    }


@torch.no_grad()
def discrete(model: DiscreteTransformer, tokens: Int[Tensor, "n pos"]) -> Int[Tensor, "n pos"]:
    """The classes that the discrete program answers, some inputs at a time."""
    starts = range(0, len(tokens), _MEASURED)
    return torch.cat([model(tokens[start : start + _MEASURED]).argmax(-1) for start in starts])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
