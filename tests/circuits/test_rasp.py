"""The RASP language by its interpreter: every construct gives what Tracr's documentation says."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.circuits.known import rasp
from workbench.circuits.known.rasp import Comparison, SOp, indices, length, tokens

NUMBERS = st.lists(st.integers(-3, 3), max_size=6)
OPERATORS = [operator.add, operator.sub, operator.mul, operator.lt, operator.le, operator.gt, operator.ge]
COMPARISONS = {
    Comparison.EQ: operator.eq,
    Comparison.NEQ: operator.ne,
    Comparison.LT: operator.lt,
    Comparison.LEQ: operator.le,
    Comparison.GT: operator.gt,
    Comparison.GEQ: operator.ge,
    Comparison.TRUE: lambda key, query: True,
    Comparison.FALSE: lambda key, query: False,
}


@given(xs=NUMBERS)
def test_the_sources(xs: list[int]) -> None:
    n = len(xs)
    assert tokens(xs) == xs
    assert indices(xs) == list(range(n))
    assert length(xs) == [n] * n
    assert rasp.Full("x")(xs) == ["x"] * n


@given(xs=NUMBERS, other=st.integers(-3, 3), f=st.sampled_from([*OPERATORS, operator.eq, operator.ne]))
def test_operators_with_a_constant_work_on_each_value(xs: list[int], other: int, f: Callable[..., Any]) -> None:
    assert f(tokens, other)(xs) == [f(x, other) for x in xs]
    assert f(other, tokens)(xs) == [f(other, x) for x in xs]


@given(xs=NUMBERS, f=st.sampled_from(OPERATORS[:3]))
def test_operators_with_another_operator_work_at_each_position(xs: list[int], f: Callable[..., Any]) -> None:
    assert f(tokens, indices)(xs) == [f(x, i) for i, x in enumerate(xs)]


def test_division_and_logic() -> None:
    assert (tokens / 2)([1, 4]) == [0.5, 2]
    assert (2 / tokens)([1, 4]) == [2, 0.5]
    assert (tokens / (indices + 1))([1, 4]) == [1, 2]
    yes, no = tokens > 0, tokens > 1
    assert (yes & no)([0, 1, 2]) == [False, False, True]
    assert (yes | no)([0, 1, 2]) == [False, True, True]
    assert (~yes)([0, 1]) == [True, False]
    assert (True & yes)([0, 1]) == [False, True]  # type: ignore[operator]
    assert (False | yes)([0, 1]) == [False, True]  # type: ignore[operator]
    assert rasp.sop_not(yes)([0, 1]) == [True, False]


@pytest.mark.parametrize("comparison", Comparison)
@given(xs=NUMBERS)
def test_select_compares_key_with_query(comparison: Comparison, xs: list[int]) -> None:
    got = rasp.Select(tokens, indices, comparison)(xs)
    assert got == [[COMPARISONS[comparison](key, query) for key in xs] for query in range(len(xs))]


@given(xs=NUMBERS, simplify=st.booleans())
def test_selectors_combine(xs: list[int], simplify: bool) -> None:
    a, b = rasp.Select(tokens, tokens, Comparison.LT), rasp.Select(tokens, indices, Comparison.EQ)
    c = rasp.Select(tokens, tokens, Comparison.EQ)
    n = range(len(xs))
    for one, other in ((a, b), (a, c)):
        rows = list(zip(one(xs), other(xs), strict=True))
        assert rasp.selector_and(one, other, simplify)(xs) == [[p and q for p, q in zip(*r, strict=True)] for r in rows]
        assert rasp.selector_or(one, other, simplify)(xs) == [[p or q for p, q in zip(*r, strict=True)] for r in rows]
    assert rasp.selector_not(a, simplify)(xs) == [[not a(xs)[q][k] for k in n] for q in n]


def test_selectors_of_the_same_keys_and_queries_become_one() -> None:
    a, b = rasp.Select(tokens, indices, Comparison.LT), rasp.Select(tokens, indices, Comparison.EQ)
    assert isinstance(a & b, rasp.Select)
    assert isinstance(a | b, rasp.Select)
    assert isinstance(~a, rasp.Select)
    assert isinstance(a & rasp.Select(indices, indices, Comparison.EQ), rasp.SelectorAnd)
    assert isinstance(rasp.SelectorOr(a, b), rasp.SelectorOr)


def test_a_full_goes_with_any_keys_or_queries() -> None:
    is_a = rasp.Select(tokens, rasp.Full("a"), Comparison.EQ)
    before = rasp.Select(tokens, indices, lambda key, query: query > 0)
    both = is_a & before
    assert isinstance(both, rasp.Select)
    assert both.queries is indices
    assert both(["a", "b", "a"]) == [[False] * 3, [True, False, True], [True, False, True]]
    alone = rasp.Select(rasp.Full(1), rasp.Full(2), Comparison.LT) & rasp.Select(rasp.Full(1), indices, Comparison.EQ)
    assert alone([7, 8, 9]) == [[False] * 3, [True] * 3, [False] * 3]


@given(xs=st.lists(st.sampled_from("abc"), max_size=6))
def test_width_counts_and_aggregate_moves_and_averages(xs: list[str]) -> None:
    same = rasp.Select(tokens, tokens, Comparison.EQ)
    assert rasp.SelectorWidth(same)(xs) == [xs.count(x) for x in xs]
    before = rasp.Select(indices, indices, lambda key, query: key + 1 == query)
    assert rasp.Aggregate(before, tokens)(xs) == [None, *xs[:-1]][: len(xs)]
    assert rasp.Aggregate(before, tokens, default="z")(xs) == ["z", *xs[:-1]][: len(xs)]
    everywhere = rasp.Select(indices, indices, Comparison.TRUE)
    share = rasp.Aggregate(everywhere, tokens == "a", default=0)(xs)
    assert share == [pytest.approx(xs.count("a") / max(1, len(xs)))] * len(xs)


def test_none_goes_through_maps_and_stops_comparisons() -> None:
    before = rasp.Aggregate(rasp.Select(indices, indices, lambda key, query: key + 1 == query), tokens).named("before")
    assert (before + 1)([1, 2]) == [None, 2]
    assert (before + tokens)([1, 2]) == [None, 3]
    with pytest.raises(ValueError, match="None"):
        rasp.Select(before, tokens, Comparison.EQ)([1, 2])
    assert rasp.Select(before, tokens, lambda key, query: key == query)([1, 1]) == [[False, True], [False, True]]


def test_causal_evaluation_hides_later_keys() -> None:
    same = rasp.Select(tokens, tokens, Comparison.EQ)
    assert rasp.evaluate(rasp.SelectorWidth(same), "abaa", causal=True) == [1, 1, 2, 3]
    assert rasp.evaluate(~same, "ab", causal=True) == [[False, False], [True, False]]
    assert rasp.evaluate(rasp.SelectorNot(same), "ab", causal=True) == [[False, False], [True, False]]


def test_linear_sequence_map() -> None:
    assert rasp.LinearSequenceMap(tokens, indices, 2, -1)([5, 5]) == [10, 9]


def test_constants_fit_one_length() -> None:
    assert rasp.ConstantSOp([1, 2])("ab") == [1, 2]
    assert rasp.ConstantSelector([[True]])("a") == [[True]]
    for expr in (rasp.ConstantSOp([1, 2]), rasp.ConstantSelector([[True]])):
        with pytest.raises(ValueError, match=expr.name):
            expr("abc")


def test_maps_of_maps_are_one_and_need_not_be() -> None:
    twice = (tokens + 1) * 2
    assert isinstance(twice, rasp.Map)
    assert twice.inner is tokens
    assert twice([1]) == [4]
    apart = rasp.Map(lambda x: x * 2, tokens + 1, simplify=False)
    assert isinstance(apart.inner, rasp.Map)
    assert apart([1]) == [4]


def test_names_and_annotations() -> None:
    hist = rasp.SelectorWidth(rasp.Select(tokens, tokens, Comparison.EQ))
    named = hist.named("hist")
    assert (hist.name, named.name) == ("selector_width", "hist")
    assert named is not hist
    assert named.label.startswith("hist_")
    assert named.label != hist.named("hist").label
    assert named.annotated(colour="red").annotations["colour"] == "red"
    assert rasp.annotate(named, name="other").name == "other"
    assert (tokens.label.partition("_")[0], repr(tokens), repr(indices), repr(length)) == (
        "tokens",
        "tokens",
        "indices",
        "length",
    )


def test_encodings() -> None:
    assert rasp.is_categorical(tokens)
    number = rasp.numerical(tokens == "a")
    assert rasp.is_numerical(number)
    assert rasp.get_encoding(number) is rasp.Encoding.NUMERICAL
    assert rasp.is_categorical(rasp.categorical(number))
    assert number("ab") == [True, False]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rasp.Map(tokens, tokens),  # type: ignore[arg-type]
        lambda: rasp.Map(abs, 3),  # type: ignore[arg-type]
        lambda: rasp.SequenceMap(max, tokens, [1]),  # type: ignore[arg-type]
        lambda: rasp.Select(tokens, "a", Comparison.EQ),  # type: ignore[arg-type]
        lambda: rasp.SelectorWidth(tokens),  # type: ignore[arg-type]
        lambda: rasp.SelectorNot(tokens),  # type: ignore[arg-type]
        lambda: rasp.Aggregate(tokens, tokens),  # type: ignore[arg-type]
    ],
)
def test_the_wrong_kind_of_input_is_named(make: Callable[[], SOp]) -> None:
    with pytest.raises(TypeError, match=r"^[a-z_]+: .* must be "):
        make()


def test_a_failing_function_is_named_with_the_value() -> None:
    with pytest.raises(ValueError, match=r"inverse: its function is undefined on 0.*ZeroDivisionError"):
        (1 / tokens).named("inverse")([1, 0])
    with pytest.raises(ValueError, match=r"several values \('a', 'b'\)"):
        rasp.Aggregate(rasp.Select(tokens, tokens, Comparison.TRUE), tokens)("ab")


def test_a_shared_part_is_worked_out_once() -> None:
    calls = []

    def count(x: Any) -> Any:
        calls.append(x)
        return x

    seen: SOp = rasp.Map(count, tokens)
    for _ in range(20):
        seen = rasp.SequenceMap(lambda x, y: x, seen, seen)
    assert seen("a") == ["a"]
    assert len(calls) == 1
