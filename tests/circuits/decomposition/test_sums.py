"""The parts sum to the whole: at the output and at every activation, in every family, by every rule."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuits.decomposition.cases import assert_close, draw_place, inputs_for, model_of
from workbench.circuits.decomposition import RULES, decompose
from workbench.circuits.decomposition.split import KEPT
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import SAMPLES, find
from workbench.models.mechanisms import MECHANISMS

RULE_KEYS = [rule.key for rule in RULES]
PLAIN = [m.key for m in MECHANISMS if m.key not in ("gated", "cosine", "linear", "value-residual", "differential")]


# Wild weights make attention sharp and rounding larger from layer to layer: they are for float64.
PRECISIONS = (({"double": True, "weights": "wild"}, 1e-8), ({"double": False, "weights": "usual"}, 1e-4))


def check_sums(model: Transformer, seed: int, tolerance: float) -> None:
    """Every rule, for random sources, baseline and prompts."""
    rng = random.Random(seed)
    given_ = inputs_for(model, seed, padded=rng.random() < 0.7)
    sources = [draw_place(rng, model, given_.lengths).name for _ in range(rng.randint(1, 3))]
    baseline = rng.choice(["zero", "mean", given_.others])
    keep = [name for name in model.hook_names if name.endswith(KEPT)]
    with torch.no_grad():
        whole, cache = model.run_with_cache(given_.tokens, keep, attention_mask=given_.mask)
    for rule in RULES:
        if not (rule.by_runs or model.cfg.attention in PLAIN):
            continue  # refused; see test_refusals
        found = decompose(
            model, given_.tokens, sources, rule=rule.key, baseline=baseline, keep=keep, attention_mask=given_.mask
        )
        assert torch.isfinite(found.relevant).all()
        # Where a norm reads next to nothing, parts can be 10^4 times their sum, which then has that much less digits.
        largest = max(float(part.abs().max()) for part in [found.relevant, *(found[name][0] for name in keep)])
        least = 8 * torch.finfo(whole.dtype).eps * largest / tolerance
        assert_close(found.relevant + found.irrelevant, whole, tolerance, least)
        for name in keep:
            relevant, irrelevant = found[name]
            assert_close(relevant + irrelevant, cache[name], tolerance, least)


@pytest.mark.parametrize("key", [sample.key for sample in SAMPLES])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_parts_sum_to_the_models_own_output_and_activations(key: str, seed: int) -> None:
    options, tolerance = PRECISIONS[seed % 2]
    check_sums(model_of(key, **options), seed, tolerance)


@pytest.mark.parametrize("mechanism", [m.key for m in MECHANISMS if m.values is None])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_parts_sum_to_the_whole_for_every_attention_mechanism(mechanism: str, seed: int) -> None:
    rng = random.Random(seed)
    options, tolerance = PRECISIONS[seed % 2]
    model = model_of(rng.choice(["llama-grouped", "gpt2-unscaled", "bert-masked", "vit-classes"]), **options)
    some = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(0, model.cfg.n_heads, 2)]
    model = model.with_attention(mechanism, heads=rng.choice([None, some]))
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for parameter in block.attn.learned.values():  # what starts at 0 or 1 would hide a mistake
            parameter.data = parameter + 0.1 * torch.rand(parameter.shape, generator=generator)
    check_sums(model, seed, tolerance)


@pytest.mark.parametrize("rule", RULE_KEYS)
@pytest.mark.parametrize("key", ["gpt2", "llama-biased", "bert-masked"])
def test_no_bias_is_lost_where_both_parts_are_zero(key: str, rule: str) -> None:
    hf = find(key).model()
    for name, parameter in hf.named_parameters():
        if "emb" in name or "wte" in name or "wpe" in name:
            parameter.data.zero_()
        if any(norm in name.lower() for norm in ("norm", "ln_")) and name.endswith("bias"):
            parameter.data.zero_()
    model = from_hf(hf)
    tokens = torch.tensor([[3, 4, 5, 6]])
    # Nothing reaches the first projections: queries, keys and values are their biases alone.
    keep = [f"blocks.0.attn.hook_{part}" for part in "qkv"]
    with torch.no_grad():
        whole, cache = model.run_with_cache(tokens, keep)
    found = decompose(model, tokens, ["input"], rule=rule, keep=keep)
    for name in keep:
        assert float(cache[name].abs().max()) > 0.1
        relevant, irrelevant = found[name]
        assert torch.equal(relevant, torch.zeros_like(relevant))
        assert torch.equal(irrelevant, cache[name])
    assert_close(found.relevant + found.irrelevant, whole)


@pytest.mark.parametrize("mechanism", PLAIN)
def test_a_mechanism_of_plain_scores_admits_every_rule(mechanism: str) -> None:
    model = model_of("llama-grouped").with_attention(mechanism)
    tokens = inputs_for(model).tokens
    parts = [decompose(model, tokens, ["a0.h1", "m0@2"], rule=rule).relevant for rule in RULE_KEYS]
    assert all(torch.isfinite(part).all() for part in parts)
    for i, part in enumerate(parts):
        assert not any(torch.allclose(part, other, rtol=1e-3) for other in parts[:i])
