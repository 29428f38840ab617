"""Contextual decomposition: every activation in two parts, what comes from chosen sources and the rest.

``decompose(model, tokens, sources=["a9.h6"])`` splits one run; ``contributions`` and ``task_contributions`` ask what
many sources give to one target. Rules say how parts pass what is not linear; they run from exact activation patching to
linear attribution (``RULES``). After Hsu et al. 2025 (CD-T, arXiv 2407.00886).
"""

from __future__ import annotations

from workbench.circuits.decomposition.contributions import Contributions
from workbench.circuits.decomposition.rules import RULES, Rule
from workbench.circuits.decomposition.rules import find as rule
from workbench.circuits.decomposition.split import (
    Decomposition,
    all_nodes,
    contributions,
    decompose,
    task_contributions,
)
from workbench.circuits.decomposition.targets import Logits, Metric, Node, Similarity, Target, node

__all__ = [
    "RULES",
    "Contributions",
    "Decomposition",
    "Logits",
    "Metric",
    "Node",
    "Rule",
    "Similarity",
    "Target",
    "all_nodes",
    "contributions",
    "decompose",
    "node",
    "rule",
    "task_contributions",
]
