"""A linear map whose spectral norm is one learnable number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.models.linear import SigmaLinear, power_step


def norm_of(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(weight.detach(), 2)


def test_the_spectral_norm_is_gamma_and_stays_so_as_the_weights_move() -> None:
    linear = SigmaLinear(7, 5).double()
    power_step(linear)
    torch.testing.assert_close(norm_of(linear.weight), linear.gamma.detach())
    with torch.no_grad():
        linear.raw += torch.randn_like(linear.raw)
        linear.gamma.fill_(2.5)
    assert abs(float(norm_of(linear.weight)) - 2.5) > 1e-3
    before = linear.u
    linear(torch.randn(3, 7).double())
    assert linear.u is before, "a call changes nothing"
    power_step(nn.ModuleList([linear, nn.Linear(2, 2)]), steps=300)
    torch.testing.assert_close(norm_of(linear.weight), torch.tensor(2.5).double())


def test_the_gradient_holds_u_and_v_and_sees_the_norm_change() -> None:
    linear, x = SigmaLinear(4, 3).double(), torch.randn(2, 4).double()
    power_step(linear, steps=500)
    shape = linear.raw.shape

    def out(raw: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, raw * (gamma / torch.linalg.matrix_norm(raw, 2)), linear.bias)

    raw, gamma = linear.raw.detach().clone().requires_grad_(), linear.gamma.detach().clone().requires_grad_()
    expected = torch.autograd.grad(out(raw, gamma).pow(2).sum(), [raw, gamma])
    got = torch.autograd.grad(linear(x).pow(2).sum(), [linear.raw, linear.gamma])
    assert got[0].shape == shape
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, exact)

    def through(raw: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        moved = {"raw": raw, "gamma": gamma}
        result: torch.Tensor = torch.func.functional_call(linear, moved, (x,))
        return result

    assert torch.autograd.gradcheck(through, (raw, gamma, x.clone().requires_grad_()))


def test_a_power_step_between_call_and_gradient_does_no_harm() -> None:
    linear = SigmaLinear(4, 3)
    out = linear(torch.randn(2, 4)).sum()
    power_step(linear)
    out.backward()
    assert linear.raw.grad is not None


def test_saved_weights_come_back_on_the_meta_device_too() -> None:
    linear, x = SigmaLinear(4, 3, bias=False), torch.randn(2, 4)
    state = linear.state_dict()
    assert sorted(state) == ["gamma", "raw", "u", "v"]
    other = SigmaLinear(4, 3, bias=False)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), linear(x))
    with torch.device("meta"):
        empty = SigmaLinear(4, 3, bias=False)
    empty.load_state_dict(state, assign=True)
    assert torch.equal(empty(x), linear(x))


@pytest.mark.parametrize("bias", [True, False])
def test_wrapping_and_merging_keep_the_function(bias: bool) -> None:
    plain, x = nn.Linear(6, 9, bias=bias), torch.randn(4, 6)
    wrapped = SigmaLinear.wrap(plain)
    assert repr(wrapped) == f"SigmaLinear(in_features=6, out_features=9, bias={bias})"
    torch.testing.assert_close(wrapped(x), plain(x))
    torch.testing.assert_close(wrapped.gamma.detach(), norm_of(plain.weight))
    merged = wrapped.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), plain(x))
    with torch.no_grad():
        wrapped.gamma.mul_(2)
    torch.testing.assert_close(merged(x), plain(x)), "a merged layer is a copy"


def test_a_zero_matrix_is_refused() -> None:
    plain = nn.Linear(3, 3)
    nn.init.zeros_(plain.weight)
    with pytest.raises(ValueError, match="zero matrix"):
        SigmaLinear.wrap(plain)
