"""Path pruning against hooks on Hugging Face's modules and a search written anew."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import digits as small
from tests.paths.by_hooks import Hooked, next_token
from workbench.circuits.progress import Progress
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find
from workbench.paths.examples import split
from workbench.paths.pruning import PathPruning, cut_taps, loss_and_gradient, prune, weight_taps
from workbench.paths.written import collect, weighted_taps

NAMES = ("embed", "a0", "m0", "a1", "m1")


@cache
def gpt2() -> tuple[Hooked, Transformer, Tensor]:
    hf = find("gpt2").model(layers=2, seed=2, dtype=torch.float64)
    return Hooked(hf), from_hf(hf), torch.randint(0, 64, (12, 7), generator=torch.Generator().manual_seed(0))


@settings(max_examples=10)
@given(st.lists(st.floats(-2, 2), min_size=5, max_size=5))
def test_weights_change_the_classifiers_input_alone(weights: list[float]) -> None:
    hooked, model, tokens = gpt2()
    theirs, _ = hooked.run(tokens, cut=dict(zip(NAMES, weights, strict=True)))
    with torch.no_grad():
        ours = model(tokens, weight_taps(model, dict(zip(NAMES, weights, strict=True))))
    torch.testing.assert_close(ours, theirs)
    written = collect(model, tokens)
    torch.testing.assert_close(
        written.scores(model, torch.tensor(weights, dtype=torch.float64))[0], next_token(theirs, tokens)[1]
    )


def test_weights_by_channel() -> None:
    hooked, model, tokens = gpt2()
    weights = torch.rand(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs, _ = hooked.run(tokens, cut=dict(zip(NAMES, weights, strict=True)))
    torch.testing.assert_close(model(tokens, weighted_taps(model, "sublayer", weights)), theirs)
    torch.testing.assert_close(collect(model, tokens).scores(model, weights)[0], next_token(theirs, tokens)[1])


@pytest.mark.parametrize("level", ["sublayer", "head"])
def test_weights_of_one_are_the_model_to_the_last_bit(level: str) -> None:
    _, model, tokens = gpt2()
    assert torch.equal(model(tokens, cut_taps(model, [], level=level)), model(tokens))  # type: ignore[arg-type]


def test_taps_serve_one_forward_after_the_other() -> None:
    _, model, tokens = gpt2()
    taps = cut_taps(model, ["a0", "m1"])
    first = model(tokens, taps)
    model(tokens[:3], taps)
    assert torch.equal(model(tokens, taps), first)


@pytest.mark.parametrize("key", ["deit-teacher", "dinov2-classes"])
def test_classifiers_that_read_several_positions(key: str) -> None:
    """The tap in the model and the positions that were kept say the same."""
    model = from_hf(find(key).model(dtype=torch.float64))
    assert model.cfg.image is not None
    shape = (4, model.cfg.image.channels, model.cfg.image.height, model.cfg.image.width)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    written, weights = collect(model, images, labels), torch.linspace(0, 2, 7, dtype=torch.float64)
    loss = F.cross_entropy(model(images, weighted_taps(model, "sublayer", weights)), labels, reduction="none")
    torch.testing.assert_close(written.scores(model, weights)[0], loss)
    assert written.total.shape[1] == (2 if "teacher" in key else len(model(images, stop_at_layer=1)[0]))


def test_heads_and_their_bias_are_the_attention() -> None:
    hooked, model, tokens = gpt2()
    _, seen = hooked.run(tokens)
    written = collect(model, tokens, level="head")
    assert written.components[:6] == ("embed", "a0.h0", "a0.h1", "a0.h2", "bias a0", "m0")
    theirs = seen["a0"][:, :-1].flatten(0, 1)
    torch.testing.assert_close(written.parts[1:5, :, 0].sum(0), theirs)
    bias = hooked.hf.transformer.h[0].attn.c_proj.bias
    torch.testing.assert_close(written.parts[4, 0, 0], bias.data)
    value = hooked.hf.transformer.h[0].attn.c_proj.weight
    z = torch.linalg.solve(value.T, (seen["a0"] - bias)[0, 0])  # 24 x 24: what the heads gave before it
    torch.testing.assert_close(written.parts[2, 0, 0], z[8:16] @ value[8:16], atol=1e-6, rtol=1e-5)


def greedy(hooked: Hooked, tokens: Tensor, accuracy: bool) -> list[str]:
    """The search written anew, with a whole forward for every trial."""

    def at(cut: list[str]) -> tuple[float, float]:
        logits, _ = hooked.run(tokens, cut=dict.fromkeys(cut, 0.0))
        _, loss, right = next_token(logits, tokens)
        return (-float(right.mean()), float(loss.mean())) if accuracy else (float(loss.mean()), 0.0)

    cut: list[str] = []
    while len(cut) < len(NAMES) - 1:
        best = min((name for name in NAMES if name not in cut), key=lambda name: at([*cut, name]))
        if not at([*cut, best]) < at(cut):
            break
        cut.append(best)
    return cut


@pytest.mark.parametrize("by", ["loss", "accuracy"])
def test_the_search_cuts_what_brute_force_cuts(by: str) -> None:
    hooked, model, tokens = gpt2()
    found = prune(model, tokens, by=by, shares=(0.5, 0.5), seed=None)  # type: ignore[arg-type]
    assert list(found.cut) == greedy(hooked, tokens[:6], by == "accuracy")
    assert found.cut
    held = tokens[6:]
    before, after = (next_token(hooked.run(held, cut=cut)[0], held) for cut in ({}, dict.fromkeys(found.cut, 0.0)))
    torch.testing.assert_close(found.report.before, before[1])
    torch.testing.assert_close(found.report.after, after[1])
    torch.testing.assert_close(found.report.right_after, after[2])
    for i, name in enumerate(NAMES):
        one = next_token(hooked.run(held, cut={name: 0.0})[0], held)
        assert float(found.alone[i, 0]) == pytest.approx(float((one[1] - before[1]).mean()))
        assert float(found.alone[i, 1]) == pytest.approx(float((one[2] - before[2]).mean()))


@pytest.mark.parametrize("shape", [(5,), (5, 24)])
def test_gradients_by_autograd_through_their_head(shape: tuple[int, ...]) -> None:
    hooked, model, tokens = gpt2()
    _, seen = hooked.run(tokens)
    at = 2 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights = at.clone().requires_grad_()
    x = seen["final"] + sum((weights[i] - 1) * seen[name] for i, name in enumerate(NAMES))
    logits = hooked.hf.lm_head(hooked.norm(x))[:, :-1]
    theirs = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    theirs.backward()
    assert weights.grad is not None
    loss, slope = loss_and_gradient(model, collect(model, tokens), at)
    assert loss == pytest.approx(float(theirs.detach()))
    torch.testing.assert_close(slope, weights.grad)


def test_candidates_by_gradient_are_tried_alone() -> None:
    _, model, tokens = gpt2()
    one = prune(model, tokens, candidates=1, most=1, seed=None)
    _, slope = loss_and_gradient(model, collect(model, tokens[:6]), torch.ones(5, dtype=torch.float64))
    assert one.cut in ((), (NAMES[int(slope.argmax())],))
    assert one.cut


def spoilt() -> Transformer:
    """A classifier whose last MLP only adds to class 7, directly."""
    model = small.vision()
    last = model.blocks[-1].mlp
    assert last is not None
    last.out.weight.zero_()
    last.out.bias.copy_(40 * model.unembedding.weight[7] / model.ln_final.weight)
    return model


def test_what_was_spoilt_is_cut_and_the_report_says_what_that_is_worth() -> None:
    model = spoilt()
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images, cut_taps(model, ["m2"])).argmax(-1)
    for by in ("loss", "accuracy"):
        found = prune(model, images, labels, by=by, most=1)  # type: ignore[arg-type]
        assert found.cut == ("m2",)
        assert found.report.right_after.tolist() == [1.0] * 20
        low, high = found.report.interval("accuracy")
        assert 0 < low <= found.report.accuracy <= high
        assert found.report.interval()[1] < 0


def test_the_report_is_on_other_examples_than_the_search() -> None:
    """Labels of the report changed: the same cuts, another report."""
    model = spoilt()
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images, cut_taps(model, ["m2"])).argmax(-1)
    parts = torch.arange(20) % 2
    found = prune(model, images, labels, parts=parts)
    other = prune(model, images, torch.where(parts == 1, (labels + 1) % 10, labels), parts=parts)
    assert found.cut == other.cut
    assert found.path == other.path
    assert found.report.loss != other.report.loss


def test_intervals_are_of_the_paired_difference() -> None:
    found = prune(gpt2()[1], gpt2()[2])
    change = (found.report.after - found.report.before).numpy()
    from scipy.stats import bootstrap

    theirs = bootstrap((change,), lambda x, axis: x.mean(axis), n_resamples=20_000, method="percentile", rng=0)
    half = (theirs.confidence_interval.high - theirs.confidence_interval.low) / 2
    assert found.report.interval() == pytest.approx(tuple(theirs.confidence_interval), abs=0.15 * half)


@given(st.integers(8, 60), st.integers(0, 5))
def test_a_split_is_a_partition(n: int, seed: int) -> None:
    found = split(n, (0.5, 0.25, 0.25), seed)
    assert torch.equal(sum(one.long() for one in found), torch.ones(n, dtype=torch.long))
    assert abs(int(found[0].sum()) - n / 2) <= 1


def test_stopping_keeps_the_cuts() -> None:
    _, model, tokens = gpt2()

    def stop(progress: Progress) -> bool:
        return progress.what != "cutting paths"

    whole, part = prune(model, tokens, level="head"), prune(model, tokens, level="head", progress=stop)
    assert len(whole.cut) > 1
    assert part.cut == whole.cut[:1]
    assert not part.complete
    assert whole.complete


def test_bad_input_is_named() -> None:
    _, model, tokens = gpt2()
    found: PathPruning = prune(model, tokens, most=1)
    cases = {
        "no component 'a9'": lambda: cut_taps(model, ["a9"]),
        "is a number, or 24": lambda: weight_taps(model, {"a0": torch.ones(3)}),
        "Unknown aim": lambda: prune(model, tokens, by="else"),  # type: ignore[arg-type]
        "Unknown level": lambda: prune(model, tokens, level="else"),  # type: ignore[arg-type]
        "least is at least 0": lambda: prune(model, tokens, least=-1),
        "every part needs two": lambda: prune(model, tokens[:3]),
        "sum to 1": lambda: prune(model, tokens, shares=(0.5, 0.6)),
        "whole numbers below 2": lambda: prune(model, tokens, parts=[2] * 12),
        "belongs to": lambda: found.taps(spoilt()),
        "heads are no summands": lambda: prune(from_hf(find("gemma2").model()), tokens, level="head"),
        "post-norm": lambda: prune(from_hf(find("bert-classes").model()), tokens, [0] * 12),
    }
    for message, run in cases.items():
        with pytest.raises(ValueError, match=message):
            run()
