from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.kernels import sparse_reference as reference
from workbench.kernels import (
    NonFiniteScores,
    entmax_attention,
    sigmoid_attention,
    softpick_attention,
    sparsemax_attention,
    strips,
)
from workbench.kernels.entmax import Entmax, solve
from workbench.models import mechanisms

ALPHAS = [1.05, 1.25, 1.5, 1.75, 2.0]


def tensors(seed, batch, groups, shared, n, m, d=8, d_value=5, size=1.0):
    """Queries and keys on a grid, where every float32 product and sum is exact: what differs is the method's."""
    torch.manual_seed(seed)
    q = torch.randint(-8, 9, (batch, groups * shared, n, d)) / 8 * size
    k = torch.randint(-8, 9, (batch, groups, m, d)) / 8
    return q, k, torch.randn(batch, groups, m, d_value)


def error(mine, theirs):
    return ((mine.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()


@st.composite
def problems(draw):
    n, m = sorted((draw(st.integers(1, 40)), draw(st.integers(1, 40))))
    batch, groups, shared = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    # powers of two keep the grid; the largest make scores of some thousands
    size = draw(st.sampled_from([0.0, 0.25, 1.0, 16.0, 1024.0]))
    mask = None
    if draw(st.booleans()):
        mask = torch.tensor(draw(st.lists(st.booleans(), min_size=batch * m, max_size=batch * m))).view(batch, m)
    sight = {
        "causal": draw(st.booleans()),
        "window": draw(st.one_of(st.none(), st.integers(1, 45))),
        "key_mask": mask,
        "scale": 0.25,
    }
    tiles = {
        "ELEMENTS": 1,
        "LEAST": draw(st.sampled_from([1, 3, 8])),
        "MOST": draw(st.sampled_from([1, 7, 128])),
        "TILE": draw(st.sampled_from([1, 4, 64])),
    }
    tiles["ELEMENTS"] = draw(st.sampled_from([1, 2**19]))
    return tensors(draw(st.integers(0, 99)), batch, groups, shared, n, m, size=size), sight, tiles


@given(problems(), st.sampled_from(ALPHAS))
@settings(max_examples=80, deadline=None)
def test_entmax_in_tiles_is_the_materialised_one(problem, alpha):
    inputs, sight, tiles = problem
    with patch.multiple(strips, **tiles):
        mine = entmax_attention(*inputs, alpha=alpha, **sight)
    assert error(mine, reference.attention(reference.entmax(alpha), *inputs, **sight)) < 1e-5


@given(problems(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_softpick_and_sigmoid_in_tiles_are_the_materialised_ones(problem, normed):
    (q, k, v), sight, tiles = problem
    q = q.clamp(-8, 8)  # the reference exponentiates as it stands
    tiled, pattern = (softpick_attention, reference.softpick()) if normed else (sigmoid_attention, reference.sigmoid())
    with patch.multiple(strips, **tiles):
        mine = tiled(q, k, v, **sight)
    assert error(mine, reference.attention(pattern, q, k, v, **sight)) < 1e-5


@given(problems(), st.sampled_from(["1.5", "2", "heads", "softpick", "sigmoid"]))
@settings(max_examples=60, deadline=None)
def test_gradients_in_tiles_are_those_of_autograd_through_the_materialised_pattern(problem, rule):
    (q, k, v), sight, tiles = problem
    torch.manual_seed(1)
    # off the grid: where two scores tie at the edge of the support, the derivative jumps
    inputs = [torch.randn_like(x).double() for x in (q, k, v)]
    weights = torch.randn(*q.shape[:3], v.shape[-1]).double()
    alpha = (1.2 + 0.7 * torch.rand(q.shape[1])).double() if rule == "heads" else None
    found = []
    for ours in (True, False):
        given = [x.clone().requires_grad_() for x in inputs]
        learned = None if alpha is None else alpha.clone().requires_grad_()
        if rule in ("softpick", "sigmoid"):
            tiled = softpick_attention if rule == "softpick" else sigmoid_attention
            pattern = reference.softpick() if rule == "softpick" else reference.sigmoid()
        else:
            power = float(rule) if learned is None else learned

            def tiled(*x, power=power, **options):
                return entmax_attention(*x, alpha=power, **options)

            pattern = reference.entmax(power)
        if ours:
            with patch.multiple(strips, **tiles):
                out = tiled(*given, **sight)
                grads = torch.autograd.grad((out * weights).sum(), given + ([] if learned is None else [learned]))
        else:
            out = reference.attention(pattern, *given, **sight)
            grads = torch.autograd.grad((out * weights).sum(), given + ([] if learned is None else [learned]))
        found.append(grads)
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).abs().max() <= 1e-7 * (1 + theirs.abs().max())


def test_derivatives_pass_gradcheck_in_every_input():
    torch.manual_seed(0)
    inputs = [torch.randn(1, h, 5, 3, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2)]
    alpha = torch.tensor([1.1, 1.5, 1.7, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k, v, a: entmax_attention(q, k, v, alpha=a), (*inputs, alpha))
    for tiled in (sparsemax_attention, softpick_attention, sigmoid_attention):
        assert torch.autograd.gradcheck(lambda q, k, v, tiled=tiled: tiled(q, k, v, window=4), tuple(inputs))


@pytest.mark.parametrize("key", ["sparsemax", "entmax15", "softpick", "sigmoid"])
def test_tiles_agree_with_the_mechanisms_of_the_hooked_models(key):
    q, k, v = tensors(0, 2, 2, 3, 20, 33)
    mechanism = mechanisms.find(key)
    s = (q @ k.repeat_interleave(3, 1).mT) * 8**-0.5
    s = s.masked_fill(~reference.visible(20, 33, True), torch.finfo(s.dtype).min)
    options = mechanisms.options_of(mechanism, {})
    call = mechanisms.Call(q.transpose(1, 2), k.repeat_interleave(3, 1).transpose(1, 2), 1.0, {}, options, 0)
    theirs = mechanism.weights(s, call) @ v.repeat_interleave(3, 1)
    tiled = {
        "sparsemax": sparsemax_attention,
        "entmax15": entmax_attention,
        "softpick": softpick_attention,
        "sigmoid": sigmoid_attention,
    }[key]
    assert error(tiled(q, k, v), theirs.double()) < 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiled", [sparsemax_attention, entmax_attention, softpick_attention, sigmoid_attention])
def test_half_precision_is_summed_in_float32(kind, tiled):
    inputs = [x.to(kind) for x in tensors(0, 1, 2, 2, 50, 300)]
    out = tiled(*inputs)
    assert out.dtype == kind
    assert torch.equal(out, tiled(*(x.float() for x in inputs)).to(kind))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0, 1e3])
def test_weights_of_long_rows_sum_to_one_and_keep_their_digits(alpha, size):
    torch.manual_seed(0)
    s = torch.randn(4, 20_000) * size
    found = solve(s, alpha)
    p = torch.zeros(s.shape, dtype=torch.float64)
    p[:, slice(None) if found.kept is None else found.kept] = found.p.double()
    # of the sum in float64: a float32 product with values of 1 loses more than the weights do
    assert (p.sum(-1) - 1).abs().max() < 2e-6
    exact = torch.stack([reference.bisected(row.double(), torch.tensor(alpha).double()) for row in s])
    assert error(p, exact) < 1e-5


def test_softpick_rows_sum_to_at_most_one_and_sigmoid_rows_to_anything():
    q, k, _ = tensors(0, 1, 1, 2, 6, 500)
    ones = torch.ones(1, 1, 500, 1)
    for size in (0.0, 0.1, 1.0, 1e4):
        assert softpick_attention(q * size, k, ones).max() <= 1 + 1e-6
    assert not softpick_attention(q * 0, k, ones).any()
    flat = sigmoid_attention(q * 0, k, ones, bias=2.0, log_n=0.0, causal=False)
    assert torch.allclose(flat, torch.tensor(500 / (1 + math.exp(-2.0))))


def test_a_row_with_one_key_copies_its_value_and_an_empty_row_is_zero_with_zero_gradients():
    q, k, v = (x.requires_grad_() for x in tensors(0, 2, 1, 2, 5, 5))
    mask = torch.tensor([[False] * 5, [False, False, True, True, True]])
    for tiled in (sparsemax_attention, entmax_attention, softpick_attention, sigmoid_attention):
        out = tiled(q, k, v, key_mask=mask)
        assert not out[0].any()
        assert not out[1, :, :2].any()
        grads = torch.autograd.grad(out.sum(), (q, k, v))
        assert all(g.isfinite().all() and not g[0].any() for g in grads)
        assert all(not g[1, :, :2].any() for g in grads)
    for alpha in ALPHAS:
        assert torch.equal(entmax_attention(q, k, v, alpha=alpha, window=1), v.expand(-1, 2, -1, -1))


def test_lengths_are_padding_at_the_end():
    q, k, v = tensors(0, 2, 1, 1, 6, 6)
    mask = torch.arange(6) < torch.tensor([2, 6])[:, None]
    for tiled in (sparsemax_attention, softpick_attention, sigmoid_attention):
        assert torch.equal(
            tiled(q, k, v, lengths=torch.tensor([2, 6]), causal=False), tiled(q, k, v, key_mask=mask, causal=False)
        )


scored = strips._scores


class Largest(TorchDispatchMode):
    """Most numbers in any tensor that an operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


@pytest.mark.parametrize("tiled", [entmax_attention, sparsemax_attention, softpick_attention, sigmoid_attention])
def test_no_tensor_grows_with_the_square_of_the_text(tiled):
    n = 2048
    q, k, v = (x.requires_grad_() for x in tensors(0, 1, 1, 2, n, n))
    with Largest() as largest:
        tiled(q, k, v).sum().backward()
    assert largest.numbers <= strips.ELEMENTS
    assert 2 * n * n > 15 * strips.ELEMENTS


def test_tiles_without_weight_are_known_and_left_out_of_the_backward():
    """Keys of the second text half repel every query, so only tiles of the first half may have weight."""
    n = 512
    q, k, v = tensors(0, 1, 2, 2, n, n)
    q[..., 0], k[..., 0] = 8, 0
    k[:, :, n // 2 :, 0] = -8
    problem = strips.problem_of(q, k, v, False, None, None, None, None)
    kept = strips.forward(problem, Entmax((1.5,) * 4))
    sight = torch.ones(1, 4, n, n, dtype=torch.bool)
    scores = (q @ k.repeat_interleave(2, 1).mT * 8**-0.5).double()
    p = reference.entmax(1.5)(scores, sight).view(2, 2, n, n)
    for number, (rows, _) in enumerate(strips.strips(problem.sight, 2)):
        used = p[:, :, rows.start : rows.stop].amax((1, 2)).view(2, -1, strips.TILE).amax(-1) > 0
        assert torch.equal(kept.live[0, :, number], used)
    assert kept.live[..., : n // 2 // strips.TILE].all()
    assert not kept.live[..., n // 2 // strips.TILE :].any()
    seen = []
    with patch.object(strips, "_scores", side_effect=lambda p, near, *a: seen.append(len(near)) or scored(p, near, *a)):
        strips.backward(torch.randn_like(kept.output), problem, kept.state, kept.live, Entmax((1.5,) * 4))
    assert set(seen) == {n // 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alpha": 1.0}, r"alpha must lie in \(1, 2\], not 1"),
        ({"alpha": 2.5}, r"alpha must lie in \(1, 2\], not 2.5"),
        ({"alpha": float("nan")}, r"alpha must lie in \(1, 2\], not nan"),
        ({"alpha": torch.tensor([1.5, 1.5, 1.5])}, r"alpha must be a number or \[head\] = \[2\], not \[3\]"),
        ({"window": 0}, "window of 0 keys"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
        ({"k": torch.zeros(1, 3, 4, 8)}, "k has 3 heads and v has 1"),
        ({"q": torch.zeros(1, 2, 9, 8)}, "9 queries and only 4 keys"),
        ({"key_mask": torch.ones(1, 5)}, r"\[1, 4\]"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    q, k, v = tensors(0, 1, 1, 2, 4, 4)
    given = {"q": q, "k": k, "v": v} | change
    with pytest.raises(ValueError, match=sentence):
        entmax_attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)


@pytest.mark.parametrize("tiled", [entmax_attention, softpick_attention])
def test_scores_that_are_not_finite_are_said_with_their_place(tiled):
    q, k, v = tensors(0, 1, 1, 2, 4, 4)
    q[0, 1, 2, 3] = torch.inf
    with pytest.raises(NonFiniteScores, match="head 1"):
        tiled(q, k, v)


def test_softpick_needs_a_positive_eps():
    with pytest.raises(ValueError, match="eps of softpick must be above 0"):
        softpick_attention(*tensors(0, 1, 1, 1, 2, 2), eps=0.0)


def test_no_query_or_no_key_is_refused():
    q, k, v = tensors(0, 1, 1, 2, 3, 0)
    for tiled in (entmax_attention, softpick_attention, sigmoid_attention):
        with pytest.raises(ValueError, match="k is empty"):
            tiled(q, k, v, causal=False)
