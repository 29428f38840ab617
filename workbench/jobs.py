"""Find a circuit, judge it and keep everything: the one way that the command line and the app do it.

:func:`run_discovery` works in the caller's thread, :func:`start` in one of its own. Either writes into the
run's folder as it goes, so that a page, another process or a later day sees how far it came. Nothing is
remembered here: to stop a job, :meth:`workbench.runs.RunStore.request_cancel` leaves a file in its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from workbench.circuits import Progress, Stopped, discover, evaluate, faithfulness_curve, tasks
from workbench.circuits.activations import Ablation, check_ablation, graph_of
from workbench.circuits.graph import Ranking
from workbench.circuits.methods import check_options, method
from workbench.circuits.progress import ProgressFn
from workbench.runs import Run, RunError, RunStore, RunWriter, run_id

if TYPE_CHECKING:
    from workbench.circuits.task import Task
    from workbench.models import Transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to find, and how to judge it.

    Attributes:
        model: name of the model, for the record; the work is done on the model that is handed over with it.
        task: key of the task.
        n: number of prompt pairs.
        seed: seed of the pairs.
        method: key of the method.
        options: options of the method; what is left out takes the method's default.
        edges: how many of the best edges make the circuit.
        ranking: best by ``absolute`` or by ``signed`` score.
        ablation: what the edges outside the circuit carry while it is judged, and what a method that compares
            with an ablated run compares with.
        with_curve: also measure faithfulness over circuit sizes.
    """

    model: str
    task: str
    n: int = 32
    seed: int = 0
    method: str = "eap-ig"
    options: dict[str, Any] = field(default_factory=dict)
    edges: int = 500
    ranking: Ranking = "absolute"
    ablation: Ablation = "resample"
    with_curve: bool = True


def check(request: Request, model: Transformer | None = None) -> dict[str, Any]:
    """See that a request can be met, as far as that can be known without working on it.

    Args:
        request: what is asked.
        model: also compare with this model's graph; None while it is not loaded.

    Returns:
        The method's options with the defaults filled in.

    Raises:
        ValueError: an unknown task, method, option, ranking or ablation, fewer than one
            prompt, or a number of edges that the graph does not have; one sentence.
    """
    tasks.get(request.task)
    check_options(request.method, request.options)
    check_ablation(request.ablation)
    if request.ranking not in get_args(Ranking):
        raise ValueError(f"Unknown ranking '{request.ranking}'; choose 'absolute' or 'signed'.")
    if request.n < 1:
        raise ValueError(f"A task needs at least one pair of prompts, not {request.n}.")
    if request.edges < 1:
        raise ValueError(f"A circuit needs at least one edge, not {request.edges}.")
    if model is not None and request.edges > (total := graph_of(model).n_edges):
        raise ValueError(f"{request.edges:,} edges are more than the {total:,} of {model.name}; ask for fewer.")
    defaults = method(request.method).options
    # What an edge is replaced by while it is scored and while it is judged should be the same thing.
    same = {"ablation": request.ablation} if "ablation" in defaults else {}
    return {**defaults, **same, **request.options}


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
            "task": {"seed": request.seed, **self.task.spec, **_named(self.task)},
            "method": request.method,
            "settings": {
                "options": self.options,
                "edges": request.edges,
                "ranking": request.ranking,
                "ablation": request.ablation,
                "curve": request.with_curve,
            },
        }


def _named(task: Task) -> dict[str, Any]:
    """What tells a task's prompts from all others, whatever made them."""
    texts = json.dumps([task.clean_text, task.corrupted_text, task.right.tolist(), task.wrong.tolist()])
    return {"name": task.name, "n": len(task), "digest": hashlib.sha256(texts.encode()).hexdigest()[:12]}


def _prepare(model: Transformer, request: Request, task: Task | None) -> _Job:
    options = check(request, model)
    return _Job(model, request, task or tasks.load(request.task, model, n=request.n, seed=request.seed), options)


def _earlier(job: _Job, store: RunStore) -> Run | None:
    """The finished run of the same request, if the store has one whose tensors can be read."""
    identity = job.identity
    with contextlib.suppress(RunError):
        run = store.open(run_id(**identity))
        if run.info.status == "done" and run.scores.complete:
            return run
    return None


def run_discovery(
    model: Transformer,
    request: Request,
    store: RunStore,
    progress: ProgressFn | None = None,
    stop: Callable[[], bool] | None = None,
    *,
    task: Task | None = None,
    fresh: bool = False,
) -> Run:
    """Find a circuit, judge it and keep it; a finished run of the same request is returned as it is.

    Args:
        model: to look into.
        request: what to find.
        store: where to keep it.
        progress: told about every step; returning False stops.
        stop: asked at every step; True stops. So does a ``cancel`` file in the run's folder.
        task: work on these prompts instead of making the request's.
        fresh: work even if there is a finished run of the same request.

    Returns:
        The run, ``done`` or, when it was stopped, ``stopped`` with what was finished until then.

    Raises:
        ValueError: the request cannot be met, or the store cannot be written; nothing was done yet.
        Exception: whatever went wrong during the work; the run is kept as ``failed`` with the reason.
    """
    job = _prepare(model, request, task)
    if not fresh and (earlier := _earlier(job, store)):
        return earlier
    return _work(job, store.begin(**job.identity, n_edges=request.edges), progress, stop)


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
    if not fresh and (earlier := _earlier(job, store)):
        return earlier.id
    writer = store.begin(**job.identity, n_edges=request.edges)

    def work() -> None:
        # The page reads the reason from the run; this is for whoever reads the server's log.
        with contextlib.suppress(ValueError):
            try:
                _work(job, writer, None, None)
            except ValueError:
                raise
            except Exception:
                log.exception("Run %s failed", writer.id)

    threading.Thread(target=work, name=f"run {writer.id}", daemon=True).start()
    return writer.id


def model_of(run: Run, progress: Callable[[int, int, str], None] | None = None) -> Transformer:
    """Load the model of a run again.

    Raises:
        ValueError: it cannot be loaded, or it is not the same model any more.
    """
    from workbench.models import load

    about = run.info.model
    model = load(about.get("source") or about.get("name", ""), progress=progress)
    check_same_model(run, model)
    return model


def check_same_model(run: Run, model: Transformer) -> None:
    """See that a model is the one that a run was made with.

    Raises:
        ValueError: its weights are others.
    """
    if model.fingerprint != run.info.model.get("fingerprint"):
        raise ValueError(f"{model.name} is not the model of run '{run.id}' any more: its weights have changed.")


def task_of(run: Run, model: Transformer) -> Task:
    """Make the prompts of a run again.

    Raises:
        ValueError: they were somebody's own, or this version of the workbench makes others.
    """
    spec = {key: value for key, value in run.info.task.items() if key != "digest"}
    name, n, seed = spec.pop("name"), spec.pop("n"), spec.pop("seed")
    if name not in tasks.names():
        raise ValueError(f"Run '{run.id}' is about prompts of somebody's own ('{name}'); they cannot be made again.")
    task = tasks.load(name, model, n=n, seed=seed, **spec)
    if _named(task)["digest"] != run.info.task.get("digest"):
        raise ValueError(f"This version of the workbench makes other prompts than run '{run.id}' had; run it again.")
    return task


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


def _work(job: _Job, writer: RunWriter, progress: ProgressFn | None, stop: Callable[[], bool] | None) -> Run:
    """Do the job, each result written as soon as there is one."""
    say = _Voice(writer, progress, stop)
    timings: dict[str, float] = {}
    try:
        _steps(job, writer, say, timings)
    except (Stopped, KeyboardInterrupt):
        return writer.finish("stopped", timings=timings)
    except Exception as error:
        with contextlib.suppress(OSError, RunError):  # the first error is the one to tell
            writer.finish("failed", timings=timings, error=sentence(error))
        writer.release()
        raise
    return writer.finish("stopped" if say.stopped else "done", timings=timings)


def _steps(job: _Job, writer: RunWriter, say: _Voice, timings: dict[str, float]) -> None:
    """Self-check, scores, report, curve; returns early when asked to stop."""
    model, request, task = job.model, job.request, job.task
    prompts = {"clean": task.clean_text, "corrupted": task.corrupted_text, "metric": task.metric_name}
    writer.update(prompts=prompts)
    with _timed(timings, "check"):
        found = task.check(model)
    writer.update(check=asdict(found), note=found.warning or "")
    with _timed(timings, "discover"):
        scores = discover(model, task, method=request.method, progress=say, **job.options)
    writer.save_scores(scores)
    if say.stopped or not say(Progress(0, 1, "judging the circuit")):
        return
    circuit = scores.top(request.edges, ranking=request.ranking)
    with _timed(timings, "evaluate"):
        report = evaluate(model, task, circuit, ablation=request.ablation, progress=say)
    writer.update(report=asdict(report))
    if request.with_curve and not say.stopped:
        with _timed(timings, "curve"):
            curve = faithfulness_curve(model, task, scores, ablation=request.ablation, progress=say)
        writer.update(curve=asdict(curve))


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
