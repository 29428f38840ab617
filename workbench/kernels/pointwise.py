"""Attention whose weights are not forced to sum to 1, in tiles: softpick and sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.kernels.backends import Backend, runs_triton
from workbench.kernels.problem import Problem, Sight
from workbench.kernels.strips import (
    Attend,
    Column,
    Keys,
    Lengths,
    Mask,
    Output,
    Place,
    Queries,
    Strip,
    Values,
    Weighed,
    problem_of,
)


def softpick_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    eps: float = 1e-6,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Mask | None = None,
    lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> Output:
    """Head outputs with weights ``relu(e^s_j - 1) / (sum_i |e^s_i - 1| + eps)`` over the keys a query sees.

    A head may look nowhere: keys with scores below 0 get nothing and still count in the sum, so a row sums to at
    most 1 (Zuhri et al. 2025, arXiv 2504.20966). Differentiable once, in q, k and v; at a score of exactly 0 the
    derivative counts as 0. Time O(queries x keys), memory O(queries + keys). A query that sees no key gets 0.

    Args:
        q: [batch, head, query, d_head]; the last query stands beside the last key.
        k: [batch, key head, key, d_head]; query heads share key heads in groups.
        v: [batch, key head, key, d_value].
        eps: above 0; keeps a row of zero scores from dividing by 0.
        causal: no query sees later keys.
        scale: of the scores; ``d_head ** -0.5`` where None.
        window: a query sees fewer than this many keys back, itself included (and as many ahead if not causal).
        key_mask: [batch, key], True for keys that are there, False for padding; None for all.
        lengths: [batch], instead or as well: how many keys of each text are there, from the first.
        backend: "auto" (Triton on a GPU, else torch), "torch" or "triton".

    Raises:
        ValueError: shapes, types, eps, window or backend do not fit; the sentence names what does not.
    """
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps of softpick must be above 0 and finite, not {eps:g}.")
    problem = problem_of(q, k, v, causal, scale, window, key_mask, lengths)
    if runs_triton(backend, problem):
        from workbench.kernels.triton_pointwise import TritonSoftpick

        return TritonSoftpick.apply(q, k, v, eps, problem)  # type: ignore[no-any-return, no-untyped-call]
    output: Output = Attend.apply(q, k, v, None, Softpick(eps), problem)  # type: ignore[no-untyped-call]
    return output


def sigmoid_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    bias: float = 0.0,
    log_n: float = 1.0,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Mask | None = None,
    lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> Output:
    """Head outputs with weights ``sigmoid(s + bias - log_n log n)``, n the number of keys that a query sees.

    Each key is weighed by itself (Ramapuram et al. 2024, arXiv 2409.04431): rows may sum to anything up to n.
    Differentiable once, in q, k and v. Other arguments, shapes, cost and errors as in :func:`softpick_attention`.

    Args:
        bias: the same for every row.
        log_n: 1 makes flat rows sum to about 1; 0 leaves the number of keys out.
    """
    problem = problem_of(q, k, v, causal, scale, window, key_mask, lengths)
    biases = _biases(bias, log_n, problem)
    if runs_triton(backend, problem):
        from workbench.kernels.triton_pointwise import TritonSigmoid

        return TritonSigmoid.apply(q, k, v, biases, problem)  # type: ignore[no-any-return, no-untyped-call]
    output: Output = Attend.apply(q, k, v, None, Sigmoid(biases), problem)  # type: ignore[no-untyped-call]
    return output


def _biases(bias: float, log_n: float, problem: Problem) -> Float[Tensor, "batch query"]:
    """What is added to each query's scores."""
    seen = counts(problem.sight, problem.q.device).clamp(min=1).to(problem.work)
    return (bias - log_n * seen.log()).expand(len(problem.q), problem.sight.queries)


def counts(sight: Sight, device: torch.device) -> Int[Tensor, "batch_or_1 query"]:
    """How many keys each query sees; no more memory than a row for each text."""
    i = torch.arange(sight.queries, device=device) + sight.offset
    width = sight.keys + sight.queries if sight.window is None else sight.window
    low = (i - width + 1).clamp(0, sight.keys)
    high = (i + (1 if sight.causal else width)).clamp(0, sight.keys)
    if sight.key_mask is None:
        return (high - low).clamp(min=0)[None]
    before = torch.nn.functional.pad(sight.key_mask.long().cumsum(-1), (1, 0))
    return (before[:, high] - before[:, low]).clamp(min=0)


@dataclass(frozen=True)
class Softpick:
    """Softpick as a rule for strips. The state of a row is m = max(0, highest score) and e^-m times the denominator."""

    eps: float
    states = 2
    sparse = False

    def weigh(self, s: Strip, place: Place) -> Weighed:  # noqa: ARG002
        """Both sides divided by e^m, so nothing overflows."""
        m = s.amax(-1, keepdim=True).clamp(min=0) if s.shape[-1] else s.new_zeros(len(s), 1)
        above = _above(s, m)
        below = ((-m).exp() * -torch.expm1(s.clamp(max=0))).masked_fill_(s == -torch.inf, 0)
        total = above.sum(-1, keepdim=True) + below.sum(-1, keepdim=True) + self.eps * (-m).exp()
        return Weighed(above / total, None, (m, total))

    def derive(
        self,
        s: Strip,
        dp: Strip,
        state: tuple[Column, ...],
        place: Place,  # noqa: ARG002
    ) -> tuple[Strip, Strip, None]:
        """``ds = e^s (1[s > 0] dp - sign(s) <p, dp>) / D`` for the denominator D."""
        m, total = state
        p = _above(s, m) / total
        mean = (p * dp).sum(-1, keepdim=True)
        # e^(s - m) of a key that is not seen is 0, whatever stands beside it
        return p, (s - m).exp() / total * torch.where(s > 0, dp - mean, mean * (s < 0)), None


def _above(s: Strip, m: Column) -> Strip:
    """``e^-m relu(e^s - 1)`` written so that neither factor overflows and nothing cancels near s = 0."""
    up = s.clamp(min=0)
    return (up - m).exp() * -torch.expm1(-up)


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid as a rule for strips: rows need no state, only their bias [batch, query]."""

    biases: Tensor
    states = 0
    sparse = False

    def weigh(self, s: Strip, place: Place) -> Weighed:
        """Each key by itself."""
        return Weighed((s + self._bias(place)).sigmoid(), None, ())

    def derive(
        self,
        s: Strip,
        dp: Strip,
        state: tuple[Column, ...],  # noqa: ARG002
        place: Place,
    ) -> tuple[Strip, Strip, None]:
        """``ds = p (1 - p) dp``."""
        p = (s + self._bias(place)).sigmoid()
        return p, p * (1 - p) * dp, None

    def _bias(self, place: Place) -> Column:
        rows = self.biases[place.batch, place.rows.start : place.rows.stop]
        return rows.repeat(place.n_heads)[:, None]
