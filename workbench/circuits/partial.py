"""Scores of a long search while it is under way: handed out every few seconds, taken up again later.

A reader whose edges are not all scored yet is a column of NaN. So one matrix says what is done, and a search that is
given it goes on with the rest. What a stopped search returns has 0 there instead, so that it can be ranked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.circuits.graph import Graph, Scores
from workbench.circuits.progress import Stopped
from workbench.circuits.task import Task

Keep = Callable[[Scores], None]
"""Takes the scores found so far, NaN where there are none yet."""

SECONDS = 5.0
"""How long a search may go on before it hands out what it has."""


class Partial:
    """The scores of one search, reader by reader.

    Args:
        graph: the graph of the model.
        task: what the scores are of.
        method: key of the method.
        settings: its options.
        resume: what an earlier search of the same kind handed out.
        keep: called with what is there, at most every few seconds, after each round, and at the end.

    Raises:
        ValueError: ``resume`` belongs to another search; the message shows both.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task,
        method: str,
        settings: dict[str, Any],
        resume: Scores | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.graph, self.task, self.method, self.settings, self.keep = graph, task, method, settings, keep
        self.values = torch.full(graph.mask.shape, torch.nan).masked_fill(~graph.mask, 0.0)
        self.rounds = 0
        self._handed = time.monotonic()
        if resume is not None:
            self._check(resume)
            self.values, self.rounds = resume.values.clone(), resume.settings.get("rounds", 0)

    def _check(self, other: Scores) -> None:
        settings = {key: value for key, value in other.settings.items() if key != "rounds"}
        mine = {"method": self.method, "task": self.task.name, "prompts": len(self.task), **self.settings}
        given = {"method": other.method, "task": other.task, "prompts": other.n_examples, **settings}
        check_same(self.graph, mine, given, other)

    def open(self, reader: int) -> bool:
        """Whether the edges into a reader are still to be scored."""
        return bool(self.values[:, reader].isnan().any())

    def fill(self, reader: int, column: Float[Tensor, " writers"]) -> None:
        """The scores of all edges into a reader; they are handed out if it is time."""
        self.values[:, reader] = torch.where(self.graph.mask[:, reader], column.cpu().to(self.values.dtype), 0.0)
        self._hand_if_due()

    def open_writer(self, writer: int) -> bool:
        """As :meth:`open`, for searches that go writer by writer."""
        return bool(self.values[writer].isnan().any())

    def fill_writer(self, writer: int, value: float) -> None:
        """One score for all edges out of a writer; they are handed out if it is time."""
        self.values[writer, self.graph.mask[writer]] = value
        self._hand_if_due()

    def _hand_if_due(self) -> None:
        if self.keep is not None and time.monotonic() - self._handed > SECONDS:
            self._hand()

    def next_round(self) -> None:
        """One pass over all readers is done, of a search that makes several; what is there is handed out."""
        self.rounds += 1
        self._hand()

    def _hand(self) -> None:
        if self.keep is not None:
            extra = {"rounds": self.rounds} if self.rounds else {}
            self.keep(self._scores(self.values.clone(), self.settings | extra))
        self._handed = time.monotonic()

    def _scores(self, values: Tensor, settings: dict[str, Any]) -> Scores:
        complete = not bool(self.values.isnan().any())
        return Scores(self.graph, values, self.method, self.task.name, settings, len(self.task), complete=complete)

    def result(self) -> Scores:
        """What was found, with 0 for what was not reached.

        Raises:
            Stopped: nothing was scored.
        """
        missing = self.values.isnan()
        if bool((missing | ~self.graph.mask).all()):
            raise Stopped("Stopped before the edges of one node were scored; nothing was kept.")
        self._hand()
        return self._scores(self.values.nan_to_num(0.0), dict(self.settings))


class Prompts:
    """The scores of one search, prompts by prompts: a mean over those that are done.

    Args:
        graph: the graph of the model.
        task: what the scores are of.
        method: key of the method.
        settings: its options.
        resume: what an earlier search of the same kind handed out.
        keep: called with the mean over the prompts that are done, at most every few seconds.

    Raises:
        ValueError: ``resume`` belongs to another search; the message shows both.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task,
        method: str,
        settings: dict[str, Any],
        resume: Scores | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.graph, self.task, self.method, self.settings, self.keep = graph, task, method, settings, keep
        self.resume, self._handed = resume, time.monotonic()
        if resume is not None:
            mine = {"method": method, "task": task.name, **settings}
            check_same(graph, mine, {"method": resume.method, "task": resume.task, **resume.settings}, resume)
            if resume.n_examples > len(task):
                raise ValueError(
                    f"The run to go on with had scored {resume.n_examples} prompts; this task has {len(task)}. Use the "
                    "task that it began with, or start anew."
                )

    @property
    def done(self) -> int:
        """Prompts that were scored before."""
        return 0 if self.resume is None else self.resume.n_examples

    def hand(self, total: Tensor, finished: int) -> None:
        """Hand out the mean over ``finished`` prompts if it is time, or if they are all."""
        late = time.monotonic() - self._handed > SECONDS
        if self.keep is not None and (late or finished == len(self.task)):
            values = (total / finished).cpu()
            complete = finished == len(self.task)
            self.keep(
                Scores(
                    self.graph, values, self.method, self.task.name, dict(self.settings), finished, complete=complete
                )
            )
            self._handed = time.monotonic()


def check_same(graph: Graph, mine: dict[str, Any], given: dict[str, Any], other: Scores) -> None:
    """Refuse to go on with scores of another search.

    Raises:
        ValueError: settings or sizes differ; both are shown.
    """
    if mine != given:
        unlike = [key for key in {**mine, **given} if mine.get(key) != given.get(key)]
        shown = "; ".join(f"{key}: {given.get(key)!r} then, {mine.get(key)!r} now" for key in unlike)
        raise ValueError(f"The run to go on with began with other settings ({shown}); use those, or start anew.")
    if other.values.shape != graph.mask.shape:
        then, now = list(other.values.shape), list(graph.mask.shape)
        raise ValueError(f"The run to go on with has scores of another model: {then} then, {now} now.")
