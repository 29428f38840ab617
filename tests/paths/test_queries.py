"""Queries and counts, against paths enumerated one by one and filtered by Python's ``re``."""

from __future__ import annotations

import json
from math import comb

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.circuits.decomposition.cases import pair
from tests.paths.cases import ENUMERATED, TOLERANCE, Case, case, length, said
from tests.paths.test_pattern import Both, grown, leaf, word
from workbench import paths
from workbench.paths.automaton import by_kind, by_length, everything
from workbench.paths.counts import binomial, bucketed, shares

LEAVES = st.sampled_from(["a", "m", ".", "a1", "m0", "a0-1", "a0.h1", "a1.h0", "m1"]).map(leaf)
PATTERNS = st.recursive(LEAVES, grown, max_leaves=5)


def translated(both: Both) -> Both:
    """For two layers of up to four heads."""
    return Both(both.ours, both.theirs.replace("[0-3]", "[0-1]"))


@pytest.mark.parametrize("key", ENUMERATED)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_query_is_the_sum_of_the_paths_that_match(key: str, data: st.DataObject) -> None:
    import re

    c = case(key)
    asked = [translated(both) for both in data.draw(st.lists(PATTERNS, min_size=1, max_size=3))]
    starts = [data.draw(st.sampled_from(["", "embed ", "bias "])) for _ in asked]
    at = None if c.once else data.draw(st.integers(0, c.width - 1))
    token = data.draw(st.integers(0, c.n_out - 1))
    by_word = said(c.words, token, at)
    results = paths.query(
        c.model, c.inputs, [f"{s}({b.ours})" for s, b in zip(starts, asked, strict=True)], token, at=at
    )
    for start, both, result in zip(starts, asked, results, strict=True):
        begins = f"<{start.strip()}>" if start else "<(embed|bias)>"
        # What an attention adds beside its heads is one of its components, but none that a path could pass.
        match = [w for w in by_word if re.fullmatch(f"{begins}(?:{both.theirs})", word(list(w)))]
        assert float(result.contribution) == pytest.approx(sum(by_word[w] for w in match), abs=TOLERANCE)
        assert result.n_paths == len([w for w in match if there(c, w)])
        assert result.counts == [
            len([w for w in match if there(c, w) and length(w) == k]) for k in range(len(result.counts))
        ]


def there(c: Case, w: tuple[str, ...]) -> bool:
    """Whether the path is counted: the readout of a model may add nothing."""
    return w != ("bias",) or bool((c.run.added != 0).any())


@pytest.mark.parametrize("key", ENUMERATED)
def test_everything_is_the_forward_pass_and_counts_every_path(key: str) -> None:
    c = case(key)
    result = paths.query(c.model, c.inputs, ".*", 3)
    value = c.run.logits[3] if c.once else c.run.logits[-1, 3]
    assert float(result.contribution) == pytest.approx(float(value), abs=TOLERANCE)
    assert float(result.share) == pytest.approx(1, abs=TOLERANCE)
    assert result.n_paths == len([w for w in c.words if there(c, w)])


def test_a_query_at_a_position_of_several_prompts() -> None:
    c = case("llama-biased")
    result = paths.query(c.model, torch.cat((c.inputs, c.inputs.flip(1))), "embed a+ m1", (4, 6), at=2)
    expected = sum(
        x[2, 4] - x[2, 6]
        for w, x in c.words.items()
        if w[0] == "embed" and w[-1] == "m1" and "m0" not in w and len(w) > 2
    )
    assert float(result.contribution[0]) == pytest.approx(float(expected), abs=TOLERANCE)
    assert result.contribution.shape == result.share.shape == (2,)
    found = json.loads(json.dumps(result.to_dict()))
    assert found["pattern"] == "embed a+ m1"
    assert found["n_paths"] == str(result.n_paths) == "24"  # 4 + 4 heads alone, and both: (1 + 4)^2 - 1


def test_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no pattern"):
        paths.query(pair("gpt2")[1], torch.tensor([[1, 2]]), [], 3)


# -- counts ---------------------------------------------------------------------------------------------------


GPT2_SMALL = paths.Alphabet(12, 12)


def test_paths_of_gpt_2_small() -> None:
    by_head, by_block = (paths.path_counts(GPT2_SMALL, level) for level in ("head", "block"))
    assert sum(by_head) == 26**12 == 95428956661682176
    assert paths.mean_length(by_head) == pytest.approx(12 * (12 / 13 + 1 / 2))  # 17.08
    assert sum(by_block) == 2**24 == 16_777_216
    assert paths.mean_length(by_block) == 12
    assert by_block == [comb(24, k) for k in range(25)]
    assert shares(by_block) == pytest.approx(binomial(24))


@pytest.mark.parametrize("key", ENUMERATED)
def test_counts_by_length_are_those_of_the_enumeration(key: str) -> None:
    c = case(key)
    counts = paths.path_counts(c.model)
    from_embedding = [w for w in c.words if w[0] == "embed"]
    assert counts == [len([w for w in from_embedding if length(w) == k]) for k in range(len(counts))]


def test_the_automata_of_lengths_and_kinds_count_what_their_names_say() -> None:
    alphabet = paths.Alphabet(3, 4)
    whole = paths.count(everything(alphabet))[0]
    found = paths.count(by_length(alphabet, 2, apart=False))
    assert [row[k] for k, row in enumerate(found[:3])] == whole[:3]
    assert [sum(row) for row in found] == bucketed(whole, 2)
    automaton, cells = by_kind(alphabet, 6)
    for cell, row in zip(cells, paths.count(automaton), strict=True):
        assert cell is not None
        assert sum(row) == comb(3, cell[0]) * 4 ** cell[0] * comb(3, cell[1])


def test_parallel_blocks_have_no_path_from_an_attention_to_its_own_mlp() -> None:
    assert paths.path_counts(paths.Alphabet(2, 3, parallel=True)) == [1, 8, 16]  # (1 + 4z)^2


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'layer'"):
        paths.path_counts(GPT2_SMALL, "layer")
