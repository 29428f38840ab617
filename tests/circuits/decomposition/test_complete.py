"""Numbers that became too large are told apart from sources that a stop left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from workbench.circuits.decomposition import contributions, phrases
from workbench.circuits.decomposition.answers import answer
from workbench.models import Transformer

TEXT = "When Mary and John went to the store, John gave a drink to"


def test_values_that_overflow_were_reached(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: Any, **__: Any) -> Any:
        return torch.full((3, 1), math.nan), torch.ones(1), torch.tensor([True, True, False])

    monkeypatch.setattr("workbench.circuits.decomposition.phrases.carry", overflow)
    tokens = model.to_tokens(TEXT)
    groups = phrases.Groups(model, tokens, [["m0"], ["m1"], ["a0.h0"]], answer(model, tokens)[0])
    groups([[0], [1], [2]])
    assert groups.known == 2


@pytest.mark.parametrize("reached", [True, False])
def test_contributions_are_complete_where_numbers_overflow_but_not_after_a_stop(
    model: Transformer, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    lost = torch.full((1, 1), math.nan), torch.ones(1), torch.tensor([reached])
    monkeypatch.setattr("workbench.circuits.decomposition.split.carry", lambda *_, **__: lost)
    tokens = model.to_tokens(TEXT)
    found = contributions(model, tokens, ["m0"], answer(model, tokens)[0])
    assert found.complete == reached
