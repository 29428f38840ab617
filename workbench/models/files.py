"""Models in a folder of the workbench's own: ``config.json``, ``model.safetensors`` and what turns text into tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.models.config import ModelConfig
from workbench.models.transformer import Transformer

TYPE = "workbench"


def save(model: Transformer, folder: str | Path) -> Path:
    """Write a model, with its tokenizer or image processor, so that ``load(folder)`` gives it back.

    Args:
        model: with all its weights in memory.
        folder: made where it is missing; files of that name are replaced.

    Raises:
        ValueError: the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    # A view of a larger tensor, or one that two names share, is written as a tensor of its own.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.weights().items()}
    if model.cfg.tied:
        del tensors["unembedding.weight"]
    reader = model.tokenizer if model.images is None else model.images.processor
    if model.images is None and reader is not None and not getattr(reader, "is_fast", False):
        raise ValueError(f"{type(reader).__name__} has no tokenizer.json to save; give the model a fast tokenizer.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        said = {"model_type": TYPE, "name": model.name, "config": model.cfg.to_dict()}
        (folder / "config.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        for old in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            (folder / old).unlink(missing_ok=True)
        if reader is not None:
            reader.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The model cannot be written to '{folder}' ({reason}).") from error
    return folder


def is_own(folder: Path) -> bool:
    """Whether a folder holds a model that :func:`save` wrote."""
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == TYPE)
    except (OSError, ValueError, AttributeError):
        return False


def read(folder: Path, dtype: torch.dtype | None, name: str) -> Transformer:
    """The model that :func:`save` wrote.

    Raises:
        ValueError: the files do not fit each other, or are damaged.
    """
    from safetensors.torch import load_file

    for needed in ("config.json", "model.safetensors"):
        if not (folder / needed).is_file():
            raise ValueError(f"The model folder '{folder}' holds no '{needed}'.")
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        cfg = ModelConfig.from_dict(said["config"])
        tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The model files in '{folder}' could not be read ({reason}).") from error
    frequencies = tensors.pop("inverse_frequencies", None)
    if dtype is not None:
        tensors = {k: t if cfg.exact_norms and _is_norm(k) else t.to(dtype) for k, t in tensors.items()}
    if frequencies is not None:
        tensors["inverse_frequencies"] = frequencies
    if cfg.tied and "embed.weight" in tensors:
        tensors["unembedding.weight"] = tensors["embed.weight"]
    return Transformer(cfg, tensors, _reader(folder, cfg), name)


def _is_norm(name: str) -> bool:
    """Whether a weight is a norm's, by the name of the part that has it."""
    part = f".{name}".rsplit(".", 2)[1]
    return part.startswith("ln") or part.endswith("norm")


def _reader(folder: Path, cfg: ModelConfig) -> Any:
    if cfg.image is not None:
        if not (folder / "preprocessor_config.json").is_file():
            return None
        from transformers import AutoImageProcessor

        processors: Any = AutoImageProcessor

        return processors.from_pretrained(folder, local_files_only=True, backend="pil")
    if not (folder / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
