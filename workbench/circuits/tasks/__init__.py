"""The tasks: ``tasks.names()`` lists them, ``tasks.load(name, model, n=32, seed=0)`` makes one for a model."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.task import Metric, Task, TaskCheck
from workbench.circuits.tasks import file
from workbench.circuits.tasks.draw import TooFewPairs
from workbench.circuits.tasks.file import from_file
from workbench.circuits.tasks.function import from_function
from workbench.circuits.tasks.kinds import KIND_NAMES, Kind, kind_of, refuse_other_kinds
from workbench.circuits.tasks.pairs import from_pairs
from workbench.circuits.tasks.registry import RECORDS, TaskRecord
from workbench.models import Transformer
from workbench.models.lookup import pick

Keep = Literal["all", "done"]
# How many times as many examples as are wanted are tried before we say that a model does not do a task.
_MOST = 16
_BATCH = 32


def records() -> list[TaskRecord]:
    """All tasks."""
    return list(RECORDS)


def names() -> list[str]:
    """Keys of all tasks."""
    return [record.key for record in RECORDS]


def get(name: str) -> TaskRecord:
    """The record of a task; of a file of one's own (``pairs.csv``) one that stands for it.

    Raises:
        ValueError: there is no such task (the message suggests the closest) or file.
    """
    if file.is_file(name):
        path = file.find(name)
        return TaskRecord(
            file.name_of(path),
            path.stem,
            f"The pairs of {path.name}.",
            "your own",
            lambda model, n, seed: from_file(model, path, n=n, seed=seed),
            ("decoder", "masked-lm", "classifier"),
        )
    return pick(RECORDS, name, "task")


def for_model(model: Transformer) -> list[TaskRecord]:
    """The tasks that a model can be asked: it gives such answers, and its tokenizer has the words."""
    fitting = []
    for record in RECORDS:
        if kind_of(model) in record.kinds:
            try:
                record.make(model, 2, 0)
            except ValueError:
                continue
            fitting.append(record)
    return fitting


def load(
    name: str,
    model: Transformer,
    n: int = 32,
    seed: int = 0,
    *,
    keep: Keep = "all",
    metric: Metric | None = None,
    progress: ProgressFn | None = None,
    **options: Any,
) -> Task:
    """Make ``n`` pairs of a task for a model's tokenizer; the same seed gives the same pairs.

    Args:
        name: key of the task, or the path of a file as :func:`from_file` reads it, of which ``n`` lines at most
            are taken.
        model: the model to be asked.
        n: number of pairs.
        seed: chooses them.
        keep: ``done`` keeps only examples that the model does (metric above 0 on the clean prompt and the best right
            answer above the best wrong one), and draws until there are ``n``.
        metric: ``logit-diff``, ``prob-diff`` or ``kl`` instead of the task's own, see :meth:`Task.with_metric`.
        progress: called after every batch that ``done`` tries.
        **options: the task's own.

    Raises:
        ValueError: no such task, option, metric or ``keep``, ``n`` below 1, a model of another kind, a tokenizer that
            the task cannot be asked through, or a model that does too few of the examples.
        Stopped: stopped before there were enough.
    """
    record = get(name)
    if n < 1:
        raise ValueError(f"A task needs at least one prompt; got n={n}.")
    if keep not in get_args(Keep):
        raise ValueError(f"Examples to keep are 'all' or those 'done', not '{keep}'.")
    allowed = list(inspect.signature(record.make).parameters)[3:]
    for option in options:
        if option not in allowed:
            raise ValueError(f"The task '{name}' has no option '{option}'; it has {', '.join(allowed) or 'none'}.")
    if kind_of(model) not in record.kinds:
        refuse_other_kinds(record.key, record.kinds, model, [fitting.key for fitting in for_model(model)])
    task = record.make(model, n, seed, **options) if keep == "all" else _done(record, model, n, seed, options, progress)
    return task if metric is None else task.with_metric(metric, model)


def _done(
    record: TaskRecord, model: Transformer, n: int, seed: int, options: dict[str, Any], progress: ProgressFn | None
) -> Task:
    """The first ``n`` examples that the model does."""
    tried, found = 0, torch.empty(0, dtype=torch.long)
    most = _MOST * n
    report = Reporter(progress, most, f"choosing prompts that {model.name} does")
    drawn = min(2 * n, most)
    while True:
        task, drawn = _up_to(record, model, drawn, seed, options)
        while tried < len(task) and len(found) < n:
            batch = task.rows(tried, tried + _BATCH)
            found = torch.cat((found, tried + _does(batch, model)))
            tried += len(batch)
            report.done = tried - 1
            report.step()
            if not report.going:
                raise Stopped("Stopped before there were enough prompts; nothing was kept.")
        if len(found) >= n:
            return _named(task.select(found[:n]), n, seed)
        if len(task) < drawn or drawn >= most:
            break
        drawn = min(2 * drawn, most)
    some = f"ask for {len(found)} at most, or choose" if len(found) else "choose"
    raise ValueError(
        f"{model.name} does '{record.key}' on only {len(found)} of the {tried} prompts that were tried, and {n} were "
        f"asked for; {some} another task or model."
    )


def _up_to(record: TaskRecord, model: Transformer, n: int, seed: int, options: dict[str, Any]) -> tuple[Task, int]:
    """A task of ``n`` pairs, or of as many as there are; and ``n``."""
    try:
        return record.make(model, n, seed, **options), n
    except TooFewPairs as error:
        if not error.found:
            raise
        return record.make(model, error.found, seed, **options), n


def _does(batch: Task, model: Transformer) -> torch.Tensor:
    """Which rows of a batch the model does."""
    clean = batch.answers(model)
    # Only a metric without answers asks what the corrupted prompt gives.
    corrupted = clean if batch.right.shape[1] else batch.answers(model, "corrupted")
    return (batch.correct(clean, corrupted) & batch.first(clean)).nonzero().flatten().cpu()


def _named(task: Task, n: int, seed: int) -> Task:
    return replace(task, spec={**task.spec, "n": n, "seed": seed, "keep": "done"})


__all__ = [
    "KIND_NAMES",
    "Keep",
    "Kind",
    "Task",
    "TaskCheck",
    "TaskRecord",
    "for_model",
    "from_file",
    "from_function",
    "from_pairs",
    "get",
    "kind_of",
    "load",
    "names",
    "records",
]
