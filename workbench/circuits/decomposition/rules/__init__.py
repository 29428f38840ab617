"""Decomposition rules by name."""

from __future__ import annotations

from typing import Literal

from workbench.circuits.decomposition.rules.exact import Exact
from workbench.circuits.decomposition.rules.frozen import Frozen
from workbench.circuits.decomposition.rules.paper import Paper
from workbench.circuits.decomposition.rules.record import Rule
from workbench.circuits.decomposition.rules.shapley import Shapley
from workbench.circuits.decomposition.rules.tangent import Tangent
from workbench.models.lookup import pick

RuleKey = Literal["shapley", "exact", "tangent", "frozen", "paper"]

RULES: list[Rule] = [Shapley(), Exact(), Tangent(), Frozen(), Paper()]


def find(key: str) -> Rule:
    """The rule called ``key``.

    Raises:
        ValueError: there is none; the message suggests the closest.
    """
    return pick(RULES, key, "decomposition rule")


__all__ = ["RULES", "Rule", "RuleKey", "find"]
