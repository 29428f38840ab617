"""Attention by strips in plain torch: a few queries at a time against every key they see, for any rule of weighing.

The scores of one strip are all there is of them at any time: queries in the strip x keys, with so few queries that
this stays near ``ELEMENTS`` numbers. The backward makes them again, strip by strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels import check
from workbench.kernels.problem import Problem, Sight

Queries = Float[Tensor, "batch head query d_head"]
Keys = Float[Tensor, "batch kv_head key d_head"]
Values = Float[Tensor, "batch kv_head key d_value"]
Output = Float[Tensor, "batch head query d_value"]
Mask = Bool[Tensor, "batch key"]
Lengths = Int[Tensor, " batch"]

# About 2 MB of float32: small enough to stay in a core's cache, large enough to keep torch's overhead small.
ELEMENTS = 2**19
MOST, LEAST = 128, 8  # queries of a strip
# What is remembered of which keys had weight is kept for so many keys together.
TILE = 64

Strip = Float[Tensor, "row key"]
Column = Float[Tensor, "row 1"]


@dataclass(frozen=True)
class Place:
    """Where a strip lies: ``rows`` of the query heads ``heads``, which share key head ``group``, in text ``batch``.

    A strip's rows are head by head, query by query.
    """

    batch: int
    group: int
    number: int
    heads: slice
    rows: range
    keys: range

    @property
    def at(self) -> tuple[int, slice, slice]:
        """The strip's rows in [batch, head, query]."""
        return self.batch, self.heads, slice(self.rows.start, self.rows.stop)

    @property
    def n_heads(self) -> int:
        """How many query heads share the keys."""
        return int(self.heads.stop - self.heads.start)


@dataclass(frozen=True)
class Weighed:
    """Weights of one strip.

    Attributes:
        p: weights of the keys in ``kept``, or of all.
        kept: the keys that may have weight in some row; None for all.
        state: what the backward needs to know of each row.
    """

    p: Strip
    kept: Int[Tensor, " kept"] | None
    state: tuple[Column, ...]


class Rule(Protocol):
    """A way from scores to weights, where each row is weighed by itself."""

    states: int
    sparse: bool

    def weigh(self, s: Strip, place: Place) -> Weighed:
        """Weights of scores that are -inf where a query does not see a key."""
        ...

    def derive(
        self, s: Strip, dp: Strip, state: tuple[Column, ...], place: Place
    ) -> tuple[Strip, Strip, Float[Tensor, " row"] | None]:
        """Weights again, the gradient at the scores from that at the weights, and the rows' gradients at alpha."""
        ...


@dataclass(frozen=True)
class Forward:
    """What a forward leaves.

    Attributes:
        output: [batch, head, query, d_value].
        state: [states, batch, head, query], in the type of the sums.
        live: [batch, key head, strip, key tile], False where no query of the strip gave weight to any key of the
            tile; None where the rule leaves no key out.
    """

    output: Output
    state: Float[Tensor, "state batch head query"]
    live: Bool[Tensor, "batch kv_head strip tile"] | None


def problem_of(
    q: Queries,
    k: Keys,
    v: Values,
    causal: bool,
    scale: float | None,
    window: int | None,
    key_mask: Mask | None,
    lengths: Lengths | None,
) -> Problem:
    """What is asked, checked; keys and values in the type that is calculated in.

    Raises:
        ValueError: shapes or types do not fit; the sentence names them.
    """
    if v.ndim == 4 and k.ndim == 4 and v.shape[1] != k.shape[1]:
        raise ValueError(f"k has {k.shape[1]} heads and v has {v.shape[1]}; give both as many.")
    return check.problem(
        *(x.detach() for x in (q, k, v)),
        causal=causal,
        scale=scale,
        window=window,
        key_mask=key_mask,
        lengths=lengths,
        softcap=None,
        tile=None,
    )


def forward(problem: Problem, rule: Rule) -> Forward:
    """Head outputs and what the backward needs.

    Raises:
        NonFiniteScores: the first number that a rule keeps of a row, its highest score, is not finite.
    """
    q, k, v = problem.q, problem.k, problem.v
    assert v is not None
    output = q.new_zeros(*q.shape[:3], v.shape[-1])
    state = torch.zeros(rule.states, *q.shape[:3], dtype=problem.work, device=q.device)
    live = _no_tiles(problem) if rule.sparse else None
    for places in _heads(problem):
        keys, values = k[places[0].batch, places[0].group], v[places[0].batch, places[0].group]
        for place in places:
            inside = slice(place.keys.start, place.keys.stop)
            weighed = rule.weigh(_scores(problem, keys[inside], place), place)
            seen = values[inside]
            z = weighed.p @ (seen if weighed.kept is None else seen[weighed.kept])
            output[place.at] = z.view(place.n_heads, len(place.rows), -1).to(q.dtype)
            for i, column in enumerate(weighed.state):
                state[i][place.at] = column.view(place.n_heads, -1)
            if live is not None:
                _mark(live[place.batch, place.group, place.number], weighed, place)
    if rule.states:
        problem.require_finite(state[0], state[0])
    return Forward(output, state, live)


def backward(
    dz: Output, problem: Problem, state: Tensor, live: Tensor | None, rule: Rule
) -> tuple[Queries, Keys, Values, Float[Tensor, " head"]]:
    """Gradients at queries, keys, values and each head's alpha (0 where the rule has none).

    ``state`` and ``live`` are what :func:`forward` left.
    """
    q, k, v, work = problem.q, problem.k, problem.v, problem.work
    assert v is not None
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    dalpha = torch.zeros(q.shape[1], dtype=work, device=q.device)
    for places in _heads(problem):
        first = places[0]
        keys, values = k[first.batch, first.group], v[first.batch, first.group]
        for place in places:
            columns = _columns(live, place, q.device)
            if len(columns) == 0:
                continue
            near, seen = keys[columns], values[columns]
            out = dz[place.at].to(work).flatten(0, 1)
            row_state = tuple(x[place.at].reshape(-1, 1) for x in state)
            p, ds, at_alpha = rule.derive(_scores(problem, near, place, columns), out @ seen.T, row_state, place)
            ds = ds * problem.scale
            dq[place.at] = (ds @ near).view(place.n_heads, len(place.rows), -1).to(q.dtype)
            dk[first.batch, first.group].index_add_(0, columns, ds.T @ q[place.at].to(work).flatten(0, 1))
            dv[first.batch, first.group].index_add_(0, columns, p.T @ out)
            if at_alpha is not None:
                dalpha[place.heads] += at_alpha.view(place.n_heads, -1).sum(-1)
    return dq, dk, dv, dalpha


class Attend(torch.autograd.Function):
    """``forward`` and ``backward`` as one differentiable function of queries, keys, values and alpha [head]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor | None, rule: Rule, problem: Problem
    ) -> Tensor:
        """Head outputs."""
        kept = forward(problem, rule)
        ctx.save_for_backward(q, k, v, alpha, kept.state, kept.live)
        ctx.rule, ctx.problem = rule, problem
        return kept.output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients."""
        _, k, v, alpha, state, live = ctx.saved_tensors
        dq, dk, dv, dalpha = backward(dz, ctx.problem, state, live, ctx.rule)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None if alpha is None else dalpha.to(alpha.dtype), None, None


def strips(sight: Sight, shared: int) -> Iterator[tuple[range, range]]:
    """Queries of each strip and the keys that any of them may see, for ``shared`` query heads to a key head.

    At least 8 queries, so that a strip holds near ``ELEMENTS`` scores or as many as a few rows.
    """
    width = sight.keys if sight.window is None else min(sight.keys, 2 * sight.window)
    step = max(LEAST, min(MOST, ELEMENTS // max(1, shared * width)))
    for start in range(0, sight.queries, step):
        stop = min(start + step, sight.queries)
        low, high = sight.reach(start, stop)
        yield range(start, stop), range(low, max(low, high))


def _heads(problem: Problem) -> Iterator[list[Place]]:
    """The strips of each text and key head."""
    groups, shared = problem.groups
    ours = list(enumerate(strips(problem.sight, shared)))
    for batch in range(len(problem.q)):
        for group in range(groups):
            heads = slice(group * shared, (group + 1) * shared)
            if ours:
                yield [Place(batch, group, number, heads, rows, keys) for number, (rows, keys) in ours]


def _scores(problem: Problem, near: Tensor, place: Place, columns: Tensor | None = None) -> Strip:
    """Scores of the strip, -inf where a query does not see a key; ``near`` are the keys of ``columns``, or all."""
    sight, (low, high) = problem.sight, (place.keys.start, place.keys.stop)
    s = (problem.q[place.at].to(problem.work).flatten(0, 1) * problem.scale) @ near.T
    hidden = replace(sight, key_mask=None).hidden(place.rows.start, place.rows.stop, low, high, s.device)
    if hidden is not None and s.numel():
        picked = hidden[0, 0, 0] if columns is None else hidden[0, 0, 0][:, columns - low]
        s.view(place.n_heads, len(place.rows), -1).masked_fill_(picked, -torch.inf)
    if sight.key_mask is not None:
        real = sight.key_mask[place.batch]
        s.masked_fill_(~(real[low:high] if columns is None else real[columns]), -torch.inf)
    return s


def _no_tiles(problem: Problem) -> Tensor:
    """No tile has weight yet: [batch, key head, strip, key tile]."""
    groups, shared = problem.groups
    count = sum(1 for _ in strips(problem.sight, shared))
    shape = (len(problem.q), groups, count, -(-problem.sight.keys // TILE))
    return torch.zeros(shape, dtype=torch.bool, device=problem.q.device)


def _mark(live: Bool[Tensor, " tile"], weighed: Weighed, place: Place) -> None:
    """Mark the tiles in which some row gave weight to some key."""
    used = (weighed.p > 0).any(0).nonzero()[:, 0]
    columns = used if weighed.kept is None else weighed.kept[used]
    live[(columns + place.keys.start) // TILE] = True


def _columns(live: Tensor | None, place: Place, device: torch.device) -> Int[Tensor, " key"]:
    """The keys of a strip that lie in tiles with weight."""
    keys = torch.arange(place.keys.start, place.keys.stop, device=device)
    return keys if live is None else keys[live[place.batch, place.group, place.number][keys // TILE]]
