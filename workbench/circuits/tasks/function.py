"""Tasks whose metric is a Python function."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from workbench.circuits.task import MetricFn, Task
from workbench.circuits.tasks.kinds import kind_of
from workbench.circuits.tasks.pairs import digest, encode
from workbench.models import Transformer
from workbench.models.embedding import n_positions
from workbench.models.images import Pixels
from workbench.models.tokens import shorten


def from_function(
    model: Transformer,
    fn: Callable[[Tensor], Tensor] | MetricFn,
    clean: Sequence[str] | Pixels,
    corrupted: Sequence[str] | Pixels,
    *,
    extra: Mapping[str, Tensor] | None = None,
    at: Sequence[int] | None = None,
    name: str = "custom",
    title: str = "Your metric",
) -> Task:
    """A task that is measured by a function of one's own.

    ``fn(values)`` or ``fn(values, batch)`` gives one number for each example, higher for more of the behaviour, by
    torch operations, so that it can be differentiated. ``values`` are the logits where the answer is read
    [batch, d_vocab] or [batch, class]; of a model without a head the vectors of all positions [batch, pos, d_model], of
    which the first ``batch.lengths`` are real. It is called on batches of the examples, so whatever belongs to single
    ones must come through ``batch.extra``. It is run once on all of them before this returns.

    Args:
        model: the model to be asked.
        fn: the metric.
        clean, corrupted: prompts; each pair must have equally many tokens. For a vision model pixels, as it reads them.
        extra: tensors for the function, one row for each example: ``batch.extra[name]``.
        at: position at which each example is read; by default the last token, or ``[MASK]``.
        name, title: what results call the task.

    Raises:
        ValueError: the function takes or gives something else, cannot be differentiated, or is not a number on some
            example (which); an ``extra`` or ``at`` of another length; prompts as in :func:`from_pairs`.
    """
    metric = _two_arguments(fn)
    sides, lengths, places, texts = _inputs(model, clean, corrupted)
    extra = dict(extra or {})
    for key, tensor in {**extra, **({} if at is None else {"at": torch.tensor(at)})}.items():
        if not isinstance(tensor, Tensor) or not tensor.ndim or len(tensor) != len(lengths):
            raise ValueError(f"'{key}' needs one row for each of the {len(lengths)} examples.")
    if at is not None:
        places = torch.tensor(at)
        if not bool(((places >= 0) & (places < lengths)).all()):
            raise ValueError("'at' names a position that an example does not have; positions begin at 0.")
    none = torch.empty(len(lengths), 0, dtype=torch.long)
    data = {key: tensor.tolist() for key, tensor in extra.items()}
    called = getattr(fn, "__qualname__", type(fn).__name__)
    task = Task(
        name=name,
        title=title,
        clean=sides[0],
        corrupted=sides[1],
        lengths=lengths,
        right=none,
        wrong=none,
        clean_text=texts[0],
        corrupted_text=texts[1],
        metric_kind="custom",
        spec={
            "name": name,
            "n": len(lengths),
            "function": called,
            "pairs": digest(*[side.tolist() for side in sides], _code_of(fn), data, None if at is None else list(at)),
        },
        at=places,
        extra=extra,
        fn=metric,
        whole=kind_of(model) == "encoder",
    )
    _try(model, task, called)
    return task


def _inputs(
    model: Transformer, clean: Sequence[str] | Tensor, corrupted: Sequence[str] | Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor | None, tuple[list[str], list[str]]]:
    """Both sides, the lengths, where a masked word is, and what to call the examples."""
    if len(clean) != len(corrupted) or not len(clean):
        raise ValueError(
            f"A task needs as many clean as corrupted inputs, and at least one; got {len(clean)} and {len(corrupted)}."
        )
    if kind_of(model) == "vision":
        sides = model.to_pixels(clean).cpu(), model.to_pixels(corrupted).cpu()
        texts = [f"image {i + 1}" for i in range(len(clean))]
        return sides, torch.full((len(clean),), n_positions(model, sides[0])), None, (texts, texts)
    if isinstance(clean, Tensor) or isinstance(corrupted, Tensor):
        raise ValueError(f"{model.name} reads text: give clean and corrupted prompts as lists of texts.")
    tokens, lengths, at = encode(model, clean, corrupted)
    return tokens, lengths, at, (list(clean), list(corrupted))


def _two_arguments(fn: Any) -> MetricFn:
    """The function with the task as a second argument, whether it wants it or not."""
    if not callable(fn):
        raise ValueError(f"The metric must be a function of the logits, not {type(fn).__name__}.")
    try:
        given = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # built in, without a signature
        return lambda values, _batch: fn(values)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in given if p.kind in kinds and p.default is p.empty]
    if len(needed) > 2 or not any(p.kind in (*kinds, p.VAR_POSITIONAL) for p in given):
        raise ValueError(f"The metric takes {len(needed)} arguments; it must take the logits, and may take the batch.")
    if len(needed) == 2:
        return cast(MetricFn, fn)
    return lambda values, _batch: fn(values)


def _try(model: Transformer, task: Task, called: str) -> None:
    """Run the metric on every example of both sides."""
    for start in range(0, len(task), 32):
        batch = task.rows(start, start + 32)
        for side in ("clean", "corrupted"):
            values = batch.answers(model, side).clone().requires_grad_(True)
            with torch.enable_grad():
                try:
                    found = batch.score(values)
                except Exception as error:
                    said = f"{type(error).__name__}: {shorten(' '.join(str(error).split()), 120)}"
                    raise ValueError(
                        f"The metric {called} failed on values of the shape {list(values.shape)} ({said})."
                    ) from error
            if not isinstance(found, Tensor) or tuple(found.shape) != (len(batch),):
                got = f"the shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(
                    f"The metric {called} must give one number for each example, [{len(batch)}]; got {got}."
                )
            if not found.requires_grad:
                raise ValueError(
                    f"The metric {called} cannot be differentiated; make it of torch operations on floats."
                )
            batch.refuse_nan(found.detach(), side)


def _code_of(fn: Any) -> str:
    """What tells a function from others: its code, and that of functions in it."""
    code = getattr(fn, "__code__", None)
    defaults = repr(getattr(fn, "__defaults__", None))
    return getattr(fn, "__qualname__", repr(type(fn))) if code is None else f"{_listing(code)} {defaults}"


def _listing(code: types.CodeType) -> str:
    constants = [_listing(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
