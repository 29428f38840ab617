"""What every attention mechanism owes: sums, masks, precision, gradients, symmetries, and its entry in the registry."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.mechanism_cases import D_HEAD, HEADS, KEYS, MASKS, ROWWISE, SETTINGS, made, masked, masks, scored
from workbench.models.mechanisms import MECHANISMS, Call, Mechanism, find, hidden, options_of, parameter_shapes


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", MASKS)
def test_rows_sum_to_what_is_promised_and_hidden_keys_get_nothing(key: str, kind: str) -> None:
    call, generator = made(key), torch.Generator().manual_seed(3)
    visible = masks(kind, 2, 5, generator).expand(-1, HEADS, -1, -1)
    pattern = find(key).weights(masked(scored(call, key, 2.0, generator), visible), call)
    assert pattern.shape == visible.shape
    assert (pattern[~visible] == 0).all()
    totals = pattern.sum(-1)[visible.any(-1)]
    if find(key).rows == "one":
        torch.testing.assert_close(totals, torch.ones_like(totals))
    elif find(key).rows == "at most one":
        assert (totals <= 1 + 1e-12).all()
    if key != "differential":
        assert (pattern >= 0).all()


def test_clipped_rows_are_at_most_one_unless_zeta_stretches_them() -> None:
    scores = torch.randn(2, HEADS, 5, 5).double()
    assert (find("clipped").weights(scores, made("clipped")).sum(-1) <= 1).all()
    assert (find("clipped").weights(0 * scores, made("clipped", gamma=0.0, zeta=1.5)).sum(-1) > 1).all()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("floor", ["lowest", "minus infinity"])
def test_rows_without_any_visible_key_are_zero_and_pass_no_gradient(key: str, floor: str) -> None:
    call, generator = made(key, dtype=torch.float32), torch.Generator().manual_seed(4)
    visible = masks("causal", 2, 5, generator).clone()
    visible[0, :, 2] = False
    visible[1] = False
    scores = masked(scored(call, key, 2.0, generator), visible, floor != "lowest").requires_grad_()
    parameters = [parameter.requires_grad_() for parameter in call.parameters.values()]
    pattern = find(key).weights(scores, call)
    assert (pattern[0, :, 2] == 0).all()
    assert (pattern[1] == 0).all()
    loss = (pattern * torch.randn(pattern.shape, generator=generator)).sum()
    gradients = torch.autograd.grad(loss, [scores, *parameters], allow_unused=True, materialize_grads=True)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    blind = ~visible.expand(-1, HEADS, -1, -1).repeat(1, scores.shape[1] // HEADS, 1, 1)
    assert (gradients[0][blind] == 0).all()
    assert (gradients[0][~blind] != 0).any()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 1e4), ("bfloat16", 1e4), ("float16", 3e4)])
def test_large_scores_in_low_precision_stay_finite_and_close(key: str, dtype: str, spread: float) -> None:
    kind, generator = getattr(torch, dtype), torch.Generator().manual_seed(5)
    call = made(key, dtype=torch.float32)
    scores = spread * (2 * torch.rand(scored(call, key, 1.0, generator).shape, generator=generator) - 1)
    scores[..., 0] = 2 * spread  # 6e4 is nearly the largest number of float16
    scores = (scores.abs() if key == "linear" else scores).to(kind)
    low = masked(scores, masks("causal", 2, 5, generator)).requires_grad_()
    pattern = find(key).weights(low, call)
    assert pattern.dtype == kind
    pattern.sum().backward()
    assert low.grad is not None
    assert low.grad.isfinite().all()
    exact = find(key).weights(masked(scores.double(), masks("causal", 2, 5, generator)), call)
    assert pattern.isfinite().all()
    torch.testing.assert_close(pattern.double(), exact, rtol=1e-2 if kind == torch.bfloat16 else 2e-3, atol=1e-3)


@pytest.mark.parametrize("key", KEYS)
def test_gradients_of_the_pattern(key: str) -> None:
    call, generator = made(key, seed=7, **SETTINGS.get(key, {})), torch.Generator().manual_seed(7)
    visible = masks("padded left", 2, 5, generator)
    scores = scored(call, key, 1.5, generator).requires_grad_()
    names = list(call.parameters)
    values = [call.parameters[name].clone().requires_grad_() for name in names]

    def pattern(scores: Tensor, *values: Tensor) -> Tensor:
        moved = Call(call.q, call.k, call.scale, dict(zip(names, values, strict=True)), call.options, call.layer)
        return find(key).weights(masked(scores, visible), moved)

    assert torch.autograd.gradcheck(pattern, (scores, *values))


@pytest.mark.parametrize("key", ["softmax", "cosine", "linear", "differential"])
def test_gradients_of_the_scores(key: str) -> None:
    call = made(key, seed=8)
    learned = call.parameters.get("log_scale", torch.zeros(HEADS).double()).clone().requires_grad_()

    def scores(q: Tensor, k: Tensor, log_scale: Tensor) -> Tensor:
        return find(key).scores(Call(q, k, 0.5, {"log_scale": log_scale}, call.options, 0))

    q, k = call.q.clone().requires_grad_(), call.k.clone().requires_grad_()
    assert torch.autograd.gradcheck(scores, (q, k, learned))


@pytest.mark.parametrize("key", ["gated", "value-residual", "differential"])
def test_gradients_of_values_and_outputs(key: str) -> None:
    call, mechanism = made(key, seed=9), find(key)
    names = list(call.parameters)
    values = [call.parameters[name].clone().requires_grad_() for name in names]
    z, v = torch.randn(2, 2, 3, HEADS, D_HEAD).double().requires_grad_()
    x = torch.randn(2, 3, HEADS * D_HEAD).double().requires_grad_()

    def end(z: Tensor, v: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        moved = Call(call.q, call.k, call.scale, dict(zip(names, values, strict=True)), call.options, call.layer)
        out = z if mechanism.values is None else mechanism.values(z, v, moved)
        return out if mechanism.output is None else mechanism.output(out, x, moved)

    assert torch.autograd.gradcheck(end, (z, v, x, *values))


@pytest.mark.parametrize("alpha", [1.05, 1.3, 1.5, 1.8, 1.95])
def test_the_gradient_of_alpha_is_the_slope(alpha: float) -> None:
    scores, weights = 2 * torch.randn(2, HEADS, 5, 5).double(), torch.randn(2, HEADS, 5, 5).double()

    def loss(alpha: Tensor) -> Tensor:
        call = Call(scores, scores, 1.0, {"alpha": alpha}, options_of(find("entmax"), {}), 0)
        return (find("entmax").weights(scores, call) * weights).sum((0, 2, 3))

    at = torch.full((HEADS,), alpha).double().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at).sum(), at)
    measured = (loss(at.detach() + 1e-6) - loss(at.detach() - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, measured, atol=1e-6, rtol=1e-5)


def test_second_derivatives_of_entmax() -> None:
    scores = torch.randn(1, 2, 3, 4).double().requires_grad_()
    at = torch.tensor([1.4, 1.7]).double().requires_grad_()

    def pattern(scores: Tensor, alpha: Tensor) -> Tensor:
        call = Call(scores, scores, 1.0, {"alpha": alpha}, options_of(find("entmax"), {}), 0)
        return find("entmax").weights(scores, call)

    assert torch.autograd.gradgradcheck(pattern, (scores, at))


@pytest.mark.parametrize("key", KEYS)
def test_order_of_keys_and_queries_and_the_rest_of_the_batch_do_not_matter(key: str) -> None:
    call, generator = made(key), torch.Generator().manual_seed(10)
    scores = scored(call, key, 2.0, generator)
    pattern = find(key).weights(scores, call)
    torch.testing.assert_close(find(key).weights(scores[1:], call), pattern[1:])
    if key != "selective":
        keys, queries = torch.randperm(5, generator=generator), torch.randperm(5, generator=generator)
        moved = find(key).weights(scores[:, :, queries][..., keys], call)
        torch.testing.assert_close(moved, pattern[:, :, queries][..., keys])


@pytest.mark.parametrize("key", KEYS)
def test_later_queries_and_padding_on_the_left_change_nothing(key: str) -> None:
    call, generator = made(key), torch.Generator().manual_seed(11)
    scores = masked(scored(call, key, 2.0, generator), masks("causal", 2, 5, generator))
    pattern, short = find(key).weights(scores, call), find(key).weights(scores[:, :, :4, :4], call)
    if key == "sinkhorn":  # its columns run over all queries
        assert not torch.allclose(pattern[:, :, :4, :4], short)
    else:
        torch.testing.assert_close(pattern[:, :, :4, :4], short)
    low = torch.finfo(scores.dtype).min
    padded = torch.nn.functional.pad(scores, (2, 0, 2, 0), value=low)
    torch.testing.assert_close(find(key).weights(padded, call)[:, :, 2:, 2:], pattern)
    padded[..., 0, 0] = padded[..., 1, 1] = 1  # padding that sees itself
    torch.testing.assert_close(find(key).weights(padded, call)[:, :, 2:, 2:], pattern)


@pytest.mark.parametrize("key", [key for key in ROWWISE if not find(key).whole])
def test_a_query_alone_has_the_weights_that_it_has_among_others(key: str) -> None:
    call, generator = made(key), torch.Generator().manual_seed(12)
    scores = masked(scored(call, key, 2.0, generator), masks("causal", 2, 5, generator))
    torch.testing.assert_close(find(key).weights(scores[:, :, 3:4], call), find(key).weights(scores, call)[:, :, 3:4])


# --- the registry and its page ---


def test_what_is_hidden() -> None:
    low = torch.finfo(torch.float16).min
    scores = torch.tensor([low, -math.inf, low / 2, -3e4, 0, 6e4], dtype=torch.float16).view(1, 1, 1, 6)
    assert hidden(scores).flatten().tolist() == [True, True, True, False, False, False]


def test_sizes_options_and_names_are_checked() -> None:
    assert parameter_shapes(find("differential"), 2, 8, 99)["q1"] == (2, 4)
    assert parameter_shapes(find("gated"), 2, 8, 16) == {"w": (2, 8), "bias": (2,)}
    with pytest.raises(ValueError, match="d_head = 5 is odd"):
        parameter_shapes(find("differential"), 2, 5, 10)
    with pytest.raises(ValueError, match="n_heads \\* d_head; 20 is not 2 \\* 8"):
        parameter_shapes(find("gated"), 2, 8, 20)
    assert options_of(find("clipped"), {"gamma": -0.1}) == {"gamma": -0.1, "zeta": 1.0}
    with pytest.raises(ValueError, match="no option 'gama'; did you mean 'gamma'"):
        options_of(find("clipped"), {"gama": -0.1})
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="'temperature' of 'temperature' must lie in"):
            options_of(find("temperature"), {"temperature": value})
    with pytest.raises(ValueError, match="no attention mechanism 'sparsmax'; did you mean 'sparsemax'"):
        find("sparsmax")


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=KEYS)
def test_the_page_says_what_the_registry_says(mechanism: Mechanism) -> None:
    page = (Path(__file__).parents[2] / "docs" / "attention.md").read_text(encoding="utf-8")
    line = next(row for row in page.splitlines() if row.startswith(f"| `{mechanism.key}` |"))
    learned = [
        f"`{part.name}` {' x '.join(['head', *part.shape])} from {part.initial:.4g}" for part in mechanism.parameters
    ]
    cells = [
        mechanism.title,
        f"`{mechanism.formula}`",
        mechanism.rows,
        ", ".join(learned) or "none",
        mechanism.reference,
    ]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == cells
    for name, value in mechanism.options.items():
        assert f"`{name}` ({value:g})" in page
