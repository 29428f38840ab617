"""Hooks, purity and errors of the hooked model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import micro
from workbench.models import Transformer, from_hf, load
from workbench.models.families.samples import find
from workbench.models.taps import Hook


def test_a_hook_that_returns_a_value_replaces_the_activation(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary and John")
    seen: list[tuple[str, int]] = []

    def silence(z: torch.Tensor, hook: Hook) -> torch.Tensor:
        seen.append((hook.name, hook.layer()))
        return torch.zeros_like(z)

    _, cache = model.run_with_cache(tokens, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"], taps=None)
    out = model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", silence)], stop_at_layer=1)
    quiet = model(cache["resid_pre", 0], {"blocks.0.hook_attn_out": torch.zeros_like}, stop_at_layer=1)
    assert seen == [("blocks.0.attn.hook_z", 0)]
    torch.testing.assert_close(out, quiet)


def test_hooks_on_one_name_run_in_order_and_predicates_choose_names(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary")
    doubled = model.run_with_hooks(
        tokens, fwd_hooks=[("hook_embed", lambda x, hook: x + 1), (lambda n: n == "hook_embed", lambda x, hook: x * 2)]
    )
    expected = model(tokens, {"hook_embed": lambda x: (x + 1) * 2})
    torch.testing.assert_close(doubled, expected)


def test_an_exception_in_a_hook_leaves_nothing_behind(model: Transformer) -> None:
    tokens = model.to_tokens("When Mary")
    before = model(tokens)

    def fail(x: torch.Tensor, hook: Hook) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", fail)])
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("kind", ["llama-grouped", "bert-masked", "vit-classes", "dinov2-registers"])
def test_sixteen_threads_with_different_inputs_taps_and_mechanisms_get_what_they_get_alone(kind: str) -> None:
    model = from_hf(find(kind).model())
    swapped = model.with_attention("entmax15")
    generator = torch.Generator().manual_seed(0)
    image = model.cfg.image

    def given(i: int) -> torch.Tensor:
        if image is not None:
            return torch.randn(1 + i % 3, image.channels, image.height, image.width, generator=generator)
        return torch.randint(2, 64, (2, 5 + i), generator=generator)

    inputs = [given(i) for i in range(16)]

    def job(i: int) -> torch.Tensor:
        taps = {f"blocks.{i % 2}.attn.hook_z": lambda z: z * (1 + i / 10)}
        which = swapped if i % 4 == 3 else model
        out, cache = which.run_with_cache(inputs[i], ["blocks.1.attn.hook_pattern"], taps=taps)
        return torch.cat((out.flatten(), cache["pattern", 1].flatten()))

    alone = [job(i) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            for one, together in zip(alone, pool.map(job, range(16)), strict=True):
                assert torch.equal(one, together)


def test_weights_are_shared_with_hugging_face_and_frozen() -> None:
    hf = micro.hugging_face("gpt2")
    model = from_hf(hf)
    assert model.blocks[0].attn.q.weight.data_ptr() == hf.transformer.h[0].attn.c_attn.weight.data_ptr()
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in hf.parameters())


def test_the_fingerprint_tells_models_apart_and_is_stable() -> None:
    one, same, other = (from_hf(micro.hugging_face("llama-grouped", seed=s)).fingerprint for s in (0, 0, 1))
    assert one == same != other


def test_half_precision_turns_by_the_same_angles() -> None:
    model = from_hf(micro.hugging_face("llama-grouped"))
    tokens = torch.zeros(1, 40, dtype=torch.long)
    (exact, *_), _ = model.positions(tokens)
    (half, *_), _ = model.to(torch.bfloat16).positions(tokens)
    assert exact.cos is not None
    assert half.cos is not None
    assert torch.equal(half.cos, exact.cos.bfloat16())


def test_logits_at_one_position_are_those_of_the_full_run(model: Transformer) -> None:
    tokens = model.to_tokens(["When Mary and John went", "When Mary"])
    at = torch.tensor([4, 1])
    torch.testing.assert_close(model(tokens, logits_at=at)[:, 0], model(tokens)[[0, 1], at])


def test_an_unknown_hook_name_suggests_the_closest(model: Transformer) -> None:
    with pytest.raises(
        ValueError, match=r"no activation called 'blocks.0.attn.hook_patern'.*'blocks.0.attn.hook_pattern'"
    ):
        model.run_with_cache(torch.tensor([[1]]), ["blocks.0.attn.hook_patern"])
    with pytest.raises(ValueError, match="no activation called"):
        model(torch.tensor([[1]]), {"nonsense": lambda x: x})


def test_bad_prompts_are_refused_in_one_sentence(model: Transformer) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        model.to_tokens("")
    with pytest.raises(ValueError, match=r"has 41 tokens; .* reads at most 40"):
        model(torch.zeros(1, 41, dtype=torch.long))
    with pytest.raises(ValueError, match=r"tokens; the model reads at most 40"):
        model.to_tokens(" Mary" * 50)
    with pytest.raises(ValueError, match="Token ids must lie between 0 and"):
        model(torch.tensor([[10**6]]))
    with pytest.raises(ValueError, match="'Mary Mary' is not one token"):
        model.to_single_token("Mary Mary")
    with pytest.raises(ValueError, match="Layer 7 does not exist"):
        model(torch.tensor([[1]]), stop_at_layer=7)
    with pytest.raises(ValueError, match="needs the residual stream"):
        model(torch.tensor([[1]]), start_at_layer=1)


def test_unknown_models_and_families_are_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m'"):
        load("smollm2-135")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ValueError, match=r"type .mamba. are not supported yet; supported are gpt2, .*llama"):
        load(tmp_path)


def test_damaged_model_files_are_said_in_one_sentence(tmp_path: Path) -> None:
    folder = micro.save(tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="could not be read") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ValueError, match="could not be read"):
        load(folder)


def test_missing_tensors_are_refused_not_invented(tmp_path: Path) -> None:
    folder = micro.save(tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_tokens_read_as_text(model: Transformer) -> None:
    text = "When Mary gave <script> 12"
    assert "".join(model.to_str_tokens(text)) == text
    assert " Mary" in model.to_str_tokens(text)
    assert model.to_str_tokens(model.to_tokens(text)[0]) == model.to_str_tokens(text)
