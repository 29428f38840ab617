from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from workbench.models import ModelConfig, fresh, mechanisms
from workbench.models import attention as module

TILED = [mechanism.key for mechanism in mechanisms.MECHANISMS if mechanism.tiled is not None]


def small(key, **changes):
    sizes: dict = {"family": "llama", "norm_eps": 1e-5, "act_fn": "silu", "gated_mlp": True, "attn_scale": 0.5}
    sizes |= {"n_layers": 2, "d_model": 16, "n_heads": 4, "n_key_value_heads": 2, "d_head": 4, "d_mlp": 8}
    positions = {"positions": "rotary", "norm": "rms", "n_ctx": 2048, "d_vocab": 11}
    return fresh(ModelConfig(attention=key, **(sizes | positions | changes)))


def both(run):
    """What a run gives with patterns, and with tiles of texts of any length."""
    open_ = run()
    with patch.object(module, "LONG", 1), patch.object(module.Attention, "attend_openly", side_effect=AssertionError):
        return open_, run()


def test_the_sparse_and_the_pointwise_mechanisms_come_in_tiles():
    assert TILED == ["softpick", "sigmoid", "sparsemax", "entmax15", "entmax"]


@pytest.mark.parametrize("key", TILED)
def test_a_model_in_tiles_gives_what_it_gives_with_patterns(key):
    model = small(key)
    tokens = torch.randint(0, 11, (2, 30))
    open_, tiled = both(lambda: model(tokens))
    assert (open_ - tiled).abs().max() < 1e-5 * open_.abs().max()


@pytest.mark.parametrize("key", TILED)
def test_weights_learn_the_same_through_tiles(key):
    model = small(key).double()
    model.requires_grad_(True)
    tokens = torch.randint(0, 11, (1, 20))
    named = [(name, x) for name, x in model.named_parameters() if ".attn." in name or "learned" in name]

    def gradients():
        return torch.autograd.grad(model(tokens).logsumexp(-1).sum(), [x for _, x in named])

    for (name, _), mine, theirs in zip(named, *both(gradients), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9), name


def test_a_tap_on_the_pattern_or_keys_of_each_head_is_served():
    model = small("entmax15")
    tokens = torch.randint(0, 11, (1, 20))
    plain = model(tokens)
    with patch.object(module, "LONG", 1):
        _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_pattern"))
        assert len(cache) == 2
        tapped, _ = model.run_with_cache(tokens, lambda name: name.endswith("hook_k_heads"))
    assert torch.allclose(plain, tapped, atol=1e-6)


def test_padding_on_the_left_and_half_precision_keep_their_patterns():
    model = small("sparsemax")
    tokens = torch.randint(0, 11, (1, 20))
    mask = torch.ones(1, 20, dtype=torch.long)
    mask[0, :3] = 0
    expected = model(tokens, attention_mask=mask)
    with patch.object(module, "LONG", 1):
        assert torch.equal(model(tokens, attention_mask=mask), expected)
        half = small("sparsemax").to(torch.bfloat16)
        opened = patch.object(module.Attention, "attend_openly", side_effect=RuntimeError("patterns"))
        with opened, pytest.raises(RuntimeError, match="patterns"):
            half(tokens)


def test_entmax_cut_short_on_purpose_is_not_solved_to_the_end():
    tokens = torch.randint(0, 11, (1, 20))
    model = small("entmax", attention_options=(("iterations", 1.0),))
    expected = model(tokens)
    with patch.object(module, "LONG", 1):
        assert torch.equal(model(tokens), expected)
