"""Observations: what is put together, its pictures and what their titles claim."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from tests import digits
from tests.attention import brute
from tests.figures.helpers import having, parse, texts
from workbench.attention import DETECTORS, MEASURES, dispersion, hop_profile
from workbench.circuits.progress import Stopped
from workbench.figures import Picture
from workbench.models import Transformer
from workbench.observing import (
    Observation,
    by_distance,
    check,
    entropy_by_context,
    entropy_by_position,
    largest_by_context,
    measure_map,
    measure_names,
    observe,
    pictures,
    sinks_by_position,
    trivial,
)

N = 24


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Transformer]:
    return brute.pair("llama-grouped")


@pytest.fixture(scope="module")
def observation(pair: tuple[Any, Transformer]) -> Observation:
    return observe(pair[1], brute.given(pair[1], batch=1, n=N))


def test_kept_patterns_are_the_model_s_own(pair: tuple[Any, Transformer], observation: Observation) -> None:
    hf, model = pair
    expected = brute.patterns(hf, brute.given(model, batch=1, n=N))[:, :, 0]
    assert observation.patterns is not None
    torch.testing.assert_close(observation.patterns.double(), expected.double(), rtol=1e-4, atol=1e-6)


def test_padding_is_left_out_of_patterns_and_lengths(pair: tuple[Any, Transformer]) -> None:
    hf, model = pair
    tokens = brute.given(model, batch=1, n=N)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens], 1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(tokens)], 1)
    found = observe(model, padded, attention_mask=mask, weights=False)
    assert found.patterns is not None
    assert found.patterns.shape[2:] == (N, N)
    expected = brute.patterns(hf, tokens)[:, :, 0]
    torch.testing.assert_close(found.patterns.double(), expected.double(), rtol=1e-4, atol=1e-6)
    assert found.dispersion is None
    assert "context" not in pictures(found)


def test_json_is_plain_and_has_no_nan(observation: Observation) -> None:
    data = json.loads(json.dumps(observation.to_json(), allow_nan=False))
    assert data["statistics"]["means"]["entropy"] == observation.statistics.entropy.tolist()
    assert set(data) >= {"model", "tokens", "census", "bound", "sinks", "dispersion", "notes", "complete"}


def test_every_picture_is_there_and_can_be_read(observation: Observation) -> None:
    found = pictures(observation)
    assert next(iter(found)) == "heads"
    wanted = {"heads", "entropy", "normalised_entropy", "sink_mass", "layers", "position", "context", "sinks"}
    assert wanted | {"largest_context", "kind_previous", "kind_induction"} <= set(found)
    assert "kind_recent" not in found  # 16 of 24 keys are recent, so that every head would be of that kind
    assert trivial(observation, "recent")
    for name, figure in found.items():
        assert observation.model in figure.caption, name
        assert len(figure.title) < 140
        assert parse(figure) is not None


def test_maps_draw_every_measure_and_kind(observation: Observation) -> None:
    names = measure_names(observation)
    measured = {kind.key for kind in DETECTORS if observation.census.scores[kind.key] is not None}
    assert set(names) == {one.key for one in MEASURES} | measured
    for key in names:
        figure = measure_map(observation, key, selected=["a0.h1"])
        assert len(having(parse(figure), "wb-cell-head")) == observation.statistics.entropy.numel()
    with pytest.raises(ValueError, match="did you mean 'entropy'"):
        measure_map(observation, "entropie")
    with pytest.raises(ValueError, match="not measured"):
        measure_map(observation, "successor")


def test_titles_count_what_the_numbers_say(observation: Observation) -> None:
    values = observation.statistics.largest
    many = int((values >= 0.5).sum())
    title = measure_map(observation, "largest").title
    assert (title.startswith(f"{many} of ")) if many else title.startswith("Largest weight from")
    best = observation.census.top("previous", 1)[0]
    assert f"head {best.layer}.{best.head}" in measure_map(observation, "previous").title
    entropy = measure_map(observation, "entropy").title
    uniform = sum(math.log(i) for i in range(1, N + 1)) / N
    assert entropy.endswith(f"uniform attention would have {uniform:.2f}")


def test_entropy_by_position_draws_the_log_of_the_keys_and_chosen_heads(observation: Observation) -> None:
    figure = entropy_by_position(observation, heads=["a1.h2"])
    lines = {line["name"]: line["y"] for line in figure.data["lines"]}
    assert lines["log of the visible keys"] == pytest.approx([math.log(i) for i in range(1, N + 1)])
    assert lines["a1.h2"] == pytest.approx(observation.statistics.row("entropy")[1, 2, 0].tolist())
    rows = observation.statistics.row("entropy")[:, :, 0]
    assert lines["mean of heads"] == pytest.approx(rows.mean((0, 1)).tolist())
    assert "a1.h2" in texts(parse(figure))
    with pytest.raises(ValueError, match=r"'a7\.h0' is no head"):
        entropy_by_position(observation, heads=["a7.h0"])


def test_the_bound_lies_below_the_entropy_it_is_drawn_beside(observation: Observation) -> None:
    lines = {line["name"]: line["y"] for line in pictures(observation)["layers"].data["lines"]}
    for bound in ("bound from each row's logits", "bound from weights"):
        assert all(low <= mean for low, mean in zip(lines[bound], lines["mean of heads"], strict=True))
    assert all(mean <= top for mean, top in zip(lines["mean of heads"], lines["log of the visible keys"], strict=True))


def test_dispersion_is_drawn_between_its_bounds(pair: tuple[Any, Transformer]) -> None:
    model = pair[1]
    found = dispersion(model, brute.given(model, batch=2, n=N))
    by_name = {line["name"]: line for line in entropy_by_context(found, ["a0.h0"]).data["lines"]}
    assert by_name["a0.h0"]["y"] == pytest.approx(found.entropy[:, 0, 0].tolist())
    assert by_name["mean of heads"]["x"] == [8, 16, N]
    largest = {line["name"]: line["y"] for line in largest_by_context(found).data["lines"]}
    assert largest["uniform"] == pytest.approx([1 / 8, 1 / 16, 1 / N])
    assert all(a <= b for a, b in zip(largest["mean of heads"], largest["most that logits allow"], strict=True))
    sharpened = dispersion(model, brute.given(model, batch=2, n=N), adaptive=True)
    figure = entropy_by_context(sharpened)
    assert "adaptive temperature" in figure.caption
    assert "least that logits allow" not in {line["name"] for line in figure.data["lines"]}


def test_distance_is_drawn_beside_uniform_attention(pair: tuple[Any, Transformer]) -> None:
    model = pair[1]
    profile = hop_profile(model, brute.given(model, batch=2, n=12))
    lines = {line["name"]: line["y"] for line in by_distance(profile, ["a1.h0"]).data["lines"]}
    assert sum(lines["mean of heads"]) == pytest.approx(1)
    assert sum(lines["uniform attention"]) == pytest.approx(1)
    assert lines["a1.h0"] == pytest.approx(profile.strength[1, 0].tolist())


def test_a_long_input_has_no_patterns_and_says_so(
    pair: tuple[Any, Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.observing.work.PATTERNS", 16)
    found = observe(pair[1], brute.given(pair[1], batch=1, n=17), weights=False)
    assert found.patterns is None
    assert any("up to 16 only" in note for note in found.notes)
    assert "heads" not in pictures(found)
    assert observe(pair[1], brute.given(pair[1], batch=1, n=16), weights=False).patterns is not None


def test_what_asks_to_leave_passes_out_gets_less(pair: tuple[Any, Transformer]) -> None:
    model, steps = pair[1], []
    found = observe(
        model,
        brute.given(model, batch=1, n=N),
        weights=False,
        patterns=False,
        progress=lambda at: steps.append(at.what),  # type: ignore[arg-type,func-returns-value]
    )
    assert found.patterns is None
    assert found.census.scores["copying"] is None
    assert "keeping patterns" not in steps
    assert "taking the census" in steps


def test_a_stop_keeps_what_is_there_or_says_that_nothing_is(pair: tuple[Any, Transformer]) -> None:
    model = pair[1]
    tokens = brute.given(model, batch=1, n=N)
    with pytest.raises(Stopped):
        observe(model, tokens, progress=lambda at: at.what != "taking the census")
    found = observe(model, tokens, progress=lambda at: at.what != "keeping patterns")
    assert not found.complete
    assert found.patterns is None
    assert "entropy" in pictures(found)


def test_images_have_their_patches_instead_of_tokens() -> None:
    model = digits.vision()
    found = observe(model, torch.rand(1, 1, 8, 8))
    assert found.tokens is None
    n = found.statistics.shape[-1]
    side = math.isqrt(n)
    picture = Picture(torch.rand(1, 8, 8), (side, side), tuple(["cls"] * (n - side * side)))
    shown = pictures(found, picture)
    assert "position" not in shown
    assert having(parse(shown["heads"]), "wb-cell-head")


def test_other_mechanisms_have_no_bound(pair: tuple[Any, Transformer]) -> None:
    model = pair[1].with_attention("sparsemax")
    found = observe(model, brute.given(pair[1], batch=1, n=N), weights=False)
    assert found.bound is None
    assert found.dispersion is None
    lines = {line["name"] for line in pictures(found)["layers"].data["lines"]}
    assert lines == {"mean of heads", "log of the visible keys"}
    with pytest.raises(ValueError, match="rows need not sum to 1"):
        check(pair[1].with_attention("sigmoid"), torch.ones(1, 4, dtype=torch.long))


def test_sinks_are_named_where_a_head_parks(observation: Observation) -> None:
    figure = sinks_by_position(observation)
    assert observation.sinks is not None
    (line,) = figure.data["lines"]
    assert line["y"][0] == pytest.approx(100 * float(observation.sinks.rate[0, 0]))
    assert len(figure.data["marks"]) == min(len(observation.sinks.tokens), 6)


@pytest.mark.parametrize(("n", "words"), [(0, "empty"), (1, "only attend to itself"), (10**4, "reads at most 40")])
def test_inputs_that_say_nothing_are_refused_before_any_work(pair: tuple[Any, Transformer], n: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        observe(pair[1], torch.ones(1, n, dtype=torch.long), progress=lambda _: pytest.fail("worked"))
