"""One input as an ensemble of paths: what page and command line share.

asked = take(Request(text="When Mary and John ...", target=" Mary", against=" John"), model)   # or a refusal
found = run(asked.request, model)            # lengths, kinds, patterns, top paths, gradient: what was asked for
pictures(found)["lengths"]                   # figures by name
"""

from __future__ import annotations

from workbench.pathways.experiments import effects_picture, pruning_picture, scaling_picture, weights_picture
from workbench.pathways.pictures import (
    flow_picture,
    gradient_picture,
    kinds_picture,
    lengths_picture,
    pictures,
    positions_picture,
    queries_picture,
    top_picture,
)
from workbench.pathways.records import KEEP, Found, Request
from workbench.pathways.work import Asked, ask, check, follow, gradient, kinds, lengths, run, take

__all__ = [
    "KEEP",
    "Asked",
    "Found",
    "Request",
    "ask",
    "check",
    "effects_picture",
    "flow_picture",
    "follow",
    "gradient",
    "gradient_picture",
    "kinds",
    "kinds_picture",
    "lengths",
    "lengths_picture",
    "pictures",
    "positions_picture",
    "pruning_picture",
    "queries_picture",
    "run",
    "scaling_picture",
    "take",
    "top_picture",
    "weights_picture",
]
