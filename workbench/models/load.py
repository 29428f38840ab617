"""Getting a model: by registry name, from a local folder, from the hub, or from a Hugging Face model in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workbench.models import files, registry
from workbench.models.families import FAMILIES, Family, class_of, family_of, transformer_lens
from workbench.models.lookup import meant
from workbench.models.memory import cast, device_of, dtype_of, spread
from workbench.models.transformer import Transformer

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "spiece*", "merges.txt", "*.tiktoken", "tekken.json")
# Transformers keeps its verbosity, and while it builds a model torch's default number type, for the whole process.
_ONE_AT_A_TIME = threading.Lock()


def from_hf(hf_model: Any, tokenizer: Any = None, *, name: str | None = None) -> Transformer:
    """The hooked form of a loaded Hugging Face model of a supported family.

    Weights are shared, not copied, but for what Hugging Face keeps in another form: GPT-NeoX's fused queries, keys and
    values, Gemma's norms, the tokens before a vision model's patches, DeiT's two classifiers.

    Args:
        hf_model: such as ``LlamaForCausalLM``, ``BertForMaskedLM`` or ``ViTForImageClassification``.
        tokenizer: its tokenizer, or image processor; None if only tokens or pixel values will be given.
        name: how results call it; by default the name that the configuration carries, or the model type.

    Raises:
        ValueError: the family, or an option of its configuration, is not supported.
    """
    if not hasattr(hf_model, "config"):
        raise ValueError(f"from_hf takes a Hugging Face model, not {type(hf_model).__name__}.")
    family = family_of(hf_model.config.model_type)
    if not any(base.__name__ in family.classes for base in type(hf_model).__mro__):
        raise ValueError(
            f"{type(hf_model).__name__} is not supported; of {family.title} these are: {', '.join(family.classes)}."
        )
    cfg, weights = family.adapt(hf_model)
    called = name or Path(str(getattr(hf_model.config, "_name_or_path", "") or family.key)).name
    return Transformer(cfg, {k: v.detach() for k, v in weights.items()}, tokenizer, called)


def from_transformer_lens(source: Any, tokenizer: Any = None, *, name: str = "transformer-lens") -> Transformer:
    """The hooked form of a TransformerLens model.

    Args:
        source: a ``TransformerBridge``; or a pair ``(state_dict, config)`` in the format of TransformerLens 1 and 2,
            each itself or the path of a file that holds it (``.pt``, read with ``weights_only=True``, or ``.json``).
        tokenizer: its tokenizer; a bridge brings its own.
        name: how results call it.

    Raises:
        ValueError: the file is no plain tensors, or the state dict and the configuration do not fit.
    """
    if hasattr(source, "original_model"):
        return from_hf(_unwrapped(source.original_model), tokenizer or getattr(source, "tokenizer", None), name=name)
    if not isinstance(source, tuple) or len(source) != 2:
        raise ValueError(f"Give a TransformerBridge or a pair (state_dict, config), not {type(source).__name__}.")
    state, config = (_read(part) for part in source)
    if not isinstance(config, Mapping):
        config = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    cfg, weights = transformer_lens.adapt(state, config)
    return Transformer(cfg, weights, tokenizer, name)


def _unwrapped(hf_model: Any) -> Any:
    """The Hugging Face model inside a bridge, without the bridge's wrappers around its parts."""
    weights = {name.replace("._original_component", ""): w for name, w in hf_model.state_dict().items()}
    plain: Any = type(hf_model)(hf_model.config)
    known = plain.state_dict()
    plain.load_state_dict({name: w for name, w in weights.items() if name in known}, assign=True)
    plain.tie_weights()
    return plain.eval()


def _read(part: Any) -> Any:
    """What a path leads to; anything else as it is."""
    if not isinstance(part, str | Path):
        return part
    path = Path(part)
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"There is no file '{path}'.") from None
    except Exception as error:
        reason = " ".join(str(error).split()).partition(".")[0][:120]
        raise ValueError(
            f"'{path}' is not a file of plain tensors ({type(error).__name__}: {reason}); "
            "save the state dict as safetensors or with torch.save, and the configuration as JSON."
        ) from error


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: torch.dtype | str = torch.float32,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    progress: registry.Progress | None = None,
) -> Transformer:
    """Load a model with its tokenizer, or image processor.

    Weights of the file's own number type are mapped, not read: memory is used as they are used.

    Args:
        model: a registry name (``smollm2-135m``), a local folder in Hugging Face's layout or written by
            :func:`workbench.models.save`, or a hub id.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        dtype: number type of the weights, as torch's or by name; ``auto`` for the file's own.
        device_map: lay the model over devices, memory and disk; see :func:`workbench.models.memory.spread`.
        max_memory: how much each device may hold then.
        offload_folder: where the rest goes then.
        progress: called with (done, total, what) while a registry model is fetched for the first time.

    Raises:
        ValueError: no such model (with the closest match), an unsupported family, damaged files, or no such device;
            one sentence.
    """
    number, where = dtype_of(dtype), device_of(device)
    name, folder = locate(model, progress)
    with _ONE_AT_A_TIME, quiet(bars=folder is None):
        if folder is not None and files.is_own(folder):
            made = files.read(folder, number, name)
        else:
            hf, reader = hugging_face(name, folder, number)
            made = from_hf(hf, reader, name=name)
    if device_map is not None or max_memory is not None:
        return spread(made, device_map or "auto", max_memory=max_memory, folder=offload_folder)
    return made.to(where)


def hugging_face(name: str, folder: Path | None, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """A Hugging Face model with every weight it should have, and its tokenizer or image processor."""
    import transformers
    from transformers import AutoConfig

    local = folder is not None
    source = str(folder) if local else name
    if folder is not None:
        _check_folder(folder)
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        raise ValueError(_why_not(name, folder, error)) from error
    family = family_of(config.model_type)
    made = getattr(transformers, class_of(family, config))
    try:
        hf, found = made.from_pretrained(
            source,
            config=config,
            dtype="auto",
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # found again below, and refused with both shapes
        )
    except Exception as error:
        raise ValueError(_why_not(name, folder, error)) from error
    _refuse_gaps(name, found, family)
    if dtype is not None:
        cast(hf, dtype)
    return hf, _reader(source, local, family)


def _reader(source: str, local: bool, family: Family) -> Any:
    """The tokenizer or image processor; None where a vision model has none."""
    from transformers import AutoImageProcessor, AutoTokenizer

    processors: Any = AutoImageProcessor

    if family.kind == "vision":
        try:
            return processors.from_pretrained(source, local_files_only=local, backend="pil")
        except (OSError, ValueError):
            return None
    # Without a tokenizer's files transformers makes an empty one up.
    if local and not any(next(Path(source).glob(pattern), None) for pattern in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=local)
    except Exception as error:
        raise ValueError(_why_not(source, Path(source) if local else None, error)) from error


def locate(model: str | Path, progress: registry.Progress | None) -> tuple[str, Path | None]:
    """(name, folder), the folder None for a hub id."""
    if isinstance(model, str) and model in registry.names():
        return model, registry.get(model, progress=progress)
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"The folder '{path}' holds no config.json; give a folder in Hugging Face's layout.")
        return path.resolve().name, path
    text = str(model)
    if isinstance(model, str) and text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return text, None
    hint = meant(text, registry.names())
    raise ValueError(f"There is no model '{text}'; {hint} A local folder or a hub id (owner/name) also works.")


def _check_folder(folder: Path) -> None:
    """Refuse what would otherwise fail later with less to say.

    Raises:
        ValueError: a family that is not supported, or weights that are pickles.
    """
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # said by the reader of the configuration
    if kind is not None:
        family_of(str(kind))
    pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))]
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"The weights in '{folder}' are a pickle ('{pickles[0]}'), which can run code when it is read; "
            "save the model again with save_pretrained, which writes safetensors."
        )


def _refuse_gaps(name: str, found: dict[str, Any], family: Family) -> None:
    """Transformers fills missing tensors with random numbers, says so in a log, and goes on; we do not."""
    surplus = [key for key in found.get("unexpected_keys") or () if not key.startswith(family.unused)]
    said = _listed("missing", found.get("missing_keys") or ()) + _listed("surplus", surplus)
    wrong = [
        f"{key} {list(here)} where the configuration says {list(expected)}"
        for key, here, expected in found.get("mismatched_keys") or ()
    ]
    said += _listed("of a wrong shape", wrong)
    if said:
        raise ValueError(
            f"The weights of '{name}' do not fit its config.json ({'; '.join(said)}); fetch the model again."
        )


def _listed(what: str, entries: Iterable[str]) -> list[str]:
    tensors = sorted(entries)
    return [f"{what}: {', '.join(tensors)}"] if tensors else []


def _why_not(name: str, folder: Path | None, error: Exception) -> str:
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")[:200]
    if folder is None:
        return f"The model '{name}' could not be had from the hub ({reason}); check the name and the connection."
    remedy = f"run 'workbench models get {name} --force'" if name in registry.names() else "fetch the folder again"
    return f"The model files in '{folder}' could not be read ({type(error).__name__}: {reason}); {remedy}."


@contextmanager
def quiet(bars: bool) -> Iterator[None]:
    """Keep transformers' notes off the terminal while a model loads, and its bars unless there is a download."""
    from transformers.utils import logging

    notes: Any = logging
    had_bars, level = notes.is_progress_bar_enabled(), notes.get_verbosity()
    if not bars:
        notes.disable_progress_bar()
    notes.set_verbosity_error()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if had_bars:
            notes.enable_progress_bar()


__all__ = ["FAMILIES", "from_hf", "from_transformer_lens", "load"]
