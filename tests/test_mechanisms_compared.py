"""The comparison of attention mechanisms: its task, its numbers, a short training, and what the record claims."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import attention_mechanisms as compared
import pytest
import torch
from comparison.backcopy import Backcopy
from comparison.metrics import kurtosis, pattern_numbers, residual_numbers, row_entropy
from comparison.training import Settings, Variant, losses, measure, model_of, run, train, variants
from torch import Tensor

from workbench.models.mechanisms import MECHANISMS

SMALL = Backcopy(vocab=5, triggers=1, rate=0.3)
BRIEF = Settings(steps=30, warmup=5, layers=2, length=32, test_sequences=16)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return compared.read(compared.RECORD)


@pytest.fixture(scope="module")
def rows(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in record["rows"]}


# -- the task -------------------------------------------------------------------------------------------------


def test_rows_of_the_table_are_distributions_and_triggers_have_none() -> None:
    task = Backcopy()
    used = torch.ones(task.vocab, dtype=torch.bool)
    used[1 : task.triggers + 1] = False
    torch.testing.assert_close(task.table.sum(-1), used.double())
    plain = task.table[task.triggers + 1 :, 1 : task.triggers + 1].sum(-1)
    torch.testing.assert_close(plain, torch.full_like(plain, task.rate))
    assert not task.table[:, 0].any()


def test_what_is_drawn_follows_the_table_and_the_copy_rule() -> None:
    tokens = SMALL.draw(4000, 24, torch.Generator().manual_seed(0))
    assert not tokens[:, 0].any()
    assert (tokens[:, 1:] > 0).all()
    asked = SMALL.is_trigger(tokens[:, 1:-1])
    assert torch.equal(tokens[:, 2:][asked], tokens[:, :-2][asked])
    last, after = tokens[:, :-1].flatten(), tokens[:, 1:].flatten()
    for token in (0, 2, 3, 4):
        counts = torch.bincount(after[last == token], minlength=SMALL.vocab).double()
        expected = SMALL.table[token]
        error = (expected * (1 - expected) / counts.sum()).sqrt()
        assert ((counts / counts.sum() - expected).abs() <= 4 * error + 1e-12).all()


def test_the_same_seed_draws_the_same_sequences() -> None:
    first, second = (SMALL.draw(3, 9, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def probability(tokens: tuple[int, ...]) -> tuple[float, float]:
    """By the rule as it is told: how likely the sequence is, and the entropy of what follows its last token."""
    likely = 1.0
    for place in range(1, len(tokens)):
        last, token = tokens[place - 1], tokens[place]
        copied = 1 <= last <= SMALL.triggers
        likely *= float(token == tokens[place - 2]) if copied else float(SMALL.table[last, token])
    row = [float(p) for p in SMALL.table[tokens[-1]]]
    return likely, -sum(p * math.log(p) for p in row if p)


def test_the_known_entropy_is_that_of_all_sequences_counted_one_by_one() -> None:
    length, total, at_bigrams = 5, 0.0, 0.0
    for shown in range(1, length + 1):
        for rest in itertools.product(range(SMALL.vocab), repeat=shown - 1):
            likely, entropy = probability((0, *rest))
            if likely:
                total += likely * entropy
                at_bigrams += likely * (not 1 <= (0, *rest)[-1] <= SMALL.triggers)
    mean, bigram = SMALL.entropy(length)
    assert mean == pytest.approx(total / length)
    assert bigram == pytest.approx(total / at_bigrams)


def test_a_model_that_knows_the_truth_has_no_excess() -> None:
    tokens = SMALL.draw(200, 13, torch.Generator().manual_seed(0))
    found = losses(SMALL.next_probabilities(tokens[:, :-1]).clamp(min=1e-30).log(), tokens, SMALL)
    assert found["loss"] == pytest.approx(SMALL.entropy(12)[0])
    for name in ("excess", "excess bigram", "excess copy", "sampled"):
        assert found[name] == pytest.approx(0, abs=1e-9)


def test_a_model_that_knows_nothing_is_off_by_what_it_does_not_know() -> None:
    tokens = SMALL.draw(200, 13, torch.Generator().manual_seed(0))
    found = losses(torch.zeros(200, 12, SMALL.vocab), tokens, SMALL)
    assert found["excess copy"] == pytest.approx(math.log(SMALL.vocab))
    seen = tokens[:, :-1][~SMALL.is_trigger(tokens[:, :-1])]
    assert found["excess bigram"] == pytest.approx(math.log(SMALL.vocab) - float(SMALL.row_entropy[seen].mean()))


# -- the numbers ----------------------------------------------------------------------------------------------


def uniform(size: int) -> Tensor:
    """Equal weights over the visible keys [layer, batch, head, query, key]."""
    lower = torch.ones(size, size).tril()
    return (lower / lower.sum(-1, keepdim=True))[None, None, None]


def test_numbers_of_a_uniform_pattern() -> None:
    found = pattern_numbers(uniform(12))
    lengths = range(9, 13)
    assert found["entropy"] == pytest.approx(sum(math.log(n) for n in lengths) / 4)
    assert found["sink"] == found["sink strongest"] == pytest.approx(sum(1 / n for n in lengths) / 4)
    assert found["sink mass"] == pytest.approx(found["sink"])
    assert (found["zeros"], found["empty"]) == (0, 0)
    assert found["row sum"] == pytest.approx(1)


def test_numbers_of_a_pattern_that_sees_the_first_token_only_and_of_one_that_never_does() -> None:
    patterns = torch.zeros(2, 1, 1, 10, 10)
    patterns[0, ..., 0] = 1
    patterns[1] = torch.eye(10)
    found = pattern_numbers(patterns)
    assert found["entropy"] == 0
    assert (found["sink"], found["sink strongest"]) == (0.5, 1)
    assert found["zeros"] == pytest.approx((8 + 9) / (9 + 10))


def test_weights_need_not_sum_to_one_nor_be_positive() -> None:
    pattern = uniform(12) * 3
    pattern[..., 1] *= -1
    plain, found = pattern_numbers(uniform(12)), pattern_numbers(pattern)
    assert found["sink mass"] == pytest.approx(3 * plain["sink mass"])
    assert found["row sum"] == pytest.approx(3)
    for name in ("entropy", "sink", "zeros"):
        assert found[name] == pytest.approx(plain[name])


def test_rows_of_zeros_are_left_out_of_shares_and_counted() -> None:
    patterns = uniform(12).repeat(1, 2, 1, 1, 1)
    patterns[:, 1] = 0
    plain, found = pattern_numbers(uniform(12)), pattern_numbers(patterns)
    assert found["empty"] == 0.5
    assert found["zeros"] == pytest.approx(0.5)
    assert found["sink mass"] == pytest.approx(plain["sink mass"] / 2)
    for name in ("entropy", "sink", "sink strongest"):
        assert found[name] == pytest.approx(plain[name])
    assert not row_entropy(patterns[:, 1]).any()


def test_kurtosis_of_normal_flat_and_spiked_vectors() -> None:
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert float(kurtosis(normal)) == pytest.approx(3, abs=0.1)
    assert float(kurtosis(torch.tensor([1.0, -1.0] * 8))) == pytest.approx(1)
    spike = torch.zeros(64)
    spike[5] = 100
    assert float(kurtosis(spike)) == pytest.approx(62 + 1 / 63, rel=1e-3)


def test_the_residual_stream_is_judged_after_the_last_block_and_its_largest_entry_anywhere() -> None:
    streams = torch.tensor([1.0, -1.0] * 4).expand(2, 3, 4, 8).clone()
    streams[0, 1, 2, 3] = -50
    streams[1, :, 0] = torch.tensor([8.0] + [0.0] * 7)
    found = residual_numbers(streams)
    assert found["largest"] == 50
    assert found["kurtosis first"] == pytest.approx(float(kurtosis(streams[1, 0, 0])))
    assert found["kurtosis"] == pytest.approx((found["kurtosis first"] + 3) / 4)


# -- training -------------------------------------------------------------------------------------------------


def test_every_mechanism_is_compared_and_two_more_choices() -> None:
    keys = [variant.key for variant in variants()]
    assert {mechanism.key for mechanism in MECHANISMS} | {"sigmoid-0", "sigma"} == set(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("key", ["softmax", "softpick", "sigma"])
def test_a_few_steps_lower_the_loss(key: str) -> None:
    variant = next(one for one in variants() if one.key == key)
    model = model_of(variant, BRIEF, SMALL, 0)
    before = measure(model, SMALL, BRIEF)["excess"]
    assert [done for done, _ in train(model, SMALL, BRIEF, 0)] == list(range(1, 31))
    assert measure(model, SMALL, BRIEF)["excess"] < before / 2


def test_training_twice_gives_the_same_numbers() -> None:
    variant = Variant("softmax", "Softmax", "softmax")
    found = []
    for _ in range(2):
        model = model_of(variant, BRIEF, SMALL, 3)
        found.append([loss for _, loss in train(model, SMALL, BRIEF, 3)])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_run_shorter_than_the_early_look_still_has_every_number() -> None:
    found = run(Variant("softmax", "Softmax", "softmax"), replace(BRIEF, steps=3), SMALL, 0)
    assert set(found) == {"key", "seed", *compared.NUMBERS}
    assert found["early excess"] == found["excess"]


def test_a_record_goes_on_where_it_was_and_refuses_other_settings(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def quick(variant: Variant, settings: Settings, task: Backcopy, seed: int) -> dict[str, Any]:
        trained.append((variant.key, seed))
        return {"key": variant.key, "seed": seed} | dict.fromkeys(compared.NUMBERS, float(seed))

    monkeypatch.setattr(compared, "run", quick)
    path, two = tmp_path / "record.json", variants()[:2]
    compared.complete(path, two[:1], BRIEF, SMALL, 2)
    compared.complete(path, two, BRIEF, SMALL, 2)
    assert trained == [("softmax", 0), ("softmax", 1), ("temperature", 0), ("temperature", 1)]
    assert [(row["key"], row["seeds"], row["loss"]) for row in compared.read(path)["rows"]] == [
        ("softmax", 2, 0.5),
        ("temperature", 2, 0.5),
    ]
    with pytest.raises(SystemExit, match="other settings"):
        compared.complete(path, two, Settings(), SMALL, 2)


# -- the record -----------------------------------------------------------------------------------------------


def test_the_record_holds_every_mechanism_with_the_settings_of_today(record: dict[str, Any]) -> None:
    assert record["settings"] == Settings().to_dict()
    assert [row["key"] for row in record["rows"]] == [variant.key for variant in variants()]
    assert record["rows"] == compared.rows_of_runs(record["runs"])
    assert record["entropy"] == Backcopy().entropy(Settings().length)[0]


def test_the_page_shows_the_record(record: dict[str, Any]) -> None:
    page = compared.PAGE.read_text(encoding="utf-8")
    assert compared.filled(page, record) == page
    for name in compared.TABLES:
        assert f"<!-- {name} -->" in page


def by_seed(record: dict[str, Any], key: str, name: str) -> list[float]:
    """One number of one mechanism, seed after seed."""
    return [one[name] for one in sorted(record["runs"], key=lambda one: one["seed"]) if one["key"] == key]


def test_softpick_has_no_sink_and_less_kurtosis_than_softmax(record: dict[str, Any]) -> None:
    for name in ("sink strongest", "sink mass", "kurtosis", "kurtosis first"):
        pairs = zip(by_seed(record, "softpick", name), by_seed(record, "softmax", name), strict=True)
        assert all(softpick < softmax for softpick, softmax in pairs), name
    assert max(by_seed(record, "softpick", "sink strongest")) < 0.15
    assert sum(sink > 0.5 for sink in by_seed(record, "softmax", "sink strongest")) == 2


def test_entmax_has_exact_zeros_where_alpha_is_fixed(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["softmax"]["zeros"] == 0
    assert min(rows[key]["zeros"] for key in ("sparsemax", "entmax15")) > 0.95
    assert rows["entmax"]["zeros"] < 0.01


def test_sigmoid_keeps_up_and_its_bias_matters_early(record: dict[str, Any]) -> None:
    for name, near in (("excess", 0.0005), ("early excess", 0.02)):
        assert by_seed(record, "sigmoid", name) == pytest.approx(by_seed(record, "softmax", name), abs=near)
    pairs = zip(by_seed(record, "sigmoid", "early excess"), by_seed(record, "sigmoid-0", "early excess"), strict=True)
    assert all(with_log_n < without - 0.05 for with_log_n, without in pairs)


def test_sigma_reparametrised_layers_keep_entropy_up(record: dict[str, Any]) -> None:
    assert min(by_seed(record, "sigma", "entropy")) > max(by_seed(record, "softmax", "entropy"))
    assert max(by_seed(record, "value-residual", "sink strongest")) < 0.1


def test_only_sinkhorn_sees_the_future(rows: dict[str, dict[str, Any]]) -> None:
    assert [key for key, row in rows.items() if row["sampled"] < 0] == ["sinkhorn"]
