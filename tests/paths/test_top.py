"""The strongest single paths, against all paths enumerated one by one."""

from __future__ import annotations

import json

import pytest
import torch

from tests.paths.cases import ENUMERATED, TOLERANCE, case, said
from workbench import paths
from workbench.circuits.progress import Progress


def ranked(by_word: dict[tuple[str, ...], float]) -> list[tuple[tuple[str, ...], float]]:
    return sorted(by_word.items(), key=lambda one: -abs(one[1]))


@pytest.mark.parametrize("key", ENUMERATED)
@pytest.mark.parametrize("longest", [None, 2])
def test_the_first_paths_are_those_of_an_enumeration(key: str, longest: int | None) -> None:
    c = case(key)
    expected = ranked(
        {word: x for word, x in said(c.words, 3, None if c.once else -1).items() if len(word) - 1 <= (longest or 9)}
    )
    found = paths.top_paths(c.model, c.inputs, 3, k=12, longest=longest, budget=10_000)
    assert found.proven
    assert found.bound == 0
    assert found.complete
    assert [path.mean for path in found.paths] == pytest.approx([x for _, x in expected[:12]], abs=TOLERANCE)
    by_word = dict(expected)
    for path in found.paths:
        assert by_word[path.word] == pytest.approx(path.mean, abs=TOLERANCE)
    value = c.run.logits[3] if c.once else c.run.logits[-1, 3]
    assert float(found.value) == pytest.approx(float(value), abs=TOLERANCE)


@pytest.mark.parametrize("key", ENUMERATED)
def test_asked_for_all_it_finds_every_path_once(key: str) -> None:
    c = case(key)
    found = paths.top_paths(c.model, c.inputs, (4, 1), k=len(c.words), budget=10_000)
    words = [path.word for path in found.paths]
    assert len(words) == len(set(words))
    assert found.share == pytest.approx(1, abs=1e-3)
    missing = {w: float((x[4] - x[1]) if c.once else (x[-1, 4] - x[-1, 1])) for w, x in c.words.items()}
    assert all(abs(missing[word]) < TOLERANCE for word in set(missing) - set(words))


def test_the_bound_holds_for_what_a_small_budget_leaves_out() -> None:
    c = case("llama-grouped")
    found = paths.top_paths(c.model, c.inputs, 3, k=3, budget=1)
    assert found.expanded == 1
    assert not found.proven
    kept = {path.word for path in found.paths}
    assert max(abs(x) for w, x in said(c.words, 3, -1).items() if w not in kept) <= found.bound


def test_without_a_bound_the_search_runs_to_its_end_and_finds_the_same() -> None:
    c = case("llama-grouped")
    bounded, free = (paths.top_paths(c.model, c.inputs, 3, k=8, budget=10_000, prove=prove) for prove in (True, False))
    assert [p.word for p in bounded.paths] == [p.word for p in free.paths]
    assert bounded.expanded <= free.expanded
    assert paths.top_paths(c.model, c.inputs, 3, k=8, budget=1, prove=False).bound == float("inf")


def test_several_prompts_are_ranked_by_their_mean() -> None:
    c = case("llama-grouped")
    both = torch.cat((c.inputs, c.inputs.flip(1)))
    found = paths.top_paths(c.model, both, (4, 6), k=5, budget=10_000)
    for path in found.paths:
        exact = paths.query(c.model, both, path.name, (4, 6))
        assert torch.allclose(exact.contribution, path.contribution, atol=TOLERANCE)
    assert [abs(p.mean) for p in found.paths] == sorted((abs(p.mean) for p in found.paths), reverse=True)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["paths"][0]["path"] == found.paths[0].name
    assert set(found.components()) == {name for path in found.paths for name in path.word[1:]}


def test_a_stop_keeps_what_was_found() -> None:
    seen: list[Progress] = []

    def stop(at: Progress) -> bool:
        seen.append(at)
        return len(seen) < 2

    c = case("llama-grouped")
    found = paths.top_paths(c.model, c.inputs, 3, k=50, progress=stop)
    assert not found.complete
    assert found.expanded == 2
    assert found.paths


@pytest.mark.parametrize("option", [{"k": 0}, {"budget": 0}, {"longest": 99}, {"k": True}])
def test_numbers_that_make_no_sense(option: dict[str, int]) -> None:
    c = case("llama-grouped")
    with pytest.raises(ValueError, match=next(iter(option)) if "longest" not in option else "longest path"):
        paths.top_paths(c.model, c.inputs, 3, **option)


def test_too_many_tokens_are_refused_before_any_work() -> None:
    c = case("llama-grouped")
    with pytest.raises(ValueError, match="too many for a search of paths"):
        paths.top_paths(c.model, torch.ones(400_000, 8, dtype=torch.long), 3)
