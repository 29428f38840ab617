"""One input read by depth: what the model would answer early, and what each part writes; page and command line.

found = run(Request(text="When Mary and John ...", targets=(" Mary", " John")), model)   # plain data
pictures(found)["lens"]                                                                  # figures by name
"""

from __future__ import annotations

from workbench.reading.experiments import exit_picture, layers_picture, spectra_picture, training_picture
from workbench.reading.pictures import curves_picture, direct_picture, grid_picture, heads_picture, pictures
from workbench.reading.records import Found, Request
from workbench.reading.work import Asked, check, run, take

__all__ = [
    "Asked",
    "Found",
    "Request",
    "check",
    "curves_picture",
    "direct_picture",
    "exit_picture",
    "grid_picture",
    "heads_picture",
    "layers_picture",
    "pictures",
    "run",
    "spectra_picture",
    "take",
    "training_picture",
]
