"""The pattern language: against Python's ``re`` on words, and what it refuses."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.paths import Alphabet, PatternError, compile_pattern

ALPHABET = Alphabet(n_layers=4, n_heads=2, biases=((True, True, True),) * 4, readout_bias=True)


class Both(NamedTuple):
    """The same in our language and in Python's, which reads words as ``<embed><a0.h1><m2>``."""

    ours: str
    theirs: str


def word(names: list[str]) -> str:
    return "".join(f"<{name}>" for name in names)


def leaf(ours: str) -> Both:
    if ours == ".":
        return Both(".", "<[am][^>]*>")
    match = re.fullmatch(r"([am])(?:(\d)(?:-(\d))?)?", ours)
    if match is None:
        return Both(ours, f"<{re.escape(ours)}>")
    kind, low, high = match[1], match[2] or "0", match[3] or match[2] or "3"
    return Both(ours, rf"<{kind}[{low}-{high}](\.h\d)?>")


LEAVES = st.sampled_from(["a", "m", ".", "a1", "m2", "a0-2", "m1-3", "a3.h1", "a0.h0", "m0"]).map(leaf)
TIMES = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,2}", "{0}"])


def grown(inner: st.SearchStrategy[Both]) -> st.SearchStrategy[Both]:
    many = st.lists(inner, min_size=2, max_size=3)
    return (
        many.map(lambda parts: Both(" ".join(p.ours for p in parts), "".join(f"(?:{p.theirs})" for p in parts)))
        | many.map(
            lambda parts: Both("(" + "|".join(p.ours for p in parts) + ")", f"(?:{'|'.join(p.theirs for p in parts)})")
        )
        | st.tuples(inner, TIMES).map(lambda pair: Both(f"({pair[0].ours}){pair[1]}", f"(?:{pair[0].theirs}){pair[1]}"))
    )


PATTERNS = st.recursive(LEAVES, grown, max_leaves=6)


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A path: a start, then components in the order of computation."""
    start = draw(st.sampled_from(["embed", "bias"]))
    here = [*[f"a{layer}.h{draw(st.integers(0, 1))}" for layer in range(4)], *[f"m{layer}" for layer in range(4)]]
    chosen = draw(st.lists(st.sampled_from(here), unique=True, max_size=5))
    chosen = sorted(chosen, key=lambda name: (int(name[1]), name[0] == "m"))
    if start == "bias" and chosen and chosen[0][0] == "a" and draw(st.booleans()):
        chosen[0] = chosen[0][:2]
    return [start, *chosen]


@settings(max_examples=150, deadline=None)
@given(PATTERNS, st.lists(words(), min_size=5, max_size=5), st.sampled_from(["", "embed ", "bias ", "(embed|bias) "]))
def test_a_pattern_accepts_the_words_that_python_s_re_accepts(both: Both, some: list[list[str]], start: str) -> None:
    automaton = compile_pattern(start + (f"({both.ours})" if start else both.ours), ALPHABET)
    begins = {"": "<(embed|bias)>", "embed ": "<embed>", "bias ": "<bias>", "(embed|bias) ": "<(embed|bias)>"}[start]
    for names in some:
        expected = re.fullmatch(f"{begins}(?:{both.theirs})", word(names)) is not None
        assert bool(automaton.accepts(names)) == expected, (automaton.outputs, names)


@settings(max_examples=60, deadline=None)
@given(PATTERNS)
def test_no_two_states_of_an_automaton_accept_the_same_words(both: Both) -> None:
    """Checked pair by pair: two states differ if they differ in being final or if some symbol leads to two that do."""
    automaton = compile_pattern(both.ours, ALPHABET)
    n, symbols = automaton.n_states, range(len(ALPHABET.symbols))
    final = [*(output >= 0 for output in automaton.final), False]  # the dead one is at -1
    step = [*automaton.step, [-1] * len(ALPHABET.symbols)]
    differ = {(i, j) for i in range(-1, n) for j in range(-1, n) if final[i] != final[j]}
    while True:
        more = {
            (i, j)
            for i in range(-1, n)
            for j in range(-1, n)
            if (i, j) not in differ and any((step[i][s], step[j][s]) in differ for s in symbols)
        }
        if not more:
            break
        differ |= more
    same = {(i, j) for i in range(n) for j in range(-1, n) if i != j} - differ
    assert not same or n == 1  # a pattern that accepts nothing has its start alone


@pytest.mark.parametrize(
    ("pattern", "states"), [(".*", 2), ("embed", 2), ("embed .*", 2), ("a", 3), ("embed (a|m){0,2} a2.h1 m*", 7)]
)
def test_automata_are_as_small_as_one_makes_them_by_hand(pattern: str, states: int) -> None:
    assert compile_pattern(pattern, ALPHABET).n_states == states


def test_a_start_that_is_left_out_is_any_start() -> None:
    left_out, named = compile_pattern("a1 m2|embed m3", ALPHABET), compile_pattern("bias", ALPHABET)
    assert left_out.accepts(["bias", "a1", "m2"])
    assert left_out.accepts(["embed", "a1.h0", "m2"])
    assert left_out.accepts(["embed", "m3"])
    assert not left_out.accepts(["bias", "m3"])
    assert named.accepts(["bias"])
    assert not named.accepts(["bias", "m0"])


@pytest.mark.parametrize(
    ("pattern", "place", "reason"),
    [
        ("", 0, "is empty"),
        ("embed (a|m", 6, "never closed"),
        ("a) m", 1, "no opening one"),
        ("* m", 0, "nothing before '*'"),
        ("a |", 3, "Something is missing"),
        ("(|a)", 1, "Something is missing"),
        ("a {2,1}", 2, "at most 1 cannot be"),
        ("a{x}", 1, "whole numbers"),
        ("a{2", 1, "whole numbers"),
        ("a{9}", 1, "has 8 components"),
        ("embed a9.h6", 6, "layers 0 to 3"),
        ("m1 a2.h5", 3, "layer 2 has heads 0 to 1"),
        ("a m7", 2, "layers 0 to 3"),
        ("a3-1", 0, "lower layer first"),
        ("m2.h1", 0, "is no component"),
        ("a0-2.h1", 0, "is no component"),
        ("foo", 0, "is no component"),
        ("a & m", 2, "means nothing here"),
    ],
)
def test_what_does_not_parse_is_shown_with_a_caret_at_the_place(pattern: str, place: int, reason: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(pattern, ALPHABET)
    sentence, text, caret = str(caught.value).split("\n")
    assert reason in sentence
    assert text == f"  {pattern}"
    assert caret == "  " + " " * place + "^"
    assert caught.value.place == place


def test_components_that_this_model_does_not_have_are_refused() -> None:
    with pytest.raises(PatternError, match="this model has no MLPs"):
        compile_pattern("a m", Alphabet(2, 2, has_mlp=False))


def test_a_pattern_that_needs_too_many_states_is_refused_soon() -> None:
    with pytest.raises(PatternError, match="too many states"):
        compile_pattern("(((a|m){60}){60}){60}", Alphabet(30, 9))
    with pytest.raises(PatternError, match="too many states"):
        compile_pattern("(a|m)* a .{14}", Alphabet(30, 9))
