"""A map of attention patterns: a small autoencoder puts each on a plane, and k-means tells which kinds there are.

That patterns of a vision transformer be summed up by an autoencoder is Li et al. 2023 (arXiv 2303.13731); the network,
the choice of k and the comparison are this library's own. How much of the patterns the plane keeps is measured on
patterns that training did not see, beside as many principal components: where those keep as much, the network adds
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attention.autoencoder import Codes, encode
from workbench.attention.layers import Text
from workbench.attention.observed import plain
from workbench.attention.pattern_shapes import SIDE, Per, Shapes, shapes_of
from workbench.circuits.progress import ProgressFn
from workbench.models import Transformer

KS = range(2, 9)
"""Numbers of clusters that are tried."""

STEPS = 600
_SAMPLE = 2000  # points of which a silhouette is taken
_LEAST = 8

Plane = Literal["pca", "tsne"]


@dataclass(frozen=True)
class PatternMap:
    """Patterns as points of a plane, in clusters; cluster 0 is the largest.

    Attributes:
        model: name of the model.
        points: where each pattern lies. With a code of two numbers, those; else its codes put in the plane.
        names: of each, ``a3.h5`` for a head or ``a3.h5@q17`` for the query at position 17 in that head; with ``#0``
            behind it where it is one example's.
        cluster: which cluster each is in.
        patterns: what was drawn together, row sums of weights: of a head, queries by keys in equal parts of the text
            (an image: patches by patches); of a query, the grid of patches, or for a text the weight at doubling
            distances back.
        means: mean pattern of each cluster.
        shares: share of the patterns that each cluster has.
        explained: share of the variance of patterns that the code keeps, on patterns held out: ``1 - error /
            variance``; below 0 it does worse than the mean pattern. NaN where there were too few to hold some out.
        explained_pca: what as many principal components of the same training patterns keep of the same.
        held_out: how many patterns those are: a fifth of them, or of the examples.
        silhouette: how far apart clusters lie, between -1 and 1, for each number that was tried (Rousseeuw 1987).
        codes: the codes themselves.
        losses: mean squared error in training, of standardised patterns, from time to time.
        settings: what it was made with.
    """

    model: str
    points: Float[Tensor, "n 2"]
    names: tuple[str, ...]
    cluster: Int[Tensor, " n"]
    patterns: Float[Tensor, "n row column"]
    means: Float[Tensor, "cluster row column"]
    shares: Float[Tensor, " cluster"]
    explained: float
    explained_pca: float
    held_out: int
    silhouette: dict[int, float]
    codes: Float[Tensor, "n code"]
    losses: tuple[float, ...]
    settings: dict[str, Any]

    def members(self, cluster: int) -> list[str]:
        """Names of what is in a cluster, from the nearest to its middle outwards.

        Raises:
            ValueError: there is no such cluster.
        """
        if not 0 <= cluster < len(self.shares):
            raise ValueError(f"There is no cluster {cluster}: there are {len(self.shares)}, from 0.")
        inside = (self.cluster == cluster).nonzero().flatten()
        far = (self.codes[inside] - self.codes[inside].mean(0)).norm(dim=-1)
        return [self.names[int(at)] for at in inside[far.argsort()]]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists, without the patterns of every point."""
        return {
            "model": self.model,
            "points": plain(self.points),
            "names": list(self.names),
            "cluster": self.cluster.tolist(),
            "means": plain(self.means),
            "shares": plain(self.shares),
            "explained": self.explained if self.held_out else None,
            "explained_pca": self.explained_pca if self.held_out else None,
            "held_out": self.held_out,
            "silhouette": {str(k): value for k, value in self.silhouette.items()},
            "settings": dict(self.settings),
        }


def pattern_map(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"] | Tensor | Text,
    *,
    per: Per | None = None,
    each: bool = False,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    width: int = 2,
    plane: Plane = "pca",
    clusters: int | None = None,
    side: int = SIDE,
    steps: int = STEPS,
    seed: int = 0,
    progress: ProgressFn | None = None,
) -> PatternMap:
    """Put attention patterns on a plane, where alike lie together, and cluster them.

    Args:
        model: decoder, encoder or vision transformer.
        tokens: text, several texts, token ids; images for a vision model.
        per: one pattern for each ``head``, or one for each ``query`` of each head; by default queries of an image and
            heads of a text. Of an image, weights on the class and register tokens are left out and the rest is not
            raised to 1, so that a head that parks there is near 0 everywhere.
        each: every example's patterns for themselves; by default each pattern is the mean over the examples, which
            shows what a head does wherever it can, and hides what it does with what it sees.
        attention_mask: 1 for real tokens, as in :func:`workbench.attention.statistics`.
        width: numbers of a code. With more than two, the plane is made of codes.
        plane: how: two principal components, or ``tsne`` (van der Maaten and Hinton 2008), which keeps neighbours but
            no distances.
        clusters: how many; by default the number from 2 to 8 with the best silhouette.
        side: rows and columns to which the pattern of a head is brought; fewer where a text is shorter.
        steps: of training.
        seed: of the network, of what is held out, of k-means and t-SNE.
        progress: called after every layer that was read, and ten times while training; returning False stops.

    Raises:
        ValueError: fewer than 8 patterns, or patterns that are all the same; settings or input that do not fit; scores
            that are not finite; or a mechanism whose rows do not sum to 1.
        Stopped: ``progress`` asked for it.
    """
    if width < 2 or side < 2 or steps < 1:
        raise ValueError(f"width and side are at least 2, steps 1; got {width}, {side} and {steps}.")
    if plane not in ("pca", "tsne"):
        raise ValueError(f"The plane is 'pca' or 'tsne', not '{plane}'.")
    shapes = shapes_of(model, tokens, per, each, attention_mask, side, progress)
    _check(shapes, clusters)
    codes = encode(shapes.patterns, width, steps, seed, progress, shapes.example)
    cluster, silhouette = _clustered(codes.codes, clusters, seed)
    k = int(cluster.max()) + 1
    return PatternMap(
        model.name,
        codes.codes if width == 2 else _in_the_plane(codes.codes, plane, seed),
        shapes.names,
        cluster,
        shapes.patterns,
        torch.stack([shapes.patterns[cluster == at].mean(0) for at in range(k)]),
        torch.bincount(cluster).double() / len(cluster),
        *_kept(codes),
        silhouette,
        codes.codes,
        codes.losses,
        {
            "per": shapes.per,
            "each": each,
            "width": width,
            "plane": plane,
            "clusters": clusters,
            "steps": steps,
            "seed": seed,
            "examples": shapes.examples,
        },
    )


def _check(shapes: Shapes, clusters: int | None) -> None:
    n = len(shapes.names)
    if n < _LEAST:
        raise ValueError(
            f"There are {n} patterns; a map needs {_LEAST} at least. Take one for each query: per='query'."
        )
    if clusters is not None and not 2 <= clusters < n:
        raise ValueError(f"clusters lies between 2 and {n - 1}, one less than there are patterns; got {clusters}.")
    if float(shapes.patterns.var(0).sum()) <= 1e-12:
        raise ValueError("All patterns are the same: there is nothing to map.")


def _kept(codes: Codes) -> tuple[float, float, int]:
    return codes.explained, codes.explained_pca, codes.held_out


def _clustered(
    codes: Float[Tensor, "n code"], clusters: int | None, seed: int
) -> tuple[Int[Tensor, " n"], dict[int, float]]:
    """k-means of standardised codes; the largest cluster first."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    x = ((codes - codes.mean(0)) / codes.std(0).clamp(min=1e-12)).numpy()
    distinct = len({tuple(code) for code in codes.tolist()})
    tried: dict[int, Any] = {}
    scores: dict[int, float] = {}
    for k in KS if clusters is None else (clusters,):
        if k >= distinct:
            continue
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(x)
        tried[k] = labels
        sample = _SAMPLE if len(x) > _SAMPLE else None
        scores[k] = float(silhouette_score(x, labels, sample_size=sample, random_state=seed))
    if not tried:
        raise ValueError(f"There are {distinct} distinct patterns, too few for clusters.")
    labels = torch.as_tensor(tried[max(scores, key=lambda k: scores[k])]).long()
    rank = torch.bincount(labels).argsort(descending=True, stable=True).argsort()
    return rank[labels], scores


def _in_the_plane(codes: Float[Tensor, "n code"], plane: Plane, seed: int) -> Float[Tensor, "n 2"]:
    if plane == "pca":
        centred = codes - codes.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        flat: Tensor = centred @ directions[:2].T
        return flat
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes) - 1) / 3)
    return torch.as_tensor(TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(codes.numpy())).double()
