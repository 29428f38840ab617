"""Node sweeps against hooks set by hand on Hugging Face's modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import micro
from tests.circuits.test_attribution import random_task
from tests.circuits.test_exact import images
from workbench.circuits import Scores, Stopped, Task
from workbench.circuits.activation_patching import activation_patching, patching_sweep
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

KINDS = ["gpt2", "llama-grouped"]


def modules(hf: Any, site: str, layer: int) -> tuple[Any, str]:
    """The module to hook and whether its input or its output is the activation."""
    gpt2 = hf.config.model_type == "gpt2"
    blocks = hf.transformer.h if gpt2 else hf.model.layers
    if site == "residual":
        if layer == len(blocks):
            return (hf.transformer.ln_f if gpt2 else hf.model.norm), "input"
        return blocks[layer], "input"
    if site == "mlp":
        return blocks[layer].mlp, "output"
    return (blocks[layer].attn.c_proj if gpt2 else blocks[layer].self_attn.o_proj), "input"


def with_hook(hf: Any, site: str, layer: int, change: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Logits with one activation changed."""
    module, side = modules(hf, site, layer)
    if side == "input":
        handle = module.register_forward_pre_hook(
            lambda m, args, kw: ((change(args[0]), *args[1:]), kw), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda m, args, out: change(out))
    try:
        with torch.no_grad():
            return hf(tokens, use_cache=False).logits
    finally:
        handle.remove()


def by_hand(hf: Any, task: Task, site: str, layer: int, head: int | None, at: int | None, denoising: bool) -> float:
    base, other = (task.corrupted, task.clean) if denoising else (task.clean, task.corrupted)
    seen: list[Tensor] = []
    with_hook(hf, site, layer, lambda x: seen.append(x.clone()) or x, other)
    e = hf.config.hidden_size // hf.config.num_attention_heads

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        columns = slice(None) if head is None else slice(head * e, (head + 1) * e)
        x[:, slice(None) if at is None else at, columns] = seen[0][:, slice(None) if at is None else at, columns]
        return x

    plain = task.metric(with_hook(hf, site, layer, lambda x: x, base))
    effect = plain - task.metric(with_hook(hf, site, layer, change, base))
    effect = -effect if denoising else effect
    return float(effect[task.lengths > (at or 0)].mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", ["head", "attention", "mlp", "residual"])
@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_effect_is_that_of_a_hook_set_by_hand(kind: str, site: Any, by_position: bool, direction: Any) -> None:
    hf, task = micro.hugging_face(kind), random_task(length=4, unlike=True)
    sweep = patching_sweep(from_hf(hf), task, site, by_position=by_position, direction=direction)
    assert sweep.axes == ("layer", *["head"] * (site == "head"), *["position"] * by_position)
    for index in torch.cartesian_prod(*map(torch.arange, sweep.values.shape)).view(-1, sweep.values.ndim).tolist():
        place = dict(zip(sweep.axes, index, strict=True))
        expected = by_hand(
            hf, task, site, place["layer"], place.get("head"), place.get("position"), direction == "denoising"
        )
        assert float(sweep.values[tuple(index)]) == pytest.approx(expected, abs=2e-5)


def test_an_edge_has_the_effect_of_that_end_which_is_worth_less() -> None:
    hf, task = micro.hugging_face("llama-grouped"), random_task()
    scores = activation_patching(from_hf(hf), task)
    graph, effects = scores.graph, dict[str, float]()
    for name in graph.writers:
        if name == "input":
            effects[name] = by_hand(hf, task, "residual", 0, None, None, False)
        elif name[0] == "m":
            effects[name] = by_hand(hf, task, "mlp", int(name[1:]), None, None, False)
        else:
            layer, head = map(int, name[1:].split(".h"))
            effects[name] = by_hand(hf, task, "head", layer, head, None, False)
    for writer, reader in graph.mask.nonzero().tolist():
        ends = [effects[graph.writers[writer]]]
        node = graph.readers[reader].partition("<")[0]
        ends += [] if node == "logits" else [effects[node]]
        assert float(scores.values[writer, reader]) == pytest.approx(min(ends, key=abs), abs=1e-5, rel=1e-4)
    assert not scores.values[~graph.mask].any()


@pytest.mark.parametrize("ablation", ["mean", "positional-mean", "zero"])
@pytest.mark.parametrize("kind", ["llama-grouped", "gemma2", "gpt-neox"])
def test_replacing_the_stream_behind_the_last_layer_is_ablating_everything(kind: str, ablation: Any) -> None:
    model, task = from_hf(micro.hugging_face(kind)), random_task(unlike=True)
    sweep = patching_sweep(model, task, "residual", ablation=ablation)
    nodes = activation_patching(model, task, ablation=ablation)
    # A stream of ablated outputs, whatever the layer that it enters: what runs behind it is the model itself.
    taps = {name: torch.zeros_like for name in model.hook_names if name.endswith(("hook_z", "hook_mlp_out"))}
    if ablation == "zero":
        taps["blocks.0.hook_resid_pre"] = torch.zeros_like
        ablated = task.metric(model(task.clean, taps))
        lost = float((task.metric(model(task.clean)) - ablated).mean())
        assert float(sweep.values[-1]) == pytest.approx(lost, abs=1e-5)
    assert float(nodes.values[0, -1]) == pytest.approx(float(sweep.values[0]), abs=1e-5)


def test_images_are_swept_too() -> None:
    model = from_hf(find("vit-classes").model())
    task = images(model)
    sweep = patching_sweep(model, task, "mlp", by_position=True)
    assert sweep.values.shape == (model.cfg.n_layers, int(task.lengths[0]))
    # What the last block writes anywhere but where the answer is read has no effect.
    torch.testing.assert_close(sweep.values[-1, 1:], torch.zeros(int(task.lengths[0]) - 1), atol=1e-6, rtol=0)
    _, cache = model.run_with_cache(task.corrupted, ["blocks.0.hook_mlp_out"])

    def change(x: Tensor) -> Tensor:
        x[:, 3] = cache["blocks.0.hook_mlp_out"][:, 3]
        return x

    lost = task.metric(model(task.clean)) - task.metric(model(task.clean, {"blocks.0.hook_mlp_out": change}))
    assert float(sweep.values[0, 3]) == pytest.approx(float(lost.mean()), abs=1e-5)


def test_batches_stops_and_going_on_change_no_value(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.circuits.partial.SECONDS", -1.0)
    task, kept = random_task(vocab=200, batch=4, unlike=True), list[Scores]()
    whole = activation_patching(model, task)
    torch.testing.assert_close(activation_patching(model, task, budget=1).values, whole.values, atol=1e-5, rtol=1e-4)
    part = activation_patching(model, task, progress=lambda p: p.done < 2, keep=kept.append)
    assert not part.complete
    assert part.values[-1].any()
    assert not part.values[0].any()
    assert torch.equal(activation_patching(model, task, resume=kept[-1]).values, whole.values)
    sweep = patching_sweep(model, task, progress=lambda p: p.done < 1)
    assert not sweep.complete
    assert sweep.values[0].isfinite().all()
    assert sweep.values[1:].isnan().all()
    with pytest.raises(Stopped):
        patching_sweep(model, task, budget=1, progress=lambda p: False)


def test_bad_requests_are_explained(model: Transformer) -> None:
    task = random_task(vocab=200)
    with pytest.raises(ValueError, match="Unknown site 'heads'; choose one of head, attention, mlp, residual"):
        patching_sweep(model, task, "heads")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="which the ablation 'zero' has not"):
        activation_patching(model, task, direction="denoising", ablation="zero")
