"""Attention entropy along a training run: a recorder for the loop, and the same from saved checkpoints."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from operator import length_hint
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from workbench.attention.probing import Probe, Reader, probe_of
from workbench.attention.training_record import Alarm, AlarmRule, Reading, TrainingRecord, alarms_at
from workbench.circuits.progress import ProgressFn, Reporter
from workbench.models import load

OnAlarm = Callable[[Alarm], None]


class CollapseWarning(UserWarning):
    """Attention entropy has collapsed somewhere."""


class EntropyMonitor:
    """Reads attention on a fixed probe every few steps of a training run.

    ::

        monitor = EntropyMonitor(model, probe_tokens, every=10)
        for batch in batches:
            ...  # loss.backward(), optimiser.step()
            monitor.step(loss)

    The probe is read once at the start (step 0), then after every ``every`` steps. Nothing of the model changes:
    no gradients, the training modes, the random numbers and the gradients stay as they were. A model that has come to
    scores that are not finite gives a reading that says so, and training goes on.

    Cost of a reading: one forward over the probe without the head, and an SVD for each attention matrix.

    Args:
        model: a workbench model; a Hugging Face model of a supported family, whose weights are read as they are at each
            reading; or, with ``read``, any module. Wrappers of ``torch.compile`` and data parallelism are looked into.
        probe: token ids [batch, pos], texts where the model has a tokenizer, pixels; or what ``read`` takes.
        every: steps between readings.
        attention_mask, token_types: of the probe, as in :func:`workbench.attention.statistics`.
        read: for any other module: ``read(model, probe)`` gives for each layer its pattern [batch, head, query, key],
            or :class:`workbench.attention.QueriesKeys`. Weights are not read then.
        rule: when a head or layer counts as collapsed.
        norms: also the spectral norms of the attention matrices; False saves the SVDs of a large model.
        on_alarm: called once for each head and layer that collapses; by default there is a warning.
        path: a file that gets a line for each reading, at once.
        resume: go on in that file, with what it has, instead of refusing it.
        start: steps that were done before; None for 0, or the last step of the file. Later readings in it are dropped.

    Raises:
        ValueError: the probe does not fit the model, a setting makes no sense, or the file is there already.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        every: int = 10,
        *,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        read: Reader | None = None,
        rule: AlarmRule | None = None,
        norms: bool = True,
        on_alarm: OnAlarm | None = None,
        path: str | Path | None = None,
        resume: bool = False,
        start: int | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"The probe is read every so many steps, at least 1; got {every}.")
        if resume and path is None:
            raise ValueError("To resume, say with 'path' which file to go on in.")
        self.model, self.every, self.norms = model, every, norms
        self.on_alarm, self.path = on_alarm, None if path is None else Path(path)
        with undisturbed(model):
            self._probe = probe_of(_bare(model), probe, attention_mask, token_types, read)
        record = TrainingRecord(self._probe.model, self._probe.shape, rule or AlarmRule())
        self._record = record if self.path is None else _begun(self.path, record, resume, start)
        self.steps_done = start if start is not None else (self._record.steps or [0])[-1]
        self._losses: list[Tensor | float] = []
        self._said = {alarm.name for alarm in self._record.alarms}
        if self.steps_done not in self._record.steps:
            self._take()

    @property
    def record(self) -> TrainingRecord:
        """All readings so far; plain data, which stays as it is when training goes on."""
        return self._record

    def step(self, loss: Tensor | float | None = None) -> Reading | None:
        """One update of the weights is done; call it before gradients are set to zero, if their length is to be kept.

        Args:
            loss: of this step. The graph behind it is not kept, and it is not waited for until the next reading.

        Returns:
            The reading, where this step was one to read at.
        """
        self.steps_done += 1
        if loss is not None:
            self._losses.append(loss.detach() if isinstance(loss, Tensor) else float(loss))
        return self._take() if self.steps_done % self.every == 0 else None

    def _take(self) -> Reading:
        with undisturbed(self.model):
            reading = self._probe.take(_bare(self.model), self.steps_done, self.norms)
        losses, self._losses = [float(loss) for loss in self._losses], []
        loss = sum(losses) / len(losses) if losses else math.nan
        lost = bool(losses) and not math.isfinite(loss)
        reading = replace(
            reading,
            loss=loss if math.isfinite(loss) else None,
            grad_norm=_length_of_gradient(self.model),
            diverged=reading.diverged or lost,
            note=reading.note or ("The loss is not finite." if lost else None),
        )
        self._record = replace(self._record, readings=(*self._record.readings, reading))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(reading.to_dict()) + "\n")
        self._tell()
        return reading

    def _tell(self) -> None:
        alarms = [
            alarm for alarm in alarms_at(self._record.readings, self._record.rule) if alarm.name not in self._said
        ]
        self._said |= {alarm.name for alarm in alarms}
        for alarm in alarms if self.on_alarm is not None else ():
            cast(OnAlarm, self.on_alarm)(alarm)
        if alarms and self.on_alarm is None:
            warnings.warn(_sentence(alarms), CollapseWarning, stacklevel=4)


def entropy_along(
    checkpoints: Iterable[tuple[int, Any]],
    probe: Any,
    *,
    like: nn.Module | None = None,
    attention_mask: Tensor | None = None,
    token_types: Tensor | None = None,
    read: Reader | None = None,
    rule: AlarmRule | None = None,
    norms: bool = True,
    progress: ProgressFn | None = None,
) -> TrainingRecord:
    """The readings that a monitor would have taken, from the checkpoints of a run.

    Args:
        checkpoints: pairs (step, checkpoint), taken one after the other. A checkpoint is a model, a folder that
            :func:`workbench.load` reads, a state dict, or the file of one (``.safetensors``, ``.pt`` of plain tensors).
        probe, attention_mask, token_types, read, rule, norms: as in :class:`EntropyMonitor`.
        like: the model that state dicts belong to. They go into a copy of it.
        progress: called after each checkpoint; returning False stops and keeps what is read (``complete=False``).

    Raises:
        ValueError: a checkpoint is not there or does not fit, steps do not rise, or there are none.
    """
    report = Reporter(progress, length_hint(checkpoints, 0), "reading checkpoints")
    found: TrainingRecord | None = None
    asked: Probe | None = None
    room = None if like is None else deepcopy(_bare(like))
    for step, what in checkpoints:
        model = _checkpoint(step, what, room)
        if found is not None and step <= found.steps[-1]:
            raise ValueError(f"Checkpoints come in the order of steps; {step} comes after {found.steps[-1]}.")
        with undisturbed(model):
            asked = asked or probe_of(model, probe, attention_mask, token_types, read)
            reading = asked.take(model, step, norms)
        found = found or TrainingRecord(asked.model, asked.shape, rule or AlarmRule())
        if found.readings and reading.entropy.shape != found.readings[0].entropy.shape:
            raise ValueError(f"The checkpoint of step {step} has other layers or heads than the first.")
        found = replace(found, readings=(*found.readings, reading))
        report.step()
        if not report.going:
            return replace(found, complete=False)
    if found is None:
        raise ValueError("There are no checkpoints; give pairs of a step and a model, state dict or path.")
    return found


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients and autocast; modes and random numbers are afterwards what they were before."""
    # Not .eval(): a module may have made more of that than a flag.
    modes = {part: part.training for part in model.modules()}
    devices = {weight.device for weight in model.parameters()}
    cards = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    kind: Literal["cuda", "cpu"] = "cuda" if cards else "cpu"
    with torch.random.fork_rng(devices=cards), torch.no_grad(), torch.autocast(kind, enabled=False):
        try:
            for part in modes:
                part.training = False
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def _bare(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of ``torch.compile`` and data parallelism."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(model, "_orig_mod") or isinstance(model, parallel):
        model = cast(nn.Module, getattr(model, "_orig_mod", None) or model.module)
    return model


def _length_of_gradient(model: nn.Module) -> float | None:
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    length = float(nn.utils.get_total_norm(gradients)) if gradients else math.nan
    return length if math.isfinite(length) else None


def _begun(path: Path, record: TrainingRecord, resume: bool, start: int | None) -> TrainingRecord:
    """The record to go on with, and its file."""
    if path.exists() and path.stat().st_size:
        if not resume:
            raise ValueError(f"'{path}' is there already; name another file, or go on in it with resume=True.")
        old = TrainingRecord.read(path)
        if old.header() != record.header():
            raise ValueError(f"'{path}' has readings of another model, probe or rule; name another file.")
        kept = tuple(reading for reading in old.readings if start is None or reading.step <= start)
        record = replace(record, readings=kept)
    lines = [record.header(), *(reading.to_dict() for reading in record.readings)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one step, so that a kill leaves the old file or the new one.
        fresh = path.with_name(path.name + ".new")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written ({error.strerror or error}).") from None
    return record


def _checkpoint(step: int, what: Any, room: nn.Module | None) -> nn.Module:
    """The model of one checkpoint."""
    if isinstance(what, nn.Module):
        return _bare(what)
    if isinstance(what, str | Path) and Path(what).is_dir():
        return load(what, device="cpu")
    state = _state(what) if isinstance(what, str | Path) else what
    if not isinstance(state, dict):
        raise ValueError(f"The checkpoint of step {step} is a {type(what).__name__}; give a model, state dict or path.")
    if room is None:
        raise ValueError(f"The checkpoint of step {step} is a state dict; say with 'like' which model it belongs to.")
    try:
        room.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The checkpoint of step {step} does not fit the model given by 'like' ({reason}).") from None
    return room


def _state(path: str | Path) -> Any:
    """A state dict from its file."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"There is no file '{path}'.") from None
    except Exception as error:
        reason = " ".join(str(error).split()).partition(".")[0][:120]
        raise ValueError(f"'{path}' is not a file of plain tensors ({type(error).__name__}: {reason}).") from None


def _sentence(alarms: list[Alarm]) -> str:
    first, more = alarms[0], ", ".join(alarm.name for alarm in alarms[1:9])
    others = f" So has that of {more}{' and others' if len(alarms) > 9 else ''}." if more else ""
    return (
        f"Step {first.step}: the attention entropy of {first.name} has fallen to {first.entropy:.2f} nats, from "
        f"{first.start:.2f} at the start.{others} If the loss stalls or rises, lower the learning rate, warm up "
        "longer, or reparametrise (workbench.attention.sigma_reparametrise)."
    )
