"""Folders of Hugging Face models: which class is loaded, and what is refused with which sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import micro
from workbench.models import from_hf, load

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 64, "max_position_embeddings": 40, "num_labels": 5}
IMAGE: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 4, "num_labels": 5}
TOKENS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def vocabulary(folder: Path) -> None:
    """A tokenizer beside a model; which one does not matter here."""
    micro.tokenizer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (transformers.BertModel, transformers.BertConfig),
        (transformers.BertForMaskedLM, transformers.BertConfig),
        (transformers.BertForSequenceClassification, transformers.BertConfig),
        (transformers.RobertaForSequenceClassification, transformers.RobertaConfig),
    ],
)
def test_a_folder_is_loaded_as_the_class_that_it_names(made: Any, config: Any, tmp_path: Path) -> None:
    hf = made(config(**TEXT)).eval()
    hf.save_pretrained(tmp_path)
    vocabulary(tmp_path)
    model = load(tmp_path)
    with torch.no_grad():
        out = hf(TOKENS)
    expected = out.logits if "logits" in out else out.last_hidden_state
    mask = torch.ones_like(TOKENS)  # token 0 is the micro tokenizer's padding; here it is a token like any other
    torch.testing.assert_close(model(TOKENS, attention_mask=mask), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (transformers.ViTForImageClassification, transformers.ViTConfig),
        (transformers.DeiTForImageClassificationWithTeacher, transformers.DeiTConfig),
        (transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig),
    ],
)
def test_a_vision_folder_comes_with_its_image_processor(made: Any, config: Any, tmp_path: Path) -> None:
    hf = made(config(**IMAGE)).eval()
    hf.save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model = load(tmp_path)
    picture = (torch.rand(20, 30, 3) * 255).byte().numpy()
    pixels = model.to_pixels(picture)
    with torch.no_grad():
        out = hf(pixels)
    expected = out.logits if "logits" in out else out.last_hidden_state
    torch.testing.assert_close(model(pixels), expected, atol=1e-5, rtol=1e-4)
    assert model.cfg.labels == (tuple(f"LABEL_{i}" for i in range(5)) if "logits" in out else None)


def test_a_checkpoint_with_heads_that_are_not_asked_for_loads_without_them(tmp_path: Path) -> None:
    hf = transformers.BertForPreTraining(transformers.BertConfig(**TEXT))
    hf.save_pretrained(tmp_path)
    vocabulary(tmp_path)
    assert load(tmp_path).cfg.head == "none"  # the family's first class: the encoder itself
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    model = load(tmp_path)
    with torch.no_grad():
        expected = hf.eval()(TOKENS).prediction_logits
    torch.testing.assert_close(model(TOKENS, attention_mask=torch.ones_like(TOKENS)), expected, atol=1e-5, rtol=1e-4)


def test_every_tensor_that_does_not_fit_is_named_once(tmp_path: Path) -> None:
    folder = micro.save(tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(47, 32)
    tensors["model.layers.7.extra"] = torch.zeros(1)
    del tensors["model.layers.1.self_attn.q_proj.weight"], tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit its config\.json") as caught:
        load(folder)
    said = str(caught.value)
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "model.layers.7.extra"):
        assert said.count(name) == 1
    assert "model.layers.0.mlp.up_proj.weight [47, 32] where the configuration says [48, 32]" in said
    assert "\n" not in said


def test_pickled_weights_and_unknown_kinds_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = micro.save(tmp_path / "m")
    weights = folder / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    load(folder)  # safetensors beside it are what is read
    weights.unlink()
    with pytest.raises(ValueError, match=r"are a pickle \('pytorch_model\.bin'\), .* writes safetensors"):
        load(folder)
    (folder / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(
        ValueError, match=r"type 'never-heard-of' are not supported yet; supported are gpt2, .*families"
    ):
        load(folder)


def test_a_class_that_is_not_supported_is_named_with_those_that_are() -> None:
    body = transformers.LlamaModel(transformers.LlamaConfig(**TEXT))
    with pytest.raises(ValueError, match="LlamaModel is not supported; of LLaMA, SmolLM these are: LlamaForCausalLM"):
        from_hf(body)
    answering = transformers.BertForQuestionAnswering(transformers.BertConfig(**TEXT))
    with pytest.raises(ValueError, match=r"BertForQuestionAnswering is not supported; .*BertForMaskedLM"):
        from_hf(answering)


def test_an_activation_that_is_not_supported_is_named() -> None:
    hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, hidden_act="mish"))
    with pytest.raises(ValueError, match="activation 'mish' is not supported; supported are relu"):
        from_hf(hf)


@pytest.mark.parametrize("options", [{"do_layer_norm_before": False}, {"layer_norm_elementwise_affine": False}])
def test_options_that_the_block_cannot_follow_are_refused(options: dict[str, Any]) -> None:
    config = transformers.OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, **options
    )
    config.word_embed_proj_dim = 32
    with pytest.raises(ValueError, match=r"OPT models .* are not supported"):
        from_hf(transformers.OPTForCausalLM(config))


def test_characters_that_are_split_into_bytes_are_shown_whole(model: Any) -> None:
    text = "Mary's café ☃ 日本 👍🏽\n x"
    pieces = model.to_str_tokens(text)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert any(piece.endswith("☃") for piece in pieces)
    half = model.to_tokens("☃")[0, :1]  # the first byte alone is no character
    assert model.to_str_tokens(half) == ["\ufffd"]


def test_pieces_of_other_tokenizers_are_read_too() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from workbench.models.pieces import pieces_of

    vocab = {"<unk>": 0, "▁When": 1, "▁Mary": 2, "<0xE2>": 3, "<0x98>": 4, "<0x83>": 5, "s": 6}
    sentence = Tokenizer(models.Unigram([(piece, -1.0) for piece in vocab], unk_id=0, byte_fallback=True))
    sentence.pre_tokenizer = pre_tokenizers.Metaspace()
    sentence.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=sentence, unk_token="<unk>")
    assert pieces_of(wrapped, [1, 2, 6, 3, 4, 5]) == [" When", " Mary", "s", "☃", "", ""]

    words = Tokenizer(models.WordPiece({"[UNK]": 0, "eat": 1, "##ing": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert pieces_of(wrapped, [1, 2, 0]) == ["eat", "##ing", "[UNK]"]


def test_a_classifier_of_text_reads_the_first_real_position_whatever_side_is_padded() -> None:
    model = from_hf(transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT)).eval())
    alone = model(TOKENS)
    padding = torch.zeros(2, 3, dtype=torch.long)
    for left in (True, False):
        tokens = torch.cat((padding, TOKENS) if left else (TOKENS, padding), 1)
        mask = torch.cat((padding, torch.ones_like(TOKENS)) if left else (torch.ones_like(TOKENS), padding), 1)
        torch.testing.assert_close(model(tokens, attention_mask=mask), alone, atol=1e-5, rtol=1e-4)


def test_layer_scale_is_part_of_what_a_head_writes_and_can_be_folded_away() -> None:
    from workbench.models import folded
    from workbench.models.families.samples import find

    model = from_hf(find("dinov2-registers-classes").model())
    images = torch.randn(2, 3, 16, 16)
    _, cache = model.run_with_cache(images, lambda name: True)
    summed = cache["result", 1].sum(2) + model.b_O[1]
    torch.testing.assert_close(summed, cache["blocks.1.hook_attn_out"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cache["result", 1], torch.einsum("bphe,hed->bphd", cache["z", 1], model.W_O[1]))
    plain = folded(model)
    assert not plain.cfg.layer_scale
    torch.testing.assert_close(plain(images), model(images), atol=1e-4, rtol=1e-4)
