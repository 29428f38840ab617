"""A training that outlives its process: it goes on from its last handed step as if nothing had happened.

What it hands out holds all that the next step depends on: what is learned, the moments of Adam (Kingma and Ba 2014,
arXiv 1412.6980, algorithm 1), the random generators, the batches left of this pass, and the number of the step. On a
CPU a training that was cut off and gone on with gives the same numbers, to the last bit, as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Scores
from workbench.circuits.mask_training import Batches, Ready
from workbench.circuits.partial import Keep, Search, check_state, edges_of
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.circuits.task import Task
from workbench.models import Transformer


class Training(Search[Scores]):
    """The steps of one training.

    Args:
        model: what is looked into; its weights stay as they are.
        task: what is learned on.
        method: key of the method.
        settings: its options, ``steps``, ``prompts``, ``ablation`` and ``seed`` among them.
        learned: by name, tensors that the steps change in place.
        optimisers: by name, those that the steps call.
        draws: by name, the generators that the steps draw from.
        scores: ``steps done`` -> scores of edges [writer, reader] on the CPU.
        budget: bytes beside the model.
        resume: what an earlier training of the same kind handed out; all of the above is put back to where it was.
        keep: called with what is there, at most every few seconds, and at the end.

    Attributes:
        batches: give each step its prompts, and the scale of its distance.
        done: steps that are done.

    Raises:
        ValueError: as :class:`workbench.circuits.mask_training.Batches`; ``resume`` belongs to another training, or
            fewer prompts fit into a batch by now (the message shows both).
    """

    def __init__(
        self,
        model: Transformer,
        task: Task,
        method: str,
        settings: dict[str, Any],
        *,
        learned: Mapping[str, Tensor],
        optimisers: Mapping[str, torch.optim.Optimizer],
        draws: Mapping[str, torch.Generator],
        scores: Callable[[int], Tensor],
        budget: int,
        resume: Scores | None,
        keep: Keep | None,
    ) -> None:
        graph = graph_of(model)
        super().__init__(edges_of(graph, task, method, settings), graph.mask.shape, task, resume, keep)
        check_state(resume, "step")
        # A training that began with a smaller budget goes on with its smaller batches.
        prompts = settings["prompts"] if resume is None else int(resume.state["batch"])
        self.batches = Batches(model, task, settings["ablation"], prompts=prompts, budget=budget, seed=settings["seed"])
        if resume is not None and prompts != self.batches.size:
            raise ValueError(
                f"The training to go on with took {prompts} prompts at a time, and {self.batches.size} fit into the "
                "budget now; give it the budget that it began with, or start anew."
            )
        self.learned, self.optimisers, self.scores = learned, optimisers, scores
        self.draws = {**draws, "order": self.batches.generator}
        self.total, self.done = int(settings["steps"]), 0
        if resume is not None:
            self._restore(resume.state)

    def steps(self, progress: ProgressFn | None, what: str) -> Iterator[Ready]:
        """A batch for each step that is left; ends early when asked to stop."""
        report = Reporter(progress, self.total, what, self.done)
        while report.going and self.done < self.total:
            yield self.batches.next()
            report.step()
            self.done = report.done
            if report.going and self.done < self.total:
                self.hand(self._now)
        self.hand(self._now, now=True)

    def result(self) -> Scores:
        """What was learned."""
        return self.make(self.scores(self.done), len(self.task), self.done == self.total)

    def _now(self) -> Scores:
        return replace(self.result(), state=self._state())

    def _state(self) -> dict[str, Tensor]:
        state = {
            "step": torch.tensor(self.done),
            "batch": torch.tensor(self.batches.size),
            "left": torch.tensor(self.batches.order, dtype=torch.int64),
        }
        state |= {f"learned.{name}": tensor.detach().cpu().clone() for name, tensor in self.learned.items()}
        state |= {f"draws.{name}": generator.get_state() for name, generator in self.draws.items()}
        for name, optimiser in self.optimisers.items():
            for i, moments in optimiser.state_dict()["state"].items():
                state |= {f"{name}.{i}.{key}": value.detach().cpu().clone() for key, value in moments.items()}
        return state

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self.done, self.batches.order = int(state["step"]), state["left"].tolist()
        with torch.no_grad():
            for name, tensor in self.learned.items():
                tensor.copy_(state[f"learned.{name}"])
        for name, generator in self.draws.items():
            generator.set_state(state[f"draws.{name}"])
        for name, optimiser in self.optimisers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in state.items():
                whose, _, rest = key.partition(".")
                if whose == name:
                    i, _, kind = rest.partition(".")
                    moments.setdefault(int(i), {})[kind] = value.clone()
            optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


__all__ = ["Training"]
