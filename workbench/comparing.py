"""Two runs beside each other: what their circuits share, and the pictures of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from workbench.circuits.agreement import jaccard, spearman
from workbench.export import Exportable
from workbench.figures import circuit_graph
from workbench.runs import Run
from workbench.views import origin


@dataclass(frozen=True)
class Compared:
    """What two circuits of one graph share.

    Attributes:
        names: what the two are called: what tells them apart.
        shared, first, second: edges in both, only in the first, only in the second.
        jaccard: shared edges as a share of all edges of either.
        heads_shared, heads_first, heads_second: the same of attention heads.
        spearman: rank correlation of all edge scores; NaN where one run scores all alike.
    """

    names: tuple[str, str]
    shared: int
    first: int
    second: int
    jaccard: float
    heads_shared: int
    heads_first: int
    heads_second: int
    spearman: float

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


def names_of(first: Run, second: Run) -> tuple[str, str]:
    """What tells two runs apart, in a word or two each."""
    a, b = first.info, second.info
    titled = a.title != a.id and b.title != b.id
    options = [", ".join(f"{key} {value}" for key, value in x.settings.get("options", {}).items()) for x in (a, b)]
    pairs = [
        (a.title, b.title) if titled else ("", ""),
        (a.method, b.method),
        (str(a.task.get("name")), str(b.task.get("name"))),
        (str(a.model.get("name")), str(b.model.get("name"))),
        (f"{a.method} ({options[0]})", f"{b.method} ({options[1]})"),
        (a.size, b.size),
        (f"seed {a.seed}", f"seed {b.seed}"),
    ]
    return next((pair for pair in pairs if pair[0] != pair[1]), (a.id, b.id))


def check_comparable(first: Run, second: Run) -> None:
    """See that two runs are of one graph.

    Raises:
        ValueError: they are not; saying both sizes. Or one has no scores.
    """
    a, b = first.graph, second.graph
    if a != b:
        sizes = [f"{graph.n_layers} layers of {graph.n_heads} heads" for graph in (a, b)]
        raise ValueError(
            f"The circuits have other nodes ({sizes[0]}, {sizes[1]}), so that edges cannot be compared; choose two "
            "runs of one model."
        )


def compare(first: Run, second: Run) -> Compared:
    """Count what the circuits of two runs share.

    Raises:
        ValueError: they are of unlike graphs, or one has no scores.
    """
    check_comparable(first, second)
    one, other = first.circuit(), second.circuit()
    heads = [set(circuit.heads) for circuit in (one, other)]
    exists = one.graph.mask
    edges = [set(circuit.mask.flatten().nonzero().flatten().tolist()) for circuit in (one, other)]
    return Compared(
        names=names_of(first, second),
        shared=len(edges[0] & edges[1]),
        first=len(edges[0] - edges[1]),
        second=len(edges[1] - edges[0]),
        jaccard=jaccard(*edges),
        heads_shared=len(heads[0] & heads[1]),
        heads_first=len(heads[0] - heads[1]),
        heads_second=len(heads[1] - heads[0]),
        spearman=spearman(first.scores.values[exists].double(), second.scores.values[exists].double()),
    )


def side_by_side(first: Run, second: Run) -> tuple[Exportable, Exportable]:
    """The two circuit graphs; of one graph, every node stands at the same place in both.

    Raises:
        ValueError: one has no scores.
    """
    circuits, names = (first.circuit(), second.circuit()), names_of(first, second)
    alike = first.graph == second.graph
    made = []
    for run, circuit, other, name in zip((first, second), circuits, circuits[::-1], names, strict=True):
        heads = f"{len(circuit.heads)} heads" if circuit.heads else "no head"
        figure = circuit_graph(
            circuit,
            title=f"{name}: {circuit.n_edges:,} edges, {heads}",
            caption=f"{run.info.caption} · run {run.id}",
            unit=run.info.prompts.get("metric", "metric"),
            places_of=other if alike else None,
        )
        made.append(Exportable(circuit, figure, origin(run)))
    return made[0], made[1]


def difference(first: Run, second: Run) -> Exportable:
    """One picture of both: edges only in the first, only in the second, in both.

    Raises:
        ValueError: they are of unlike graphs, or one has no scores.
    """
    found, one, other = compare(first, second), first.circuit(), second.circuit()
    share = "no edge" if math.isnan(found.jaccard) else f"{found.jaccard:.0%} of their edges"
    figure = circuit_graph(
        one,
        title=f"{found.names[0]} and {found.names[1]} share {share}",
        caption=f"{first.info.short_caption} · run {first.id} — {second.info.short_caption} · run {second.id}",
        unit=first.info.prompts.get("metric", "metric"),
        compare=other,
        names=found.names,
    )
    return Exportable(None, figure, {"runs": [origin(first), origin(second)], "compared": found.to_json()})
