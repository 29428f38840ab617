"""What is swept over: queries and keys, who sees whom, and how both are cut into tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Scores of one tile over all heads of a chunk: few enough to stay near a CPU's cache, many enough to be worth a call.
CPU_TILE, GPU_TILE = 2**18, 2**24
# On a CPU a tile is wide, for what is done once for each row of each tile is then done less often.
CPU_ROWS, CPU_KEYS = 512, 1024
SMALLEST = 64


class NonFiniteScores(ValueError):  # noqa: N818 - named after what is the matter
    """Scores that are infinite or not a number.

    Attributes:
        batch, head: where the first of them is; who knows the layer can add it.
    """

    def __init__(self, batch: int, head: int, query: int) -> None:
        self.batch, self.head, self.query = batch, head, query
        super().__init__(
            f"The attention scores of batch {batch}, head {head}, query {query} are not finite: look for infinite or "
            "huge numbers in the queries and keys, and use float32 or bfloat16 where they overflow float16."
        )


@dataclass(frozen=True)
class Sight:
    """Which keys a query sees. The last query stands at the last key: with kept keys there are fewer queries.

    Attributes:
        queries, keys: how many there are.
        causal: a query sees no later key.
        window: and no key ``window`` or more positions away; None for all.
        key_mask: [batch, key], True for keys that are there; None for all.
    """

    queries: int
    keys: int
    causal: bool
    window: int | None
    key_mask: Bool[Tensor, "batch key"] | None

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.keys - self.queries

    def reach(self, i0: int, i1: int) -> tuple[int, int]:
        """The first key that one of the queries i0 .. i1 - 1 sees, and one past the last, padding aside."""
        first, last = 0, self.keys
        if self.window is not None:
            first, last = i0 + self.offset - self.window + 1, i1 + self.offset + self.window - 1
        if self.causal:
            last = min(last, i1 + self.offset)
        return max(first, 0), min(last, self.keys)

    def shared(self, i0: int, i1: int) -> tuple[int, int]:
        """The first key that all of the queries i0 .. i1 - 1 see, and one past the last, padding aside."""
        first, last = 0, self.keys
        if self.window is not None:
            first, last = i1 - 1 + self.offset - self.window + 1, i0 + self.offset + self.window
        if self.causal:
            last = min(last, i0 + self.offset + 1)
        return max(first, 0), min(last, self.keys)

    def hidden(self, i0: int, i1: int, j0: int, j1: int, device: torch.device) -> Tensor | None:
        """[batch or 1, 1, 1, query, key], True where a query does not see a key; None where all see all."""
        hidden = None
        nearest, farthest = i0 + self.offset - (j1 - 1), i1 - 1 + self.offset - j0
        window = self.keys + self.queries if self.window is None else self.window
        if (self.causal and nearest < 0) or max(-nearest, farthest) >= window:
            distance = distances(i0 + self.offset, i1 + self.offset, j0, j1, device)
            later = distance < 0 if self.causal else distance <= -window
            hidden = (later | (distance >= window))[None, None, None]
        if self.key_mask is not None:
            away = ~self.key_mask[:, None, None, None, j0:j1]
            if away.any():
                hidden = away.expand(-1, 1, 1, i1 - i0, -1) if hidden is None else hidden | away
        return hidden


def distances(i0: int, i1: int, j0: int, j1: int, device: torch.device) -> Int[Tensor, "query key"]:
    """Position of the query minus position of the key."""
    return torch.arange(i0, i1, device=device)[:, None] - torch.arange(j0, j1, device=device)


@dataclass(frozen=True)
class Problem:
    """Queries and keys of one sweep. Query head h reads key head h // group and so on: keys are never repeated.

    Attributes:
        q: [batch, head, query, d_head], in the caller's number type.
        k: [batch, kv_head, key, d_head], in the type that is calculated in.
        v: [batch, v_head, key, d_value], likewise, or None.
        scale: factor on the products.
        softcap: scores go through cap * tanh(score / cap); None for no cap.
        tile: queries and keys of a tile.
    """

    q: Float[Tensor, "batch head query d_head"]
    k: Float[Tensor, "batch kv_head key d_head"]
    v: Float[Tensor, "batch v_head key d_value"] | None
    sight: Sight
    scale: float
    softcap: float | None
    tile: tuple[int, int]

    @property
    def work(self) -> torch.dtype:
        """The number type of tiles: float32, or float64 where the inputs are."""
        return self.k.dtype

    @property
    def sums(self) -> torch.dtype:
        """The number type of what is kept for a row: float64 where the device has it."""
        return torch.float32 if self.k.device.type == "mps" else torch.float64

    @property
    def groups(self) -> tuple[int, int]:
        """Key heads, and query heads that share each."""
        return self.k.shape[1], self.q.shape[1] // self.k.shape[1]

    def chunks(self) -> Iterator[tuple[slice, slice, Problem]]:
        """Parts that keep a tile small, as few as will do: (batch rows, query heads, their problem)."""
        batch, heads = self.q.shape[:2]
        units = math.gcd(self.k.shape[1], heads if self.v is None else self.v.shape[1])
        each = heads // units
        room = GPU_TILE if self.q.is_cuda else CPU_TILE
        area = max(1, min(self.tile[0], self.sight.queries) * min(self.tile[1], self.sight.keys))
        rows = max(1, room // (area * heads))
        some = units if rows > 1 else max(1, min(units, room // (area * each)))
        for b in range(0, batch, rows):
            for u in range(0, units, some):
                here, these = slice(b, b + rows), slice(u * each, (u + some) * each)
                yield here, these, self._part(here, u, u + some, units)

    def _part(self, rows: slice, first: int, last: int, units: int) -> Problem:
        def cut(x: Tensor) -> Tensor:
            each = x.shape[1] // units
            return x[rows, first * each : last * each]

        mask = self.sight.key_mask
        sight = self.sight if mask is None else replace(self.sight, key_mask=mask[rows])
        return replace(self, q=cut(self.q), k=cut(self.k), v=None if self.v is None else cut(self.v), sight=sight)

    def parts(self) -> list[tuple[slice, slice, Problem, tuple[int, int]]]:
        """What can be calculated alone: (batch rows, query heads, their problem, a tile of queries), longest first."""
        tiles = list(self.query_tiles())[::-1]
        return [(*chunk, tile) for tile in tiles for chunk in self.chunks()]

    def query_tiles(self) -> Iterator[tuple[int, int]]:
        """First query of each tile, and one past its last."""
        for i0 in range(0, self.sight.queries, self.tile[0]):
            yield i0, min(i0 + self.tile[0], self.sight.queries)

    def key_tiles(self, i0: int, i1: int) -> Iterator[tuple[int, int, Tensor | None]]:
        """First key, one past the last, and what is hidden, of each tile that queries i0 .. i1 - 1 see anything of.

        Keys that all of them see and keys that only some see come in tiles of their own.
        """
        step = self.tile[1]
        first, last = self.sight.reach(i0, i1)
        low, high = self.sight.shared(i0, i1)
        high -= max(high - low, 0) % min(step, SMALLEST)
        edges = [first, low, high, last] if 2 * (high - low) >= step else [first, last]
        for start, stop in pairwise(edges):
            for j0 in range(start, stop, step):
                j1 = min(j0 + step, stop)
                hidden = self.sight.hidden(i0, i1, j0, j1, self.k.device)
                if hidden is None or self.sight.key_mask is None or not hidden.all():
                    yield j0, j1, hidden

    def queries(self, i0: int, i1: int) -> Float[Tensor, "batch kv_head row d_head"]:
        """Scaled queries of a tile; a row is (query head of the group, query)."""
        kv_heads, shared = self.groups
        part = self.q[:, :, i0:i1].to(self.work) * self.scale
        return part.reshape(-1, kv_heads, shared * (i1 - i0), part.shape[-1])

    def scores(
        self, queries: Tensor, j0: int, j1: int, out: Tensor | None = None
    ) -> Float[Tensor, "batch kv_head group query key"]:
        """Scores of a tile: scaled and capped, nothing hidden; written to ``out`` [batch, kv head, row, key]."""
        s = torch.matmul(queries, self.k[:, :, j0:j1].mT, out=out)
        if self.softcap is not None:
            s.div_(self.softcap).tanh_().mul_(self.softcap)
        kv_heads, shared = self.groups
        return s.view(s.shape[0], kv_heads, shared, -1, j1 - j0)

    def refuse(self, broken: Bool[Tensor, "batch head query"]) -> None:
        """Refuse scores that are not finite, given the rows that have them.

        Raises:
            NonFiniteScores: names the first such row.
        """
        if broken.any():
            raise NonFiniteScores(*broken.nonzero()[0].tolist())

    def require_finite(self, low: Tensor, high: Tensor) -> None:
        """The same, given the lowest and highest visible score of every row [batch, head, query]."""
        self.refuse(~(low.isfinite() & high.isfinite()))
