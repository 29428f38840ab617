"""``shapley`` and ``paper`` step by step: against their formulas written out in numpy."""

from __future__ import annotations

import pytest
import torch

from tests.circuits.decomposition.cases import assert_close, model_of, pair
from tests.circuits.decomposition.plain_rules import PlainRules
from workbench.circuits.decomposition import decompose

TOKENS = [[3, 9, 27, 17, 50], [8, 8, 13, 40, 5]]


@pytest.mark.parametrize("rule", ["shapley", "paper"])
@pytest.mark.parametrize("source", ["input@1-2", "input@4", "a0.h1", "a0.h2@3", "a1.h0@1"])
@pytest.mark.parametrize("key", ["gpt2", "llama-grouped", "llama-ungrouped", "llama-biased"])
def test_parts_of_the_logits_are_what_the_formulas_say(key: str, source: str, rule: str) -> None:
    hf, _ = pair(key, double=True)
    plain = PlainRules(hf, rule)
    place, _, at = source.partition("@")
    first, _, last = at.partition("-")
    positions = list(range(int(first), int(last or first) + 1)) if at else list(range(5))
    head = None if place == "input" else (int(place[1]), int(place[4]))
    found = decompose(model_of(key, double=True), torch.tensor(TOKENS), [source], rule=rule).relevant
    for row, tokens in enumerate(TOKENS):
        expected = torch.from_numpy(plain.run(tokens, positions, head))
        # Angles of rotary positions are worked out in float32.
        assert_close(found[row], expected, 1e-5)
