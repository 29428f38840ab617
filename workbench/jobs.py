"""Find a circuit, judge it and keep everything: the one way that the command line and the app do it.

:func:`run_discovery` works in the caller's thread, :func:`start` in one of its own. Either writes into the
run's folder as it goes, so that a page, another process or a later day sees how far it came. Nothing is
remembered here: to stop a job, :meth:`workbench.runs.RunStore.request_cancel` leaves a file in its folder.

A run that ended before it was done, by a stop, an error or ``kill -9``, is gone on with when the same is asked again:
scores that a long method handed out (:mod:`workbench.circuits.partial`) and steps that were finished are not done
twice. Nor are they when the same search is asked for a circuit of another size (:mod:`workbench.runs.reuse`).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.circuits import Progress, Stopped, discover, evaluate, faithfulness_curve, tasks
from workbench.circuits.methods import method
from workbench.circuits.partial import so_far
from workbench.circuits.progress import ProgressFn
from workbench.remake import check_same_model, model_of, named, own_answers, task_of
from workbench.request import Request, check, check_same_request, note_on, request_of, with_default_size
from workbench.runs import Run, RunError, RunStore, RunWriter, run_id
from workbench.runs.choose import choose_and_keep
from workbench.runs.constants import CONSTANTS, constants_in, with_constants
from workbench.runs.reuse import found_before
from workbench.runs.sections import Section
from workbench.undisturbed import undisturbed

if TYPE_CHECKING:
    from workbench.circuits.activations import AnyAblation, OptimalConstants
    from workbench.circuits.graph import Scores
    from workbench.circuits.task import Task
    from workbench.models import Transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """A request that passed its check, ready to run."""

    model: Transformer
    request: Request
    task: Task
    options: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What the run's id is made of."""
        request = self.request
        return {
            "model": {
                "name": self.model.name,
                "fingerprint": self.model.fingerprint,
                "source": request.model,
            },
            "task": {"seed": request.seed, **self.task.spec, **named(self.task)},
            "method": request.method,
            "settings": {
                "options": self.options,
                **({"edges": request.edges} if request.construction != "threshold" else {}),
                "ranking": request.ranking,
                "ablation": request.ablation,
                "curve": request.with_curve,
                # Left out where they say nothing, so that the ids of earlier runs stay.
                **({"construction": request.construction} if request.construction != "top" else {}),
                **({"threshold": request.threshold} if request.construction == "threshold" else {}),
            },
        }


def _prepare(model: Transformer, request: Request, task: Task | None) -> _Job:
    options = check(request, model, own=task is not None)
    return _Job(model, request, prompts_of(model, request) if task is None else task, options)


def prompts_of(model: Transformer, request: Request) -> Task:
    """The prompts that a request asks for.

    Raises:
        ValueError: no such task, or the model cannot be asked it; or it does too few of the prompts.
    """
    metric: Any = request.metric  # a task refuses what it cannot be measured by
    chosen: dict[str, Any] = {"keep": "done"} if request.only_done else {}
    return tasks.load(request.task, model, n=request.n, seed=request.seed, metric=metric, **chosen)


def _earlier(job: _Job, store: RunStore) -> Run | None:
    """The run of the same request that is done, or that can be gone on with, if the store has one to be read."""
    with contextlib.suppress(RunError):
        run = store.open(store.folder_of(run_id(**job.identity)))
        if run.info.status == "done" and run.scores.complete:
            return run
        if run.info.is_unfinished:
            return run
    return None


def _begun(job: _Job, store: RunStore, own: Run | None, fresh: bool) -> tuple[RunWriter, Before]:
    """The run's folder for this process, and what there is to go on from: in it, or in a run of the same search."""
    had = Before() if own is None else Before.of(own)
    if had.scores is None and not fresh:
        had = _elsewhere(job, store, had)
    go_on = had.anything and had.source is None
    writer = store.begin(**job.identity, n_edges=job.request.n_edges, go_on=go_on)
    if fresh:
        (writer.folder / CONSTANTS).unlink(missing_ok=True)
    return writer, had


def _elsewhere(job: _Job, store: RunStore, had: Before) -> Before:
    """What another run of the same search has, where that is more than the run's own."""
    other = found_before(store, **job.identity)
    if other is None or (other.scores is None and had.partial is not None):
        return had
    return Before(other.scores, other.partial, source=other.run, measured=other.curve)


@dataclass(frozen=True)
class Before:
    """What an earlier process had finished of a run.

    Attributes:
        scores: all of them, or None.
        partial: those that a search under way had handed out, or None.
        constants: those of optimal ablation, whole or under way, or None.
        report, curve: whether the circuit was judged, and its curve measured.
        source: id of the run of the same search that the scores are from; None where they are the run's own.
        measured: that search's curve, if it has one.
    """

    scores: Scores | None = None
    partial: Scores | None = None
    report: bool = False
    curve: bool = False
    source: str | None = None
    measured: dict[str, Any] | None = None
    constants: OptimalConstants | None = None

    @classmethod
    def of(cls, run: Run) -> Before:
        """What a run's folder holds; what cannot be read counts as not done."""
        with contextlib.suppress(RunError):
            if run.info.scores is not None and run.scores.complete:
                report, curve = run.info.report, run.info.curve
                return cls(run.scores, None, bool(report and report["complete"]), bool(curve and curve["complete"]))
        return cls(partial=run.partial, constants=constants_in(run.folder))

    @property
    def anything(self) -> bool:
        """Whether there is something to go on from."""
        return any(one is not None for one in (self.scores, self.partial, self.constants))

    def told(self, own: Run | None) -> str | None:
        """What is gone on from, in a sentence for people; None where there is nothing."""
        if self.source is not None and self.scores is not None:
            return f"Run {self.source} scored the same search: its scores are taken; --fresh scores anew."
        if self.source is not None:
            return f"Run {self.source} is the same search: going on where it is ({self.words})."
        if own is not None and self.anything:
            return f"Run {own.id} was {own.info.status}: going on where it ended ({self.words})."
        return None

    @property
    def words(self) -> str:
        """What there is, for people."""
        if self.scores is not None:
            return "all edges were scored"
        if self.partial is not None:
            return so_far(self.partial)
        if self.constants is not None:
            return f"{self.constants.done} of {self.constants.about['steps']} steps of the constants were learned"
        return "nothing was finished"


def run_discovery(
    model: Transformer,
    request: Request,
    store: RunStore,
    progress: ProgressFn | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    task: Task | None = None,
    fresh: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Run:
    """Find a circuit, judge it and keep it; a finished run of the same request is returned as it is.

    A run of it that was stopped or interrupted is gone on with. Where a run of the same search (weights, prompts,
    method and its options) has the scores already, and only the circuit is to be chosen or judged otherwise, they are
    taken from there.

    Args:
        model: to look into.
        request: what to find.
        store: where to keep it.
        progress: told about every step; returning False stops.
        stop: asked at every step; True stops. So does a ``cancel`` file in the run's folder.
        task: work on these prompts instead of making the request's.
        fresh: work from the start, whatever there is of the same request.
        tell: told in one sentence when an earlier run is gone on with, or its scores are taken.

    Returns:
        The run, ``done`` or, when it was stopped, ``stopped`` with what was finished until then.

    Raises:
        ValueError: the request cannot be met, or the store cannot be written; nothing was done yet.
        Exception: whatever went wrong during the work; the run is kept as ``failed`` with the reason.
    """
    job = _prepare(model, request, task)
    earlier = None if fresh else _earlier(job, store)
    if earlier is not None and earlier.info.status == "done":
        return earlier
    writer, before = _begun(job, store, earlier, fresh)
    if tell is not None and (said := before.told(earlier)) is not None:
        tell(said)
    return _work(job, writer, before, progress, stop)


def start(
    model: Transformer,
    request: Request,
    store: RunStore,
    *,
    task: Task | None = None,
    fresh: bool = False,
) -> str:
    """The same in a thread of its own; returns the run's id at once.

    Raises:
        ValueError: the request cannot be met, or is being worked on, or the store cannot be written.
    """
    job = _prepare(model, request, task)
    earlier = None if fresh else _earlier(job, store)
    if earlier is not None and earlier.info.status == "done":
        return earlier.id
    writer, before = _begun(job, store, earlier, fresh)

    def work() -> None:
        # The page reads the reason from the run; this is for whoever reads the server's log.
        with contextlib.suppress(ValueError), undisturbed():
            try:
                _work(job, writer, before, None, None)
            except ValueError:
                raise
            except Exception:
                log.exception("Run %s failed", writer.id)

    threading.Thread(target=work, name=f"run {writer.id}", daemon=True).start()
    return writer.id


class _Voice:
    """Passes progress on, notes it in the run's folder, and hears whether to stop."""

    def __init__(self, writer: RunWriter, progress: ProgressFn | None, stop: Callable[[], bool] | None) -> None:
        self.writer, self.progress, self.stop = writer, progress, stop
        self.stopped = False

    def __call__(self, step: Progress) -> bool:
        self.writer.progress(step.done, step.total, step.what)
        wanted = self.progress is None or self.progress(step) is not False
        self.stopped = self.stopped or not wanted or bool(self.stop and self.stop()) or self.writer.cancelled()
        return not self.stopped


def _work(
    job: _Job, writer: RunWriter, before: Before, progress: ProgressFn | None, stop: Callable[[], bool] | None
) -> Run:
    """Do the job, or the rest of it, each result written as soon as there is one."""
    say = _Voice(writer, progress, stop)
    timings: dict[str, float] = {}
    try:
        _steps(job, writer, before, say, timings)
    except (Stopped, KeyboardInterrupt):
        return writer.finish("stopped", timings=timings)
    except Exception as error:
        with contextlib.suppress(OSError, RunError):  # the first error is the one to tell
            writer.finish("failed", timings=timings, error=sentence(error))
        writer.release()
        raise
    return writer.finish("stopped" if say.stopped else "done", timings=timings)


def _steps(job: _Job, writer: RunWriter, before: Before, say: _Voice, timings: dict[str, float]) -> None:
    """Self-check, scores, report, curve; returns early when asked to stop."""
    model, request, task = job.model, job.request, job.task
    prompts = {"clean": task.clean_text, "corrupted": task.corrupted_text, "metric": task.metric_name}
    writer.update(prompts=prompts | own_answers(model, task))
    with _timed(timings, "check"):
        found = task.check(model)
    notes = (found.warning or "", note_on(request.method, task.metric_kind))
    writer.update(check=asdict(found), note=" ".join(filter(None, notes)))
    options, judged = _with_constants(job, writer, before, say, timings)
    scores, under_way = before.scores, Section(writer.folder, "curve")
    if scores is None or before.source is not None:
        under_way.partial.unlink(missing_ok=True)  # of other scores
    if scores is None:
        with _timed(timings, "discover"):
            scores = discover(
                model, task, method=request.method, progress=say, **options, **_support(job, writer, before)
            )
        writer.save_scores(scores)
    elif before.source is not None:
        writer.save_scores(scores, taken_from=before.source)
        if request.with_curve and before.measured is not None:
            writer.update(curve=before.measured)
    if say.stopped or not say(Progress(0, 1, "judging the circuit")):
        return
    if not before.report:
        circuit = choose_and_keep(scores, request.construction, request.n_edges, request.threshold, request.ranking)
        with _timed(timings, "evaluate"):
            report = evaluate(model, task, circuit, ablation=judged, progress=say)
        writer.update(report=asdict(report))
    if request.with_curve and before.measured is None and not before.curve and not say.stopped:
        with _timed(timings, "curve"):
            curve = faithfulness_curve(model, task, scores, ablation=judged, progress=say, **under_way.metrics)
        writer.update(curve=asdict(curve))
        if curve.complete:
            under_way.partial.unlink(missing_ok=True)


def _with_constants(
    job: _Job, writer: RunWriter, before: Before, say: _Voice, timings: dict[str, float]
) -> tuple[dict[str, Any], AnyAblation]:
    """The method's options, and what the circuit is judged by; ``optimal`` with its constants, learned once for all."""
    options, judged = job.options, job.request.ablation
    if "optimal" not in (options.get("ablation"), judged):
        return options, judged
    homes = [writer.folder.parent / name for name in (before.source, writer.id) if name is not None]
    with _timed(timings, "constants"):
        constants = with_constants("optimal", job.model, job.task, homes, say)
    if options.get("ablation") == "optimal":
        options = {**options, "ablation": constants}
    return options, constants if judged == "optimal" else judged


def _support(job: _Job, writer: RunWriter, before: Before) -> dict[str, Any]:
    """What a long method takes so that its scores outlive the process: a place for them, and those of before."""
    takes = inspect.signature(method(job.request.method).run).parameters
    offered = {"keep": writer.save_partial, "resume": before.partial}
    return {name: value for name, value in offered.items() if name in takes}


@contextlib.contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Note the seconds that a step takes."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        timings[step] = round(time.perf_counter() - begin, 3)


def sentence(error: BaseException) -> str:
    """One line about an error: our own messages as they are, others with their type."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "The memory did not suffice; ask for fewer prompts or a smaller batch."
    if isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


__all__ = [
    "Before",
    "Request",
    "check",
    "check_same_model",
    "check_same_request",
    "model_of",
    "named",
    "prompts_of",
    "request_of",
    "run_discovery",
    "sentence",
    "start",
    "task_of",
    "with_default_size",
]
