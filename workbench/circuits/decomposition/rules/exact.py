"""Irrelevant first: what the model would do without the sources is irrelevant, all of the change is relevant."""

from __future__ import annotations

from workbench.circuits.decomposition.rules.record import Rule


class Exact(Rule):
    """Activation patching: the irrelevant parts are the run in which the sources are ablated."""

    key = "exact"
    title = "Exact (activation patching)"
    formula = "f(b + g) - f(g) at every step"
    reference = "Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262"
    by_runs = True
