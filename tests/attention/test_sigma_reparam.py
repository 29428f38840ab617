from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests import micro
from workbench.attention.sigma_reparam import SigmaReparam, remove_sigma, sigma_reparametrise
from workbench.models import from_hf


def norm(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2))


def layer(rows: int = 7, columns: int = 5, seed: int = 0, gamma: float | None = None) -> nn.Linear:
    torch.manual_seed(seed)
    made = nn.Linear(columns, rows).double()
    sigma_reparametrise(made, gamma=gamma)
    return made


def stack_of(made: nn.Linear) -> SigmaReparam:
    found = made.parametrizations["weight"][0]
    assert isinstance(found, SigmaReparam)
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 50), st.floats(0.1, 20))
def test_gamma_is_the_spectral_norm_of_the_used_weight(rows: int, columns: int, seed: int, gamma: float) -> None:
    made = layer(rows, columns, seed, gamma).eval()
    assert norm(made.weight) == pytest.approx(gamma, rel=1e-9)
    raw = made.parametrizations["weight"].original
    torch.testing.assert_close(made.weight, raw * gamma / norm(raw))


def test_without_a_gamma_nothing_changes_at_first() -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4, bias=False))
    x = torch.randn(3, 6)
    before = plain(x)
    assert sigma_reparametrise(plain) == ["0", "2"]
    torch.testing.assert_close(plain(x), before, rtol=1e-5, atol=1e-6)


def test_power_iteration_follows_a_weight_that_moves() -> None:
    made = layer(12, 8, gamma=3.0)
    with torch.no_grad():
        made.parametrizations["weight"].original.copy_(torch.randn(12, 8).double())
    assert abs(norm(made.eval().weight) - 3) > 0.01  # u and v are still those of the old weight
    made.train()
    for _ in range(500):
        _ = made.weight
    assert norm(made.eval().weight) == pytest.approx(3, rel=1e-8)


def test_one_reading_in_training_is_one_step_of_power_iteration() -> None:
    made = layer(6, 4)
    raw = torch.randn(6, 4).double()
    with torch.no_grad():
        made.parametrizations["weight"].original.copy_(raw)
    u = stack_of(made).u.clone()
    made.train()(torch.randn(2, 4).double())
    v = raw.T @ u / (raw.T @ u).norm()
    torch.testing.assert_close(stack_of(made).v, v)
    torch.testing.assert_close(stack_of(made).u, raw @ v / (raw @ v).norm())


def test_evaluation_changes_nothing() -> None:
    made = layer().eval()
    with torch.no_grad():
        made.parametrizations["weight"].original.mul_(torch.rand(7, 5).double())
    before = copy.deepcopy(made.state_dict())
    one, other = made(torch.ones(1, 5).double()), made(torch.ones(1, 5).double())
    assert torch.equal(one, other)
    assert all(torch.equal(x, before[name]) for name, x in made.state_dict().items())


def test_gradients_are_those_of_finite_differences() -> None:
    made, x = layer().eval(), torch.randn(4, 5).double()
    pull = torch.randn(4, 7).double()
    raw, gamma = made.parametrizations["weight"].original, stack_of(made).gamma

    def value() -> Tensor:
        return (made(x) * pull).sum()

    found = torch.autograd.grad(value(), [raw, gamma])
    h = 1e-6
    for parameter, gradient in zip((raw, gamma), found, strict=True):
        flat = parameter.data.view(-1)
        numeric = []
        for i in range(flat.numel()):
            kept = flat[i].item()
            flat[i] = kept + h
            above = value().item()
            flat[i] = kept - h
            numeric.append((above - value().item()) / (2 * h))
            flat[i] = kept
        # u and v stay where they are in evaluation, so that sigma is bilinear and this is its exact derivative.
        torch.testing.assert_close(gradient.flatten(), torch.tensor(numeric).double(), rtol=1e-6, atol=1e-7)
    # The used weight does not depend on the length of W, so that a gradient along W is 0.
    assert (found[0] * raw).sum().item() == pytest.approx(0, abs=1e-10)


def test_two_forwards_before_a_backward_are_allowed() -> None:
    made = layer().train()
    one = made(torch.randn(2, 5).double())
    (made(torch.randn(2, 5).double()) + one).sum().backward()
    assert made.parametrizations["weight"].original.grad is not None


def test_a_state_dict_carries_norm_and_directions() -> None:
    made = layer(seed=3).train()
    with torch.no_grad():
        made.parametrizations["weight"].original.mul_(torch.rand(7, 5).double())
        stack_of(made).gamma.fill_(2.5)
    made(torch.ones(1, 5).double())
    other = layer(seed=4)
    other.load_state_dict(made.state_dict())
    x = torch.randn(2, 5).double()
    assert torch.equal(other.eval()(x), made.eval()(x))


@pytest.mark.parametrize("training", [False, True])
def test_taking_it_off_bakes_the_weight_in(training: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    sigma_reparametrise(model, gamma=2.0, only=lambda name: name == "0")
    with torch.no_grad():
        model[0].parametrizations["weight"].original.add_(torch.randn(6, 5))
    x = torch.randn(4, 5)
    expected = model.eval()(x)
    model.train(training)
    assert remove_sigma(model) == ["0"]
    assert torch.equal(model(x), expected)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert not parametrize.is_parametrized(model)
    assert remove_sigma(model) == []


def test_taking_it_off_a_copy_leaves_the_original_alone() -> None:
    made = layer().eval()
    copied = copy.deepcopy(made)
    x = torch.randn(2, 5).double()
    expected = made(x)
    remove_sigma(copied)
    assert torch.equal(copied(x), expected)
    assert torch.equal(made(x), expected)
    assert parametrize.is_parametrized(made)


@pytest.mark.parametrize("kind", ["llama-grouped", "gpt2"])
def test_a_model_of_the_workbench_stays_the_same_and_can_be_trained(kind: str) -> None:
    model = from_hf(micro.hugging_face(kind))
    model.requires_grad_(True)
    tokens = torch.randint(0, 60, (2, 9))
    before = model(tokens).detach()
    names = sigma_reparametrise(model)
    tied = model.unembedding.weight is model.embed.weight
    assert ("unembedding" in names) != tied  # a shared weight is left alone
    assert len([name for name in names if ".attn." in name]) == 4 * model.cfg.n_layers
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-5)
    # Tables of weights that analyses read are those that are used.
    gamma = stack_of(model.blocks[0].attn.q).gamma.item()
    assert norm(model.blocks[0].attn.q.weight) == pytest.approx(gamma, rel=1e-5)
    model(tokens).square().mean().backward()
    assert float(stack_of(model.blocks[1].attn.k).gamma.grad) != 0


def test_frozen_weights_get_a_frozen_norm() -> None:
    model = from_hf(micro.hugging_face("llama-ungrouped"))
    sigma_reparametrise(model)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_half_precision_keeps_its_type() -> None:
    made = nn.Linear(6, 8).bfloat16()
    sigma_reparametrise(made, gamma=1.0)
    assert made(torch.randn(2, 6).bfloat16()).dtype == torch.bfloat16
    assert norm(made.weight) == pytest.approx(1, rel=0.02)  # eight bits of mantissa


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.LayerNorm(3), r"no nn\.Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)), "1: A zero matrix"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "1: The weight is not finite"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(module: nn.Module, said: str) -> None:
    if "zero" in said:
        nn.init.zeros_(module[1].weight)
    elif "finite" in said:
        nn.init.constant_(module[1].weight, float("inf"))
    with pytest.raises(ValueError, match=said):
        sigma_reparametrise(module)
    assert not any(parametrize.is_parametrized(part) for part in module.modules())


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"takes matrices; this weight is \[2, 3, 4\]"):
        SigmaReparam(torch.zeros(2, 3, 4))
