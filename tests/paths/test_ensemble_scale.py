"""EnsembleScale against optimisation and hooks outside the package; files; self-distillation."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.paths.by_hooks import Hooked, next_token
from workbench.circuits.progress import Progress
from workbench.models import Transformer, from_hf, load
from workbench.models.families.samples import find
from workbench.models.zoo import digits
from workbench.models.zoo.record import Schedule
from workbench.paths.distillation import Distillation, answers_of, teaching, train_distilled
from workbench.paths.ensemble_scale import EnsembleScale, ensemble_scale, load_scale

NAMES = ("embed", "a0", "m0", "a1", "m1")


@cache
def gpt2() -> tuple[Hooked, Transformer, Tensor]:
    hf = find("gpt2").model(layers=2, seed=2, dtype=torch.float64)
    return Hooked(hf), from_hf(hf), torch.randint(0, 64, (24, 7), generator=torch.Generator().manual_seed(0))


@cache
def learned() -> EnsembleScale:
    _, model, tokens = gpt2()
    return ensemble_scale(model, tokens)


def test_the_minimum_is_that_of_another_optimiser() -> None:
    """Adam on Hugging Face's own states; learned and validated on the same tokens, so that nothing ends early."""
    hooked, model, tokens = gpt2()
    same = tokens.repeat(3, 1)
    parts = torch.arange(3).repeat_interleave(24)
    ours = ensemble_scale(model, same, decay=0.1, parts=parts, steps=100, patience=100)
    _, seen = hooked.run(tokens)
    parts_seen = torch.stack([seen[name] for name in NAMES])
    weights = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.02)

    def objective(weights: Tensor) -> Tensor:
        x = seen["final"] + torch.einsum("c,c...->...", weights - 1, parts_seen)
        logits = hooked.hf.lm_head(hooked.norm(x))[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        return loss + 0.1 * (weights - 1).square().sum()

    for _ in range(1500):
        optimiser.zero_grad()
        value = objective(weights)
        value.backward()
        optimiser.step()
    last = ours.history[-1][0]
    assert last < ours.history[0][0]
    # What is kept is the step with the lowest loss; what is compared is where the objective came to.
    again = ensemble_scale(model, same, decay=0.1, parts=parts, steps=100, patience=100)
    assert torch.equal(again.weights, ours.weights)
    with torch.no_grad():
        reached = float(objective(weights))
        mine = last + 0.1 * float((ours.weights.double() - 1).square().sum())
    assert mine == pytest.approx(reached, abs=2e-3)


def test_the_report_is_what_hooks_say() -> None:
    hooked, model, tokens = gpt2()
    parts = torch.arange(24) % 3
    found = ensemble_scale(model, tokens, parts=parts)
    held = tokens[parts == 2]
    weights = dict(zip(NAMES, found.weights.tolist(), strict=True))
    before, after = (next_token(hooked.run(held, cut=cut)[0], held) for cut in ({}, weights))
    assert found.report["loss_before"] == pytest.approx(float(before[1].mean()))
    assert found.report["loss_after"] == pytest.approx(float(after[1].mean()), rel=1e-5)
    low, high = found.report["loss_interval"]
    assert low <= found.report["loss"] <= high
    logits = model(tokens, found.taps(model))
    torch.testing.assert_close(logits, hooked.run(tokens, cut=weights)[0], atol=1e-5, rtol=1e-5)


def test_kept_are_the_weights_with_the_lowest_validation_loss() -> None:
    found = learned()
    validation = [pair[1] for pair in found.history]
    assert found.settings["kept_step"] == validation.index(min(validation))
    assert len(found.history) - 1 - found.settings["kept_step"] <= 10
    hooked, model, tokens = gpt2()
    parts = torch.arange(24) % 3
    found = ensemble_scale(model, tokens, parts=parts)
    some = tokens[parts == 1]
    cut = dict(zip(NAMES, found.weights.tolist(), strict=True))
    loss = float(next_token(hooked.run(some, cut=cut)[0], some)[1].mean())
    assert loss == pytest.approx(min(pair[1] for pair in found.history), rel=1e-6)


def test_decay_keeps_weights_near_one() -> None:
    _, model, tokens = gpt2()
    away = [
        float((ensemble_scale(model, tokens.repeat(3, 1), decay=decay, parts=torch.arange(3).repeat_interleave(24))
               .weights - 1).abs().max())
        for decay in (0.001, 1.0, 1000.0)
    ]  # fmt: skip
    assert away[0] > away[1] > away[2]
    assert away[2] < 1e-2


def test_of_several_decays_the_best_by_validation_is_kept() -> None:
    _, model, tokens = gpt2()
    alone = {decay: ensemble_scale(model, tokens, decay=decay) for decay in (10.0, 0.01, 1.0)}
    lowest = min(alone, key=lambda decay: min(pair[1] for pair in alone[decay].history))
    seen: list[Progress] = []
    found = ensemble_scale(model, tokens, decay=tuple(alone), progress=seen.append)
    assert found.settings["decay"] == lowest
    assert torch.equal(found.weights, alone[lowest].weights)
    assert seen[-1].done == seen[-1].total


def test_a_component_that_is_too_loud_is_turned_down() -> None:
    """The last MLP of the digits ViT made five times as loud: only the classifier reads it."""
    model = load("digits-vit")
    parts = digits.split()
    weights = {name: tensor.clone() for name, tensor in model.weights().items()}
    for end in ("weight", "bias"):
        weights[f"blocks.2.mlp.out.{end}"] *= 5
    loud = Transformer(model.cfg, weights, None, "loud")
    for per in ("component", "channel"):
        found = ensemble_scale(loud, parts.test, parts.test_labels, per=per)  # type: ignore[arg-type]
        rest = found.by_component[:-1].mean()
        assert float(found.by_component[-1] / rest) < 0.8
        assert found.report["loss_interval"][1] < 0
        assert found.weights.shape == ((7,) if per == "component" else (7, 64))


def test_a_file_gives_it_back(tmp_path: Path) -> None:
    found, (_, model, _) = learned(), gpt2()
    back = load_scale(found.save(tmp_path / "scale.safetensors"), model)
    assert torch.equal(back.weights, found.weights)
    assert json.loads(json.dumps(back.to_dict())) == json.loads(json.dumps(found.to_dict()))
    assert set(load_file(tmp_path / "scale.safetensors")) == {"weights"}


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    found, (_, model, _) = learned(), gpt2()
    path = found.save(tmp_path / "scale.safetensors")
    with pytest.raises(ValueError, match="belongs to"):
        load_scale(path, from_hf(find("gpt2").model(layers=2, seed=3)))
    with pytest.raises(ValueError, match="There is no file"):
        load_scale(tmp_path / "none", model)
    save_file({"weights": torch.ones(5)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no ensemble scale"):
        load_scale(tmp_path / "other.safetensors", model)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="could not be read"):
        load_scale(tmp_path / "cut.safetensors", model)


def test_stopping_keeps_what_is_learned() -> None:
    _, model, tokens = gpt2()

    def stop(progress: Progress) -> bool:
        return progress.what != "learning weights of paths" or progress.done < 2

    found = ensemble_scale(model, tokens, progress=stop)
    assert not found.complete
    assert len(found.history) == 3


def test_bad_input_is_named() -> None:
    _, model, tokens = gpt2()
    cases = {
        "per component or per channel": lambda: ensemble_scale(model, tokens, per="else"),  # type: ignore[arg-type]
        "decay is at least 0": lambda: ensemble_scale(model, tokens, decay=-1),
        "half precision": lambda: ensemble_scale(from_hf(find("gpt2").model(dtype=torch.bfloat16)), tokens),
        "every part needs two": lambda: ensemble_scale(model, tokens[:4]),
        "short lies between": lambda: train_distilled(digits.RECORD, Distillation(short=7)),
    }
    for message, run in cases.items():
        with pytest.raises(ValueError, match=message):
            run()


def test_teaching_is_a_divergence_that_leaves_the_teacher_alone() -> None:
    whole, short = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    whole.requires_grad_()
    short.requires_grad_()
    loss = teaching(whole, short, 2.0)
    loss.backward()
    p, q = ((x.detach() / 2).softmax(-1) for x in (whole, short))
    assert float(loss.detach()) == pytest.approx(4 * float((p * (p / q).log()).sum(1).mean()), rel=1e-5)
    assert whole.grad is None
    assert short.grad is not None
    torch.testing.assert_close(short.grad, 2 * (q - p) / 4)


def test_short_answers_are_streams_read_early() -> None:
    hf = find("vit-classes").model(layers=2, dtype=torch.float64)
    images = torch.randn(3, 1, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hooked, model = Hooked(hf), from_hf(hf)
    _, seen = hooked.run(images)
    for n in range(1, 6):
        stream = sum(seen[name] for name in NAMES[:n])
        theirs = hf.classifier(hf.vit.layernorm(stream)[:, 0])
        torch.testing.assert_close(answers_of(model, images, n)[1], theirs)


def test_teaching_brings_short_answers_to_the_whole() -> None:
    """A few steps of training with it and without, from the same start on the same images."""
    images = digits.split().test
    record = replace(digits.RECORD, schedule=Schedule(60, 32, 2e-3, 0.05, warmup=20))
    far = []
    for weight in (0.0, 2.0):
        model = train_distilled(record, Distillation(weight=weight))
        whole, short = (x.log_softmax(-1) for x in answers_of(model, images, 3))
        far.append(float((whole.exp() * (whole - short)).sum(1).mean()))
    assert far[1] < 0.7 * far[0]
