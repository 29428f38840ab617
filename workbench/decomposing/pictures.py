"""The figures of a result."""

from __future__ import annotations

import torch

from workbench.decomposing.plan import NODES
from workbench.decomposing.records import BASELINES, Result
from workbench.figures.contribution_map import contribution_map
from workbench.figures.figure import Figure
from workbench.figures.overlay import Picture
from workbench.figures.patch_contributions import patch_contributions, patch_groups
from workbench.figures.phrase_tree import phrase_tree
from workbench.figures.token_contributions import token_contributions


def pictures(result: Result) -> dict[str, Figure]:
    """The figures of a result, the main one first.

    ``words`` (words or tokens on a signed ground with a bar list), ``patches`` (over the image), ``map`` (layer x head,
    for heads, MLPs and nodes), ``bars`` (a list of anything else), ``tree`` (the
    tree of phrases, or the groups of patches, where there are any).
    """
    caption = caption_of(result)
    if result.kind in NODES:
        return _map(result, caption)
    if result.kind == "patches":
        assert result.grid is not None
        picture = Picture(torch.tensor(result.image), result.grid)
        found = {"patches": patch_contributions(picture, result.values, unit=result.unit, caption=caption)}
        if result.tree:
            found["tree"] = patch_groups(picture, result.values, result.tree, unit=result.unit, caption=caption)
        return found
    key = "bars" if result.kind == "places" else "words"
    made = {
        key: token_contributions(result.names, result.values, unit=result.unit, special=result.special, caption=caption)
    }
    if result.tree:
        made["tree"] = phrase_tree(
            result.names, result.values, result.tree, unit=result.unit, special=result.special, caption=caption
        )
    return made


def _map(result: Result, caption: str) -> dict[str, Figure]:
    """The map, unless there is no number to draw."""
    assert result.size is not None
    if all(value != value for value in result.values):
        return {}
    layers, heads = result.size
    every = layers * {"heads": heads, "mlps": 1, "nodes": heads + 1}[result.kind]
    why = {
        "comes after the target": len(result.names) < every,
        "not reached": not result.complete,
        "too large to be a number": result.complete and any(value != value for value in result.values),
    }
    values = dict(zip(result.names, result.values, strict=True))
    absent = ", or ".join(reason for reason, holds in why.items() if holds) or "no value"
    figure = contribution_map(
        values,
        layers,
        0 if result.kind == "mlps" else heads,
        unit=result.unit,
        whole=result.whole,
        absent=absent,
        caption=caption,
    )
    return {"map": figure}


def caption_of(result: Result) -> str:
    """Model, target, rule, baseline and what the parts add up to."""
    asked, number = result.request, "{:.3g}".format
    parts = [
        f"{asked.model}: {result.target} ({number(result.whole)} {result.unit}).",
        f"Rule {asked.rule}, compared with {BASELINES[asked.baseline]}.",
    ]
    if result.together == result.together:
        total = sum(value for value in result.values if value == value)
        parts.append(f"The parts add up to {number(total)}, all at once give {number(result.together)}.")
    if not result.complete:
        parts.append("Stopped before the end.")
    return " ".join(parts)
