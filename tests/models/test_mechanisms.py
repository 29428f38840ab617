"""Attention mechanisms against closed forms, plain loops and the entmax package."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product

import entmax as library
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.mechanism_cases import D_HEAD, HEADS, KEYS, MASKS, SETTINGS, WHOLE, made, masked, masks, scored
from workbench.models.mechanisms import Call, find, options_of
from workbench.models.mechanisms.sparse import ALPHAS

Row = list[float]

# --- what each mechanism must give, one row at a time and in plain Python ---


def plain_softmax(row: Row) -> Row:
    top = max(row)
    powers = [math.exp(s - top) for s in row]
    return [power / sum(powers) for power in powers]


def plain_adaptive(row: Row) -> Row:
    h = -sum(p * math.log(p) for p in plain_softmax(row) if p)
    fitted = -0.037 * h**4 + 0.481 * h**3 - 2.3 * h**2 + 4.917 * h - 1.791
    beta = max(fitted, 1) if h > 0.5 else 1
    return plain_softmax([beta * s for s in row])


def plain_softpick(row: Row) -> Row:
    up = [math.expm1(s) for s in row]
    return [max(u, 0) / (sum(map(abs, up)) + 1e-6) for u in up]


def plain_sparsemax(row: Row) -> Row:
    """The nearest point of the simplex: the best of the projections onto every face."""
    best: tuple[float, Row] = (math.inf, [])
    for size in range(1, len(row) + 1):
        for face in combinations(range(len(row)), size):
            tau = (sum(row[i] for i in face) - 1) / size
            p = [row[i] - tau if i in face else 0.0 for i in range(len(row))]
            if min(p) >= -1e-12:
                best = min(best, (sum((a - b) ** 2 for a, b in zip(p, row, strict=True)), p))
    return best[1]


def plain_entmax(row: Row, alpha: float) -> Row:
    exact = torch.tensor(row, dtype=torch.float64)
    p: Row = library.entmax_bisect(exact, alpha, n_iter=100).tolist()
    return p


def number(call: Call, name: str, head: int) -> float:
    return float(call.parameters[name][head])


PLAIN: dict[str, Callable[[Row, Call, int], Row]] = {
    "softmax": lambda row, call, head: plain_softmax(row),
    "temperature": lambda row, call, head: plain_softmax([s / 2.5 for s in row]),
    "adaptive-temperature": lambda row, call, head: plain_adaptive(row),
    "ssmax": lambda row, call, head: plain_softmax([number(call, "c", head) * math.log(len(row)) * s for s in row]),
    "clipped": lambda row, call, head: [min(max(1.23 * p - 0.13, 0), 1) for p in plain_softmax(row)],
    "gated": lambda row, call, head: plain_softmax(row),
    "softpick": lambda row, call, head: plain_softpick(row),
    "sigmoid": lambda row, call, head: [1 / (1 + math.exp(-(s + 0.3 - 0.5 * math.log(len(row))))) for s in row],
    "relu": lambda row, call, head: [max(s, 0) / len(row) for s in row],
    "sparsemax": lambda row, call, head: plain_sparsemax(row),
    "entmax15": lambda row, call, head: library.entmax15(torch.tensor(row, dtype=torch.float64)).tolist(),
    "entmax": lambda row, call, head: plain_entmax(row, number(call, "alpha", head)),
    "cosine": lambda row, call, head: plain_softmax(row),
    "linear": lambda row, call, head: [s / sum(row) for s in row],
    "value-residual": lambda row, call, head: plain_softmax(row),
}


@settings(max_examples=60, deadline=None)
@given(
    key=st.sampled_from(sorted(PLAIN)),
    kind=st.sampled_from(MASKS),
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    knock=st.booleans(),
)
def test_every_row_is_what_the_formula_says(key: str, kind: str, seed: int, spread: float, knock: bool) -> None:
    call, generator = made(key, seed, **SETTINGS.get(key, {})), torch.Generator().manual_seed(seed)
    visible = masks(kind, 2, 5, generator).expand(-1, HEADS, -1, -1)
    scores = scored(call, key, spread, generator)
    pattern = find(key).weights(masked(scores, visible, knock), call)
    for b, h, i in product(range(2), range(HEADS), range(5)):
        seen = visible[b, h, i].nonzero().flatten().tolist()
        expected = torch.zeros(5, dtype=torch.float64)
        if seen:
            row = [float(scores[b, h, i, j]) for j in seen]
            expected[seen] = torch.tensor(PLAIN[key](row, call, h), dtype=torch.float64)
        torch.testing.assert_close(pattern[b, h, i], expected, rtol=1e-8, atol=1e-10)


def test_every_mechanism_is_compared_with_loops() -> None:
    assert sorted([*PLAIN, *WHOLE, "differential"]) == sorted(KEYS)


@pytest.mark.parametrize("kind", MASKS)
def test_selective_forgets_what_head_0_asked_to_forget(kind: str) -> None:
    call, generator = made("selective"), torch.Generator().manual_seed(1)
    visible, scores = masks(kind, 2, 5, generator).expand(-1, HEADS, -1, -1), torch.randn(2, HEADS, 5, 5).double()
    pattern = find("selective").weights(masked(scores, visible), call)
    for b in range(2):
        first = min(j for _, i, j in visible[b].nonzero().tolist() if i != j)
        forgotten = [0.0] * 5
        for i in range(5):
            for h in range(HEADS):
                seen = visible[b, h, i].nonzero().flatten().tolist()
                row = [float(scores[b, h, i, j]) - forgotten[j] for j in seen]
                expected = torch.zeros(5, dtype=torch.float64)
                expected[seen] = torch.tensor(plain_softmax(row) if row else [], dtype=torch.float64)
                torch.testing.assert_close(pattern[b, h, i], expected)
            for j in range(5):
                if j not in (i, first) and visible[b, 0, i, j]:
                    forgotten[j] += max(float(scores[b, 0, i, j]), 0)


@pytest.mark.parametrize("kind", MASKS)
def test_sinkhorn_normalises_columns_and_rows_in_turn(kind: str) -> None:
    call, generator = made("sinkhorn", iterations=4), torch.Generator().manual_seed(2)
    visible, scores = masks(kind, 2, 5, generator).expand(-1, HEADS, -1, -1), torch.randn(2, HEADS, 5, 5).double()
    pattern = find("sinkhorn").weights(masked(scores, visible), call)
    for b in range(2):
        for h in range(HEADS):
            p = [[math.exp(float(scores[b, h, i, j])) * bool(visible[b, h, i, j]) for j in range(5)] for i in range(5)]
            p = [[x / (sum(row) or 1) for x in row] for row in p]
            for _ in range(4):
                totals = [sum(row[j] for row in p) or 1 for j in range(5)]
                p = [[x / total for x, total in zip(row, totals, strict=True)] for row in p]
                p = [[x / (sum(row) or 1) for x in row] for row in p]
            torch.testing.assert_close(pattern[b, h], torch.tensor(p, dtype=torch.float64))


def test_sinkhorn_tends_to_a_doubly_stochastic_matrix_and_to_the_identity_under_a_causal_mask() -> None:
    call, scores = made("sinkhorn", iterations=60), torch.randn(2, HEADS, 5, 5).double()
    pattern = find("sinkhorn").weights(scores, call)
    torch.testing.assert_close(pattern.sum(-2), torch.ones(2, HEADS, 5).double(), atol=1e-6, rtol=0)
    causal = masked(scores, masks("causal", 2, 5, torch.Generator()))
    off = [
        float((find("sinkhorn").weights(causal, made("sinkhorn", iterations=n)) - torch.eye(5)).abs().max())
        for n in (0, 10, 100, 900)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.02


def test_differential_subtracts_one_map_from_the_other() -> None:
    call, mechanism = made("differential", layer=3), find("differential")
    visible = masks("padded left", 2, 5, torch.Generator())
    pattern = mechanism.weights(masked(mechanism.scores(call), visible), call)
    start = 0.8 - 0.6 * math.exp(-0.9)
    for h in range(HEADS):
        q1, k1, q2, k2 = (call.parameters[name][h] for name in ("q1", "k1", "q2", "k2"))
        weight = math.exp(float(q1 @ k1)) - math.exp(float(q2 @ k2)) + start
        for i in range(1, 5):
            seen = visible[1, 0, i].nonzero().flatten().tolist()
            maps = []
            for half in (slice(0, 2), slice(2, 4)):
                row = [float(call.q[1, i, h, half] @ call.k[1, j, h, half]) / math.sqrt(2) for j in seen]
                maps.append(plain_softmax(row))
            expected = torch.zeros(5, dtype=torch.float64)
            expected[seen] = torch.tensor([a - weight * b for a, b in zip(*maps, strict=True)], dtype=torch.float64)
            torch.testing.assert_close(pattern[1, h, i], expected)
    z = torch.randn(2, 5, HEADS, D_HEAD).double()
    assert mechanism.output is not None
    out = mechanism.output(z, z.flatten(2), call)
    gain = call.parameters["gain"][1] * (1 - start)
    rms = math.sqrt(float((z[0, 2, 1] ** 2).mean()) + 1e-5)
    torch.testing.assert_close(out[0, 2, 1], z[0, 2, 1] / rms * gain)


def test_scores_of_their_own() -> None:
    call = made("cosine")
    q, k = call.q[1, 2, 1], call.k[1, 4, 1]
    expected = call.parameters["log_scale"][1].exp() * (q @ k) / (q.norm() * k.norm())
    torch.testing.assert_close(find("cosine").scores(call)[1, 1, 2, 4], expected)
    plain = [
        sum((x + 1 if x > 0 else math.exp(x)) * (y + 1 if y > 0 else math.exp(y)) for x, y in zip(q, k, strict=True))
    ]
    torch.testing.assert_close(find("linear").scores(call)[1, 1, 2, 4], torch.stack(plain).sum().double())
    torch.testing.assert_close(find("softmax").scores(call)[1, 1, 2, 4], 0.5 * (q @ k))


def test_gates_read_the_slice_of_their_head_and_values_are_mixed() -> None:
    gated, call = find("gated"), made("gated")
    z, x = torch.randn(2, 5, HEADS, D_HEAD).double(), torch.randn(2, 5, HEADS * D_HEAD).double()
    assert gated.output is not None
    opening = x[1, 3, D_HEAD : 2 * D_HEAD] @ call.parameters["w"][1] + call.parameters["bias"][1]
    torch.testing.assert_close(gated.output(z, x, call)[1, 3, 1], z[1, 3, 1] * opening.sigmoid())
    residual, call = find("value-residual"), made("value-residual")
    assert residual.values is not None
    mixed = residual.values(z, 2 * z, call)
    torch.testing.assert_close(mixed[1, 3, 1], z[1, 3, 1] * (call.parameters["a"][1] + 2 * call.parameters["b"][1]))


# --- relations between mechanisms ---


def entmax_call(alpha: float) -> Call:
    call = made("entmax")
    return Call(call.q, call.k, call.scale, {"alpha": torch.full((HEADS,), alpha).double()}, call.options, 0)


def test_special_cases_meet() -> None:
    scores = masked(2 * torch.randn(2, HEADS, 5, 5).double(), masks("causal", 2, 5, torch.Generator()))
    softmax = scores.softmax(-1)
    same = {
        "softmax": {},
        "temperature": {"temperature": 1.0},
        "clipped": {"gamma": 0.0, "zeta": 1.0},
        "sinkhorn": {"iterations": 0.0},
    }
    for key, options in same.items():
        torch.testing.assert_close(find(key).weights(scores, made(key, **options)), softmax)
    for alpha, key in ((1.5, "entmax15"), (2.0, "sparsemax")):
        pattern = find("entmax").weights(scores, entmax_call(alpha))
        torch.testing.assert_close(pattern, find(key).weights(scores, made(key)))
    torch.testing.assert_close(find("entmax").weights(scores, entmax_call(ALPHAS[0])), softmax, atol=0.02, rtol=0)
    beyond = find("entmax").weights(scores, entmax_call(3.0))
    torch.testing.assert_close(beyond, find("sparsemax").weights(scores, made("sparsemax")))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 300), spread=st.sampled_from([0.0, 0.01, 1.0, 30.0]))
def test_the_sparse_family_agrees_with_the_package_in_double_precision(seed: int, n: int, spread: float) -> None:
    scores = spread * torch.randn(1, 1, 4, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(find("sparsemax").weights(scores, made("sparsemax")), library.sparsemax(scores, -1))
    # The package sorts and subtracts squares, which costs it digits.
    ours, theirs = find("entmax15").weights(scores, made("entmax15")), library.entmax15(scores, -1)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.01, 1.1, 1.5, 1.9, 2.0])
def test_entmax_is_exact_to_the_last_digits_of_float32_on_long_rows(alpha: float) -> None:
    lone = torch.cat([torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 2047), -0.9 / (alpha - 1))], -1)
    flat = torch.linspace(0, 3, 2048).view(1, 1, 1, -1)
    scores = torch.cat([lone, flat, torch.randn(1, 1, 2, 2048)], 2)
    call = Call(scores, scores, 1.0, {"alpha": torch.tensor([alpha])}, options_of(find("entmax"), {}), 0)
    pattern, exact = find("entmax").weights(scores, call), find("entmax").weights(scores.double(), call)
    bisected = library.entmax_bisect(scores.double(), max(float(torch.tensor(alpha)), ALPHAS[0]), -1, n_iter=100)
    torch.testing.assert_close(exact, bisected, atol=1e-9, rtol=1e-9)
    assert float((pattern.double() - exact).abs().sum(-1).max()) < 2e-6 / (alpha - 1)
