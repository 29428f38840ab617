"""Row statistics against the whole pattern in float64; what they cost; what they refuse."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.brute import brute, log_weights
from tests.kernels.cases import Case, cases, check
from workbench.kernels import NonFiniteScores, attention_statistics

ROWS = ("lse", "entropy", "largest", "effective_keys", "distance", "distance_spread", "sink_mass", "recent_mass")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_statistic_is_that_of_the_pattern(case: Case) -> None:
    q, k, v, options = case
    check(attention_statistics(q, k, v, **options), brute(q, k, v, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_number_type_is_calculated_in_float32_or_better(dtype: torch.dtype, softcap: float | None) -> None:
    q, k, v = random(2, 4, 70, 32, dtype=dtype), random(2, 2, 90, 32, dtype=dtype), random(2, 2, 90, 8, dtype=dtype)
    found = attention_statistics(q, k, v, softcap=softcap, tile=(16, 32), want_output=True)
    assert found.entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    check(found, brute(q.double(), k.double(), v.double(), softcap=softcap), rtol)


def test_long_rows_keep_five_digits() -> None:
    q, k, v = random(1, 3, 6, 64), random(1, 1, 9000, 64), random(1, 1, 9000, 16)
    check(attention_statistics(q, k, v, want_output=True), brute_without_loops(q, k, v))


def brute_without_loops(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The reference asks key by key who sees it; that is slow for long rows."""
    n, m = q.shape[2], k.shape[2]
    parts = [brute(q[:, :, i : i + 1], k[:, :, : m - n + 1 + i], v[:, :, : m - n + 1 + i]) for i in range(n)]
    return {name: torch.cat([part[name] for part in parts], dim=2) for name in parts[0]}


def test_a_peaked_row_has_a_small_entropy_and_not_zero() -> None:
    """1 - p is 1e-9 here: float32 has no digit of it behind 1."""
    k = torch.zeros(1, 1, 100, 2)
    k[0, 0, 63, 0] = 20.0
    for tile in [(8, 8), (64, 64), (128, 128)]:
        found = attention_statistics(torch.tensor([[[[1.0, 0.0]]]]), k, scale=1.0, tile=tile)
        rest = 99 * math.exp(-20)
        assert found.entropy.item() == pytest.approx(math.log1p(rest) + 20 * rest / (1 + rest), rel=1e-5)


def test_uniform_rows_and_rows_of_one_key_are_known() -> None:
    found = attention_statistics(torch.zeros(1, 2, 50, 4), random(1, 1, 50, 4), recent=1)
    visible = torch.arange(1, 51).expand(1, 2, 50)
    torch.testing.assert_close(found.entropy, visible.log(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.effective_keys, visible.float())
    torch.testing.assert_close(found.distance, (visible - 1) / 2)
    torch.testing.assert_close(found.distance_spread, ((visible**2 - 1) / 12).sqrt())
    torch.testing.assert_close(found.sink_mass, 1 / visible)
    torch.testing.assert_close(found.recent_mass, 1 / visible)
    assert torch.equal(found.visible, visible)
    assert found.entropy[0, :, 0].tolist() == [0.0, 0.0]
    assert found.largest_at.eq(0).all()


def test_a_row_that_sees_nothing_has_the_documented_result() -> None:
    mask = torch.tensor([[False, False, True, True]])
    q, k, v = random(1, 2, 4, 8), random(1, 1, 4, 8), random(1, 1, 4, 8)
    found = attention_statistics(q.requires_grad_(), k, v, key_mask=mask, want_output=True)
    for name, value in vars(found).items():
        expected = {"lse": -torch.inf, "largest_at": -1}.get(name, 0)
        assert value[:, :, :2].eq(expected).all(), name
        assert value[:, :, 2:].isfinite().all(), name
    (found.entropy.sum() + found.lse[:, :, 2:].sum()).backward()
    assert q.grad is not None
    assert q.grad[:, :, :2].eq(0).all()
    assert q.grad.isfinite().all()


def test_the_tile_changes_nothing_but_rounding() -> None:
    q, k, v = random(2, 6, 130, 16), random(2, 3, 130, 16), random(2, 3, 130, 16)
    whole = attention_statistics(q, k, v, window=50, tile=(130, 130))
    for tile in [(1, 130), (130, 1), (7, 33), (64, 64)]:
        other = attention_statistics(q, k, v, window=50, tile=tile)
        for name in ROWS:
            torch.testing.assert_close(getattr(other, name), getattr(whole, name), rtol=1e-5, atol=2e-6)


def test_kept_keys_give_the_last_rows_of_the_whole() -> None:
    q, k = random(1, 4, 30, 8), random(1, 2, 30, 8)
    whole, last = attention_statistics(q, k), attention_statistics(q[:, :, -3:], k)
    for name in ROWS:
        torch.testing.assert_close(getattr(last, name), getattr(whole, name)[:, :, -3:])


# -- gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"window": 3, "tile": (2, 3)},
        {"softcap": 1.5, "scale": 0.7},
        {"key_mask": torch.tensor([[True] * 6 + [False], [False] + [True] * 6]), "causal": False},
    ],
    ids=str,
)
def test_the_gradients_of_entropy_and_lse_are_finite_differences(options: dict[str, Any]) -> None:
    q, k = random(2, 4, 5, 3, dtype=torch.float64), random(2, 2, 7, 3, dtype=torch.float64)

    def both(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        found = attention_statistics(q, k, **options)
        return found.entropy, found.lse

    assert torch.autograd.gradcheck(both, (q.requires_grad_(), k.requires_grad_()))


def test_the_gradients_are_those_of_the_pattern_in_float32_and_bfloat16() -> None:
    for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 1e-2)):  # bfloat16 has 8 bits for the answer
        q, k = random(2, 4, 60, 16, dtype=dtype), random(2, 2, 60, 16, dtype=dtype)
        ours = attention_statistics(q.requires_grad_(), k.requires_grad_(), window=40, tile=(16, 16))
        got = torch.autograd.grad((ours.entropy - 0.3 * ours.lse).square().sum(), (q, k))
        wide_q, wide_k = q.detach().double().requires_grad_(), k.detach().double().requires_grad_()
        s, log_p, see = log_weights(wide_q, wide_k, window=40)
        entropy = -(log_p.exp() * log_p.masked_fill(~see, 0)).sum(-1)
        lse = s.masked_fill(~see, -torch.inf).logsumexp(-1)
        want = torch.autograd.grad((entropy - 0.3 * lse).square().sum(), (wide_q, wide_k))
        for mine, theirs in zip(got, want, strict=True):
            assert mine.dtype == dtype
            torch.testing.assert_close(mine.double(), theirs, rtol=rtol, atol=rtol * float(theirs.abs().max()))


def test_nothing_else_carries_a_gradient() -> None:
    found = attention_statistics(random(1, 1, 5, 4).requires_grad_(), random(1, 1, 5, 4), random(1, 1, 5, 4))
    assert {name for name, x in vars(found).items() if x is not None and x.requires_grad} == {"lse", "entropy"}


# -- what it costs --------------------------------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """Numbers in the largest tensor that any operation made, and in all products together."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes() // x.element_size())
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.bmm.out):
            self.products += result.numel()
        return result


def sizes(q: Tensor, k: Tensor, v: Tensor | None = None, **options: Any) -> Sizes:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a mode sees the operations of its own thread
    try:
        with Sizes() as seen:
            found = attention_statistics(q, k, v, **options)
            if found.entropy.requires_grad:
                found.entropy.sum().backward()
    finally:
        torch.set_num_threads(threads)
    return seen


@pytest.mark.parametrize("causal", [True, False])
def test_no_tensor_grows_with_queries_times_keys(causal: bool) -> None:
    short, long = (
        sizes(random(1, 2, n, 8).requires_grad_(), random(1, 1, n, 8), random(1, 1, n, 8), causal=causal, tile=(64, 64))
        for n in (512, 2048)
    )
    assert short.largest < 512 * 512 / 2
    assert long.largest <= 4 * short.largest
    assert long.largest < 2048 * 128


def test_shared_heads_are_not_repeated() -> None:
    seen = sizes(random(1, 16, 1, 64), random(1, 1, 2048, 64), random(1, 1, 2048, 64))
    assert seen.largest <= 2048 * 65  # the values with their norms beside them


def test_tiles_that_nobody_sees_are_skipped() -> None:
    q, k = random(1, 1, 256, 8), random(1, 1, 256, 8)
    tile = (32, 32)
    assert sizes(q, k, sinks=(), tile=tile, causal=False).products == 256 * 256
    assert sizes(q, k, sinks=(), tile=tile).products == 8 * 9 // 2 * 32 * 32
    assert sizes(q, k, sinks=(), tile=tile, window=33).products <= 3 * 256 * 32
    assert sizes(q, k, sinks=(), tile=tile, causal=False, lengths=torch.tensor([64])).products == 64 * 256


# -- what it refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "options", "sentence"),
    [
        (([2, 4, 8], [1, 2, 4, 8], None), {}, r"q must be .* the shapes are q \[2, 4, 8\], k \[1, 2, 4, 8\]"),
        (([2, 4, 5, 8], [1, 4, 5, 8], None), {}, r"differ in the batch: .*q \[2, 4, 5, 8\], k \[1, 4, 5, 8\]"),
        (([1, 4, 5, 8], [1, 3, 5, 8], None), {}, r"4 query heads do not share the 3 heads of k evenly"),
        (([1, 4, 5, 8], [1, 2, 5, 6], None), {}, r"d_head.*q \[1, 4, 5, 8\], k \[1, 2, 5, 6\]"),
        (([1, 4, 5, 8], [1, 2, 5, 8], [1, 2, 4, 8]), {}, r"number of keys.*k \[1, 2, 5, 8\], v \[1, 2, 4, 8\]"),
        (([1, 4, 0, 8], [1, 2, 5, 8], None), {}, r"q is empty: the shapes are q \[1, 4, 0, 8\]"),
        (([1, 1, 5, 8], [1, 1, 4, 8], None), {}, r"5 queries and only 4 keys"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"window": 0}, r"window of 0"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"softcap": 0.0}, r"softcap is 0"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"tile": (0, 4)}, r"tile is \(0, 4\)"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"sinks": (-1,)}, r"sinks has the index -1"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"sinks": torch.ones(1, 4).bool()}, r"sinks is \[1, 4\].*\[1, 5\]"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"recent": -1}, r"recent is -1"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"want_output": True}, r"want_output needs the values"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"key_mask": torch.ones(1, 4)}, r"key_mask is \[1, 4\].*\[1, 5\]"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"lengths": torch.tensor([3, 3])}, r"lengths is \[2\]"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"lengths": torch.tensor([6])}, r"lengths go from 6 to 6.*5 keys"),
        (([1, 1, 5, 8], [1, 1, 5, 8], None), {"backend": "cuda"}, r"no backend 'cuda'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(shapes: tuple[Any, ...], options: dict[str, Any], sentence: str) -> None:
    q, k, v = (None if shape is None else torch.zeros(shape) for shape in shapes)
    assert q is not None
    assert k is not None
    with pytest.raises(ValueError, match=sentence):
        attention_statistics(q, k, v, **options)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k has the type torch.int64"):
        attention_statistics(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).long())


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_scores_that_are_not_finite_say_where(value: float) -> None:
    q, k = random(2, 4, 20, 8), random(2, 2, 20, 8)
    q[1, 2, 11, 0] = value
    with pytest.raises(NonFiniteScores, match="batch 1, head 2, query 11") as caught:
        attention_statistics(q, k, tile=(8, 8))
    assert (caught.value.batch, caught.value.head, caught.value.query) == (1, 2, 11)


def test_what_is_hidden_may_be_anything() -> None:
    q, k = random(1, 2, 6, 8), random(1, 1, 6, 8)
    k[0, 0, 4:] = torch.nan
    found = attention_statistics(q, k, lengths=torch.tensor([4]))
    torch.testing.assert_close(found.entropy[:, :, :4], attention_statistics(q[:, :, :4], k[:, :, :4]).entropy)


def test_triton_where_it_cannot_run_is_torch_and_one_warning() -> None:
    q, k = random(1, 2, 6, 8), random(1, 1, 6, 8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            found = attention_statistics(q, k, backend="triton")
    assert [str(w.message) for w in said] == ["Attention in tiles runs in plain torch: Triton needs a GPU."]
    assert torch.equal(found.entropy, attention_statistics(q, k, backend="torch").entropy)
