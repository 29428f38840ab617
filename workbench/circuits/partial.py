"""Scores of a long search while it is under way: handed out every few seconds, taken up again later.

- :class:`Partial` goes reader by reader (or writer by writer). A reader whose edges are not all scored yet is a column
  of NaN, so that one matrix says what is done. What a stopped search returns has 0 there instead and can be ranked.
- :class:`Means` and, for edges, :class:`Prompts` go prompts by prompts: what is handed out is the mean over those done.
- :class:`workbench.circuits.training.Training` goes step by step.

What the scores do not say themselves, but the rest of the search needs, is handed out beside them as ``state``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

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


class Found(Protocol):
    """What a search finds: scores of edges, of edges at positions, or of neurons."""

    @property
    def values(self) -> Tensor:
        """The scores."""

    @property
    def method(self) -> str:
        """Key of the method."""

    @property
    def task(self) -> str:
        """Name of the task."""

    @property
    def settings(self) -> dict[str, Any]:
        """Options of the method."""

    @property
    def n_examples(self) -> int:
        """Prompts that the scores are a mean of."""


R = TypeVar("R", bound=Found)
Make = Callable[[Tensor, int, bool], R]
"""``(values, prompts, complete)`` -> what was found."""


class Search(Generic[R]):
    """What every search that can be taken up again has: whether an earlier one was the same, and who takes its scores.

    Args:
        make: puts a name to what was found.
        shape: of the values.
        task: what the scores are of.
        resume: what an earlier search of the same kind handed out.
        keep: called with what is there, at most every few seconds, and at the end.
        by_prompts: whether the earlier search may have scored fewer prompts than there are.

    Raises:
        ValueError: ``resume`` belongs to another search; the message shows both.
    """

    def __init__(
        self,
        make: Make[R],
        shape: Sequence[int],
        task: Task,
        resume: R | None,
        keep: Callable[[R], None] | None,
        *,
        by_prompts: bool = False,
    ) -> None:
        self.make, self.task, self.resume, self.keep = make, task, resume, keep
        self._handed = time.monotonic()
        if resume is not None:
            check_same(make(torch.zeros(()).expand(*shape), len(task), False), resume, by_prompts)

    def hand(self, found: Callable[[], R], now: bool = False) -> None:
        """Hand out what was found if it is time, or ``now``."""
        if self.keep is not None and (now or time.monotonic() - self._handed > SECONDS):
            self.keep(found())
            self._handed = time.monotonic()


class Partial(Search[Scores]):
    """The scores of one search, reader by reader.

    Args:
        graph: the graph of the model.
        task: what the scores are of.
        method: key of the method.
        settings: its options.
        resume, keep: as of :class:`Search`.

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
        super().__init__(edges_of(graph, task, method, settings), graph.mask.shape, task, resume, keep)
        self.graph, self.rounds = graph, 0
        self.values = torch.full(graph.mask.shape, torch.nan).masked_fill(~graph.mask, 0.0)
        if resume is not None:
            self.values, self.rounds = resume.values.clone(), int(resume.state.get("rounds", 0))

    def open(self, reader: int) -> bool:
        """Whether the edges into a reader are still to be scored."""
        return bool(self.values[:, reader].isnan().any())

    def fill(self, reader: int, column: Float[Tensor, " writers"]) -> None:
        """The scores of all edges into a reader; they are handed out if it is time."""
        self.values[:, reader] = torch.where(self.graph.mask[:, reader], column.cpu().to(self.values.dtype), 0.0)
        self.hand(self._now)

    def open_writer(self, writer: int) -> bool:
        """As :meth:`open`, for searches that go writer by writer."""
        return bool(self.values[writer].isnan().any())

    def fill_writer(self, writer: int, value: float) -> None:
        """One score for all edges out of a writer; they are handed out if it is time."""
        self.values[writer, self.graph.mask[writer]] = value
        self.hand(self._now)

    def next_round(self) -> None:
        """One pass over all readers is done, of a search that makes several; what is there is handed out."""
        self.rounds += 1
        self.hand(self._now, now=True)

    def _now(self) -> Scores:
        found = self.make(self.values.clone(), len(self.task), not bool(self.values.isnan().any()))
        return replace(found, state={"rounds": torch.tensor(self.rounds)}) if self.rounds else found

    def result(self) -> Scores:
        """What was found, with 0 for what was not reached.

        Raises:
            Stopped: nothing was scored.
        """
        missing = self.values.isnan()
        if bool((missing | ~self.graph.mask).all()):
            raise Stopped("Stopped before the edges of one node were scored; nothing was kept.")
        self.hand(self._now, now=True)
        return self.make(self.values.nan_to_num(0.0), len(self.task), not bool(missing.any()))


class Means(Search[R]):
    """The scores of one search, prompts by prompts: a mean over those that are done.

    Args:
        make, shape, task, resume, keep: as of :class:`Search`.

    Raises:
        ValueError: ``resume`` belongs to another search; the message shows both.
    """

    def __init__(
        self,
        make: Make[R],
        shape: Sequence[int],
        task: Task,
        resume: R | None = None,
        keep: Callable[[R], None] | None = None,
    ) -> None:
        super().__init__(make, shape, task, resume, keep, by_prompts=True)
        if self.done > len(task):
            raise ValueError(
                f"The run to go on with had scored {self.done} prompts; this task has {len(task)}. Use the "
                "task that it began with, or start anew."
            )

    @property
    def done(self) -> int:
        """Prompts that were scored before."""
        return 0 if self.resume is None else self.resume.n_examples

    @property
    def total(self) -> Tensor | None:
        """Sum over the prompts that were scored before; None if there are none."""
        return None if self.resume is None else self.mean_of(self.resume) * self.done

    def mean_of(self, handed: R) -> Tensor:
        """The mean that was handed out."""
        return handed.values

    def found(self, mean: Tensor, finished: int) -> R:
        """The mean over ``finished`` prompts as a result."""
        return self.make(mean.cpu(), finished, finished == len(self.task))

    def handed(self, mean: Tensor, finished: int) -> R:
        """The same with all that is needed to go on."""
        return self.found(mean, finished)

    def hand_mean(self, total: Tensor, finished: int, now: bool = False) -> None:
        """Hand out the mean over ``finished`` prompts if it is time, or ``now``."""
        self.hand(lambda: self.handed(total / finished, finished), now)


class Prompts(Means[Scores]):
    """:class:`Means` of scores of edges.

    Args:
        graph: the graph of the model.
        task: what the scores are of.
        method: key of the method.
        settings: its options, ``ablation`` among them.
        resume, keep: as of :class:`Search`.
        finish: makes the scores of the mean, where means are not taken of the scores themselves.

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
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.settings, self.finish = settings, finish
        super().__init__(edges_of(graph, task, method, settings), graph.mask.shape, task, resume, keep)
        if finish is not None:
            check_state(resume, "mean")

    def mean_of(self, handed: Scores) -> Tensor:
        """See :meth:`Means.mean_of`."""
        return handed.values if self.finish is None else handed.state["mean"]

    def found(self, mean: Tensor, finished: int) -> Scores:
        """See :meth:`Means.found`."""
        return super().found(mean if self.finish is None else self.finish(mean), finished)

    def handed(self, mean: Tensor, finished: int) -> Scores:
        """See :meth:`Means.handed`."""
        found = self.found(mean, finished)
        return found if self.finish is None else replace(found, state={"mean": mean.cpu()})


def edges_of(graph: Graph, task: Task, method: str, settings: dict[str, Any]) -> Make[Scores]:
    """What puts a method's name to scores of edges."""
    return lambda values, n, complete: Scores(graph, values, method, task.name, dict(settings), n, complete)


def check_same(mine: Found, given: Found, by_prompts: bool = False) -> None:
    """Refuse to go on with scores of another search.

    Args:
        mine: what this search would hand out.
        given: what the earlier one had handed out.
        by_prompts: whether the earlier one may have scored another number of prompts.

    Raises:
        ValueError: settings or sizes differ; both are shown.
    """
    now, then = (
        {"method": x.method, "task": x.task, "pairs of prompts": 0 if by_prompts else x.n_examples, **x.settings}
        for x in (mine, given)
    )
    if now != then:
        unlike = [key for key in {**now, **then} if now.get(key) != then.get(key)]
        shown = "; ".join(f"{key}: {then.get(key)!r} then, {now.get(key)!r} now" for key in unlike)
        raise ValueError(f"The run to go on with began with other settings ({shown}); use those, or start anew.")
    if given.values.shape != mine.values.shape:
        sizes = f"{list(given.values.shape)} then, {list(mine.values.shape)} now"
        raise ValueError(f"The run to go on with has scores of another model or of prompts of another length: {sizes}.")


def check_state(resume: Scores | None, name: str) -> None:
    """Refuse to go on with scores without the state that the search needs.

    Raises:
        ValueError: ``name`` is not in their state.
    """
    if resume is not None and name not in resume.state:
        raise ValueError(
            f"The scores to go on with do not say how far '{resume.method}' had come; give what 'keep' was given, not "
            "a result, or start anew."
        )


def so_far(scores: Scores) -> str:
    """How far the search was that handed out these scores, for people."""
    if "step" in scores.state:
        return f"{int(scores.state['step']):,} of {scores.settings['steps']:,} steps were learned"
    missing = scores.values.isnan()
    if missing.any():
        return f"{int((scores.graph.mask & ~missing).sum()):,} of {scores.graph.n_edges:,} edges were scored"
    return f"{scores.n_examples:,} prompts were scored"
