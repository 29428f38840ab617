"""In half precision parts are of the model's own number type, finite, and near those of the same weights in float32."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.circuits.decomposition.cases import inputs_for
from workbench.circuits.decomposition import RULES, Logits, contributions, decompose
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

KINDS = ("gpt2", "llama-grouped", "gemma2", "gpt-neo", "bert-masked", "vit-classes")


@cache
def same_weights(key: str, dtype: torch.dtype) -> tuple[Transformer, Transformer]:
    """A model in half precision, and one in float32 of the same, rounded weights."""
    # Usual weights: wild ones make rounding larger from layer to layer.
    half = find(key).model(dtype=dtype, weights="usual")
    full = find(key).model(dtype=dtype, weights="usual").float()
    return from_hf(half), from_hf(full)


@pytest.mark.parametrize("rule", [rule.key for rule in RULES])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("key", KINDS)
def test_parts_in_half_precision_are_near_those_in_float32(key: str, dtype: torch.dtype, rule: str) -> None:
    half, full = same_weights(key, dtype)
    inputs = inputs_for(full)
    keep = ["blocks.1.attn.hook_z", "blocks.1.hook_resid_post"]
    sources = ["input@1", "a0.h1"]
    given = {"rule": rule, "keep": keep, "attention_mask": inputs.mask}
    found = decompose(half, inputs.tokens.to(dtype) if half.cfg.image else inputs.tokens, sources, **given)
    exact = decompose(full, inputs.tokens.to(dtype).float() if half.cfg.image else inputs.tokens, sources, **given)
    eps = torch.finfo(dtype).eps
    for (relevant, irrelevant), (true_relevant, true_irrelevant) in [
        ((found.relevant, found.irrelevant), (exact.relevant, exact.irrelevant)),
        *((found[name], exact[name]) for name in keep),
    ]:
        assert relevant.dtype == irrelevant.dtype == dtype
        assert torch.isfinite(relevant).all()
        whole = true_relevant + true_irrelevant
        # Roundings of some twenty steps add up; a rule that overflows or divides by zero is off by far more.
        size = max(float(whole.abs().max()), float(true_relevant.abs().max()))
        if rule == "paper":
            # Its share of a bias, |b| / (|b| + |g|), jumps where both are near 0: single numbers may be far off.
            assert torch.cosine_similarity(relevant.float().flatten(), true_relevant.flatten(), dim=0) > 0.98
        else:
            assert float((relevant.float() - true_relevant).abs().max()) < 30 * eps * size
        assert float((relevant.float() + irrelevant.float() - whole).abs().max()) < 30 * eps * size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("rule", [rule.key for rule in RULES])
def test_contributions_of_a_half_precision_model_are_float32_numbers(rule: str, dtype: torch.dtype) -> None:
    half, full = same_weights("llama-grouped", dtype)
    tokens = inputs_for(half).tokens
    target = Logits(torch.tensor([1, 2, 3]), at=torch.tensor([5, 5, 5]))
    sources = ["a0.h1", "m1", "a1.h2@5"]
    found = contributions(half, tokens, sources, target, rule=rule)
    true = contributions(full, tokens, sources, target, rule=rule)
    assert found.values.dtype == torch.float32
    assert found.complete
    bound = 30 * torch.finfo(dtype).eps * float(true.whole.abs().max())
    assert float((found.values - true.values).abs().max()) < bound
    # A source that is its own baseline gives nothing but rounding; both parts of many biases are then 0.
    nothing = contributions(half, tokens, sources, target, rule=rule, baseline=tokens)
    assert float(nothing.values.abs().max()) < bound / 30
