"""Number types, devices, shards, and models larger than memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import micro
from workbench.models import Transformer, load
from workbench.models.memory import cast

TOKENS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_model_loads_in_any_number_type_as_hugging_face_does(name: str, micro_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, name)
    theirs = AutoModelForCausalLM.from_pretrained(micro_folder, dtype=dtype)
    model = load(micro_folder, dtype=name)
    assert model.dtype == dtype
    for ours, (_, expected) in zip(
        [model.embed.weight, model.blocks[1].mlp.out.weight],  # type: ignore[union-attr]
        [(0, theirs.model.embed_tokens.weight), (1, theirs.model.layers[1].mlp.down_proj.weight)],
        strict=True,
    ):
        assert torch.equal(ours, expected)
    with torch.no_grad():
        assert (model(TOKENS) - theirs(TOKENS).logits).abs().max() <= 0.02 * theirs(TOKENS).logits.std()
    assert model(TOKENS).dtype == dtype
    assert load(micro_folder, dtype="auto").dtype == torch.float32


def test_casting_keeps_values_and_ties() -> None:
    hf = micro.hugging_face("llama-grouped")
    before = {name: p.detach().clone() for name, p in hf.named_parameters()}
    cast(hf, torch.bfloat16)
    assert hf.lm_head.weight is hf.model.embed_tokens.weight
    for name, parameter in hf.named_parameters():
        assert torch.equal(parameter, before[name].bfloat16())


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_shards_are_one_model(kind: str, tmp_path: Path) -> None:
    text = micro.tokenizer()
    hf = micro.hugging_face(kind, vocab=len(text))
    for folder, size in ((tmp_path / "one", "1GB"), (tmp_path / "many", "20KB")):
        hf.save_pretrained(folder, max_shard_size=size)
        text.save_pretrained(folder)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    assert torch.equal(one(TOKENS), many(TOKENS))
    assert one.fingerprint == many.fingerprint
    next((tmp_path / "many").glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="could not be read"):
        load(tmp_path / "many")


def test_a_model_spread_over_memory_and_disk_is_the_same_model_with_hooks(micro_folder: Path, tmp_path: Path) -> None:
    model = load(micro_folder)
    spread = load(micro_folder, max_memory={"cpu": "150KB"}, offload_folder=tmp_path)
    assert "disk" in spread.hf_device_map.values()  # type: ignore[operator,union-attr]
    assert any(p.device.type == "meta" for p in spread.parameters())
    everything = model.run_with_cache(TOKENS, lambda name: True)
    ours = spread.run_with_cache(TOKENS, lambda name: True)
    torch.testing.assert_close(ours[0], everything[0])
    for name, value in everything[1].items():
        torch.testing.assert_close(ours[1][name], value, msg=lambda m, n=name: f"{n}: {m}")
    quiet = {"blocks.1.attn.hook_z": torch.zeros_like}
    torch.testing.assert_close(spread(TOKENS, quiet), model(TOKENS, quiet))
    torch.testing.assert_close(spread.generate(TOKENS, 5, stop_at=-1), model.generate(TOKENS, 5, stop_at=-1))


def test_a_map_by_hand_works_for_vision_too(tmp_path: Path) -> None:
    from tests.models.test_variants import VISION
    from workbench.models import fresh
    from workbench.models.memory import spread

    plain, laid = fresh(VISION), fresh(VISION)
    spread(laid, {"": "cpu", "blocks.0": "disk", "pos_embed": "disk", "prefix": "disk"}, folder=tmp_path)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(laid(images), plain(images))


def test_devices_and_number_types_that_do_not_exist_are_refused(micro_folder: Path) -> None:
    with pytest.raises(ValueError, match="no number type 'int3'; choose one of auto, float32"):
        load(micro_folder, dtype="int3")
    with pytest.raises(ValueError, match="has no device 'tpu9'"):
        load(micro_folder, device="tpu9")
    with pytest.raises(ValueError, match="does not fit into memory: give a folder"):
        load(micro_folder, max_memory={"cpu": "150KB"})
    with pytest.raises(ValueError, match="Not even the model's embedding fits"):
        load(micro_folder, max_memory={"cpu": "6KB"}, offload_folder=micro_folder)
    with pytest.raises(ValueError, match="device_map='clever' is not known"):
        load(micro_folder, device_map="clever")


def test_auto_is_a_device_of_this_machine(micro_folder: Path) -> None:
    model: Transformer = load(micro_folder, device="auto")
    assert model.device.type == ("cpu" if not torch.accelerator.is_available() else model.device.type)
