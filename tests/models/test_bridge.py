"""The hooked model against TransformerLens, activation by activation, and against itself run another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import micro
from workbench.models import Transformer, from_hf, from_transformer_lens, load
from workbench.models.families.samples import find, inputs_for

Pair = tuple[Any, Transformer]


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference in units of the reference's spread."""
    return float((ours - theirs).abs().max() / theirs.std())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_the_whole_cache_equals_transformer_bridge(kind: str, tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    folder = micro.save(tmp_path, kind)
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    model = load(folder)
    tokens = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(4))
    _, theirs = bridge.run_with_cache(tokens)
    _, ours = model.run_with_cache(tokens)
    shared = [name for name in ours if name in theirs]
    expected = {"hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_q", "hook_k", "hook_v", "hook_pattern"}
    expected |= {"hook_attn_scores", "hook_z", "hook_pre", "hook_post", "hook_mlp_out", "hook_attn_out", "hook_scale"}
    assert expected <= {name.rpartition(".")[2] for name in shared}
    for name in shared:
        torch.testing.assert_close(
            ours[name], theirs[name].detach(), atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
def test_an_encoder_s_cache_equals_the_bridge_s_and_the_bridge_can_be_taken(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    find("bert-masked").model(vocab=len(micro.tokenizer())).save_pretrained(tmp_path)
    micro.tokenizer().save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    model = load(tmp_path)
    tokens = torch.randint(1, 64, (2, 8), generator=torch.Generator().manual_seed(4))
    logits, ours = model.run_with_cache(tokens)
    _, theirs = bridge.run_with_cache(tokens)
    torch.testing.assert_close(from_transformer_lens(bridge)(tokens), logits)
    # The bridge's hook_attn_out is taken behind the norm there, its hook_resid_mid before ln2, its scores unscaled.
    alike = ("resid_pre", "resid_post", "hook_q", "hook_k", "hook_v", "hook_z", "pattern", "mlp_out", "mlp.hook_pre")
    alike += ("mlp.hook_post", "hook_scale", "hook_normalized")
    shared = [name for name in ours if name in theirs and name.endswith(alike) and "final" not in name]
    assert len(shared) == model.cfg.n_layers * 14
    for name in shared:
        torch.testing.assert_close(
            ours[name], theirs[name].detach(), atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
@pytest.mark.real
def test_smollm2_equals_hugging_face_and_transformer_bridge(smol: Transformer) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.models import registry

    bridge = TransformerBridge.boot_transformers(str(registry.get("smollm2-135m")), device="cpu")
    tokens = smol.to_tokens(["When Mary and John went to the store, John gave a drink to", "The war began in 1732"])
    logits, ours = smol.run_with_cache(tokens)
    theirs = bridge.original_model(tokens).logits
    assert worst(logits, theirs) < 1e-4
    _, cache = bridge.run_with_cache(tokens)
    for name in [name for name in ours if name in cache and "blocks" in name]:
        if name.endswith("attn_scores"):  # masked entries are the lowest float; compare the others
            visible = cache[name] > -1e30
            assert worst(ours[name][visible], cache[name][visible]) < 1e-4, name
        else:
            assert worst(ours[name], cache[name]) < 1e-4, name


def test_taps_that_only_look_change_nothing_and_explicit_attention_equals_fused(pair: Pair) -> None:
    hf, model = pair
    inputs = inputs_for(hf)[0]["inputs"]
    logits, cache = model.run_with_cache(inputs, lambda name: True)
    assert worst(logits, model(inputs)) < 1e-5
    assert set(cache) == set(model.hook_names)
    assert cache["result", 1].shape == (*cache["resid_pre", 1].shape[:2], model.cfg.n_heads, model.cfg.d_model)
    block = model.blocks[1]
    summed = cache["result", 1].sum(2) + model.b_O[1]
    summed = summed if block.ln1_post is None else block.ln1_post(summed)
    torch.testing.assert_close(summed, cache["blocks.1.hook_attn_out"], atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(layer=st.integers(0, 2), batch=st.integers(1, 3), pos=st.integers(1, 12))
def test_a_run_cut_at_any_layer_and_taken_up_again_is_the_same(layer: int, batch: int, pos: int) -> None:
    for kind in ("llama-grouped", "gpt2"):
        model = from_hf(micro.hugging_face(kind))
        tokens = torch.randint(0, 64, (batch, pos))
        resid = model(tokens, stop_at_layer=layer)
        torch.testing.assert_close(model(resid, start_at_layer=layer), model(tokens), atol=1e-5, rtol=1e-5)
