"""Reading a model by depth: what it would answer early, what each part writes into the answer, what layers are for.

``logit_lens(model, tokens)`` reads the stream after every layer, ``train_lens`` learns to read it better,
``direct_attribution`` splits a logit by component, ``exit_depth`` and ``layer_curve`` say how much depth an answer
needs, ``spectra`` how fast each stream changes along positions.
"""

from __future__ import annotations

from workbench.lens.depth import ExitCurve, ExitDepth, exit_curve, exit_depth
from workbench.lens.direct import DirectAttribution, direct_attribution
from workbench.lens.logit_lens import LogitLens, logit_lens
from workbench.lens.order import CHANGES, LayerCurve, layer_curve
from workbench.lens.places import names_of_places
from workbench.lens.spectral import Spectra, spectra
from workbench.lens.translators import HeldOut, TunedLens, load_lens
from workbench.lens.tuned_lens import train_lens

__all__ = [
    "CHANGES",
    "DirectAttribution",
    "ExitCurve",
    "ExitDepth",
    "HeldOut",
    "LayerCurve",
    "LogitLens",
    "Spectra",
    "TunedLens",
    "direct_attribution",
    "exit_curve",
    "exit_depth",
    "layer_curve",
    "load_lens",
    "logit_lens",
    "names_of_places",
    "spectra",
    "train_lens",
]
