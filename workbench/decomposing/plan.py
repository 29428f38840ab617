"""From a request to what is to be done; all bad input is found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench import inspection
from workbench.circuits.decomposition import Node, all_nodes, answers, flow, phrases, words
from workbench.circuits.decomposition.rules import find
from workbench.circuits.decomposition.sites import parse
from workbench.circuits.decomposition.words import Cut, Part
from workbench.decomposing.records import BASELINES, SOURCES, Request
from workbench.inspection import Given
from workbench.models import Transformer

RULE, BASELINE = "shapley", "mean"
"""What is used where nothing is named. Against the mean over the input's own positions the model still reads an input
of the usual size, and of the rules the Shapley value then finds the words that carry an answer, with the right sign,
most often; the measurements are in the documentation."""
INPUTS = ("words", "tokens", "patches")
NODES = ("heads", "mlps", "nodes")


@dataclass(frozen=True)
class Plan:
    """A request that was understood."""

    request: Request
    kind: str
    cut: Cut
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    special: tuple[int, ...]
    image: Tensor | None


def understood(request: Request, model: Transformer, given: Given | None) -> Plan:
    """What is to be done.

    Raises:
        ValueError: as :func:`check`.
    """
    sources = request.sources
    vision = model.images is not None
    if vision and sources == "words":
        sources = "patches"
    listed = not isinstance(sources, str)
    if not listed and sources not in SOURCES:
        close = "; for a phrase or a place give a list" if " " in sources or "." in sources else ""
        raise ValueError(f"Unknown sources '{sources}'; choose one of {', '.join(SOURCES)}{close}.")
    if sources == "patches" and not vision:
        raise ValueError(f"{model.name} reads text, which has no patches; choose words or tokens.")
    if sources == "tokens" and vision:
        raise ValueError(f"{model.name} reads images, which have no words; choose patches.")
    if request.tree and sources not in INPUTS:
        raise ValueError("A tree joins neighbouring words or patches; choose words, tokens or patches as sources.")
    if vision:
        seen = given or inspection.named(model, request.image)
        cut, image = words.patches(model, seen.tensor), seen.image
        # What stands before the patches is the same for every image.
        cut = replace(cut, parts=tuple(part for part in cut.parts if not part.special))
    else:
        cut = words.tokens(model, request.text) if sources != "words" else words.words(model, request.text)
        image = None
    rule = request.rule or RULE
    flow.check_rule(find(rule), model)
    if request.tree:
        phrases.check_tree(rule)
    baseline = request.baseline or BASELINE
    if baseline not in BASELINES:
        raise ValueError(f"Unknown baseline '{baseline}'; choose one of {', '.join(BASELINES)}.")
    against(model, cut, baseline)
    found = _sources(sources, model, cut, answers.place(model, request.target))
    special = tuple(i for i, part in enumerate(cut.parts) if part.special) if sources in INPUTS else ()
    kept = replace(request, sources=sources if isinstance(sources, str) else tuple(sources))
    return Plan(
        replace(kept, rule=rule, baseline=baseline),
        "places" if listed else str(sources),
        cut,
        tuple(found),
        special,
        image,
    )


def against(model: Transformer, cut: Cut, baseline: str) -> str | Tensor:
    """What sources are compared with, as the functions of :mod:`workbench.circuits.decomposition` take it.

    The mean leaves out the first position of a causal model. Attention parks there, and what an MLP writes there can be
    hundreds of times as large as elsewhere: a mean with it is like no position at all.
    """
    if baseline == "blank":
        return words.blank(model, cut)
    return "rest" if baseline == "mean" and model.cfg.causal else baseline


def _sources(
    sources: str | Sequence[str], model: Transformer, cut: Cut, target: Node | None
) -> list[tuple[str, tuple[str, ...]]]:
    """Name and places of each source; of all heads or MLPs those that come before a target inside the model.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(sources, str):
        if not sources:
            raise ValueError("There is no source: name at least one place or phrase, such as a9.h6 or input@3.")
        return [_listed(said, model, cut) for said in sources]
    if sources in INPUTS:
        return [(part.name, (part.place,)) for part in cut.parts]
    names = [name for name in all_nodes(model.cfg) if sources == "nodes" or (name[0] == "m") == (sources == "mlps")]
    if not names:
        raise ValueError(f"{model.name} has no MLPs; choose heads.")
    before = [name for name in names if target is None or parse(name, model.cfg).order < target.order]
    if target is not None and not before:
        raise ValueError(
            f"None of the {SOURCES[sources]} comes before the target '{target.name}'; choose words, or a later target."
        )
    return [(name, (name,)) for name in before]


def _listed(said: str, model: Transformer, cut: Cut) -> tuple[str, tuple[str, ...]]:
    """A place, or a phrase of the text.

    Raises:
        ValueError: it is neither, or positions that the input does not have.
    """
    try:
        site = parse(said, model.cfg)
    except ValueError:
        # A name with a layer or a position was meant as a place; all else is looked up in the text.
        if cut.grid is not None or phrases.looks_like_place(said):
            raise
        part: Part = words.phrase(cut, said)
        return part.name, (part.place,)
    width = cut.parts[-1].last + 1
    site.where(torch.tensor([width]), width)
    return said, (said,)
