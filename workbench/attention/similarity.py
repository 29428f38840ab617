"""Which heads attend alike: every two heads of a model compared by their patterns, across layers.

``js`` is 1 less the Jensen-Shannon divergence of two rows (Lin 1991) in units of log 2, ``cosine`` the cosine between
them; both are means over rows, from 0 to 1. Patterns of BERT's heads were compared by Jensen-Shannon divergence in
Clark et al. 2019 ("What does BERT look at?", arXiv 1906.04341, section 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.census_rows import strips
from workbench.attention.entropy import HeadValue
from workbench.attention.layers import Given, LayerAttention, Text, taken, watch
from workbench.attention.observed import plain
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.circuits.sweep import BUDGET
from workbench.models import Transformer

Likeness = Literal["js", "cosine"]
QUERIES = 256
"""Rows of each head that are compared unless more are asked for."""
SEED = 0
"""Of the draw: the same input has the same rows compared."""


@dataclass(frozen=True)
class Similarity:
    """How alike heads attend.

    Attributes:
        model: name of the model.
        measure: ``js`` or ``cosine``.
        values: mean over the compared rows, from 0 to 1, [layer * heads + head, layer * heads + head]; 1 for a head
            with itself.
        layers, heads: of the model.
        queries: rows that were compared, of each head.
        of_queries: rows that there are which see more than one key.
        notes: what a reader should know of how this was made.
    """

    model: str
    measure: Likeness
    values: Float[Tensor, "all_heads all_heads"]
    layers: int
    heads: int
    queries: int
    of_queries: int
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of the rows of ``values``: ``a0.h0`` and on."""
        return [f"a{layer}.h{head}" for layer in range(self.layers) for head in range(self.heads)]

    def between_layers(self) -> Float[Tensor, "layer layer"]:
        """Mean over the heads of each two layers; within a layer over each two unlike heads (NaN where it has one)."""
        blocks = self.values.view(self.layers, self.heads, self.layers, self.heads).transpose(1, 2)
        mean = blocks.mean((2, 3))
        own = blocks.diagonal().sum((0, 1)) - self.heads
        others = self.heads * (self.heads - 1)
        mean.diagonal().copy_(own / others if others else torch.full_like(own, torch.nan))
        return mean

    def nearest(self, layer: int, head: int, n: int = 5) -> list[HeadValue]:
        """The ``n`` other heads most like one head, the most alike first.

        Raises:
            ValueError: there is no such head.
        """
        if not (0 <= layer < self.layers and 0 <= head < self.heads):
            raise ValueError(f"There is no head a{layer}.h{head} in {self.layers} layers of {self.heads} heads.")
        own = layer * self.heads + head
        order = [at for at in self.values[own].argsort(descending=True, stable=True).tolist() if at != own]
        return [HeadValue(at // self.heads, at % self.heads, float(self.values[own, at])) for at in order[:n]]

    def clusters(self, n: int) -> Int[Tensor, "layer head"]:
        """Heads in ``n`` groups by average linkage of ``1 - values``; groups are numbered by their first head.

        Raises:
            ValueError: fewer groups than one, or more than heads.
        """
        from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
        from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

        total = len(self.values)
        if not 1 <= n <= total:
            raise ValueError(f"{total} heads make 1 to {total} groups; got {n}.")
        if total == 1:
            return torch.zeros(1, 1, dtype=torch.long)
        apart = (1 - self.values).clamp(min=0).fill_diagonal_(0)
        # Which of two equal sums comes first decides the last digit: a distance must be one number.
        found = fcluster(linkage(squareform(((apart + apart.T) / 2).numpy()), "average"), n, "maxclust").tolist()
        order = {group: at for at, group in enumerate(dict.fromkeys(found))}
        return torch.tensor([order[group] for group in found]).view(self.layers, self.heads)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists (NaN as None)."""
        return {
            "model": self.model,
            "measure": self.measure,
            "names": self.names,
            "queries": self.queries,
            "of_queries": self.of_queries,
            "notes": list(self.notes),
            "values": plain(self.values),
            "between_layers": plain(self.between_layers()),
        }


@torch.no_grad()
def similarity(
    model: Transformer,
    tokens: Tensor | Text,
    measure: Likeness = "js",
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    queries: int = QUERIES,
    budget: int = BUDGET,
    progress: ProgressFn | None = None,
) -> Similarity:
    """How alike every two heads attend, from one forward without the head.

    Rows that see one key only are left out: they are the same in every head. Of the others at most ``queries`` are
    compared, drawn by chance but always the same ones, and no more than fit ``budget``; notes say so. Cost: pairs of
    heads times compared rows times keys.

    Args:
        model: any model whose attention rows sum to 1.
        tokens, attention_mask: as in :func:`workbench.attention.statistics`.
        measure: ``js`` or ``cosine``.
        queries: the most rows to compare.
        budget: bytes beside the model.
        progress: called after every layer, and after every layer's heads are compared; returning False stops.

    Raises:
        ValueError: an unknown measure; no row that sees two keys; a text of which not one row fits the budget; as for
            :func:`workbench.attention.statistics`.
        Stopped: ``progress`` asked for it.
    """
    if measure not in get_args(Likeness):
        raise ValueError(f"Patterns are compared by {' or '.join(get_args(Likeness))}; there is no '{measure}'.")
    if queries < 1:
        raise ValueError(f"At least one row of each head is compared; got queries={queries}.")
    cfg, given = model.cfg, taken(model, tokens, attention_mask)
    heads = cfg.n_layers * cfg.n_heads
    rows, notes = _rows(model, given, queries, budget // 2, heads)
    report = Reporter(progress, 2 * cfg.n_layers, "comparing heads")
    p = torch.zeros(heads, len(rows[0]), given.n, device=given.tokens.device)

    def step() -> None:
        report.step()
        if not report.going and report.done < report.total:
            raise Stopped("Stopped before all heads were compared.")

    def see(layer: LayerAttention) -> None:
        _keep(layer, rows, p[layer.layer * cfg.n_heads : (layer.layer + 1) * cfg.n_heads])
        step()

    watch(model, given, see)
    alike = _by_cosine(p) if measure == "cosine" else _by_js(p, cfg.n_heads, budget // 2, step)
    if measure == "cosine":
        for _ in range(cfg.n_layers):
            step()
    alike = alike.clamp(0, 1).fill_diagonal_(1).cpu()
    of_queries = int(_several(model, given).sum())
    return Similarity(model.name, measure, alike, cfg.n_layers, cfg.n_heads, len(rows[0]), of_queries, notes)


def _several(model: Transformer, given: Given) -> Tensor:
    """Real queries [batch, pos] that see two keys or more in every layer."""
    real = torch.ones(len(given.tokens), given.n, dtype=torch.bool, device=given.tokens.device)
    real = real if given.real is None else given.real
    if model.cfg.causal:
        return real & (real.long().cumsum(-1) > 1)
    return real & (real.sum(-1, keepdim=True) > 1)


def _rows(
    model: Transformer, given: Given, queries: int, budget: int, heads: int
) -> tuple[tuple[Tensor, Tensor], tuple[str, ...]]:
    """(examples, positions) of the rows to compare, and what to say about it."""
    example, position = _several(model, given).nonzero(as_tuple=True)
    total = len(example)
    if not total:
        raise ValueError("No query sees two keys: there is nothing to compare; give a longer text.")
    room = budget // (heads * given.n * 4)
    if room < 1:
        raise ValueError(
            f"One row of {heads} heads over {given.n} keys takes {heads * given.n * 4} bytes; give budget= twice that."
        )
    n = min(total, queries, room)
    if n == total:
        return (example, position), ()
    # Drawn, not evenly spaced: a step that divides the length of a text would meet the same position in each.
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(SEED))[:n].sort().values.to(example.device)
    why = "the budget" if room < queries else f"queries={queries}"
    return (example[chosen], position[chosen]), (f"{n} of {total} rows were compared, drawn by chance, for {why}.",)


def _keep(layer: LayerAttention, rows: tuple[Tensor, Tensor], p: Float[Tensor, "head row key"]) -> None:
    """Copy the chosen rows of one layer."""
    example, position = rows
    start = 0
    for strip in strips(layer):
        size = strip.p.shape[2]
        here = ((position >= start) & (position < start + size)).nonzero().flatten()
        p[:, here] = strip.p[example[here], :, position[here] - start].transpose(0, 1).to(p)
        start += size


def _by_cosine(p: Float[Tensor, "head row key"]) -> Float[Tensor, "head head"]:
    unit = torch.nn.functional.normalize(p, dim=-1).flatten(1)
    return (unit @ unit.T).double() / p.shape[1]


def _by_js(p: Float[Tensor, "head row key"], strip: int, budget: int, step: Any) -> Float[Tensor, "head head"]:
    """``1 - (H((p + q) / 2) - (H(p) + H(q)) / 2) / log 2``, a strip of heads and one row at a time."""
    heads, rows, keys = p.shape
    entropy = torch.special.entr(p).sum(-1, dtype=torch.float64)  # head row
    apart = torch.zeros(heads, heads, dtype=torch.float64, device=p.device)
    size = max(1, budget // (16 * strip * keys))
    for start in range(0, heads, strip):
        some = slice(start, start + strip)
        for row in range(rows):
            # A row of a causal text has no weight behind its query.
            seen = int(p[:, row].any(0).nonzero().max()) + 1
            x = p[:, row, :seen]
            for other in range(start, heads, size):
                mixed = (x[some, None] + x[None, other : other + size]) / 2
                of_both = torch.special.entr(mixed).sum(-1).double()
                half = (entropy[some, row, None] + entropy[None, other : other + size, row]) / 2
                apart[some, other : other + size] += (of_both - half).clamp(min=0)
        step()
    upper = apart.triu()
    return 1 - (upper + upper.triu(1).T) / rows / math.log(2)
