"""The figures of what was found about paths."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure
from workbench.figures.path_chains import path_chains
from workbench.figures.path_flow import path_flow
from workbench.figures.path_lengths import path_lengths, unit_of
from workbench.figures.path_tables import length_positions, path_kinds
from workbench.figures.signed_bars import signed_bars
from workbench.figures.svg import number
from workbench.paths import Ensemble, GradientMass, QueryResult, TopPaths
from workbench.pathways.records import Found

FLOWING = 12
"""Paths that a flow holds; more are a tangle."""


def pictures(found: Found) -> dict[str, Figure]:
    """By name, those there are: ``lengths``, ``positions``, ``kinds``, ``queries``, ``flow``, ``top``, ``gradient``."""
    drawn = {"lengths": lengths_picture(found.lengths)}
    if found.lengths.by_position_by_prompt is not None and len(found.names) > 1:
        drawn["positions"] = positions_picture(found.lengths, found.names)
    if found.kinds is not None:
        drawn["kinds"] = kinds_picture(found.kinds)
    if found.queries:
        drawn["queries"] = queries_picture(found.queries)
    if found.top is not None and found.top.paths:
        drawn["flow"] = flow_picture(found.top, found.size)
        drawn["top"] = top_picture(found.top)
    if found.gradient is not None:
        drawn["gradient"] = gradient_picture(found.gradient)
    return drawn


def lengths_picture(ens: Ensemble, selected: str | None = None) -> Figure:
    """What each length carries."""
    return path_lengths(ens, selected=selected)


def positions_picture(ens: Ensemble, names: Sequence[str], selected: str | None = None) -> Figure:
    """What each length says of the target at each position.

    Raises:
        ValueError: the model answers once.
    """
    return length_positions(ens, names, selected=selected)


def kinds_picture(ens: Ensemble, selected: tuple[int, int] | None = None) -> Figure:
    """What paths of each number of attentions and MLPs carry.

    Raises:
        ValueError: the ensemble is not by kind.
    """
    return path_kinds(ens, selected=selected)


def queries_picture(results: Sequence[QueryResult], selected: Collection[str] = ()) -> Figure:
    """What the paths of each pattern carry, as means over prompts.

    Raises:
        ValueError: there are none.
    """
    if not results:
        raise ValueError("No pattern was asked, so that there is nothing to draw.")
    first = results[0]
    values = [(one.pattern, float(one.contribution.mean())) for one in results]
    whole, unit = float(first.value.mean()), unit_of(first)
    # That everything carries everything is no finding.
    told = [one for one in values if one[0].replace(" ", "") != ".*"] or values
    pattern, most = max(told, key=lambda one: abs(one[1]))
    share = f"{100 * most / whole:.0f} % of the {unit}" if whole else f"{number(most)} {unit}"
    return signed_bars(
        values,
        unit=unit,
        whole=whole,
        shown=len(values),
        selected=selected,
        title=f"Paths “{pattern}” carry {share}",
        caption=f"{first.model}: {first.target}. {first.rule[:1].upper()}{first.rule[1:]}.",
    )


def top_picture(top: TopPaths, selected: str | None = None, shown: int = 20) -> Figure:
    """The strongest single paths, one a row.

    Raises:
        ValueError: none was found.
    """
    return path_chains(top, selected=selected, shown=shown)


def flow_picture(
    top: TopPaths, size: tuple[int, int] | None = None, selected: str | None = None, shown: int = FLOWING
) -> Figure:
    """The strongest single paths through the places of the circuit graph; ``size`` is the model's layers and heads.

    Raises:
        ValueError: none was found.
    """
    layers, heads = size or (None, None)
    return path_flow(top, shown=shown, layers=layers, heads=heads, selected=selected)


def gradient_picture(mass: GradientMass) -> Figure:
    """The norm of the gradient through paths of each length, beside that of all together and the share of paths."""
    depth = list(range(mass.mass.shape[1]))
    norms = mass.mass.mean(0).tolist()
    whole = float(mass.whole.mean())
    largest = max(range(len(norms)), key=lambda i: norms[i])
    lines = [
        Line("through this length", depth, norms),
        Line("whole gradient", depth, [whole] * len(depth), dashed=True),
    ]
    title = f"Paths of {largest} sublayers bring back most gradient: {number(norms[largest])}"
    if norms[largest] > whole:
        title += f", {number(norms[largest] / whole)} times the whole; lengths cancel" if whole else ""
    return curves(
        lines,
        x_title="sublayers on the path",
        y_title="norm of the gradient at the embedding",
        log_y=max(norms) > 50 * (min((x for x in norms if x > 0), default=1.0)),
        title=title,
        caption=f"{mass.model}: {mass.target}. Rule {mass.rule}: "
        + ("Jacobians of this run." if mass.rule == "tangent" else "patterns, norm scales and gates held."),
    )


__all__ = [
    "flow_picture",
    "gradient_picture",
    "kinds_picture",
    "lengths_picture",
    "pictures",
    "positions_picture",
    "queries_picture",
    "top_picture",
]
