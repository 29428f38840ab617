"""The store: where runs are begun, found, renamed and deleted."""

from __future__ import annotations

import builtins
import contextlib
import difflib
import hashlib
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from workbench.runs.files import (
    CANCEL,
    PARTIAL,
    RUN,
    RUNNING,
    SCORES,
    RunError,
    canonical_json,
    claim,
    is_held,
    read_json,
    write,
    write_json,
)
from workbench.runs.record import Run, RunInfo, read_info

if TYPE_CHECKING:
    from workbench.circuits.graph import Circuit, Scores

_PROGRESS_EVERY = 0.35  # seconds between two writes of progress
_TENSORS = ("graph", "values", "state")  # of scores: not kept as JSON


def run_id(model: Mapping[str, Any], task: Mapping[str, Any], method: str, settings: Mapping[str, Any]) -> str:
    """The name of a run, the same for the same request of the same model with the same workbench.

    Args:
        model: with its ``fingerprint``; the name does not matter.
        task: with its ``name``.
        method: key of the method.
        settings: anything JSON can hold.
    """
    request = [version(), model["fingerprint"], task, method, settings]
    key = hashlib.sha256(canonical_json(request).encode()).hexdigest()
    return f"{_slug(str(task['name']))}-{_slug(method)}-{key[:8]}"


def version() -> str:
    """Version of the workbench."""
    return _version_of("mi-workbench")


class RunWriter:
    """A run while one process works on it; made by :meth:`RunStore.begin`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last_progress = -math.inf

    @property
    def id(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    def update(self, **changes: Any) -> None:
        """Change fields of ``run.json``; what others changed meanwhile (the title) stays."""
        write_json(self.folder / RUN, {**read_json(self.folder), **changes})

    def progress(self, done: int, total: int, what: str) -> None:
        """Note how far the work is; at most about three times a second, so that fast work stays fast."""
        if (now := time.monotonic()) - self._last_progress >= _PROGRESS_EVERY:
            self._last_progress = now
            self.update(progress={"done": done, "total": total, "what": what})

    def cancelled(self) -> bool:
        """Whether somebody asked the run to stop, or deleted it."""
        return (self.folder / CANCEL).exists() or not self.folder.exists()

    def save_scores(self, scores: Scores, *, taken_from: str | None = None, marked: Circuit | None = None) -> None:
        """Keep the scores, complete or partial.

        Args:
            scores: of every edge.
            taken_from: id of the run that they are from, where this one did not find them itself.
            marked: the circuit itself, where it does not follow from the scores.
        """
        from safetensors.torch import save

        kept = {"values": scores.values.detach().float().cpu().contiguous()}
        if marked is not None:
            kept["marked"] = marked.mask.cpu().contiguous()
        write(self.folder / SCORES, save(kept))
        about = {f.name: getattr(scores, f.name) for f in fields(scores) if f.name not in _TENSORS}
        self.update(graph=asdict(scores.graph), scores=about | ({} if taken_from is None else {"from": taken_from}))
        if scores.complete:
            (self.folder / PARTIAL).unlink(missing_ok=True)

    def save_partial(self, scores: Scores) -> None:
        """Keep what a search under way has, NaN where there is nothing yet, so that it can be gone on with."""
        from safetensors.torch import save

        about = {f.name: getattr(scores, f.name) for f in fields(scores) if f.name not in _TENSORS}
        # One file, so that values and settings are replaced together.
        said = {"scores": canonical_json(about), "graph": canonical_json(asdict(scores.graph))}
        kept = {"values": scores.values.detach().float().cpu().contiguous()}
        kept |= {f"state.{name}": tensor.detach().cpu().contiguous() for name, tensor in scores.state.items()}
        write(self.folder / PARTIAL, save(kept, said))

    def finish(self, status: str, **changes: Any) -> Run:
        """End the run as ``done``, ``stopped`` or ``failed`` and let go of it."""
        try:
            self.update(status=status, finished=_now(), **changes)
        finally:
            self.release()
        return Run(read_info(self.folder))

    def release(self) -> None:
        """Let go of the folder without a word; a run that was not finished is then ``interrupted``."""
        for name in (CANCEL, RUNNING):
            (self.folder / name).unlink(missing_ok=True)


class RunStore:
    """A folder of run folders.

    Args:
        root: the folder; None for ``$WORKBENCH_RUNS`` or, without that, the user's data folder.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        fallback = Path(platformdirs.user_data_dir("mi-workbench")) / "runs"
        self.root = Path(root or os.environ.get("WORKBENCH_RUNS") or fallback).expanduser()

    def check_writable(self) -> None:
        """Make the folder if need be and see that a file can be written in it.

        Raises:
            RunError: it cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "choose another folder (--out or WORKBENCH_RUNS)."
            raise RunError(f"Cannot write runs to '{self.root}' ({reason}); {hint}") from None

    def begin(
        self,
        *,
        model: Mapping[str, Any],
        task: Mapping[str, Any],
        method: str,
        settings: Mapping[str, Any],
        n_edges: int | None = None,
        go_on: bool = False,
    ) -> RunWriter:
        """Start a run, in place of an earlier one of the same request.

        Args:
            model: ``name`` and ``fingerprint``.
            task: ``name``, ``n``, ``seed``, ...
            method: key of the method.
            settings: anything JSON can hold; with the above it makes the run's id.
            n_edges: how many edges the circuit is to have.
            go_on: keep what an earlier run of the same request had finished.

        Raises:
            RunError: the same request is being worked on, or the folder cannot be written.
        """
        self.check_writable()
        folder = self.root / run_id(model, task, method, settings)
        if folder.is_symlink():
            raise RunError(f"'{folder}' is a link; runs are kept in folders of the store itself.")
        folder.mkdir(exist_ok=True)
        claim(folder)
        writer = RunWriter(folder)
        about: dict[str, Any] = {
            "status": "running",
            "title": _title(folder),
            "created": _now(),
            "finished": None,
            "model": dict(model),
            "task": dict(task),
            "method": method,
            "settings": dict(settings),
            "seed": int(task.get("seed", 0)),
            "versions": _versions(),
            "timings": {},
            "progress": {"done": 0, "total": 0, "what": "starting"},
            "pid": os.getpid(),
            "n_edges": n_edges,
        }
        try:
            if go_on:
                before = read_json(folder)
                kept: dict[str, Any] = {key: before[key] for key in ("created", "timings") if key in before}
                about = {**before, **about, **kept, "error": None}
            for name in (CANCEL,) if go_on else (CANCEL, SCORES, PARTIAL):
                (folder / name).unlink(missing_ok=True)
            write_json(folder / RUN, about)
        except BaseException:
            writer.release()
            raise
        return writer

    def list(self) -> builtins.list[RunInfo]:
        """The runs, newest first; damaged ones are left out (see :meth:`damaged`)."""
        return self.scan()[0]

    def damaged(self) -> builtins.list[str]:
        """One sentence for every folder in the store that should be a run and cannot be read."""
        return self.scan()[1]

    def scan(self) -> tuple[builtins.list[RunInfo], builtins.list[str]]:
        """Both of the above from one reading of the folders."""
        runs, broken = self.read_all()
        return runs, builtins.list(broken.values())

    def read_all(self) -> tuple[builtins.list[RunInfo], dict[str, str]]:
        """The runs, newest first, and for each damaged folder its name and a sentence that says what is wrong."""
        runs: builtins.list[RunInfo] = []
        broken: dict[str, str] = {}
        for name in self._ids():
            try:
                runs.append(read_info(self.root / name))
            except RunError as error:
                broken[name] = str(error)
        return sorted(runs, key=lambda run: (run.created, run.id), reverse=True), broken

    def _ids(self) -> builtins.list[str]:
        """Names of the folders in the store; a link is not one, for it may lead anywhere."""
        try:
            entries = sorted(os.scandir(self.root), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"Cannot read the run store '{self.root}' ({error.strerror}).") from None
        return [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]

    def open(self, which: str | Path) -> Run:
        """A run by its id, the start of its id, the path of its folder, or the path of a store (its newest).

        Raises:
            RunError: there is none, several fit, or the folder is damaged.
        """
        text = str(which)
        is_known = any(name.startswith(text) for name in self._ids())
        folder = None if is_known or not text else _run_at(text)
        return Run(read_info(folder or self.folder_of(text, start=True)))

    def folder_of(self, which: str, start: bool = False) -> Path:
        """The folder in this store with that id, damaged or not; never anything outside the store.

        Args:
            which: the id.
            start: the start of the id will do, if it is the start of only one.

        Raises:
            RunError: there is none (with the closest), or several fit.
        """
        ids = self._ids()
        found = [name for name in ids if start and which and name.startswith(which)]
        if which in ids or len(found) == 1:
            return self.root / (which if which in ids else found[0])
        if found:
            raise RunError(f"'{which}' is the start of {len(found)} runs: {', '.join(found[:5])}.")
        close = difflib.get_close_matches(which, ids, 1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'?" if close else f"the store '{self.root}' holds {len(ids)} run(s)."
        raise RunError(f"There is no run '{which}'; {hint}")

    def disk_use(self, which: str) -> int:
        """Bytes that a run takes, damaged or not.

        Raises:
            RunError: there is no such run.
        """
        total = 0
        for folder, _, names in os.walk(self.folder_of(which)):  # a run's examinations lie in folders of their own
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile
                    total += Path(folder, name).lstat().st_size
        return total

    def delete(self, which: str) -> str:
        """Remove a run of this store for good, damaged or not; the id of what was removed.

        Raises:
            RunError: there is no such run, somebody is working on it, or the folder is not a run's.
        """
        folder = self.folder_of(which)
        if is_held(folder):
            raise RunError(f"Run '{folder.name}' is being worked on; stop it first.")
        if any(folder.iterdir()) and not any((folder / name).exists() for name in (RUN, SCORES)):
            raise RunError(f"'{folder}' does not look like a run; it is left alone.")
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise RunError(f"Cannot delete '{folder}' ({error.strerror}).") from None
        return folder.name

    def rename(self, which: str, title: str) -> RunInfo:
        """Give a run a title; its id stays.

        Raises:
            RunError: there is no such run, or the title is empty or too long.
        """
        title = " ".join(title.split())
        if not title or len(title) > 200:
            raise RunError("A title has 1 to 200 characters.")
        folder = self.folder_of(which)
        read_info(folder)
        RunWriter(folder).update(title=title)
        return read_info(folder)

    def request_cancel(self, which: str) -> None:
        """Ask whoever works on a run to stop and keep what is finished; nothing happens if nobody does.

        Raises:
            RunError: there is no such run.
        """
        folder = self.folder_of(which)
        if is_held(folder):
            (folder / CANCEL).touch()


def _run_at(text: str) -> Path | None:
    """The run folder that a path means: itself, or the newest run of a store; None if it is no path."""
    try:
        path = Path(text).expanduser().resolve()
        if (path / RUN).exists():
            return path
        if not path.is_dir():
            return None
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such user, a null byte
        return None
    store = RunStore(path)
    runs, broken = store.scan()
    if runs:
        return runs[0].folder
    if broken:
        raise RunError(broken[0])
    raise RunError(f"There is no run in the folder '{path}'.")


def _title(folder: Path) -> str:
    """The title that an earlier run of the same request was given."""
    try:
        return read_info(folder).title
    except RunError:
        return folder.name


def _slug(text: str) -> str:
    """Letters, digits and single hyphens: safe as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "run"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    packages = {"workbench": "mi-workbench", "torch": "torch", "transformers": "transformers"}
    found = {name: _version_of(package) for name, package in packages.items()}
    return {**found, "python": platform.python_version()}


def _version_of(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return "unknown"
