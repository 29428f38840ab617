from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits, micro
from workbench.circuits.decomposition import Logits, comparison, phrases, words
from workbench.circuits.decomposition.phrases import Groups, interaction, n_merges, tree
from workbench.circuits.progress import Progress, Stopped
from workbench.models import Transformer, from_hf

N, RIGHT, WRONG = 6, 5, 9


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Transformer, Tensor]:
    """Hugging Face's model, ours, and a prompt."""
    hf = micro.hugging_face("llama-grouped").eval()
    return hf, from_hf(hf), torch.randint(0, 64, (1, N), generator=torch.Generator().manual_seed(2))


def by_hugging_face(hf: Any, tokens: Tensor, baseline: str) -> Callable[[Iterable[int]], float]:
    """The logit difference without some words, by giving Hugging Face's model other embeddings."""
    embeds = hf.get_input_embeddings()(tokens).detach()
    away = torch.zeros_like(embeds) if baseline == "zero" else embeds.mean(1, keepdim=True).expand_as(embeds)

    @torch.no_grad()
    def value(without: Iterable[int]) -> float:
        given = embeds.clone()
        for i in without:
            given[:, i] = away[:, i]
        logits = hf(inputs_embeds=given).logits[0, -1]
        return float(logits[RIGHT] - logits[WRONG])

    return value


def asked(model: Transformer, tokens: Tensor, rule: str = "exact", baseline: str = "zero") -> Groups:
    one = torch.tensor
    target = Logits(one([RIGHT]), one([WRONG]), one([N - 1]))
    return Groups(model, tokens, [[f"input@{i}"] for i in range(N)], target, rule=rule, baseline=baseline)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_by_the_rule_exact_a_group_gives_what_is_lost_without_it(pair, baseline: str) -> None:
    hf, model, tokens = pair
    value, groups = by_hugging_face(hf, tokens, baseline), asked(model, tokens, baseline=baseline)
    # All words against zero are left out: the stream is then zero itself, and norms blow rounding up to anything.
    wanted = [[0], [2, 3], [1, 5], [], *([range(N)] if baseline == "mean" else [])]
    found = groups(wanted)
    for group, gives in zip(wanted, found, strict=True):
        assert gives == pytest.approx(value([]) - value(group), abs=1e-4)
    assert groups.whole == pytest.approx(value([]), abs=1e-4)


def test_an_interaction_is_what_the_phrase_gives_beyond_its_words(pair) -> None:
    hf, model, tokens = pair
    value = by_hugging_face(hf, tokens, "zero")
    lost = {group: value([]) - value(group) for group in [(1, 2), (1,), (2,)]}
    gained = interaction(asked(model, tokens), [1, 2])
    assert gained == pytest.approx(lost[1, 2] - lost[1,] - lost[2,], abs=1e-4)
    assert abs(gained) > 1e-3


@pytest.mark.parametrize("rule", phrases.LINEAR)
def test_linear_rules_have_no_interactions_and_no_tree(pair, rule: str) -> None:
    _, model, tokens = pair
    groups = asked(model, tokens, rule)
    assert interaction(groups, range(N)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match=f"The rule '{rule}' is linear.*choose one of shapley, exact, paper"):
        tree(groups, [(0, 1)])


def test_frozen_parts_of_all_words_are_the_whole_where_nothing_has_a_bias(pair) -> None:
    _, model, tokens = pair
    groups = asked(model, tokens, "frozen")
    assert sum(groups([[i] for i in range(N)])) == pytest.approx(groups.whole, rel=1e-4)


def test_a_word_behind_the_target_gives_nothing(pair) -> None:
    _, model, tokens = pair
    one = torch.tensor
    for rule in ("shapley", "exact", "tangent", "frozen"):
        groups = Groups(model, tokens, [["input@4"], ["input@1"]], Logits(one([5]), at=one([2])), rule=rule)
        late, early = groups([[0], [1]])
        assert late == 0
        assert early != 0


def test_each_group_is_run_once(pair) -> None:
    _, model, tokens = pair
    groups, steps = asked(model, tokens), []
    report = phrases.Reporter(lambda at: steps.append(at.done), 9, "")
    groups([[0], [1, 2], [2, 1], [0]], report)
    groups([[0], [3]], report)
    assert len(steps) == groups.known == 3


# -- trees ----------------------------------------------------------------------------------------------------


class Made:
    """Groups whose values are made up."""

    def __init__(self, n: int, value: Callable[[frozenset[int]], float], rule: str = "exact") -> None:
        self.n, self.value = n, value
        self.rule = SimpleNamespace(key=rule, by_runs=rule == "exact")
        self.whole = value(frozenset(range(n)))

    def __len__(self) -> int:
        return self.n

    def __call__(self, groups: Iterable[Iterable[int]], report: Any = None) -> list[float]:
        found = []
        for group in groups:
            going = report is None or report.going
            found.append(self.value(frozenset(group)) if going else math.nan)
            if going and report is not None:
                report.step()
        return found


def drawn(seed: int) -> Callable[[frozenset[int]], float]:
    """A random number for each set."""
    return lambda group: float(torch.randn(1, generator=torch.Generator().manual_seed(hash(group) ^ seed)))


def brute(n: int, touch: set[tuple[int, int]], value: Callable[[frozenset[int]], float]) -> list[set[int]]:
    """The groups in the order of joining: every pair of groups is tried anew at every step."""
    groups, joined = [frozenset([i]) for i in range(n)], []
    while True:
        pairs = [
            (abs(value(a | b) - value(a) - value(b)) / len(a) / len(b), a, b)
            for a, b in itertools.combinations(groups, 2)
            if any((i, j) in touch or (j, i) in touch for i in a for j in b)
        ]
        if not pairs:
            return joined
        _, a, b = max(pairs, key=lambda pair: pair[0])
        groups = [group for group in groups if group not in (a, b)] + [a | b]
        joined.append(set(a | b))


@given(n=st.integers(2, 7), seed=st.integers(0, 10_000), rows=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_the_tree_joins_the_neighbours_that_interact_most(n: int, seed: int, rows: int) -> None:
    grid = [[row * n + column for column in range(n)] for row in range(rows)]
    across = [(a, b) for row in grid for a, b in itertools.pairwise(row)]
    down = [(a, b) for above, below in itertools.pairwise(grid) for a, b in zip(above, below, strict=True)]
    groups, touch = Made(rows * n, drawn(seed)), [*across, *down]
    found = tree(groups, touch)  # type: ignore[arg-type]
    assert [set(merge.members) for merge in found] == brute(rows * n, set(touch), groups.value)
    members: dict[int, frozenset[int]] = {i: frozenset([i]) for i in range(rows * n)}
    for k, merge in enumerate(found):
        left, right = members[merge.left], members[merge.right]
        assert left | right == set(merge.members)
        assert not left & right
        assert merge.value == groups.value(left | right)
        assert merge.interaction == pytest.approx(merge.value - groups.value(left) - groups.value(right))
        members[rows * n + k] = left | right
    assert len(found) == n_merges(touch) == rows * n - 1


def test_words_that_do_not_touch_stay_apart() -> None:
    found = tree(Made(5, drawn(1)), [(0, 1), (3, 4)])  # type: ignore[arg-type]
    assert sorted(merge.members for merge in found) == [(0, 1), (3, 4)]
    assert n_merges([(0, 1), (3, 4)]) == 2


def test_a_tree_that_is_stopped_keeps_what_is_joined() -> None:
    said: list[Progress] = []

    def stop(at: Progress) -> bool:
        said.append(at)
        return not (at.what == "joining groups" and at.done == 2)

    found = tree(Made(6, drawn(3)), [(i, i + 1) for i in range(5)], progress=stop)  # type: ignore[arg-type]
    assert len(found) == 2
    assert said[-1].total == 5
    with pytest.raises(Stopped):
        tree(Made(6, drawn(3)), [(0, 1)], progress=lambda at: False)  # type: ignore[arg-type]


def test_the_tree_of_a_real_run_ends_with_all_words(pair) -> None:
    _, model, tokens = pair
    groups = asked(model, tokens, "shapley")
    found = tree(groups, [(i, i + 1) for i in range(N - 1)])
    assert found[-1].members == tuple(range(N))
    assert found[-1].value == pytest.approx(groups([range(N)])[0])


def test_patches_join_on_their_grid() -> None:
    model = digits.vision()
    cut = words.patches(model, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    groups = Groups(model, cut.tensor, [[part.place] for part in cut.parts], Logits(torch.tensor([7])), rule="exact")
    found = tree(groups, cut.neighbours)
    assert found[-1].members == tuple(range(1, 17))


# -- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"places": []}, "There is no source"),
        ({"places": [["input@7-9"]]}, "'input@7-9' names positions that prompt 0 does not have: it has 6, 0 to 5"),
        ({"places": [["a9.h0"]]}, "'a9.h0' does not exist: this model has layers 0 to 1"),
        ({"rule": "shaply"}, "did you mean 'shapley'"),
        ({"baseline": "none"}, "Unknown baseline 'none'; choose zero, mean"),
        ({"budget": 10}, "is too small for one source"),
    ],
)
def test_a_bad_question_is_refused_at_once(pair, changed: dict[str, Any], told: str) -> None:
    _, model, tokens = pair
    given = {"places": [["input@0"]], "target": Logits(torch.tensor([1]), at=torch.tensor([5]))} | changed
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Groups(model, tokens, given.pop("places"), given.pop("target"), **given)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# -- curves ---------------------------------------------------------------------------------------------------


def test_the_areas_of_a_sum_are_those_by_hand() -> None:
    gives = [1.0, 3.0]
    groups = Made(2, lambda group: sum(gives[i] for i in group))
    curves = comparison.insertion_deletion(groups, [1, 0])  # type: ignore[arg-type]
    assert curves.deletion == (4, 1, 0)
    assert curves.insertion == (0, 3, 4)
    assert curves.deletion_area == pytest.approx((1 + 2 * 0.25 + 0) / 4)
    assert curves.insertion_area == pytest.approx((0 + 2 * 0.75 + 1) / 4)


@given(gives=st.lists(st.floats(0.1, 5), min_size=2, max_size=7), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_order_of_a_sum_beats_the_sorted_one(gives: list[float], seed: int) -> None:
    groups: Any = Made(len(gives), lambda group: sum(gives[i] for i in group))
    best = comparison.insertion_deletion(groups, sorted(range(len(gives)), key=lambda i: -gives[i]))
    other = torch.randperm(len(gives), generator=torch.Generator().manual_seed(seed)).tolist()
    found = comparison.insertion_deletion(groups, other)
    assert best.deletion_area <= found.deletion_area + 1e-9
    assert best.insertion_area >= found.insertion_area - 1e-9
    assert found.deletion_area + comparison.insertion_deletion(groups, other).insertion_area == pytest.approx(1)


def test_curves_run_the_model_without_the_words(pair) -> None:
    hf, model, tokens = pair
    value = by_hugging_face(hf, tokens, "mean")
    curves = comparison.insertion_deletion(asked(model, tokens, baseline="mean"), [3, 0, 5])
    assert curves.deletion == pytest.approx([value(gone) for gone in ([], [3], [3, 0], [3, 0, 5])], abs=1e-4)
    assert curves.insertion == pytest.approx([value(gone) for gone in ([3, 0, 5], [0, 5], [5], [])], abs=1e-4)


def test_curves_refuse_another_rule_and_a_bad_ranking(pair) -> None:
    _, model, tokens = pair
    with pytest.raises(ValueError, match="use rule 'exact', not frozen"):
        comparison.insertion_deletion(asked(model, tokens, "frozen"), [0])
    for ranking in ([0, 0], [0, 6], [-1]):
        with pytest.raises(ValueError, match="each source at most once, by its number from 0 to 5"):
            comparison.insertion_deletion(asked(model, tokens), ranking)


# -- other people's methods -------------------------------------------------------------------------------------


def test_a_missing_package_is_one_sentence_with_the_remedy(pair, monkeypatch) -> None:
    _, model, tokens = pair
    monkeypatch.setitem(__import__("sys").modules, "shap", None)
    with pytest.raises(
        ValueError, match=r"shap is not installed; get it with: pip install 'mi-workbench\[attribution\]'"
    ):
        comparison.shapley_values(asked(model, tokens))


def test_shap_gives_shapley_values(pair) -> None:
    pytest.importorskip("shap", reason="shap is not installed: pip install 'mi-workbench[attribution]'")
    hf, model, tokens = pair
    value = by_hugging_face(hf, tokens, "mean")
    kept = {
        some: value(set(range(N)) - set(some)) for k in range(N + 1) for some in itertools.combinations(range(N), k)
    }
    wanted = []
    for i in range(N):
        others = [some for some in kept if i not in some]
        gains = [kept[tuple(sorted((*some, i)))] - kept[some] for some in others]
        weights = [math.factorial(len(s)) * math.factorial(N - 1 - len(s)) / math.factorial(N) for s in others]
        wanted.append(sum(w * g for w, g in zip(weights, gains, strict=True)))
    found = comparison.shapley_values(asked(model, tokens, baseline="mean"), rounds=100)
    assert found == pytest.approx(wanted, abs=0.1 * max(map(abs, wanted)))
    assert sum(found) == pytest.approx(kept[tuple(range(N))] - kept[()], abs=1e-3)


def test_shap_of_many_words_adds_up_and_can_be_stopped() -> None:
    pytest.importorskip("shap", reason="shap is not installed: pip install 'mi-workbench[attribution]'")
    groups: Any = Made(12, lambda group: float(sum(group) + (3 in group and 4 in group)))
    found = comparison.shapley_values(groups, rounds=4)
    assert sum(found) == pytest.approx(groups.whole)
    assert found[3:5] == pytest.approx([3.5, 4.5])  # exact: no three words interact
    assert found[7] == pytest.approx(7)
    with pytest.raises(Stopped):
        comparison.shapley_values(groups, progress=lambda at: at.done < 5)


def test_integrated_gradients_are_those_of_hugging_faces_model(pair) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'mi-workbench[attribution]'")
    hf, model, tokens = pair
    start = hf.get_input_embeddings()(tokens).detach()
    away = start.mean(1, keepdim=True).expand_as(start)
    wanted, steps = torch.zeros(N), 200
    for k in range(steps):
        at = (away + (start - away) * (k + 0.5) / steps).requires_grad_()
        logits = hf(inputs_embeds=at).logits[0, -1]
        (gradient,) = torch.autograd.grad(logits[RIGHT] - logits[WRONG], at)
        wanted += (gradient * (start - away))[0].sum(-1) / steps
    found = comparison.integrated_gradients(asked(model, tokens, "frozen", "mean"), steps=100)
    assert found == pytest.approx(wanted.tolist(), abs=0.01)
    value = by_hugging_face(hf, tokens, "mean")
    assert sum(found) == pytest.approx(value([]) - value(range(N)), abs=0.01)


def test_integrated_gradients_refuse_heads_and_places(pair) -> None:
    pytest.importorskip("captum", reason="captum is not installed: pip install 'mi-workbench[attribution]'")
    _, model, tokens = pair
    target = Logits(torch.tensor([1]), at=torch.tensor([5]))
    with pytest.raises(ValueError, match="Integrated gradients are of the input"):
        comparison.integrated_gradients(Groups(model, tokens, [["a0.h1"]], target))
    from workbench.circuits.decomposition import node

    with pytest.raises(ValueError, match=r"need a logit, a class or a similarity, not 'a1\.h0'"):
        comparison.integrated_gradients(Groups(model, tokens, [["input@0"]], node("a1.h0", model)))
