"""The model and the prompts of a run, made again: a run keeps what they were made from, never themselves."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.circuits import tasks
from workbench.runs import Run

if TYPE_CHECKING:
    from workbench.circuits.task import Task
    from workbench.models import Transformer


def named(task: Task) -> dict[str, Any]:
    """What tells a task's prompts from all others, whatever made them."""
    texts = json.dumps([task.clean_text, task.corrupted_text, task.right.tolist(), task.wrong.tolist()])
    return {"name": task.name, "n": len(task), "digest": hashlib.sha256(texts.encode()).hexdigest()[:12]}


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
    own = name not in tasks.names() or "file" in spec
    task = _own(run, model) if own else tasks.load(name, model, n=n, seed=seed, **spec)
    if named(task)["digest"] != run.info.task.get("digest"):
        raise ValueError(f"This version of the workbench makes other prompts than run '{run.id}' had; run it again.")
    return task


def _own(run: Run, model: Transformer) -> Task:
    """Somebody's own prompts, from what the run kept of them.

    Raises:
        ValueError: it kept no answers.
    """
    kept, name = run.info.prompts, str(run.info.task.get("name"))
    if not kept.get("right"):
        raise ValueError(f"Run '{run.id}' is about prompts of somebody's own ('{name}'); they cannot be made again.")
    spec = {key: value for key, value in run.info.task.items() if key not in ("digest", "seed")}
    metric: Any = kept.get("kind", "logit-diff")  # from_pairs refuses what it does not know
    return tasks.from_pairs(
        model,
        kept["clean"],
        kept["corrupted"],
        kept["right"],
        kept["wrong"],
        metric=metric,
        name=name,
        title=str(kept.get("title", name)),
        spec=spec,
    )


def own_answers(model: Transformer, task: Task) -> dict[str, Any]:
    """The answers of somebody's own prompts as text, so that the prompts can be made again; empty where they cannot."""
    made = task.name in tasks.names() and "file" not in task.spec
    if made or model.tokenizer is None or task.clean.ndim != 2:
        return {}
    words: dict[str, list[list[str]]] = {"right": [], "wrong": []}
    for side, ids in (("right", task.right), ("wrong", task.wrong)):
        for row in ids.tolist():
            found = [str(model.tokenizer.decode([token])) for token in row if token >= 0]
            words[side].append(found)
            # A piece of a character stands for nothing alone.
            with contextlib.suppress(ValueError):
                if [model.to_single_token(word) for word in found] == [token for token in row if token >= 0]:
                    continue
            return {}
    return {**words, "kind": task.metric_kind, "title": task.title}
