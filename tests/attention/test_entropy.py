from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention import brute
from workbench.attention import (
    by_layer,
    by_token,
    collapsed,
    entropy_bound,
    floor_of,
    row_bound,
    statistics,
    uniform,
)
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 60), st.floats(0.0, 40.0), st.integers(0, 10_000), st.integers(0, 3))
def test_no_row_has_less_entropy_than_the_bound(keys: int, length: float, seed: int, sharp: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(keys, generator=generator, dtype=torch.float64) ** (2 * sharp + 1)
    logits = logits - logits.mean()
    logits = logits * (length / logits.norm().clamp(min=1e-30))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    floor = floor_of(torch.tensor(length, dtype=torch.float64), torch.tensor(keys))
    assert float(floor) <= float(entropy) + 1e-9


@pytest.mark.parametrize(("keys", "length"), [(2, 0.7), (5, 3.0), (40, 9.0), (3, 0.0)])
def test_one_logit_apart_from_the_others_meets_the_bound(keys: int, length: float) -> None:
    logits = torch.full((keys,), -length / math.sqrt(keys * (keys - 1)), dtype=torch.float64)
    logits[0] = length * math.sqrt((keys - 1) / keys)
    assert float(logits.norm()) == pytest.approx(length)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    found = floor_of(torch.tensor(length, dtype=torch.float64), torch.tensor(keys))
    assert float(found) == pytest.approx(float(entropy), abs=1e-9)


def test_one_key_has_no_entropy_and_huge_logits_no_nan() -> None:
    found = floor_of(torch.tensor([3.0, 1e30, 0.0]), torch.tensor([1, 9, 9]))
    assert found.tolist() == pytest.approx([0, 0, math.log(9)])


# As the theorem has it (with and without biases, both ways), turned by positions, capped, with norms of q and k.
@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama-grouped", "llama-yarn", "gemma2", "qwen3", "gpt-neo"])
@pytest.mark.parametrize("weights", ["wild", "usual"])
def test_the_bounds_hold_in_every_family(kind: str, weights: str) -> None:
    model = from_hf(find(kind).model(dtype=torch.float64, weights=weights))  # type: ignore[arg-type]
    tokens = brute.given(model)
    found = statistics(model, tokens)
    bound = entropy_bound(model, tokens, found)
    assert bound.theorem == (kind in ("gpt2", "bert", "gpt-neo"))
    assert (bound.rows.nan_to_num(0) <= found.row("entropy") + 1e-9).all()
    assert (bound.by_rows <= bound.entropy + 1e-9).all()
    # What the weights allow is at least as long as any row of scores that the model really makes.
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_attn_scores"))
    for layer in range(model.cfg.n_layers):
        seen = brute.sight(model, layer, tokens.shape[1])
        longest = cache["attn_scores", layer].masked_fill(~seen, 0).norm(dim=-1).amax(-1).T  # head, batch
        assert (longest <= bound.length[layer] * (1 + 1e-6)).all()
    assert (bound.by_weights <= bound.by_rows + 1e-9).all()


def test_the_theorems_length_is_the_norm_of_the_products() -> None:
    model = from_hf(find("gpt-neo").model(dtype=torch.float64))  # no biases, no positions in between
    tokens = brute.given(model, batch=1)
    bound = entropy_bound(model, tokens, statistics(model, tokens))
    _, cache = model.run_with_cache(tokens)
    for layer, block in enumerate(model.blocks):
        x = cache[f"blocks.{layer}.ln1.hook_out"][0]
        for head in range(model.cfg.n_heads):
            w_q, w_k = block.attn.heads_of(block.attn.q)[head], block.attn.heads_of(block.attn.k)[head]
            s = torch.linalg.svdvals(w_k.T @ w_q)[0] * torch.linalg.svdvals(x @ x.T)[0] * model.cfg.attn_scale
            torch.testing.assert_close(bound.length[layer, head, 0], s)


def test_the_bound_of_a_row_is_that_of_its_visible_scores() -> None:
    model = from_hf(find("qwen2-window").model(dtype=torch.float64))
    tokens = brute.given(model)
    found = row_bound(statistics(model, tokens))
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_attn_scores"))
    for layer in range(model.cfg.n_layers):
        seen = brute.sight(model, layer, tokens.shape[1])
        for query in (0, 1, 5, 23):
            scores = cache["attn_scores", layer][1, 2, query][seen[query]]
            if len(scores) == 1:
                assert found[layer, 2, 1, query].isnan()
                continue
            expected = floor_of((scores - scores.mean()).norm(), torch.tensor(len(scores)))
            torch.testing.assert_close(found[layer, 2, 1, query], expected)


def sharpened(layer: int, head: int, factor: float) -> Transformer:
    """A GPT-2 with the queries of one head multiplied."""
    hf = find("gpt2").model(weights="usual", seed=1)
    size = hf.config.n_embd // hf.config.n_head
    here = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        for x in (hf.transformer.h[layer].attn.c_attn.weight, hf.transformer.h[layer].attn.c_attn.bias):
            x[..., here] *= factor
    return from_hf(hf)


def test_collapsed_and_uniform_heads_are_found() -> None:
    tokens = torch.randint(3, 60, (2, 24), generator=torch.Generator().manual_seed(0))
    found = statistics(sharpened(1, 2, 1e6), tokens)
    assert [head.name for head in collapsed(found)] == ["a1.h2"]
    flat = statistics(sharpened(0, 0, 0.0), tokens)
    assert uniform(flat)[0].name == "a0.h0"
    assert uniform(flat)[0].value == pytest.approx(1)
    assert len(uniform(flat, above=0.0)) == flat.shape[0] * flat.shape[1]
    values = [head.value for head in collapsed(flat, below=10)]
    assert values == sorted(values)
    assert len(values) == flat.shape[0] * flat.shape[1]


def test_small_weights_leave_a_high_bound() -> None:
    tokens = torch.randint(3, 60, (2, 24), generator=torch.Generator().manual_seed(0))
    model = sharpened(1, 2, 1e-3)
    bound = entropy_bound(model, tokens, statistics(model, tokens))
    assert bound.by_weights[1, 2] > 0.98 * bound.entropy[1, 2]
    assert bound.by_weights[1, 1] < bound.by_weights[1, 2]


def test_layers_and_tokens_are_means_of_rows() -> None:
    model = from_hf(find("gpt2").model())
    tokens = torch.tensor([[5, 9, 5, 7], [9, 9, 5, 3]])
    found = statistics(model, tokens)
    torch.testing.assert_close(by_layer(found, "largest"), found.row("largest").flatten(1).mean(1))
    tokenwise = by_token(found)
    assert tokenwise.ids.tolist() == [3, 5, 7, 9]
    assert tokenwise.n.tolist() == [1, 3, 1, 3]
    rows = found.row("entropy")
    expected = torch.stack([rows[:, :, 0, 1], rows[:, :, 1, 0], rows[:, :, 1, 1]]).mean(0)
    torch.testing.assert_close(tokenwise.mean[3].float(), expected)


def test_the_bound_wants_softmax_and_its_own_tokens() -> None:
    model = from_hf(find("gpt2").model())
    tokens = brute.given(model)
    with pytest.raises(ValueError, match="The bound is one of softmax"):
        row_bound(statistics(model.with_attention("sparsemax"), tokens))
    with pytest.raises(ValueError, match="of another model or of other tokens"):
        entropy_bound(model, tokens[:1], statistics(model, tokens))


def test_padding_changes_no_bound() -> None:
    model = from_hf(find("bert").model(dtype=torch.float64))
    tokens = brute.given(model, batch=1, n=9)
    padded = torch.cat([tokens, torch.full((1, 4), 1)], 1)
    mask = torch.cat([torch.ones(1, 9), torch.zeros(1, 4)], 1).long()
    alone = entropy_bound(model, tokens, statistics(model, tokens))
    found = statistics(model, padded, attention_mask=mask)
    bound = entropy_bound(model, padded, found, attention_mask=mask)
    torch.testing.assert_close(alone.by_weights, bound.by_weights)
    torch.testing.assert_close(alone.by_rows, bound.by_rows)
