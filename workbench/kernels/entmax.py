"""Attention by alpha-entmax in tiles: exact zeros, O(n) memory, and no work on keys that cannot have weight.

A row's weights are ``p_j = [(alpha - 1) s_j - tau]_+^c`` with ``c = 1 / (alpha - 1)`` and tau such that they sum to 1
(Peters et al. 2019, arXiv 1905.05702). Here a row is kept as its highest score m and ``beta``, the base of the power at
that score: ``p_j = [beta + (alpha - 1) (s_j - m)]_+^c``, so ``tau = (alpha - 1) m - beta``. beta lies in
``[n^(1 - alpha), 1]`` and does not lose its digits on long flat rows, as tau would.

beta is the root of ``N(beta) = (sum_j p_j)^(alpha - 1) - 1``: a norm, hence convex, rising and nearly straight. From
beta = 1 Newton's method falls to the root without passing it; for alpha <= 1.5 the second derivative is bounded and
Halley's method is taken. A bracket and bisection guard both, as AdaSplash does for the sum itself (Goncalves et al.
2025, arXiv 2502.12082, section 3). Once ``beta_upper + (alpha - 1) (s_j - m) <= 0`` key j is out for good.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.kernels.backends import Backend, runs_triton
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

# Halley or Newton needs 2 to 8 sweeps; bisection alone would need 50.
STEPS = 40
# Gathering the keys that are left pays once this share of them is out.
WORTH = 0.3


def entmax_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    alpha: float | Float[Tensor, " head"] = 1.5,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Mask | None = None,
    lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> Output:
    """Head outputs ``sum_j p_ij v_j`` where row i of p is alpha-entmax of ``scale q_i . k_j`` over the keys i sees.

    Differentiable once, in q, k, v and alpha. Time O(queries x keys) a sweep, memory O(queries + keys) and one byte
    for each tile. A query that sees no key gets 0. Sums are taken in float32 (float64 for float64).

    Args:
        q: [batch, head, query, d_head]; the last query stands beside the last key.
        k: [batch, key head, key, d_head]; query heads share key heads in groups.
        v: [batch, key head, key, d_value].
        alpha: in (1, 2], one for all heads or [head]: towards 1 softmax, 1.5, 2 sparsemax. Below about 1.01 float32
            loses digits: weights are then exact to about 1e-7 / (alpha - 1).
        causal: no query sees later keys.
        scale: of the scores; ``d_head ** -0.5`` where None.
        window: a query sees fewer than this many keys back, itself included (and as many ahead if not causal).
        key_mask: [batch, key], True for keys that are there, False for padding; None for all.
        lengths: [batch], instead or as well: how many keys of each text are there, from the first.
        backend: "auto" (Triton on a GPU, else torch), "torch" or "triton".

    Raises:
        ValueError: shapes, types, alpha, window or backend do not fit; the sentence names what does not.
        NonFiniteScores: a row's highest score is infinite or not a number; on a GPU the output is then not a number.
    """
    problem = problem_of(q, k, v, causal, scale, window, key_mask, lengths)
    alphas = _alphas(alpha, q, problem.work)
    if runs_triton(backend, problem):
        from workbench.kernels.triton_entmax import TritonEntmax

        return TritonEntmax.apply(q, k, v, alphas, problem)  # type: ignore[no-any-return, no-untyped-call]
    rule = Entmax(tuple(alphas.tolist()), alphas.requires_grad)
    output: Output = Attend.apply(q, k, v, alphas, rule, problem)  # type: ignore[no-untyped-call]
    return output


def sparsemax_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    key_mask: Mask | None = None,
    lengths: Lengths | None = None,
    backend: Backend = "auto",
) -> Output:
    """:func:`entmax_attention` with alpha = 2: weights ``[s - tau]_+`` (Martins and Astudillo 2016, arXiv 1602.02068).

    Arguments, shapes and errors as there.
    """
    return entmax_attention(
        q,
        k,
        v,
        alpha=2.0,
        causal=causal,
        scale=scale,
        window=window,
        key_mask=key_mask,
        lengths=lengths,
        backend=backend,
    )


def _alphas(alpha: float | Tensor, q: Queries, work: torch.dtype) -> Float[Tensor, " head"]:
    """Alpha of each head, as a tensor in the type of the sums."""
    heads = q.shape[1]
    given = torch.as_tensor(alpha, dtype=work, device=q.device)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != heads):
        raise ValueError(f"alpha must be a number or [head] = [{heads}], not {list(given.shape)}.")
    if not bool(((given > 1) & (given <= 2)).all()):
        wrong = given[~((given > 1) & (given <= 2))].flatten()[0].item()
        raise ValueError(f"alpha must lie in (1, 2], not {wrong:g}; at 1 the weights are softmax.")
    return given.expand(heads)


@dataclass(frozen=True)
class Entmax:
    """alpha-entmax as a rule for strips. The state of a row is its highest score and beta."""

    alphas: tuple[float, ...]
    learns: bool = False
    states = 2
    sparse = True

    def weigh(self, s: Strip, place: Place) -> Weighed:
        """Solve the rows, head by head where alphas differ."""
        alphas = self.alphas[place.heads]
        if len(set(alphas)) == 1:
            return solve(s, alphas[0])
        parts = [solve(x, alpha) for x, alpha in zip(s.chunk(len(alphas)), alphas, strict=True)]
        p = torch.zeros_like(s)
        for rows, part in zip(p.chunk(len(alphas)), parts, strict=True):
            rows[:, slice(None) if part.kept is None else part.kept] = part.p
        return Weighed(p, None, tuple(torch.cat([part.state[i] for part in parts]) for i in range(2)))

    def derive(
        self, s: Strip, dp: Strip, state: tuple[Column, ...], place: Place
    ) -> tuple[Strip, Strip, Float[Tensor, " row"] | None]:
        """``ds = u (dp - <u, dp> / sum u)`` with ``u = p^(2 - alpha)`` where p > 0 (Correia et al. 2019, prop. 1)."""
        alphas = self.alphas[place.heads]
        if len(set(alphas)) == 1:
            return gradients(s, dp, state, alphas[0], self.learns)
        found = []
        for head, alpha in enumerate(alphas):
            s_, dp_, top, beta = (x.chunk(len(alphas))[head] for x in (s, dp, *state))
            found.append(gradients(s_, dp_, (top, beta), alpha, self.learns))
        p, ds, at_alpha = zip(*found, strict=True)
        return torch.cat(p), torch.cat(ds), torch.cat(at_alpha) if self.learns else None


def powers(b: Strip, alpha: float, second: bool = False) -> tuple[Strip, Strip, Strip | None]:
    """``b^c``, ``b^(c - 1)`` and, if asked for, ``b^(c - 2)`` with ``c = 1 / (alpha - 1)``, 0 where b is 0."""
    if alpha == 2:
        return b, (b > 0).to(b.dtype), None
    if alpha == 1.5:
        return b * b, b, (b > 0).to(b.dtype) if second else None
    c, log = 1 / (alpha - 1), b.log()
    if second:
        w = (log * (c - 2)).exp_()
        u = w * b
        return u * b, u, w
    u = (log * (c - 1)).exp_()
    return u * b, u, None


def solve(s: Strip, alpha: float) -> Weighed:
    """alpha-entmax of each row of ``s``, -inf where not visible; a row of nothing but -inf gets no weight."""
    e = alpha - 1
    top = s.amax(-1, keepdim=True) if s.shape[-1] else s.new_full((len(s), 1), -torch.inf)
    empty = top == -torch.inf
    top = top.masked_fill(empty, 0)
    y = (s - top).mul_(e)
    low, high = torch.full_like(top, max(s.shape[-1], 1) ** -e), torch.ones_like(top)
    beta, kept = high, None
    halley, tolerance = alpha <= 1.5, 4 * torch.finfo(s.dtype).eps
    for step in range(STEPS):
        if step in (0, 1, 3):
            y, kept = _shrunk(y, high, kept)
        b = (y + beta).clamp_(min=0)
        p, u, w = powers(b, alpha, halley)
        total, slope = p.sum(-1, keepdim=True), u.sum(-1, keepdim=True)
        second = None if w is None else w.sum(-1, keepdim=True)
        high, low = torch.where(total >= 1, beta, high), torch.where(total <= 1, beta, low)
        new = _next(beta, total, slope, second, low, high, e)
        done = ((new - beta).abs() <= tolerance * beta) | empty
        beta = new
        if bool(done.all()):
            break
    p, _, _ = powers((y + beta).clamp_(min=0), alpha)
    return Weighed(p, kept, (top, beta.masked_fill(empty, 0)))


def _shrunk(y: Strip, high: Column, kept: Int[Tensor, " kept"] | None) -> tuple[Strip, Int[Tensor, " kept"] | None]:
    """Without the keys that get no weight in any row, if they are many: they are below ``-high`` everywhere."""
    inside = (y > -high).any(0)
    if float(inside.sum()) > (1 - WORTH) * y.shape[-1]:
        return y, kept
    left = inside.nonzero()[:, 0]
    return y[:, left], left if kept is None else kept[left]


def _next(
    beta: Column, total: Column, slope: Column, second: Column | None, low: Column, high: Column, e: float
) -> Column:
    """One step of Newton (Halley where the second derivative is given) on the norm, or half of the bracket."""
    # total - total^(1 - e) as a product, since e is small where alpha is near 1
    newton = total * torch.expm1(-e * total.log()) / slope
    if second is None:
        new = beta + newton
    else:
        # Half of N'' / N' times the Newton step; Cauchy and Schwarz: never positive beyond the root.
        bend = 0.5 * newton / e * (1 - e) * (second / slope - slope / total)
        new = beta + newton / (1 + bend)
    inside = (new >= low) & (new <= high)
    return torch.where(inside, new, (low + high) / 2)


def gradients(
    s: Strip, dp: Strip, state: tuple[Column, ...], alpha: float, learns: bool
) -> tuple[Strip, Strip, Float[Tensor, " row"] | None]:
    """Weights, the gradient at the scores and, where alpha learns, alpha, from that at the weights.

    With ``q = u / sum u`` and ``h = -p log p``: ``dp/dalpha = (p - q) / (alpha - 1)^2 + (h - q sum h) / (alpha - 1)``
    (Correia et al. 2019, arXiv 1909.00015, proposition 1).
    """
    e, (top, beta) = alpha - 1, state
    p, u, _ = powers(((s - top) * e + beta).clamp_(min=0), alpha)
    total = u.sum(-1, keepdim=True)
    q = u / total.masked_fill(total == 0, 1)
    mean = (q * dp).sum(-1, keepdim=True)
    ds = u * (dp - mean)
    if not learns:
        return p, ds, None
    h = torch.special.entr(p)
    return p, ds, ((p * dp).sum(-1) - mean[:, 0]) / e**2 + ((h * dp).sum(-1) - mean[:, 0] * h.sum(-1)) / e
