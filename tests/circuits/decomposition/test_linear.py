"""Where a model is linear all rules agree, and what a target cannot see gives exactly nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.circuits.decomposition.cases import assert_close, inputs_for, model_of
from workbench.circuits.decomposition import RULES, Logits, contributions, decompose, flow
from workbench.circuits.decomposition.parts import Parts
from workbench.models import Transformer, fresh
from workbench.models.config import ModelConfig
from workbench.models.families.samples import SAMPLES

LINEAR = ModelConfig(
    family="gpt2", n_layers=3, n_heads=2, n_key_value_heads=2, d_model=8, d_head=4, d_mlp=1, d_vocab=20, n_ctx=10,
    norm="none", norm_eps=1e-5, act_fn="relu", gated_mlp=False, positions="learned", attn_scale=0.5, attn_only=True,
)  # fmt: skip
CAUSAL = [s.key for s in SAMPLES if model_of(s.key).cfg.causal]
PARALLEL = [s.key for s in SAMPLES if model_of(s.key).cfg.parallel]


TOKENS = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])
OTHERS = torch.tensor([[3, 3, 3, 3, 3], [1, 2, 1, 2, 1]])


def linear_model(layers: int = 3) -> Transformer:
    """Every query looks at all keys alike, and there is no norm and no MLP."""
    model = fresh(replace(LINEAR, n_layers=layers))
    for block in model.blocks:
        block.attn.q.weight.data.zero_()
    return model


@pytest.mark.parametrize("rule", ["tangent", "frozen", "paper"])
def test_rules_are_patching_where_the_model_is_linear(rule: str) -> None:
    model = linear_model()
    for sources in (["input@1"], ["a0.h1"], ["a1.h0@2", "resid1@0"]):
        exact = decompose(model, TOKENS, sources, rule="exact", baseline=OTHERS).relevant
        found = decompose(model, TOKENS, sources, rule=rule, baseline=OTHERS).relevant
        assert float(exact.abs().max()) > 1e-3
        assert_close(found, exact, 1e-5)


def test_shapley_halves_what_passes_an_attention_layer_even_where_that_is_linear() -> None:
    # Of pattern times value the pattern is all irrelevant, and the product is shared between its factors.
    model, direct = linear_model(1), linear_model(1)
    direct.blocks[0].attn.o.weight.data.zero_()
    exact, alone, found = (
        decompose(m, TOKENS, ["input@1"], rule=rule, baseline=OTHERS).relevant
        for m, rule in ((model, "exact"), (direct, "exact"), (model, "shapley"))
    )
    assert float((exact - alone).abs().max()) > 1e-3
    assert_close(found, (exact + alone) / 2, 1e-5)
    # What goes straight down the stream is whole.
    last = [decompose(model, TOKENS, ["a0.h1"], rule=rule, baseline=OTHERS).relevant for rule in ("exact", "shapley")]
    assert_close(last[1], last[0], 1e-5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(-3, 3).filter(lambda x: abs(x) > 0.01))
def test_a_linear_function_hands_each_part_on_as_it_is(rule: object, seed: int, factor: float) -> None:
    g = torch.Generator().manual_seed(seed)
    x = Parts(torch.randn(1, 2, 3, generator=g), torch.randn(4, 2, 3, generator=g))
    out = flow.function(rule, x, lambda part: part * factor)  # type: ignore[arg-type]
    torch.testing.assert_close(out.relevant, x.relevant * factor, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.irrelevant, x.irrelevant * factor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", CAUSAL)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_later_position_gives_an_earlier_one_exactly_nothing(key: str, seed: int) -> None:
    model = model_of(key)
    inputs = inputs_for(model, seed)
    at = 1 + seed % 5
    for rule in RULES:
        found = decompose(
            model, inputs.tokens, [f"input@{at}", f"a1.h0@{at}", f"m0@{at}"], rule=rule.key, baseline="mean"
        )
        assert torch.equal(found.relevant[:, :at], torch.zeros_like(found.relevant[:, :at]))
        assert float(found.relevant[:, at:].abs().max()) > 0


@pytest.mark.parametrize("rule", [rule.key for rule in RULES])
def test_many_sources_behind_the_place_that_is_read_give_exactly_nothing(rule: str) -> None:
    # Wide enough that kernels work in blocks, whose sums could round differently in batches of another size.
    cfg = ModelConfig(
        family="llama", n_layers=2, n_heads=4, n_key_value_heads=2, d_model=96, d_head=24, d_mlp=200, d_vocab=50,
        n_ctx=40, norm="rms", norm_eps=1e-5, act_fn="silu", gated_mlp=True, positions="rotary", attn_scale=0.2,
    )  # fmt: skip
    model = fresh(cfg)
    tokens = torch.randint(0, 50, (3, 37), generator=torch.Generator().manual_seed(0))
    sources = [f"{place}@{at}-36" for place in ("input", "a0.h2", "m0", "a1.h1") for at in range(20, 37)]
    target = Logits(torch.tensor([1, 2, 3]), at=torch.tensor([19, 7, 18]))
    found = contributions(model, tokens, sources, target, rule=rule)
    assert torch.equal(found.values, torch.zeros_like(found.values))


@pytest.mark.parametrize("rule", [rule.key for rule in RULES])
@pytest.mark.parametrize("key", PARALLEL)
def test_heads_of_a_parallel_block_give_its_mlp_exactly_nothing(key: str, rule: str) -> None:
    model = model_of(key)
    inputs = inputs_for(model)
    found = contributions(model, inputs.tokens, ["a1.h0", "a0.h0"], "m1", rule=rule)
    assert torch.equal(found.values[0], torch.zeros(3))
    assert bool((found.values[1] != 0).all())
