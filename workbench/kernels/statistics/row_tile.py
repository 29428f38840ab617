"""What one tile of scores says about its rows, in as few passes over the tile as plain torch allows.

Tiles are float32 (float64 for such inputs). Sums of a tile that need more than that are taken in float64.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels.problem import Problem, distances
from workbench.kernels.statistics.row_sums import SCATTER, SQUARES, RowSums

Row = Float[Tensor, " row"]
Scores = Float[Tensor, "row key"]

BLOCK = 32
"""Keys among which the largest is looked for first: torch is quick to find a maximum and slow to say where it is."""


class Scratch(threading.local):
    """Memory that tiles use one after the other, for each thread its own: new memory costs more than a pass over it."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def room(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor with anything in it; what had the name before is overwritten."""
        size = math.prod(shape)
        if name not in self.held or len(self.held[name]) < size:
            self.held[name] = torch.empty(size, dtype=dtype, device=device)
        return self.held[name][:size].view(*shape)


def tile_sums(
    problem: Problem,
    queries: Float[Tensor, "batch kv_head row d_head"],
    at: tuple[int, int, int, int],
    hidden: Bool[Tensor, "batch 1 1 query key"] | None,
    sinks: Bool[Tensor, "batch key"] | None,
    recent: int,
    scratch: Scratch,
) -> RowSums:
    """Sums over the keys of a tile; rows are [batch, kv head, query head of the group, query] in one axis.

    Args:
        problem: whose tile it is.
        queries: those of the tile, as ``problem.queries`` gives them.
        at: first query and one past the last, first key and one past the last.
        hidden: what is not seen; None where all is.
        sinks: the sink keys of the tile; None where it has none.
        recent: keys nearer than this are recent.
        scratch: memory to work in.
    """
    i0, i1, j0, j1 = at
    device, work, sums = problem.k.device, problem.work, problem.sums
    scores = problem.scores(queries, j0, j1, scratch.room("scores", (*queries.shape[:3], j1 - j0), work, device))
    shape, s = scores.shape, scores.flatten(0, -2)
    spare = scratch.room("spare", s.shape, work, device)
    if hidden is None:
        count = torch.full((len(s),), j1 - j0, dtype=sums, device=device)
        mean, low = s.mean(-1), s.amin(-1)
        torch.sub(s, mean[:, None], out=spare)
    else:
        count = (~hidden).sum(-1).to(sums).expand(shape[:-1]).flatten()
        scores.masked_fill_(hidden, 0)
        # From here on adding -inf hides: that is faster than filling, and what was hidden is a number now.
        veil = torch.zeros_like(hidden, dtype=work).masked_fill_(hidden, -torch.inf)
        mean = s.sum(-1) / count.clamp(min=1).to(work)
        low = torch.sub(scores, veil, out=spare.view(shape)).amin(-1).flatten()
        torch.sub(s, mean[:, None], out=spare).view(shape).mul_(veil.exp())
        scores.add_(veil)
    scatter = torch.linalg.vector_norm(spare, dim=-1)
    top, where = _largest(s)
    s.sub_((top if hidden is None else top.masked_fill(top == -torch.inf, 0))[:, None])
    e = torch.exp(s, out=spare)
    if hidden is not None:
        s.clamp_(min=torch.finfo(work).min)  # 0 times this is 0, and not NaN
    values = norms = None
    if problem.v is not None:
        v = problem.v[:, :, j0:j1]
        values = (e.view(*v.shape[:2], -1, j1 - j0) @ v).flatten(0, -2)
        norms = _weighted(e, v.norm(dim=-1).flatten(0, 1))
    squares, tilt = torch.linalg.vector_norm(e, dim=-1), s.mul_(e).sum(-1)
    wide = scratch.room("wide", s.shape, sums, device).copy_(e)
    weight, none = wide.sum(-1), torch.zeros_like(count)
    first, last = i0 + problem.sight.offset, i1 + problem.sight.offset
    near = _recent(wide, shape, recent, first, last, j0, j1)
    distance, spread = _distances(wide, weight, shape, problem.sight.causal, first, last, j0, j1)
    sink = none if sinks is None else _weighted(wide, sinks.to(sums))
    columns = [count, mean, low, top, where + j0, scatter, squares, distance]
    columns += [weight, tilt, sink, none if near is None else near, spread, none if norms is None else norms]
    numbers = torch.stack(columns)
    numbers[SCATTER : SQUARES + 1].square_()
    return RowSums(numbers, values)


def _weighted(e: Scores, x: Float[Tensor, "part key"]) -> Row:
    """Sums of ``x`` weighted by ``e``, of whose rows each part has its share.

    Product by product: torch's batched one is several times slower with a vector.
    """
    if len(x) == 1:
        return e @ x[0]
    return torch.cat([some @ one for some, one in zip(e.view(len(x), -1, e.shape[-1]), x, strict=True)])


def _largest(s: Scores) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """The largest score of each row, and the first place that has it."""
    rows, keys = s.shape
    block = BLOCK if keys % BLOCK == 0 else keys
    blocks = s.view(rows, -1, block)
    which = blocks.amax(-1).argmax(-1)
    few = blocks[torch.arange(rows, device=s.device), which]
    place = few.argmax(-1, keepdim=True)
    return few.gather(-1, place)[:, 0], which * block + place[:, 0]


def _recent(wide: Scores, shape: torch.Size, recent: int, first: int, last: int, j0: int, j1: int) -> Row | None:
    """Weight on recent keys; None where the tile has none."""
    if first - (j1 - 1) >= recent or last - 1 - j0 <= -recent:
        return None
    # Of the keys only those that are near some query of the tile.
    low, high = max(j0, first - recent + 1), min(j1, last + recent - 1)
    is_near = distances(first, last, low, high, wide.device).abs() < recent
    return (wide.view(shape)[..., low - j0 : high - j0] * is_near).sum(-1).flatten()


def _distances(
    wide: Scores, weight: Row, shape: torch.Size, causal: bool, first: int, last: int, j0: int, j1: int
) -> tuple[Row, Row]:
    """Mean distance, weighted, and the weighted squared deviation from it."""
    total = weight.clamp(min=torch.finfo(wide.dtype).tiny)
    before = causal or first >= j1 - 1
    if before or last - 1 <= j0:
        middle = (j0 + j1 - 1) / 2
        step = torch.arange(j0, j1, device=wide.device, dtype=wide.dtype) - middle
        moment = wide @ step / total
        spread = (wide @ step.square() - moment * moment * weight).clamp_(min=0)
        position = torch.arange(first, last, device=wide.device, dtype=wide.dtype) - middle
        distance = (position - moment.view(shape[:-1])).flatten()
        return distance if before else -distance, spread
    far = distances(first, last, j0, j1, wide.device).abs().to(wide.dtype)
    e = wide.view(shape)
    mean = (e * far).sum(-1).flatten() / total
    return mean, (e * (far - mean.view(shape[:-1])[..., None]).square_()).sum(-1).flatten()
