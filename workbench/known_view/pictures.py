"""The pictures of an examination and of a learned program: what the page shows and the command line writes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from workbench.circuits.graph import Circuit
from workbench.circuits.known.examine import Examination
from workbench.circuits.known.programs import BundledProgram
from workbench.circuits.known.programs.program import ONES, POSITIONS, TOKENS
from workbench.export import Exportable
from workbench.figures import circuit_graph, precision_recall, program_flow, roc_curve
from workbench.figures.svg import number, plural

Verdict = Literal["found", "missed", "false"]

FAINT = 1e-6
"""The share of the largest score below which a score is little to go by: gradients through an all but hard softmax."""


def chosen(found: Examination, n_edges: int | None = None) -> Circuit:
    """The best edges of a method.

    Edges with a score of exactly 0 are left out: the method says nothing of them, and which of them come first is an
    accident of their order. So there may be fewer than asked for.

    Args:
        found: the examination.
        n_edges: how many; None for as many as are true.

    Raises:
        ValueError: more than the graph has, or fewer than none.
    """
    n = found.truth.n_true if n_edges is None else n_edges
    best = found.scores.top(n, found.ranking, prune=False)
    return Circuit(best.graph, best.mask & (found.scores.values != 0), found.scores.values)


def verdicts(found: Examination, n_edges: int | None = None) -> dict[str, Verdict]:
    """Of each edge that is true or among the best: found, missed, or false.

    Raises:
        ValueError: as :func:`chosen`.
    """
    picked, true = chosen(found, n_edges), found.true_edges
    best = picked.edges
    ranked = sorted(best | true, key=lambda edge: (-abs(picked.score(edge)), edge))
    return {edge: "found" if edge in best & true else "missed" if edge in true else "false" for edge in ranked}


def faint(found: Examination, n_edges: int | None = None) -> int:
    """How many of the best edges have a score that is not 0, but below a millionth of the largest.

    They may be right, and in a compiled model often are, but would be lost in any noise.

    Raises:
        ValueError: as :func:`chosen`.
    """
    best = chosen(found, n_edges)
    sizes = found.scores.values.abs()
    return int((best.mask & (sizes < FAINT * sizes.max())).sum())


def hits(name: str, found: Examination, n_edges: int | None = None, *, seed: int = 0) -> Exportable:
    """The graph of hits and misses: the best edges of a method against the true circuit.

    Args:
        name: of the model.
        found: the examination.
        n_edges: how many of the best edges are compared; None for as many as are true.
        seed: of its pairs, for the caption.

    Raises:
        ValueError: as :func:`chosen`.
    """
    best = chosen(found, n_edges)
    graph = best.graph
    truth = Circuit(graph, Circuit.from_edges(graph, found.true_edges).mask, found.scores.values)
    sides = verdicts(found, n_edges)
    count = {kind: sum(side == kind for side in sides.values()) for kind in ("found", "missed", "false")}
    title = f"{count['found']} of {plural(found.truth.n_true, 'true edge')} found"
    title += f", {count['false']} false" if count["false"] else ", none false"
    asked = found.truth.n_true if n_edges is None else n_edges
    compared = f"The best {plural(asked, 'edge')} of {graph.n_edges:,} beside the {found.truth.n_true} that are true."
    if asked > best.n_edges:
        compared += f" Of the best, {asked - best.n_edges} have a score of 0 and are not counted as chosen."
    if few := faint(found, n_edges):
        compared += f" {few} of the chosen have a score below a millionth of the largest."
    caption = f"{_origin(name, found, seed)} {compared}"
    return Exportable(
        best,
        circuit_graph(best, truth=truth, title=title, caption=caption),
        _meta(name, found, seed) | {"compared": asked, "verdicts": sides},
    )


def curves(name: str, found: Examination, *, seed: int = 0) -> dict[str, Exportable]:
    """The ROC curve and precision against recall, by title.

    Args:
        name: of the model.
        found: the examination.
        seed: of its pairs and controls, for the caption.
    """
    caption, meta = _origin(name, found, seed), _meta(name, found, seed)
    shown: dict[str, Any] = {"method": found.method, "caption": caption}
    made = {
        "ROC": roc_curve(found.truth, found.untrained, **shown),
        "Precision and recall": precision_recall(found.truth, found.untrained, **shown),
    }
    return {title: Exportable(None, figure, meta | {"curve": figure.data}) for title, figure in made.items()}


def program_picture(program: BundledProgram) -> Exportable:
    """The data flow of a learned program."""
    card, sizes = program.card, program.task.sizes
    kinds = {"attn": sizes.heads, "num_attn": sizes.counts, "mlp": sizes.mlps, "num_mlp": sizes.number_mlps}
    modules = [f"{kind}_{layer}_{i}" for layer in range(sizes.layers) for kind, n in kinds.items() for i in range(n)]
    figures, paper = card["figures"], card["paper"]
    caption = (
        f"{program.task.key}: {program.task.description} Learned from examples, seed {card['seed']}. "
        f"{number(100 * figures['accuracy'])} % of held-out answers are right"
        f"{f', {number(100 * paper)} % in the paper' if paper is not None else ''}."
    )
    figure = program_flow((TOKENS, POSITIONS, ONES), modules, program.true_edges, caption=caption)
    return Exportable(None, figure, {"program": program.task.key, "card": card, "flow": figure.data})


def _origin(name: str, found: Examination, seed: int) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in found.scores.settings.items())
    method = f"{found.method} ({settings})" if settings else found.method
    return f"{name} · {method} · {plural(found.scores.n_examples, 'pair')}, seed {seed} · {found.ranking} scores."


def _meta(name: str, found: Examination, seed: int) -> dict[str, Any]:
    """Where an examination comes from, and its figures."""
    plain = ("auroc", "average_precision", "node_auroc", "chance_average_precision", "n_true", "n_edges")
    return {
        "known": name,
        "method": found.method,
        "settings": found.scores.settings,
        "n": found.scores.n_examples,
        "seed": seed,
        "ranking": found.ranking,
        "faithfulness": found.faithfulness,
        "truth": {key: asdict(found.truth)[key] for key in plain},
        "untrained": {key: asdict(found.untrained)[key] for key in plain},
        "random": {
            "auroc": found.random_auroc,
            "average_precision": found.random_average_precision,
            "node_auroc": found.random_node_auroc,
        },
    }
