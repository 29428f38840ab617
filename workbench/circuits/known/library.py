"""The library of programs whose circuit is known: each with vocabulary, length, inputs and what it should give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.circuits.known import oracles as o
from workbench.circuits.known import rasp
from workbench.circuits.known import rasp_programs as p

NAMES, PLACES, THINGS = ["Ann", "Bob", "Cid", "Dan", "Eve"], ["school", "work"], ["flowers", "books"]
ABC, DIGITS, BRACKETS = list("abc"), list(range(1, 6)), list("()ab")


def anything(_: Sequence[Any]) -> bool:
    """Every input."""
    return True


def no_token_twice(xs: Sequence[Any]) -> bool:
    """Inputs of different tokens."""
    return len(set(xs)) == len(xs)


def none_three_times(xs: Sequence[Any]) -> bool:
    """Inputs in which no token occurs more than twice."""
    return all(list(xs).count(x) < 3 for x in xs)


def two_or_more(xs: Sequence[Any]) -> bool:
    """Inputs of at least two tokens."""
    return len(xs) > 1


def nested(*pairs: str) -> Callable[[random.Random, int], list[Any]]:
    """Balanced brackets of several kinds, each kind for itself; one is left over where the length is odd."""

    def draw(source: random.Random, n: int) -> list[Any]:
        opened: list[str] = []
        xs: list[Any] = []
        for left in range(n, 0, -1):
            if opened and (len(opened) >= left or source.random() < 0.5):
                xs.append(opened.pop(source.randrange(len(opened))))
            else:
                pair = source.choice(pairs)
                xs.append(pair[0])
                opened.append(pair[1])
        return xs

    return draw


def rising(source: random.Random, n: int) -> list[Any]:
    """Digits by size."""
    return sorted(source.choice(DIGITS) for _ in range(n))


def mirrored(source: random.Random, n: int) -> list[Any]:
    """The same from back to front."""
    half = [source.choice(ABC) for _ in range((n + 1) // 2)]
    return half + half[: n // 2][::-1]


def at_most_two_names(xs: Sequence[Any]) -> bool:
    """Inputs of at most two different names, of which at most one occurs twice and none more often."""
    seen = [x for x in xs if x in NAMES]
    return len(set(seen)) < 3 and len(seen) < len(set(seen)) + 2


def giving(source: random.Random, n: int) -> list[Any]:
    """A sentence such as "Ann and Bob went to school Bob gave flowers to", its last ``n`` words."""
    one, two = source.sample(NAMES, 2)
    again, place, thing = source.choice([one, two]), source.choice(PLACES), source.choice(THINGS)
    return [one, "and", two, "went", "to", place, again, "gave", thing, "to"][-n:]


@dataclass(frozen=True)
class Program:
    """A program of the library.

    Attributes:
        key: its name.
        title: what it computes.
        make: the RASP program.
        vocab: its tokens.
        max_len: the longest input.
        oracle: what it should give, in plain Python.
        causal: it is meant for causal attention.
        domain: the inputs that it is meant for.
        rare: an input of a length whose answer random tokens seldom give; half of all drawn inputs are such.
        source: ``Tracr`` for the programs that come with it, else ``InterpBench range``.
    """

    key: str
    title: str
    make: Callable[[], rasp.SOp]
    vocab: list[Any]
    max_len: int
    oracle: o.Oracle
    causal: bool = False
    domain: Callable[[Sequence[Any]], bool] = anything
    rare: Callable[[random.Random, int], list[Any]] | None = None
    source: str = "InterpBench range"

    def draw(self, source: random.Random, length: int | None = None) -> list[Any]:
        """A random input that the program is meant for; ``max_len`` tokens long unless said otherwise."""
        n = self.max_len if length is None else length
        if self.rare is not None and source.random() < 0.5:
            return self.rare(source, n)
        while True:
            xs = [source.choice(self.vocab) for _ in range(n)]
            if self.domain(xs):
                return xs


def _tracr() -> list[Program]:
    rows: list[tuple[Any, ...]] = [
        ("length", "how long the input is", p.length, ABC, 8, o.everywhere(len)),
        ("reverse", "the input from back to front", p.reverse, ABC, 8, lambda xs: list(xs)[::-1]),
        ("hist", "how often each token occurs", p.hist, ABC, 8, o.placed(lambda xs, i: list(xs).count(xs[i]))),
        ("frac-prevs", "share of a so far", lambda: p.frac_prevs("a"), ABC, 8, o.shares("a")),
        ("pair-balance", "share of ( so far minus share of )", lambda: p.pair_balance("(", ")"), BRACKETS, 8,
         o.shares("(", ")")),
        ("dyck", "whether the brackets are balanced", lambda: p.shuffle_dyck("()"), list("()"), 8, o.balanced("()"),
         False, anything, nested("()")),
        ("shuffle-dyck", "whether two kinds of brackets are balanced, each for itself",
         lambda: p.shuffle_dyck("()", "{}"), list("(){}"), 8, o.balanced("()", "{}"),
         False, anything, nested("()", "{}")),
        ("sort", "tokens by size", lambda: p.sort(8), DIGITS, 8, sorted),
        ("sort-freq", "tokens by how often they occur", lambda: p.sort_freq(8), ABC, 8, o.sort_freq),
        ("shift-by", "the token two before", lambda: p.shift_by(2), ABC, 8, o.shift_by(2)),
        ("detect-pattern", "whether abc ends here", lambda: p.detect_pattern("abc"), ABC, 8, o.detect_pattern("abc")),
        ("count-less-than", "how many tokens occur at most twice", lambda: p.count_less_freq(2), ABC, 8,
         o.everywhere(lambda xs: sum(list(xs).count(x) <= 2 for x in xs))),
        ("count", "how often a occurs", lambda: p.count("a"), ABC, 8, o.everywhere(lambda xs: list(xs).count("a"))),
        ("nary-map", "token plus token minus position",
         lambda: p.nary_sequencemap(lambda x, i, y: x + y - i, rasp.tokens, rasp.indices, p.shift_by(1)), [1, 2, 3], 6,
         o.placed(lambda xs, i: xs[i] + xs[i - 1] - i if i else None)),
    ]  # fmt: skip
    unique = Program(
        "sort-unique", "different tokens by size", p.sort_unique, list(range(10)), 8, sorted, domain=no_token_twice,
        rare=lambda source, n: source.sample(range(10), n), source="Tracr",
    )  # fmt: skip
    return [*(replace(Program(*row), source="Tracr") for row in rows), unique]


def _one_token() -> list[Program]:
    signs = list(range(-3, 4))
    rows: list[tuple[Any, ...]] = [
        ("absolute", "absolute values", lambda: p.mapped(abs, "absolute"), signs, 6, o.each(abs)),
        ("vowels", "whether a letter is a vowel", lambda: p.mapped(lambda x: x in "aeiou", "vowel"), list("abcdeu"), 6,
         o.each(lambda x: x in "aeiou")),
        ("caesar", "the letter after", lambda: p.mapped(lambda x: chr(97 + (ord(x) - 96) % 5), "shifted"),
         list("abcde"), 6, o.each(lambda x: "bcdea"["abcde".index(x)])),
        ("clip", "values cut to -1 to 1", lambda: p.mapped(lambda x: max(-1, min(1, x)), "clipped"), signs, 6,
         o.each(lambda x: sorted([-1, x, 1])[1])),
        ("add-index", "token plus position, modulo 5", lambda: p.with_index(lambda x, i: (x + i) % 5, "sum"), DIGITS, 8,
         o.placed(lambda xs, i: (xs[i] + i) % 5)),
        ("upper-every-other", "every other letter in upper case",
         lambda: p.with_index(lambda x, i: x if i % 2 else x.upper(), "alternating"), ABC, 8,
         o.placed(lambda xs, i: xs[i] if i % 2 else xs[i].upper())),
    ]  # fmt: skip
    return [Program(*row) for row in rows]


def _neighbours() -> list[Program]:
    rows: list[tuple[Any, ...]] = [
        ("repeats", "whether a token is the one before it again",
         lambda: p.with_previous(lambda x, y: x == y, "repeats"), ABC, 8, o.with_previous(lambda x, y: x == y)),
        ("add-previous", "token plus the one before, modulo 5",
         lambda: p.with_previous(lambda x, y: (x + y) % 5, "sum"), DIGITS, 6,
         o.with_previous(lambda x, y: (x + y) % 5)),
        ("local-maximum", "whether a token is greater than its neighbours", p.local_maximum, DIGITS, 6,
         o.placed(o.local_maximum)),
        ("is-sorted", "whether no token is smaller than the one before it", p.is_sorted, DIGITS, 6,
         o.everywhere(lambda xs: list(xs) == sorted(xs)), False, anything, rising),
    ]  # fmt: skip
    return [Program(*row) for row in rows]


def _all_tokens() -> list[Program]:
    rows: list[tuple[Any, ...]] = [
        ("rank", "how many tokens are smaller", lambda: p.compared(rasp.Comparison.LT, "rank"), DIGITS, 8,
         o.placed(lambda xs, i: sum(x < xs[i] for x in xs))),
        ("share", "which share of all tokens is a", lambda: p.share("a"), ABC, 8,
         o.everywhere(lambda xs: list(xs).count("a") / len(xs))),
        ("maximum", "the greatest token", lambda: p.extreme(rasp.Comparison.GT, "maximum"), DIGITS, 8,
         o.everywhere(max)),
        ("minimum", "the smallest token", lambda: p.extreme(rasp.Comparison.LT, "minimum"), DIGITS, 8,
         o.everywhere(min)),
        ("highest-count", "how often the most frequent token occurs", p.highest_count, ABC, 8,
         o.everywhere(lambda xs: max(list(xs).count(x) for x in xs))),
        ("first-occurrence", "whether a token is the first of its kind", p.first_occurrence, ABC, 6,
         o.placed(lambda xs, i: xs[i] not in list(xs[:i]))),
        ("distinct", "how many different tokens there are", p.distinct, ABC, 6, o.everywhere(lambda xs: len(set(xs)))),
        ("parity", "whether a occurs an odd number of times", lambda: p.parity("a"), ABC, 8,
         o.everywhere(lambda xs: list(xs).count("a") % 2)),
        ("has-duplicates", "whether some token occurs twice", p.has_duplicates, list("abcdef"), 6,
         o.everywhere(lambda xs: len(set(xs)) < len(xs)), False, anything,
         lambda source, n: source.sample(list("abcdef"), n)),
        ("palindrome", "whether the input reads the same from back to front", p.palindrome, ABC, 6,
         o.everywhere(lambda xs: list(xs) == list(xs)[::-1]), False, anything, mirrored),
    ]  # fmt: skip
    return [Program(*row) for row in rows]


def _positions() -> list[Program]:
    rows: list[tuple[Any, ...]] = [
        ("agrees-with-mirror", "whether a token is the one as far from the other end", p.agrees_with_mirror, ABC, 8,
         o.placed(lambda xs, i: xs[i] == xs[-1 - i])),
        ("rotate", "the token after, and the first one at the end",
         lambda: p.at(lambda i, n: i + 1 if i + 1 < n else 0, "rotated"), ABC, 8, lambda xs: [*xs[1:], *xs[:1]]),
        ("swap", "tokens of each pair exchanged", lambda: p.at(o.swapped, "swapped"), ABC, 8,
         o.placed(lambda xs, i: xs[o.swapped(i, len(xs))])),
        ("last-token", "the last token", lambda: p.at(lambda _, n: n - 1, "last"), ABC, 8,
         o.everywhere(lambda xs: xs[-1])),
        ("equals-first", "whether a token is the first one again", p.equals_first, ABC, 8,
         o.placed(lambda xs, i: xs[i] == xs[0])),
    ]  # fmt: skip
    added = Program(
        "add-first-two", "the sum of the first two tokens, modulo 5", lambda: p.add_first_two(5), list(range(5)), 4,
        o.everywhere(lambda xs: (xs[0] + xs[1]) % 5), domain=two_or_more,
    )  # fmt: skip
    return [*(Program(*row) for row in rows), added]


def _causal() -> list[Program]:
    rows: list[tuple[Any, ...]] = [
        ("running-count", "how often a token occurred so far", p.hist, ABC, 8,
         o.placed(lambda xs, i: list(xs[: i + 1]).count(xs[i])), True),
        ("depth", "how many brackets are open", lambda: p.depth("(", ")"), BRACKETS, 8,
         o.placed(lambda xs, i: list(xs[: i + 1]).count("(") - list(xs[: i + 1]).count(")")), True),
        ("induction", "what followed the token when it occurred before", p.induction, list("abcdef"), 8,
         o.placed(o.induction), True, none_three_times),
        ("simple-ioi", "the name that did not come twice", lambda: p.indirect_object(NAMES),
         [*NAMES, *PLACES, *THINGS, "and", "went", "to", "gave"], 10, o.indirect_object(NAMES), True, at_most_two_names,
         giving),
    ]  # fmt: skip
    return [Program(*row) for row in rows]


PROGRAMS: list[Program] = [*_tracr(), *_one_token(), *_neighbours(), *_all_tokens(), *_positions(), *_causal()]
