"""The figures of a result."""

from __future__ import annotations

import torch

from workbench.circuits.graph import head_of
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
    if result.kind in ("heads", "mlps", "nodes"):
        values = dict(zip(result.names, result.values, strict=True))
        heads = [place for name in result.names if (place := head_of(name))]
        layers = len({name for name in result.names if name[0] == "m"}) or 1 + max(layer for layer, _ in heads)
        across = 1 + max((head for _, head in heads), default=-1)
        return {"map": contribution_map(values, layers, across, unit=result.unit, caption=caption)}
    if result.kind == "patches":
        assert result.grid is not None
        before = tuple(result.names[i] for i in result.special)
        picture = Picture(torch.tensor(result.image), result.grid, before)
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
