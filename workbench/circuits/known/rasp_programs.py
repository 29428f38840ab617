"""RASP programs of the library, in the language that Tracr compiles: with Tracr's ``rasp`` they run there as they are.

The first part has the programs that come with Tracr, written anew after what their documentation says they compute, and
so with as many layers. The second part is in the range of InterpBench (Gupta et al. 2024, arXiv 2407.14494): maps,
comparisons of neighbours, counts, positions, checks of a whole list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import reduce
from typing import Any

from workbench.circuits.known import rasp

SOp = rasp.SOp
EQ, LT, GT, LEQ, TRUE = (getattr(rasp.Comparison, name) for name in ("EQ", "LT", "GT", "LEQ", "TRUE"))


# --- Tracr's ----------------------------------------------------------------------------------------------------------


def length() -> SOp:
    """How long the input is."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, TRUE).named("everything")).named("length")


def reverse() -> SOp:
    """The input from back to front."""
    mirrored = ((length() - rasp.indices).named("from_end") - 1).named("mirrored")
    return rasp.Aggregate(rasp.Select(rasp.indices, mirrored, EQ), rasp.tokens).named("reverse")


def hist() -> SOp:
    """How often each token occurs."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, EQ).named("same_token")).named("hist")


def frac_prevs(token: Any) -> SOp:
    """Which share of the tokens so far is ``token``."""
    is_it = rasp.numerical(rasp.tokens == token).named(f"is_{token}")
    so_far = rasp.Select(rasp.indices, rasp.indices, LEQ).named("so_far")
    return rasp.numerical(rasp.Aggregate(so_far, is_it, default=0)).named(f"share_{token}")


def pair_balance(opening: str, closing: str) -> SOp:
    """Share of opening tokens so far, minus that of closing ones."""
    balance = rasp.LinearSequenceMap(frac_prevs(opening), frac_prevs(closing), 1, -1)
    return rasp.numerical(balance).named(f"balance_{opening}{closing}")


def shuffle_dyck(*pairs: str) -> SOp:
    """Whether the brackets of each kind are balanced, whatever stands between them."""
    balances = [pair_balance(*pair) for pair in pairs]
    below = reduce(lambda one, two: one | two, [balance < 0 for balance in balances])
    ever_below = rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, TRUE), rasp.numerical(rasp.Map(int, below)).named("below"), default=0
    )
    never_below = (~rasp.numerical(ever_below).named("ever_below")).named("never_below")
    closed = reduce(lambda one, two: one & two, [balance == 0 for balance in balances])
    at_end = rasp.Select(rasp.indices, (length() - 1).named("end"), EQ)
    return (rasp.Aggregate(at_end, closed).named("closed_at_end") & never_below).named("balanced")


def sort_unique(keys: SOp | None = None) -> SOp:
    """Tokens by the size of ``keys``, no two of which are equal; by default of the tokens themselves."""
    keys = rasp.tokens if keys is None else keys
    rank = rasp.SelectorWidth(rasp.Select(keys, keys, LT).named("smaller")).named("rank")
    return rasp.Aggregate(rasp.Select(rank, rasp.indices, EQ), rasp.tokens).named("sorted")


def sort(max_len: int, keys: SOp | None = None) -> SOp:
    """Tokens by the size of whole-number ``keys``; equal ones keep their order."""
    keys = rasp.tokens if keys is None else keys
    return sort_unique(rasp.SequenceMap(lambda x, i: x + i / max_len, keys, rasp.indices).named("distinct"))


def sort_freq(max_len: int) -> SOp:
    """Tokens by how often they occur, the most frequent first; equally frequent ones keep their order."""
    return sort(max_len, (-1 * hist()).named("minus_hist"))


def shift_by(offset: int, sop: SOp | None = None) -> SOp:
    """What stands ``offset`` positions before, None where there is no such position."""
    sop = rasp.tokens if sop is None else sop
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key + offset == query)
    return rasp.Aggregate(before, sop).named(f"shifted_{offset}")


def detect_pattern(pattern: str) -> SOp:
    """Whether the pattern ends here, None where it cannot have begun."""
    found = [rasp.tokens == token for token in pattern]
    parts = [shift_by(len(pattern) - 1 - i, part) if i < len(pattern) - 1 else part for i, part in enumerate(found)]
    return reduce(lambda one, two: one & two, parts).named("detected")


def count_less_freq(n: int) -> SOp:
    """How many tokens occur at most ``n`` times."""
    often = hist()
    return rasp.SelectorWidth(rasp.Select(often, often, lambda key, _: key <= n)).named("count_less_freq")


def count(token: Any) -> SOp:
    """How often ``token`` occurs."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, _: key == token)).named("count")


def nary_sequencemap(f: Callable[..., Any], *sops: SOp) -> SOp:
    """A function of several operators: pairs of pairs, and a function of them."""
    first, *others = sops
    packed: SOp = rasp.Map(lambda x: (x,), first)
    for sop in others:
        packed = rasp.SequenceMap(lambda xs, y: (*xs, y), packed, sop).named("packed")
    return rasp.Map(lambda xs: f(*xs), packed).named("unpacked")


# --- of one token -----------------------------------------------------------------------------------------------------


def mapped(f: Callable[[Any], Any], name: str) -> SOp:
    """A function of each token."""
    return rasp.Map(f, rasp.tokens).named(name)


def with_index(f: Callable[[Any, int], Any], name: str) -> SOp:
    """A function of each token and its position."""
    return rasp.SequenceMap(f, rasp.tokens, rasp.indices).named(name)


# --- of neighbours ----------------------------------------------------------------------------------------------------


def with_previous(f: Callable[[Any, Any], Any], name: str) -> SOp:
    """A function of each token and the one before it; None at the first."""
    return rasp.SequenceMap(f, rasp.tokens, shift_by(1)).named(name)


def local_maximum() -> SOp:
    """Whether a token is greater than both neighbours; None at the ends."""
    return (with_previous(lambda x, y: x > y, "above_left") & _above_right()).named("local_maximum")


def _above_right() -> SOp:
    return rasp.SequenceMap(lambda x, y: x > y, rasp.tokens, shift_by(-1)).named("above_right")


def is_sorted() -> SOp:
    """Whether no token is smaller than the one before it."""
    falls = with_previous(lambda x, y: x < y, "falls")
    many = rasp.SelectorWidth(rasp.Select(falls, rasp.tokens, lambda key, _: bool(key))).named("n_falls")
    return (many == 0).named("is_sorted")


# --- of all tokens ----------------------------------------------------------------------------------------------------


def compared(f: Callable[[Any, Any], bool], name: str) -> SOp:
    """Of how many tokens (first argument) and this one (second) ``f`` holds."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, f)).named(name)


def share(token: Any) -> SOp:
    """Which share of all tokens is ``token``."""
    is_it = rasp.numerical(rasp.tokens == token).named(f"is_{token}")
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
    return rasp.numerical(rasp.Aggregate(everywhere, is_it, default=0)).named("share")


def extreme(comparison: Any, name: str) -> SOp:
    """The token with which no other compares so: with GT the greatest, with LT the smallest."""
    beaten_by = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, comparison)).named("beaten_by")
    return rasp.Aggregate(rasp.Select(beaten_by, rasp.tokens, lambda key, _: key == 0), rasp.tokens).named(name)


def highest_count() -> SOp:
    """How often the most frequent token occurs."""
    often = hist()
    beaten_by = rasp.SelectorWidth(rasp.Select(often, often, GT)).named("beaten_by")
    best = rasp.Select(beaten_by, rasp.tokens, lambda key, _: key == 0)
    return rasp.Aggregate(best, often).named("highest_count")


def _seen_before() -> SOp:
    placed = rasp.SequenceMap(lambda x, i: (x, i), rasp.tokens, rasp.indices).named("placed")
    earlier = rasp.Select(placed, placed, lambda key, query: key[0] == query[0] and key[1] < query[1])
    return rasp.SelectorWidth(earlier).named("seen_before")


def first_occurrence() -> SOp:
    """Whether a token is the first of its kind."""
    return (_seen_before() == 0).named("first_occurrence")


def distinct() -> SOp:
    """How many different tokens there are."""
    first = first_occurrence()
    return rasp.SelectorWidth(rasp.Select(first, first, lambda key, _: key)).named("distinct")


def parity(token: Any) -> SOp:
    """Whether ``token`` occurs an odd number of times."""
    return rasp.Map(lambda n: n % 2, count(token)).named("parity")


def has_duplicates() -> SOp:
    """Whether some token occurs twice."""
    often = hist()
    return (rasp.SelectorWidth(rasp.Select(often, often, lambda key, _: key > 1)) > 0).named("has_duplicates")


def agrees_with_mirror() -> SOp:
    """Whether a token is the one as far from the other end."""
    return rasp.SequenceMap(lambda x, y: x == y, rasp.tokens, reverse()).named("agrees")


def palindrome() -> SOp:
    """Whether the input reads the same from back to front."""
    agrees = agrees_with_mirror()
    disagreeing = rasp.Select(agrees, rasp.tokens, lambda key, _: not key)
    return (rasp.SelectorWidth(disagreeing).named("n_disagreeing") == 0).named("palindrome")


# --- of positions -----------------------------------------------------------------------------------------------------


def at(place: Callable[[int, int], int], name: str) -> SOp:
    """The token at a place that is worked out from the position and the length."""
    where = rasp.SequenceMap(place, rasp.indices, length()).named("where")
    return rasp.Aggregate(rasp.Select(rasp.indices, where, EQ), rasp.tokens).named(name)


def token_at(index: int) -> SOp:
    """The token at one position, everywhere."""
    chosen = rasp.Select(rasp.indices, rasp.indices, lambda key, _: key == index)
    return rasp.Aggregate(chosen, rasp.tokens).named(f"token_{index}")


def add_first_two(modulus: int) -> SOp:
    """The sum of the first two tokens, everywhere."""
    return rasp.SequenceMap(lambda x, y: (x + y) % modulus, token_at(0), token_at(1)).named("sum")


def equals_first() -> SOp:
    """Whether a token is the one that the input begins with."""
    return rasp.SequenceMap(lambda x, y: x == y, rasp.tokens, token_at(0)).named("equals_first")


# --- with causal attention --------------------------------------------------------------------------------------------


def depth(opening: str, closing: str) -> SOp:
    """How many brackets are open, if attention is causal."""
    return (count(opening).named("opened") - count(closing).named("closed")).named("depth")


def induction() -> SOp:
    """The token that followed this one when it occurred before, if attention is causal; None where it did not."""
    after_same = rasp.Select(shift_by(1), rasp.tokens, lambda key, query: key is not None and key == query)
    return rasp.Aggregate(after_same, rasp.tokens).named("induction")


def indirect_object(names: Collection[Any]) -> SOp:
    """The name that occurs once beside one that occurred twice, if attention is causal; None before there is one.

    The circuit is the one that Wang et al. (2022, arXiv 2211.00593) found in GPT-2, made simple: a head sees that a
    name is there again (duplicate token), one tells all later positions which (S-inhibition), one copies the other
    name (name mover).
    """
    often = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, EQ)).named("n_same")
    again = rasp.SequenceMap(lambda word, n: word in names and n > 1, rasp.tokens, often).named("name_again")
    seen = rasp.Select(again, rasp.tokens, lambda key, _: key)
    subject = rasp.Aggregate(seen, rasp.tokens).named("subject")
    other = rasp.Select(rasp.tokens, subject, lambda key, query: key in names and query is not None and key != query)
    return rasp.Aggregate(other, rasp.tokens).named("indirect_object")
