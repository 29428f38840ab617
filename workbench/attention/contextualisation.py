"""Relative contextualisation: how much one segment of a text is read by another, beside what that reads of itself.

After Mahapatra et al. 2025 (RCStat, arXiv 2506.19549), who take raw attention scores, before softmax, of the queries of
one segment as two random variables: ``X`` on the keys of the other segment (cross-contextualisation) and ``Y`` on the
queries' own segment (self-contextualisation); relative contextualisation compares the two. They pool all queries and
bound the expectation (so abstract, reviews and summaries say; the paper itself was not at hand). Here both are drawn at
the *same* query, which makes it exact: a query's scores may have any level, which softmax does not see. That, and the
logarithm ``relative``, are this library's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.attention.census_rows import STRIP
from workbench.attention.layers import Given, LayerAttention, require_rows_of_one, taken, watch
from workbench.attention.observed import ByHead, plain
from workbench.attention.prompt import not_finite
from workbench.circuits.progress import ProgressFn, Reporter, Stopped
from workbench.models import Transformer
from workbench.models.attention import softcap
from workbench.models.tokens import shorten

Segment = str | range | tuple[int, int]
"""Words of the text, or positions: a range, or the first and the one after the last."""


@dataclass(frozen=True)
class Contextualisation:
    """How the queries of one segment read another; means over the queries that see keys of both.

    Attributes:
        model: name of the model.
        queries: positions of the segment that reads (A), first and one after the last.
        keys: positions of the segment that is read (B).
        share: attention mass that a query of A gives to B.
        own_share: and to A itself.
        relative: ``log(mean_{j in B} e^s_j) - log(mean_{j in A} e^s_j)`` in nats: by how much a key of B outweighs one
            of A; log-sum-exps of raw scores, less the logs of how many keys they have. Segments of unlike length are so
            compared fairly. For softmax it is the log of the ratio of mean weights.
        expected: ``E max(X - Y, 0)``, in scores: by how much a key of B, drawn at random, is ahead of one of A.
        reverse: ``E max(Y - X, 0)``; ``expected - reverse`` is the difference of mean scores.
        rows: queries behind these.
    """

    model: str
    queries: tuple[int, int]
    keys: tuple[int, int]
    share: ByHead
    own_share: ByHead
    relative: ByHead
    expected: ByHead
    reverse: ByHead
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists."""
        names = ("share", "own_share", "relative", "expected", "reverse")
        return {
            "model": self.model,
            "queries": list(self.queries),
            "keys": list(self.keys),
            "rows": self.rows,
            **{name: plain(getattr(self, name)) for name in names},
        }


def contextualisation(
    model: Transformer,
    tokens: Int[Tensor, "1 pos"] | Tensor | str,
    *,
    queries: Segment,
    keys: Segment,
    progress: ProgressFn | None = None,
) -> Contextualisation:
    """Of every head, how much the segment ``queries`` takes from the segment ``keys``, beside from itself.

    Scores are what softmax takes in: scaled, and capped where a model does that. They are made a few queries at a
    time. Cost: one forward without the head, and the scores of the one segment's queries, sorted.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: one text, its token ids [1, pos], or one image.
        queries: the segment that reads (A): its words, which must stand in the text once, or positions.
        keys: the segment that is read (B); the two must not overlap.
        progress: called after every layer; returning False stops.

    Raises:
        ValueError: more than one example; a segment that is empty, not there, not unique or outside the text; segments
            that overlap; no query of A that sees B (in a decoder, B must come first); scores that are not finite; or a
            mechanism whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    require_rows_of_one(model)
    given = taken(model, tokens)
    if len(given.tokens) != 1:
        raise ValueError(f"Segments are of one text; got {len(given.tokens)} examples, give them one by one.")
    a, b = (_located(model, given, segment, what) for segment, what in ((queries, "queries"), (keys, "keys")))
    if a.start < b.stop and b.start < a.stop:
        raise ValueError(
            f"The segments overlap: queries are at {a.start} to {a.stop - 1}, keys at {b.start} to {b.stop - 1}."
        )
    if model.cfg.causal and b.start > a.start:
        raise ValueError(f"{model.name} looks back only: queries must come after keys. Swap the two segments.")
    report = Reporter(progress, model.cfg.n_layers, "comparing segments")
    found: list[Tensor] = []
    rows = [0]

    def see(layer: LayerAttention) -> None:
        sums, rows[0] = _of_layer(layer, a, b)
        if not rows[0]:
            raise ValueError(
                f"No query of the segment sees the other: layer {layer.layer} looks {layer.window} tokens back. "
                "Take segments that are nearer to each other."
            )
        found.append(sums / rows[0])
        report.step()
        if not report.going:
            raise Stopped("Stopped before all layers were read.")

    watch(model, given, see)
    parts = torch.stack(found, 1).cpu()
    share, own, relative, ahead, behind = parts.unbind()
    return Contextualisation(
        model.name, (a.start, a.stop), (b.start, b.stop), share, own, relative, ahead, behind, rows[0]
    )


def _located(model: Transformer, given: Given, segment: Segment, what: str) -> range:
    """Positions of a segment."""
    if isinstance(segment, str):
        if given.ids is None:
            raise ValueError(f"{model.name} reads images: give {what} as positions.")
        return words_at(model.text.pieces(given.ids[0]), segment)
    at = segment if isinstance(segment, range) else range(*segment)
    if at.step != 1 or len(at) == 0 or at.start < 0 or at.stop > given.n:
        raise ValueError(
            f"The segment {what} is {at.start} to {at.stop - 1}; the input has the positions 0 to {given.n - 1}."
        )
    if given.real is not None and not bool(given.real[0, at.start : at.stop].all()):
        raise ValueError(f"There is padding in the segment {what}; leave the padding out of the input.")
    return at


def words_at(pieces: list[str], words: str) -> range:
    """Positions of the tokens that hold ``words``, white space and case aside.

    Raises:
        ValueError: the words are not there, or more than once.
    """
    # Spaces and marks of continued words differ from tokenizer to tokenizer; letters do not. Where pieces keep their
    # spaces, a mark of continued words is none.
    mark = r"\s" if any(re.search(r"\s", piece) for piece in pieces) else r"^##"
    bare = [re.sub(mark, "", piece).casefold() for piece in pieces]
    sought = re.sub(r"\s", "", words).casefold()
    text = "".join(bare)
    if not sought or sought not in text:
        raise ValueError(f"'{shorten(words)}' is not in the text.")
    if text.find(sought, text.find(sought) + 1) >= 0:
        raise ValueError(f"'{shorten(words)}' is in the text more than once; give positions, or more of its words.")
    first, last = text.find(sought), text.find(sought) + len(sought)
    ends = torch.tensor([len(piece) for piece in bare]).cumsum(0).tolist()
    touched = [
        at
        for at, (piece, end) in enumerate(zip(bare, ends, strict=True))
        if piece and end > first and end - len(piece) < last
    ]
    return range(touched[0], touched[-1] + 1)


def _of_layer(layer: LayerAttention, a: range, b: range) -> tuple[Float[Tensor, "measure head"], int]:
    """Sums over queries of share, own share, relative, expected and reverse; and how many queries those are."""
    heads = layer.q.shape[1]
    sums, rows = torch.zeros(5, heads, dtype=torch.float64, device=layer.q.device), 0
    for scores, p, seen in _rows(layer, a):
        both = seen[:, b.start : b.stop].any(-1) & seen[:, a.start : a.stop].any(-1)
        if not bool(both.any()):
            continue
        rows += int(both.sum())
        scores, p, seen = scores[:, both], p[:, both], seen[both]
        x, y = (scores[..., part.start : part.stop] for part in (b, a))
        sees_x, sees_y = (seen[:, part.start : part.stop] for part in (b, a))
        share, own = (p[..., part.start : part.stop].sum(-1) for part in (b, a))
        ahead = _ahead(x, sees_x, y, sees_y)
        behind = (ahead - (_mean(x, sees_x) - _mean(y, sees_y))).clamp(min=0)
        relative = _mean_of_exponentials(x, sees_x) - _mean_of_exponentials(y, sees_y)
        sums += torch.stack([part.sum(-1) for part in (share, own, relative, ahead, behind)])
    return sums, rows


def _rows(layer: LayerAttention, a: range) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(scores, weights) [head, query, key] of some queries of a segment, and [query, key] which keys they see."""
    heads, n = layer.q.shape[1:3]
    place = torch.arange(n, device=layer.q.device)
    real = torch.ones(n, dtype=torch.bool, device=layer.q.device) if layer.real is None else layer.real[0]
    size = max(1, STRIP // (heads * n))
    for start in range(a.start, a.stop, size):
        at = place[start : min(start + size, a.stop)]
        back = at[:, None] - place
        seen = real.expand(len(at), -1)
        if layer.causal:
            seen = seen & (back >= 0)
        if layer.window is not None:
            seen = seen & (back < layer.window)
        scores = _scores(layer, at).double()
        bad = ~scores.isfinite() & seen
        if bool(bad.any()):
            head, query = bad.any(-1).nonzero()[0].tolist()
            raise not_finite(layer.layer, head, 0, int(at[query]))
        if layer.pattern is not None:
            yield scores, layer.pattern[0][:, at].double(), seen
        else:
            yield scores, scores.masked_fill(~seen, -torch.inf).softmax(-1), seen


def _scores(layer: LayerAttention, at: Int[Tensor, " query"]) -> Float[Tensor, "head query key"]:
    if layer.scores is not None:
        return layer.scores[0][:, at]
    work = torch.promote_types(layer.q.dtype, torch.float32)
    q, k = layer.q[0][:, at].to(work), layer.k[0].to(work)
    grouped = q.reshape(len(k), -1, *q.shape[1:])
    scores = torch.einsum("grqe,gke->grqk", grouped, k).flatten(0, 1) * layer.scale
    return softcap(scores, layer.softcap)


def _mean(x: Float[Tensor, "head query key"], seen: Bool[Tensor, "query key"]) -> Float[Tensor, "head query"]:
    return x.masked_fill(~seen, 0).sum(-1) / seen.sum(-1)


def _mean_of_exponentials(x: Tensor, seen: Tensor) -> Float[Tensor, "head query"]:
    """Log of the mean of ``e^x`` over the keys that are seen."""
    return x.masked_fill(~seen, -torch.inf).logsumexp(-1) - seen.sum(-1).double().log()


def _ahead(x: Tensor, sees_x: Tensor, y: Tensor, sees_y: Tensor) -> Float[Tensor, "head query"]:
    """``E max(x - y, 0)`` over all pairs of keys that are seen.

    With y sorted, those below an x are the first c, and its excess over them is ``c x`` less their sum.
    """
    y = y.masked_fill(~sees_y, torch.inf).sort(-1).values
    sums = torch.nn.functional.pad(y.masked_fill(y.isinf(), 0).cumsum(-1), (1, 0))
    below = torch.searchsorted(y, x.contiguous())
    excess = below * x - sums.gather(-1, below)
    return excess.masked_fill(~sees_x, 0).sum(-1) / (sees_x.sum(-1) * sees_y.sum(-1))
