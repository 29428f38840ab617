from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import micro
from tests.attention import brute
from workbench.attention.monitor import CollapseWarning, EntropyMonitor, entropy_along
from workbench.attention.probing import QueriesKeys
from workbench.attention.sigma_reparam import sigma_reparametrise
from workbench.attention.training_record import AlarmRule, Reading, TrainingRecord
from workbench.models import Transformer, from_hf, save

QUICK = AlarmRule(patience=2)


def trainable(kind: str = "llama-ungrouped") -> Transformer:
    model = from_hf(micro.hugging_face(kind))
    model.requires_grad_(True)
    return model


def probe(n: int = 12) -> Tensor:
    return torch.randint(3, 60, (2, n), generator=torch.Generator().manual_seed(5))


def sharpened(model: Transformer, by: float) -> None:
    """Logits grow by ``by``."""
    with torch.no_grad():
        for block in model.blocks:
            block.attn.q.weight.mul_(by)
            if block.attn.q.bias is not None:
                block.attn.q.bias.mul_(by)


# -- a reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "qwen3", "bert", "vit"])
def test_a_reading_is_what_hugging_faces_pattern_and_weights_say(kind: str) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model)
    p = brute.patterns(hf, tokens)
    reading = EntropyMonitor(hf, tokens).record.readings[0]
    expected = brute.measures(model, tokens, p, [0], 3)
    torch.testing.assert_close(reading.entropy, expected["entropy"].flatten(2).mean(-1).float(), rtol=1e-5, atol=1e-6)
    widest = expected["logit_range"].flatten(2).amax(-1).float()
    torch.testing.assert_close(reading.logit_range, widest, rtol=1e-5, atol=1e-6)
    assert reading.qk_norm is not None
    assert reading.norms is not None
    for layer in range(model.cfg.n_layers):
        attn = model.blocks[layer].attn
        for part in "qkvo":
            value = torch.linalg.svdvals(getattr(attn, part).weight)[0]
            assert reading.norms[part][layer].item() == pytest.approx(value.item(), rel=1e-6)
        for head in range(model.cfg.n_heads):
            product = model.W_Q[layer, head] @ model.W_K[layer, head].T * model.cfg.attn_scale
            value = torch.linalg.svdvals(product)[0]
            assert reading.qk_norm[layer, head].item() == pytest.approx(value.item(), rel=1e-6)


def test_the_floor_lies_below_the_entropy_of_rows_that_see_several_keys() -> None:
    hf, model = brute.pair("gpt2")
    tokens = brute.given(model)
    reading = EntropyMonitor(hf, tokens).record.readings[0]
    several = brute.measures(model, tokens, brute.patterns(hf, tokens), [0], 3)["entropy"][..., 1:].flatten(2).mean(-1)
    assert bool((reading.floor > 0).all())
    assert bool((reading.floor <= several.float() + 1e-6).all())


def test_hugging_faces_weights_are_read_as_they_are_now() -> None:
    hf = micro.hugging_face("llama-grouped")
    monitor = EntropyMonitor(hf, probe(), every=1)
    with torch.no_grad():
        for layer in hf.model.layers:  # in place, and by a new tensor
            layer.self_attn.q_proj.weight.mul_(3)
            layer.self_attn.k_proj.weight = nn.Parameter(layer.self_attn.k_proj.weight * 2)
    monitor.step()
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = torch.stack(hf(probe(), output_attentions=True).attentions).double()
    expected = torch.special.entr(patterns).sum(-1).mean((1, 3)).float()
    torch.testing.assert_close(monitor.record.entropy[1], expected, rtol=1e-4, atol=1e-5)
    assert bool((monitor.record.entropy[1] < monitor.record.entropy[0]).all())


def test_padding_of_the_probe_counts_nowhere() -> None:
    model = trainable()
    long, short = probe(12), probe(12)[:, :7]
    padded = torch.cat([short, torch.zeros(2, 5, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 7 + [0] * 5] * 2)
    one = EntropyMonitor(model, padded, attention_mask=mask).record.entropy
    torch.testing.assert_close(one, EntropyMonitor(model, short).record.entropy)
    assert not torch.allclose(one, EntropyMonitor(model, long).record.entropy)


def attending() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.3, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def patterns_of(model: nn.TransformerEncoder, x: Tensor) -> Iterator[Tensor]:
    for layer in model.layers:
        yield layer.self_attn(x, x, x, need_weights=True, average_attn_weights=False)[1]
        x = layer(x)


def queries_keys_of(model: nn.TransformerEncoder, x: Tensor) -> Iterator[QueriesKeys]:
    for layer in model.layers:
        q, k, _ = nn.functional.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(3, -1)
        yield QueriesKeys(*(part.unflatten(-1, (4, 4)).transpose(1, 2) for part in (q, k)), causal=False)
        x = layer(x)


def test_a_foreign_module_is_read_by_its_patterns_or_by_its_queries_and_keys() -> None:
    model, x = attending(), torch.randn(3, 9, 16)
    opened = EntropyMonitor(model, x, read=patterns_of).record.readings[0]
    keyed = EntropyMonitor(model, x, read=queries_keys_of).record.readings[0]
    model.eval()
    with torch.no_grad():
        expected = torch.stack([torch.special.entr(p).sum(-1).mean((0, 2)) for p in patterns_of(model, x)])
    torch.testing.assert_close(opened.entropy, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(keyed.entropy, expected, rtol=1e-5, atol=1e-6)
    assert bool(opened.logit_range.isnan().all())
    assert bool((keyed.logit_range > 0).all())
    assert bool((keyed.floor <= keyed.entropy).all())


def test_padding_of_queries_and_keys_counts_nowhere() -> None:
    q, k = torch.randn(2, 3, 8, 4), torch.randn(2, 1, 8, 4)
    real = torch.tensor([[True] * 5 + [False] * 3] * 2)
    whole = EntropyMonitor(nn.Linear(1, 1), None, read=lambda *_: [QueriesKeys(q, k, real=real)]).record.readings[0]
    short = QueriesKeys(q[:, :, :5], k[:, :, :5])
    part = EntropyMonitor(nn.Linear(1, 1), None, read=lambda *_: [short]).record.readings[0]
    for key in ("entropy", "floor", "logit_range"):
        torch.testing.assert_close(getattr(whole, key), getattr(part, key))


# -- beside a training loop -----------------------------------------------------------------------------------


def trained(model: nn.Module, watched: bool, steps: int = 4) -> tuple[list[float], EntropyMonitor | None]:
    """A few steps with dropout and batches drawn from the global generator; losses."""
    torch.manual_seed(7)
    model.train()
    x = torch.randn(3, 9, 16)
    monitor = EntropyMonitor(model, x, every=1, read=patterns_of) if watched else None
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model(torch.randn(3, 9, 16)).square().sum(-1).sqrt().mean()
        loss.backward()
        optimiser.step()
        if monitor is not None:
            monitor.step(loss)
        losses.append(loss.item())
    return losses, monitor


def test_training_goes_on_as_if_nobody_looked() -> None:
    alone, _ = trained(attending(), watched=False)
    losses, monitor = trained(attending(), watched=True)
    assert losses == alone
    assert monitor is not None
    assert monitor.record.steps == [0, 1, 2, 3, 4]
    assert monitor.record.losses[1:] == pytest.approx(losses)


def test_modes_gradients_and_directions_stay_as_they_were() -> None:
    model = trainable()
    sigma_reparametrise(model)
    model.train()
    model.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    model(probe()).square().mean().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    state = copy.deepcopy(model.state_dict())
    monitor = EntropyMonitor(model, probe(), every=1)
    reading = monitor.step(torch.tensor(1.0, requires_grad=True))
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(weight.grad, gradients[n]) for n, weight in model.named_parameters() if n in gradients)
    assert reading is not None
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert reading.grad_norm == pytest.approx(whole.norm().item(), rel=1e-5)
    assert not reading.entropy.requires_grad


def test_directions_of_a_reparametrised_hugging_face_model_stay_where_they_are() -> None:
    hf = micro.hugging_face("llama-grouped").train()
    sigma_reparametrise(hf, gamma=2.0)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    state = copy.deepcopy(hf.state_dict())
    monitor = EntropyMonitor(hf, probe(), every=1)
    monitor.step()
    assert all(torch.equal(value, state[name]) for name, value in hf.state_dict().items())
    norm = monitor.record.readings[0].norms
    used = hf.eval().model.layers[0].self_attn.q_proj.weight.detach()
    assert norm is not None
    assert norm["q"][0].item() == pytest.approx(torch.linalg.svdvals(used)[0].item(), rel=1e-5)


def test_an_error_in_reading_leaves_the_modes_as_they_were() -> None:
    model = attending().train()

    def fails(*_: Any) -> list[Tensor]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        EntropyMonitor(model, torch.zeros(1, 2, 16), read=fails)
    assert all(part.training for part in model.modules())


def test_the_probe_is_a_copy() -> None:
    model, tokens = trainable(), probe()
    monitor = EntropyMonitor(model, tokens, every=1)
    tokens.zero_()
    monitor.step()
    assert torch.equal(*monitor.record.entropy)


def test_it_reads_every_so_many_steps_and_takes_the_mean_loss_between() -> None:
    monitor = EntropyMonitor(trainable(), probe(), every=3, norms=False)
    read = [monitor.step(float(loss)) for loss in (1, 2, 6, 4, 5, 9, 7)]
    assert [one is not None for one in read] == [False, False, True, False, False, True, False]
    assert monitor.record.steps == [0, 3, 6]
    assert monitor.record.losses[1:] == [3, 6]
    assert math.isnan(monitor.record.losses[0])
    assert monitor.record.readings[0].norms is None
    with pytest.raises(ValueError, match="no 'qk_norm'"):
        monitor.record.stacked("qk_norm")


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_looked_into(wrap: Any) -> None:
    model = trainable()
    torch.testing.assert_close(
        EntropyMonitor(wrap(model), probe()).record.entropy, EntropyMonitor(model, probe()).record.entropy
    )


def test_a_model_that_broke_gives_a_reading_that_says_so() -> None:
    model = trainable()
    monitor = EntropyMonitor(model, probe(), every=1)
    monitor.step(2.0)
    with torch.no_grad():
        model.blocks[1].attn.q.weight.fill_(torch.inf)
    reading = monitor.step(float("nan"))
    assert reading is not None
    assert reading.diverged
    assert reading.loss is None
    assert "layer 1" in (reading.note or "")
    assert bool(reading.entropy.isnan().all())
    assert monitor.record.loss_rise() == 2
    assert monitor.record.alarms == []


def test_a_loss_that_is_not_finite_is_told_of_though_the_scores_are() -> None:
    monitor = EntropyMonitor(trainable(), probe(), every=1)
    reading = monitor.step(float("inf"))
    assert reading is not None
    assert (reading.diverged, reading.note) == (True, "The loss is not finite.")
    assert bool(reading.entropy.isfinite().all())


# -- alarms ---------------------------------------------------------------------------------------------------


def record_of(*entropies: Tensor, losses: list[float | None] | None = None, rule: AlarmRule = QUICK) -> TrainingRecord:
    nothing = torch.full_like(entropies[0], torch.nan)
    readings = [Reading(10 * at, entropy, nothing, nothing) for at, entropy in enumerate(entropies)]
    if losses is not None:
        readings = [replace(reading, loss=loss) for reading, loss in zip(readings, losses, strict=True)]
    return TrainingRecord("made", (1, 8), rule, tuple(readings))


def test_an_alarm_goes_off_after_as_many_low_readings_as_asked_and_once() -> None:
    high, low = torch.full((2, 2), 2.0), torch.full((2, 2), 2.0)
    low[1, 0] = 0.5  # below 0.3 x 2
    record = record_of(high, low, high, low, low, low, high, low, low)
    (alarm,) = record.alarms
    assert (alarm.name, alarm.since, alarm.step, alarm.entropy, alarm.start) == ("a1.h0", 30, 40, 0.5, 2.0)


def test_a_layer_has_an_alarm_of_its_own() -> None:
    start, low = torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.tensor([[0.2, 1.2], [2.0, 2.0]])
    # The mean is 0.7 and then 0.45; three tenths of what it was at the start are 0.6.
    assert [alarm.name for alarm in record_of(start, low, low).alarms] == ["a0.h0"]
    lower = torch.tensor([[0.2, 0.7], [2.0, 2.0]])
    assert [alarm.name for alarm in record_of(start, lower, lower).alarms] == ["layer 0", "a0.h0"]


def test_what_starts_sharp_and_what_is_missing_raises_no_alarm() -> None:
    sharp, missing = torch.full((1, 2), 0.05), torch.full((1, 2), torch.nan)
    assert record_of(sharp, sharp, sharp, sharp).alarms == []
    assert record_of(torch.ones(1, 2), missing, missing, missing).alarms == []
    fixed = AlarmRule(below=0.1, share=0, patience=1)
    assert {a.name for a in record_of(torch.ones(1, 2), sharp, rule=fixed).alarms} == {"layer 0", "a0.h0", "a0.h1"}


def test_the_loss_rises_where_it_is_above_its_lowest() -> None:
    ones = [torch.ones(1, 1)] * 5
    record = record_of(*ones, losses=[None, 3.0, 2.0, 2.29, 2.31])
    assert record.loss_rise() == 40
    assert record.loss_rise(by=0.25) == 30
    assert record.loss_rise(by=0.5) is None


def test_the_monitor_warns_once_or_calls_back_once() -> None:
    for called in (False, True):
        model, heard = trainable(), []
        monitor = EntropyMonitor(model, probe(), every=1, rule=QUICK, on_alarm=heard.append if called else None)
        sharpened(model, 1e3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(4):
                monitor.step()
        expected = {alarm.name for alarm in monitor.record.alarms}
        assert {"layer 0", "layer 1", "a0.h0"} <= expected
        if called:
            assert not said
            assert sorted(alarm.name for alarm in heard) == sorted(expected)
        else:
            (warning,) = said
            assert warning.category is CollapseWarning
            assert "layer 0" in str(warning.message)
            assert warning.filename == __file__


# -- files ----------------------------------------------------------------------------------------------------


def same(one: TrainingRecord, other: TrainingRecord) -> None:
    assert one.header() == other.header()
    assert [reading.to_dict() for reading in one.readings] == [reading.to_dict() for reading in other.readings]


def run_with_file(path: Path, steps: int = 3, **options: Any) -> EntropyMonitor:
    model = trainable()
    monitor = EntropyMonitor(model, probe(), every=1, path=path, **options)
    for at in range(steps):
        sharpened(model, 1.1)
        monitor.step(float(at))
    return monitor


def test_a_record_goes_through_json_and_through_a_file_unchanged(tmp_path: Path) -> None:
    monitor = run_with_file(tmp_path / "deep" / "run.jsonl")
    record = monitor.record
    text = record.to_json()
    assert "NaN" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    same(TrainingRecord.from_json(text), record)
    read = TrainingRecord.read(tmp_path / "deep" / "run.jsonl")
    same(read, record)
    assert torch.equal(read.entropy, record.entropy)  # to the last bit of float32
    assert torch.equal(read.stacked("qk_norm"), record.stacked("qk_norm"))


def test_a_killed_run_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record = run_with_file(path).record
    text = path.read_text()
    path.write_text(text[:-40])  # killed while the last line was written
    same(TrainingRecord.read(path), replace(record, readings=record.readings[:-1]))
    monitor = run_with_file(path, steps=2, resume=True)
    assert monitor.record.steps == [0, 1, 2, 3, 4]
    same(TrainingRecord.read(path), monitor.record)


def test_resuming_at_an_earlier_step_drops_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run_with_file(path)
    monitor = run_with_file(path, steps=1, resume=True, start=1)
    assert monitor.record.steps == [0, 1, 2]
    same(TrainingRecord.read(path), monitor.record)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run_with_file(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="there already; name another file, or go on in it with resume=True"):
        run_with_file(path)
    with pytest.raises(ValueError, match="another model, probe or rule"):
        EntropyMonitor(trainable(), probe(5), path=path, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "nothing", "{}", '{"model": "a", "probe": [1, 2], "rule": {}}', "[]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match="is no record of a training run"):
        TrainingRecord.read(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="no record of a training run"):
        TrainingRecord.from_json(text)
    with pytest.raises(ValueError, match="There is no file"):
        TrainingRecord.read(tmp_path / "b.jsonl")


# -- along checkpoints ----------------------------------------------------------------------------------------


def run_of(tmp_path: Path) -> tuple[Transformer, TrainingRecord, list[tuple[int, Any]]]:
    """A monitored run with a checkpoint of another kind at each step."""
    model = trainable()
    monitor = EntropyMonitor(model, probe(), every=1)
    kept: list[tuple[int, Any]] = [(0, copy.deepcopy(model))]
    for step in (1, 2, 3):
        sharpened(model, 2)
        monitor.step()
        state = copy.deepcopy(model.state_dict())
        if step == 1:
            kept.append((1, state))
        elif step == 2:
            torch.save(state, tmp_path / "two.pt")
            kept.append((2, tmp_path / "two.pt"))
        else:
            kept.append((3, save(model, tmp_path / "three")))
    return model, monitor.record, kept


def test_checkpoints_give_what_a_monitor_would_have_read(tmp_path: Path) -> None:
    model, record, kept = run_of(tmp_path)
    before = copy.deepcopy(model.state_dict())
    seen: list[tuple[int, int]] = []
    found = entropy_along(kept, probe(), like=model, progress=lambda at: seen.append((at.done, at.total)))
    assert found.steps == record.steps
    torch.testing.assert_close(found.entropy, record.entropy)
    torch.testing.assert_close(found.stacked("qk_norm"), record.stacked("qk_norm"))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_reading_checkpoints_can_be_stopped_and_takes_a_generator(tmp_path: Path) -> None:
    model, record, kept = run_of(tmp_path)
    found = entropy_along((one for one in kept), probe(), like=model, progress=lambda at: at.done < 2)
    assert not found.complete
    assert found.steps == [0, 1]
    torch.testing.assert_close(found.entropy, record.entropy[:2])


def test_a_hugging_face_state_dict_is_read_like_its_model() -> None:
    hf = micro.hugging_face("llama-grouped")
    state = copy.deepcopy(hf.state_dict())
    expected = EntropyMonitor(hf, probe()).record.entropy
    with torch.no_grad():
        hf.model.layers[0].self_attn.q_proj.weight.mul_(5)
    torch.testing.assert_close(entropy_along([(7, state)], probe(), like=hf).entropy, expected)


# -- bad input ------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    model = trainable()
    with pytest.raises(ValueError, match="at least 1; got 0"):
        EntropyMonitor(model, probe(), every=0)
    with pytest.raises(ValueError, match="say with 'path'"):
        EntropyMonitor(model, probe(), resume=True)
    with pytest.raises(ValueError, match=r"Linear is neither a workbench model .* 'read'"):
        EntropyMonitor(nn.Linear(2, 2), probe())
    with pytest.raises(ValueError, match="reads at most"):
        EntropyMonitor(model, torch.zeros(1, 4000, dtype=torch.long))
    with pytest.raises(ValueError, match="An alarm needs"):
        AlarmRule(patience=0)
    with pytest.raises(ValueError, match="shows no layer"):
        EntropyMonitor(model, None, read=lambda *_: [])
    with pytest.raises(ValueError, match=r"Layer 0 that 'read' shows is \[3, 4\]"):
        EntropyMonitor(model, None, read=lambda *_: [torch.zeros(3, 4)])
    with pytest.raises(ValueError, match="do not sum to 1"):
        EntropyMonitor(model, None, read=lambda *_: [torch.ones(1, 2, 3, 3)])
    with pytest.raises(ValueError, match="unlike numbers of heads"):
        EntropyMonitor(model, None, read=lambda *_: [torch.eye(3).expand(1, n, 3, 3) for n in (2, 4)])
    with pytest.raises(ValueError, match="There are no checkpoints"):
        entropy_along([], probe())
    with pytest.raises(ValueError, match="say with 'like'"):
        entropy_along([(0, model.state_dict())], probe())
    with pytest.raises(ValueError, match="step 0 does not fit the model given by 'like'"):
        entropy_along([(0, {"a": torch.zeros(1)})], probe(), like=model)
    with pytest.raises(ValueError, match="in the order of steps; 3 comes after 3"):
        entropy_along([(3, model), (3, model)], probe())
    with pytest.raises(ValueError, match="There is no file"):
        entropy_along([(0, tmp_path / "none.pt")], probe(), like=model)
    with pytest.raises(ValueError, match="step 0 is a int"):
        entropy_along([(0, 5)], probe())
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        entropy_along([(0, tmp_path / "bad.pt")], probe(), like=model)
    with pytest.raises(ValueError, match="other layers or heads"):
        entropy_along([(0, model), (1, from_hf(micro.hugging_face("gpt2", layers=3)))], probe())
