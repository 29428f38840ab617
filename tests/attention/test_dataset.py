from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from tests import digits
from tests.attention import brute
from workbench.attention import MEASURES, by_token, statistics, statistics_over
from workbench.attention.running import Running, RunningByToken
from workbench.models import Transformer

TEXTS = [
    "When Mary and John went to the store",
    "Then Mary gave a drink to John",
    "a b c",
    "The store was closed, so John and Mary went home again in the rain",
    "Mary Mary Mary Mary Mary",
    "When",
]


def test_means_are_those_of_the_texts_one_by_one(model: Transformer) -> None:
    over = statistics_over(model, TEXTS, batch_size=4, follow=("entropy", "normalised_entropy"))
    alone = [statistics(model, text) for text in TEXTS]
    assert over.complete
    assert over.n_texts == len(TEXTS)
    assert over.n_rows == sum(int(found.real.sum()) for found in alone)
    for key in (measure.key for measure in MEASURES):
        draws = torch.stack([found.value(key) for found in alone]).double().numpy()
        np.testing.assert_allclose(over.value(key), np.nanmean(draws, 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(over.means[key].spread, np.nanstd(draws, 0, ddof=1), rtol=1e-4, atol=1e-6)
    assert torch.equal(over.entropy, over.value("entropy"))
    # The text of one token has no normalised entropy.
    assert (over.means["normalised_entropy"].n == len(TEXTS) - 1).all()
    longest = max(found.real.shape[1] for found in alone)
    for at in range(longest):
        draws = [found.row("entropy")[:, :, 0, at] for found in alone if found.real.shape[1] > at]
        expected = torch.stack(draws).mean(0).double()
        torch.testing.assert_close(over.by_position("entropy")[:, :, at], expected, rtol=1e-5, atol=1e-6)
        assert (over.positions["entropy"].n[:, :, at] == len(draws)).all()


def test_the_interval_is_students(model: Transformer) -> None:
    over = statistics_over(model, TEXTS, level=0.9)
    draws = torch.stack([statistics(model, text).entropy for text in TEXTS]).double().numpy()
    low, high = scipy_stats.t.interval(0.9, len(TEXTS) - 1, draws.mean(0), scipy_stats.sem(draws))
    np.testing.assert_allclose(over.means["entropy"].low, low, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(over.means["entropy"].high, high, rtol=1e-4, atol=1e-5)
    assert statistics_over(model, TEXTS[:1]).means["entropy"].half_width.isnan().all()


def test_a_tokens_mean_is_over_its_queries(model: Transformer) -> None:
    over = by_token(statistics_over(model, TEXTS, batch_size=2, follow=("normalised_entropy",)), "normalised_entropy")
    rows: dict[int, list[torch.Tensor]] = {}
    for text in TEXTS:
        found = statistics(model, text)
        assert found.tokens is not None
        for at, token in enumerate(found.tokens[0].tolist()):
            if at:  # the first query sees one key
                rows.setdefault(token, []).append(found.row("normalised_entropy")[:, :, 0, at])
    assert over.ids.tolist() == sorted(rows)
    for token, n, mean in zip(over.ids.tolist(), over.n.tolist(), over.mean, strict=True):
        assert n == len(rows[token])
        torch.testing.assert_close(mean, torch.stack(rows[token]).double().mean(0), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_running_means_do_not_depend_on_the_batches(data: Any) -> None:
    seed, sizes = data.draw(st.integers(0, 999)), data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(seed)
    running, widest = Running(), data.draw(st.integers(1, 4))
    values = torch.full((2, widest + 3, sum(sizes)), torch.nan, dtype=torch.float64)
    start = 0
    for size in sizes:
        width = int(torch.randint(1, widest + 4, (), generator=generator))
        batch = 1e6 + torch.randn(2, width, size, generator=generator, dtype=torch.float64)
        batch[torch.rand(batch.shape, generator=generator) < 0.3] = torch.nan
        values[:, :width, start : start + size] = batch
        running.add(batch)
        start += size
    found, numbers = running.result(0.95), values.numpy()[:, : running.n.shape[1]]
    there = ~np.isnan(numbers)
    assert np.array_equal(found.n, there.sum(-1))
    for place in np.ndindex(found.mean.shape):
        kept = numbers[place][there[place]]
        mean, spread = float(found.mean[place]), float(found.spread[place])
        assert np.isclose(mean, kept.mean(), rtol=1e-14) if len(kept) else np.isnan(mean)
        assert np.isclose(spread, kept.std(ddof=1), rtol=1e-6) if len(kept) > 1 else np.isnan(spread)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 4))
def test_token_means_do_not_depend_on_the_batches(seed: int, batches: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    running, rows = RunningByToken(), {}
    for _ in range(batches):
        tokens = torch.randint(0, 6, (2, 5), generator=generator)
        values = torch.randn(2, 3, 2, 5, generator=generator)
        running.add(tokens, values)
        for at in np.ndindex(2, 5):
            rows.setdefault(int(tokens[at]), []).append(values[:, :, *at])
    found = running.result()
    assert found.ids.tolist() == sorted(rows)
    for token, mean in zip(found.ids.tolist(), found.mean, strict=True):
        torch.testing.assert_close(mean.float(), torch.stack(rows[token]).mean(0), rtol=1e-4, atol=1e-6)


def test_batches_of_tokens_and_of_images() -> None:
    _, model = brute.pair("gpt2")
    one, two = brute.given(model, 2, 10), brute.given(model, 3, 6)
    over = statistics_over(model, [one, two])
    expected = torch.cat([statistics(model, x).row("entropy").nanmean(-1) for x in (one, two)], -1).mean(-1)
    torch.testing.assert_close(over.entropy, expected)
    images = torch.rand(5, 1, 8, 8)
    vision = digits.vision()
    seen = statistics_over(vision, [images[:2], images[2:]])
    torch.testing.assert_close(seen.entropy.float(), statistics(vision, images).entropy, rtol=1e-5, atol=1e-6)
    assert seen.tokens == {}


def test_a_stop_keeps_what_is_finished(model: Transformer) -> None:
    seen: list[tuple[int, int]] = []

    def progress(at: Any) -> bool:
        seen.append((at.done, at.total))
        return at.done < 2

    over = statistics_over(model, TEXTS, batch_size=2, progress=progress)
    assert seen == [(1, 3), (2, 3)]
    assert not over.complete
    assert over.n_texts == 4
    whole = statistics_over(model, TEXTS[:4])
    torch.testing.assert_close(over.entropy, whole.entropy, rtol=1e-5, atol=1e-6)


def test_unusable_data_are_refused_before_anything_runs(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match="There is no data"):
        statistics_over(model, [])
    with pytest.raises(ValueError, match="Give a list of texts"):
        statistics_over(model, "When Mary")
    with pytest.raises(ValueError, match="reads at most"):
        statistics_over(model, ["When Mary", "Mary " * 5000])
    with pytest.raises(ValueError, match="reads at most"):
        statistics_over(model, [torch.ones(1, 3).long(), torch.ones(1, model.cfg.n_ctx + 1).long()])
    with pytest.raises(ValueError, match="not both at once"):
        statistics_over(model, ["When Mary", torch.ones(1, 3).long()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="level of an interval"):
        statistics_over(model, TEXTS, level=1)
    with pytest.raises(ValueError, match="did you mean 'entropy'"):
        statistics_over(model, TEXTS, follow=("entrpy",))


def test_what_was_not_followed_says_how_to_ask(model: Transformer) -> None:
    over = statistics_over(model, TEXTS[:2], follow=())
    with pytest.raises(ValueError, match=r"follow=\('entropy',\)"):
        over.by_position("entropy")
    with pytest.raises(ValueError, match=r"follow=\('entropy',\)"):
        by_token(over)
