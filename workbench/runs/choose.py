"""From scores to a circuit: by number, by threshold, or grown from the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch takes seconds to import; listing runs needs none of it
    from workbench.circuits.graph import Circuit, Ranking, Scores

Construction = Literal["top", "threshold", "greedy", "marked"]
CONSTRUCTIONS: dict[str, str] = {
    "top": "the best edges",
    "greedy": "grown from the logits",
    "threshold": "all edges from a score on",
}
"""Ways to choose the edges of a circuit from scores, and what each takes.

``marked`` is none of them: such a run keeps its edges themselves, as a file marked them.
"""


def choose(
    scores: Scores, how: Construction, n_edges: int | None, threshold: float | None, ranking: Ranking
) -> Circuit:
    """The circuit of a ranking, dangling nodes pruned; but one that is grown is left as it is.

    Args:
        scores: of every edge.
        how: ``top`` takes the best ``n_edges``; ``greedy`` as many, each the best into what is there already,
            from the logits on; ``threshold`` all whose ranking key is at least ``threshold``.
        n_edges: for ``top`` and ``greedy``.
        threshold: for ``threshold``, in units of the metric.
        ranking: by absolute or by signed score.

    Raises:
        ValueError: no such way, a missing number, more edges than there are, or a threshold that no edge reaches or
            all do.
    """
    if how not in CONSTRUCTIONS:
        raise ValueError(f"Unknown construction '{how}'; choose one of {', '.join(CONSTRUCTIONS)}.")
    if how == "threshold":
        if threshold is None:
            raise ValueError("Edges from a score on need that score; give a threshold.")
        return scores.above(threshold, ranking=ranking)
    if n_edges is None:
        raise ValueError("Say how many edges the circuit is to have.")
    if how == "top":
        return scores.top(n_edges, ranking=ranking)
    from workbench.circuits.greedy import greedy

    return greedy(scores, n_edges, ranking)


def choose_and_keep(
    scores: Scores, how: Construction, n_edges: int | None, threshold: float | None, ranking: Ranking
) -> Circuit:
    """:func:`choose` for scores that are kept: where they give no circuit, the error says that they are not lost."""
    try:
        return choose(scores, how, n_edges, threshold, ranking)
    except ValueError as error:
        if how != "threshold":
            raise
        raise ValueError(
            f"{str(error).rstrip('.')}; the scores are kept, so that another threshold is quick."
        ) from None


def size_in_words(settings: Mapping[str, Any], n_edges: int | None) -> str:
    """Which edges were asked for, in words."""
    if "threshold" in settings:
        return f"edges from {settings['threshold']:g} on"
    how = {"greedy": ", grown from the logits", "marked": ", as the file marks them"}
    said = how.get(str(settings.get("construction")), "")
    return f"{n_edges:,} edges{said}" if n_edges is not None else "no number of edges"
