"""What the run store does on the disk: files replaced in one step, and who works on which folder."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUN, SCORES, CANCEL, RUNNING = "run.json", "scores.safetensors", "cancel", "running"
PARTIAL = "partial.safetensors"  # scores of a search under way, to go on from
_CLAIM_GRACE = 10.0  # seconds that a process has to write its name into ``running``


class RunError(ValueError):
    """A run or a run store cannot be used; the message is one sentence that says why and what to do."""


def write(path: Path, data: bytes) -> None:
    """Replace a file in one step, on the disk before it counts."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step; NaN and infinities become null."""
    write(path, (json.dumps(finite(data), indent=1, ensure_ascii=False) + "\n").encode())


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, which JSON has no numbers for, and tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def canonical_json(value: Any) -> str:
    """Canonical JSON: the same text for the same data."""
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_json(folder: Path) -> dict[str, Any]:
    """The object in a folder's ``run.json``.

    Raises:
        RunError: it is missing or no JSON object.
    """
    try:
        data = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(folder, f"'{RUN}' is missing") from None
    except (OSError, ValueError, RecursionError):
        raise damaged(folder, f"'{RUN}' cannot be read") from None
    if not isinstance(data, dict):
        raise damaged(folder, f"'{RUN}' is not a JSON object")
    return data


def damaged(folder: Path, why: str) -> RunError:
    """The error that names a damaged folder, what is wrong with it and the remedy."""
    return RunError(f"The run folder '{folder}' is damaged ({why}); delete the folder and run it again.")


def claim(folder: Path) -> None:
    """Write this process's name into ``running``.

    Raises:
        RunError: a living process's name is there.
    """
    for _ in range(2):
        try:
            handle = os.open(folder / RUNNING, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if is_held(folder):
                break
            (folder / RUNNING).unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {_process_mark(os.getpid())}")
        return
    raise RunError(f"The run '{folder.name}' is being worked on already; wait for it, or stop it first.")


def is_held(folder: Path) -> bool:
    """Whether a living process works on the run."""
    try:
        pid, _, mark = (folder / RUNNING).read_text(encoding="utf-8").partition(" ")
        age = time.time() - (folder / RUNNING).stat().st_mtime
    except (OSError, UnicodeDecodeError):
        return False
    if not pid.isdigit():
        return age < _CLAIM_GRACE
    return bool(mark) and _process_mark(int(pid)) == mark


def _process_mark(pid: int) -> str:
    """Tells a process from a later one with the same number; empty if there is none.

    On Linux that is its start time; elsewhere only its existence is known, and on Windows not even that.
    """
    if Path("/proc/self/stat").exists():
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:
            return ""
        state, *rest = status.split()
        return "" if state == "Z" else rest[18]
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
    return "alive"
